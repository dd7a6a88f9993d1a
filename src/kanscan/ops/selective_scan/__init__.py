"""The selective scan of state-space models (S6): a linear recurrence whose coefficients depend on the input."""

from __future__ import annotations

from typing import Literal, overload

from jaxtyping import Float
from torch import Tensor

from kanscan.ops.dispatch import Backend, choose, wide_dtype, without_autocast
from kanscan.ops.selective_scan import cpu, reference, triton
from kanscan.ops.selective_scan import torch as plain
from kanscan.ops.selective_scan.directions import DIRECTIONAL, directional_scan
from kanscan.ops.selective_scan.groups import Scan, of_all

__all__ = ["BACKENDS", "DISCRETIZATIONS", "directional_scan", "selective_scan"]

#: How the input enters a step: `delta * B * u`, or its exact integral for an input held constant over the step.
DISCRETIZATIONS = ("euler", "zoh")

_SCAN: dict[str, Backend[Scan]] = {
    "triton": Backend(of_all(triton.scan_groups), triton.refusal, triton.absence),
    "cpu": Backend(of_all(cpu.scan_groups), cpu.refusal, cpu.absence),
    "torch": Backend(plain.selective_scan),
    "reference": Backend(reference.selective_scan),
}
BACKENDS = {"selective_scan": _SCAN, "directional_scan": DIRECTIONAL}

InputMatrix = Float[Tensor, "e n"] | Float[Tensor, "b n l"] | Float[Tensor, "b g n l"]
#: Its groups need not be those of the input matrix.
OutputMatrix = Float[Tensor, "e n"] | Float[Tensor, "b n l"] | Float[Tensor, "b groups n l"]


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    delta_softplus: bool = False,
    discretization: str = "euler",
    return_last_state: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    delta_softplus: bool = False,
    discretization: str = "euler",
    return_last_state: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def selective_scan(
    u: Float[Tensor, "b e l"],
    delta: Float[Tensor, "b e l"],
    A: Float[Tensor, "e n"],
    B: InputMatrix,
    C: OutputMatrix,
    D: Float[Tensor, " e"] | None = None,
    z: Float[Tensor, "b e l"] | None = None,
    delta_bias: Float[Tensor, " e"] | None = None,
    *,
    initial_state: Float[Tensor, "b e n"] | None = None,
    delta_softplus: bool = False,
    discretization: str = "euler",
    return_last_state: bool = False,
    backend: str = "auto",
) -> Float[Tensor, "b e l"] | tuple[Float[Tensor, "b e l"], Float[Tensor, "b e n"]]:
    """Run the selective scan (Mamba, arXiv 2312.00752, section 3.2 and algorithm 2).

    With delta' = softplus(delta + delta_bias), for every channel e and state n:

        h_t = exp(delta'_t A) h_(t-1) + gain_t B_t u_t,      y_t = (sum_n C_t h_t + D u_t) * SiLU(z_t)

    where the gain is delta'_t ("euler", what all released networks compute) or (exp(delta'_t A) - 1) / A ("zoh",
    Eq. 4 of that paper). Inputs narrower than float32 are widened, autocast is switched off inside: the state is kept
    in float32 at least. All tensor arguments have gradients.

    Args:
        u: Inputs.
        delta: Step sizes, before bias and softplus.
        A: Decay rates, usually negative.
        B: Input matrix: constant `(e, n)`, per step `(b, n, l)`, or per step and group `(b, g, n, l)`; channel e then
            uses group `e // (E / g)`.
        C: Output matrix, shaped like any of the choices for `B`.
        D: Weight of the direct path, or None for none.
        z: Gate, or None for none.
        delta_bias: Added to `delta`, or None for zero.
        initial_state: h_0, or None for zero.
        delta_softplus: Apply the softplus.
        discretization: "euler" or "zoh".
        return_last_state: Return the last state too.
        backend: "auto", "triton" (CUDA devices), "cpu" (compiled kernel), "torch" or "reference".

    Returns:
        `y` in the dtype of `u`, or `(y, last_state)` with the state in the dtype it was computed in.

    Raises:
        ValueError: Shapes do not fit together, the discretization or the backend is unknown, or the
            backend cannot serve.

    Example:
        >>> u, delta, B = torch.ones(1, 2, 5), torch.ones(1, 2, 5), torch.ones(1, 4, 5)
        >>> selective_scan(u, delta, -torch.ones(2, 4), B, B).shape
        torch.Size([1, 2, 5])
    """
    check_arguments(u, delta, A, B, C, D, z, delta_bias, initial_state, discretization)
    run = choose("selective_scan", _SCAN, backend, u, B, C)
    wide = wide_dtype(u)
    # A call of `to` costs some microseconds even where there is nothing to do.
    required = [t if t.dtype == wide else t.to(wide) for t in (u, delta, A, B, C)]
    optional = [t if t is None or t.dtype == wide else t.to(wide) for t in (D, z, delta_bias, initial_state)]
    with without_autocast(u):
        y, last = run(*required, *optional, delta_softplus=delta_softplus, discretization=discretization)
    y = y if y.dtype == u.dtype else y.to(u.dtype)
    return (y, last) if return_last_state else y


def check_arguments(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    discretization: str = "euler",
) -> None:
    """Refuse arguments of `selective_scan` that do not fit together.

    Raises:
        ValueError: The sentence names the argument, its shape and the shape expected.
    """
    if discretization not in DISCRETIZATIONS:
        raise ValueError(
            f"selective_scan: discretization must be {' or '.join(DISCRETIZATIONS)}, got {discretization!r}"
        )
    if u.ndim != 3:
        raise ValueError(f"selective_scan: u must be (batch, channels, length), got {tuple(u.shape)}")
    batch, channels, length = u.shape
    if A.ndim != 2 or A.shape[0] != channels:
        raise ValueError(f"selective_scan: A must be ({channels}, states) for u {tuple(u.shape)}, got {tuple(A.shape)}")
    states = A.shape[1]
    fixed = {
        "delta": (delta, (batch, channels, length)),
        "z": (z, (batch, channels, length)),
        "D": (D, (channels,)),
        "delta_bias": (delta_bias, (channels,)),
        "initial_state": (initial_state, (batch, channels, states)),
    }
    for name, (tensor, expected) in fixed.items():
        if tensor is not None and tuple(tensor.shape) != expected:
            raise ValueError(f"selective_scan: {name} must be {expected}, got {tuple(tensor.shape)}")
    for name, matrix in (("B", B), ("C", C)):
        shape = tuple(matrix.shape)
        legal = [(channels, states), (batch, states, length)]
        if matrix.ndim == 4 and shape[1] > 0 and channels % shape[1] == 0:
            legal.append((batch, shape[1], states, length))
        # By length first: a graph whose batch is a symbol must not learn that it is no number of channels.
        if not any(len(shape) == len(known) and shape == known for known in legal):
            raise ValueError(
                f"selective_scan: {name} must be {(channels, states)}, {(batch, states, length)} or (batch, groups, "
                f"states, length) with groups dividing {channels}, got {shape}"
            )
