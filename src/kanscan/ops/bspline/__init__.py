"""Uniform B-splines and the layer made of them (KAN linear)."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from kanscan.ops.bspline import cpu, reference, triton
from kanscan.ops.bspline import torch as plain
from kanscan.ops.bspline.grid import Grid, check_grid, knots
from kanscan.ops.bspline.reference import fit_coefficients
from kanscan.ops.dispatch import Backend, choose

__all__ = ["BACKENDS", "Grid", "bspline_basis", "check_grid", "fit_coefficients", "kan_linear", "knots"]

Run = Callable[..., Tensor]
_BASIS: dict[str, Backend[Run]] = {"torch": Backend(plain.basis), "reference": Backend(reference.bspline_basis)}
_LINEAR: dict[str, Backend[Run]] = {
    "triton": Backend(triton.kan_linear, triton.refusal, triton.absence),
    "cpu": Backend(cpu.kan_linear, cpu.refusal, cpu.absence),
    "torch": Backend(plain.kan_linear),
    "reference": Backend(reference.kan_linear),
}
BACKENDS = {"bspline_basis": _BASIS, "kan_linear": _LINEAR}


def bspline_basis(
    x: Float[Tensor, "*shape"],
    grid_size: int = 5,
    spline_order: int = 3,
    grid_range: tuple[float, float] = (-1.0, 1.0),
    *,
    backend: str = "auto",
) -> Float[Tensor, "*shape bases"]:
    """Evaluate the B-spline bases of a uniform grid.

    The range is cut into `grid_size` intervals and extended by `spline_order` intervals at either end. Inside the range
    the bases sum to one; beyond it they fade out, and `spline_order` intervals away all of them are zero.

    Args:
        x: Inputs, any shape.
        grid_size: Number of intervals inside the range, at least 1.
        spline_order: Degree of the pieces, 3 for cubic.
        grid_range: Ends of the range.
        backend: "auto", "torch" or "reference".

    Returns:
        `grid_size + spline_order` bases for each input, along a new last axis.

    Raises:
        ValueError: The grid is not legal or the backend unknown.

    Example:
        >>> bspline_basis(torch.tensor([0.0])).sum()
        tensor(1.)
    """
    check_grid(grid_size, spline_order, grid_range)
    return choose("bspline_basis", _BASIS, backend)(x, grid_size, spline_order, grid_range)


def kan_linear(
    x: Float[Tensor, "*batch inputs"],
    base_weight: Float[Tensor, "outputs inputs"],
    spline_weight: Float[Tensor, "outputs inputs bases"],
    spline_scaler: Float[Tensor, "outputs inputs"] | None = None,
    *,
    grid_size: int = 5,
    spline_order: int = 3,
    grid_range: tuple[float, float] = (-1.0, 1.0),
    backend: str = "auto",
) -> Float[Tensor, "*batch outputs"]:
    """Apply one learned function to each (output, input) pair and sum over the inputs (U-KAN Eq. 2-4).

    y_o = sum_i base_weight[o, i] * SiLU(x_i) + spline_scaler[o, i] * sum_m spline_weight[o, i, m] * B_m(x_i)

    Args:
        x: Inputs; the last axis is the features.
        base_weight: Weight of SiLU for each pair.
        spline_weight: Coefficients of the bases, `grid_size + spline_order` of them for each pair.
        spline_scaler: Scale of the spline of each pair, or None for one.
        grid_size: As in `bspline_basis`.
        spline_order: As in `bspline_basis`.
        grid_range: As in `bspline_basis`.
        backend: "auto", "triton" (CUDA devices), "cpu" (compiled kernel), "torch" or "reference".

    Returns:
        Outputs. Bases are formed in float32 at least; under autocast the product runs in the autocast dtype.

    Raises:
        ValueError: Shapes do not fit together, the grid is not legal, or the backend is unknown or cannot serve.
    """
    check_grid(grid_size, spline_order, grid_range)
    outputs, inputs = base_weight.shape
    expected = (outputs, inputs, grid_size + spline_order)
    if x.shape[-1] != inputs or spline_weight.shape != expected:
        raise ValueError(
            f"kan_linear: inputs {tuple(x.shape)} and spline_weight {tuple(spline_weight.shape)} do not fit "
            f"base_weight {tuple(base_weight.shape)}; expected (..., {inputs}) and {expected}"
        )
    run = choose("kan_linear", _LINEAR, backend, x, base_weight, spline_order)
    return run(x, base_weight, spline_weight, spline_scaler, Grid(grid_size, spline_order, grid_range))
