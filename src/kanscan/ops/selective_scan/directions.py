"""Scans over one map in several orders at once: every direction reads its pixels where they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from kanscan.ops.scan_order import inverse
from kanscan.ops.selective_scan import choose_scan, cpu, selective_scan, triton, without_autocast

#: Scans that read pixels through an order, by the scan of the same kind that does not.
IN_PLACE: dict[Callable[..., tuple[Tensor, Tensor]], Callable[..., tuple[Tensor, Tensor]]] = {
    cpu.selective_scan: cpu.scan_groups,
    triton.selective_scan: triton.scan_groups,
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
    implementation = choose_scan(u, B, C, backend)
    in_place = IN_PLACE.get(implementation)
    if in_place is not None:
        u_, delta_, A_, B_, C_ = (t.to(torch.float32) for t in (u, delta, A, B, C))
        D_, bias_ = (None if t is None else t.to(torch.float32) for t in (D, delta_bias))
        with without_autocast(u):
            setting: dict[str, Any] = {"delta_softplus": delta_softplus, "discretization": discretization}
            setting["add_groups"] = add_directions
            y, _ = in_place(u_, delta_, A_, B_, C_, D_, bias_, None, order, **setting)
        return y.to(u.dtype)
    u = u.expand(delta.shape)
    u_, delta_, B_, C_ = (
        torch.stack([t[:, k].index_select(2, i) for k, i in enumerate(order)], 1) for t in (u, delta, B, C)
    )
    y = selective_scan(
        u_.flatten(1, 2),
        delta_.flatten(1, 2),
        A,
        B_,
        C_,
        D,
        None,
        delta_bias,
        delta_softplus=delta_softplus,
        discretization=discretization,
        backend=backend,
    ).view(u.shape)
    y = torch.stack([y[:, k].index_select(2, inverse(i)) for k, i in enumerate(order)], 1)
    return y.sum(1, keepdim=True) if add_directions else y
