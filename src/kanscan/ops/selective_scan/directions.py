"""Scans over one map in several orders at once: every direction reads its pixels where they lie."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor

from kanscan.ops.dispatch import Backend, choose, wide_dtype, without_autocast
from kanscan.ops.selective_scan import cpu, reference, triton
from kanscan.ops.selective_scan import torch as plain
from kanscan.ops.selective_scan.groups import Scan, in_copies

#: Kernels read pixels through an order where they lie.
DIRECTIONAL: dict[str, Backend[Scan]] = {
    "triton": Backend(triton.scan_groups, triton.refusal, triton.absence),
    "cpu": Backend(cpu.scan_groups, cpu.refusal, cpu.absence),
    "torch": Backend(in_copies(plain.selective_scan)),
    "reference": Backend(in_copies(reference.selective_scan)),
}


def directional_scan(
    u: Float[Tensor, "b #k e l"],
    delta: Float[Tensor, "b k e l"],
    A: Float[Tensor, "ke n"],
    B: Float[Tensor, "b k n l"],
    C: Float[Tensor, "b k n l"],
    order: Int64[Tensor, "k l"],
    D: Float[Tensor, " ke"] | None = None,
    delta_bias: Float[Tensor, " ke"] | None = None,
    *,
    delta_softplus: bool = False,
    discretization: str = "euler",
    add_directions: bool = False,
    backend: str = "auto",
) -> Float[Tensor, "b k1 e l"]:
    """Run one selective scan for each of K orders over the pixels of a map (VMamba section 4.3).

    All tensors are in pixel order: what is projected position by position is the same in whatever order it is read.
    Step l of scan k reads and writes pixel `order[k, l]`.

    Args:
        u: Inputs; with one direction on this axis, all read the same map.
        delta: Step sizes, before bias and softplus.
        A: Decay rates, the channels of the first direction first.
        B: Input matrices.
        C: Output matrices.
        order: Which pixel a step reads (`kanscan.ops.scan_order`), a permutation for each direction.
        D: Weight of the direct path, or None for none.
        delta_bias: Added to `delta`, or None for zero.
        delta_softplus: Apply the softplus.
        discretization: As in `selective_scan`.
        add_directions: Return the sum over the directions, with one direction on that axis.
        backend: As in `selective_scan`.

    Returns:
        Results in pixel order, in the dtype of `u`.

    Example:
        >>> u, B = torch.ones(1, 2, 3, 5), torch.ones(1, 2, 4, 5)
        >>> order = torch.stack([torch.arange(5), torch.arange(5).flip(0)])
        >>> directional_scan(u, u, -torch.ones(6, 4), B, B, order).shape
        torch.Size([1, 2, 3, 5])
    """
    run = choose("directional_scan", DIRECTIONAL, backend, u, B, C)
    wide = wide_dtype(u)
    tensors = [None if t is None else t.to(wide) for t in (u, delta, A, B, C, D, None, delta_bias, None)]
    setting = {"delta_softplus": delta_softplus, "discretization": discretization, "add_groups": add_directions}
    with without_autocast(u):
        y, _ = run(*tensors, order, **setting)
    return y.to(u.dtype)
