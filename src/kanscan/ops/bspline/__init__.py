"""Uniform B-splines and the layer made of them (KAN linear)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from kanscan.ops.backend import choose
from kanscan.ops.bspline import cpu, reference, triton, vectorized
from kanscan.ops.bspline.grid import Grid, check_grid, knots

__all__ = ["Grid", "bspline_basis", "check_grid", "fit_coefficients", "kan_linear", "knots"]

_BASIS: dict[str, Callable[..., Tensor]] = {"torch": vectorized.basis, "reference": reference.bspline_basis}
_LINEAR: dict[str, Callable[..., Tensor]] = {
    "triton": triton.kan_linear,
    "cpu": cpu.kan_linear,
    "torch": vectorized.kan_linear,
    "reference": reference.kan_linear,
}
IMPLEMENTATIONS = {"bspline_basis": _BASIS, "kan_linear": _LINEAR}


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
    refusals = {
        "triton": triton.refusal(x, base_weight, spline_order, asked=backend == "triton"),
        "cpu": cpu.refusal(x, base_weight, spline_order),
    }
    implementation = choose("kan_linear", _LINEAR, backend, refusals)
    return implementation(
        x,
        base_weight,
        spline_weight,
        spline_scaler,
        grid_size=grid_size,
        spline_order=spline_order,
        grid_range=grid_range,
    )


def fit_coefficients(
    x: Float[Tensor, " points"],
    y: Float[Tensor, "points *curves"],
    *,
    grid_size: int = 5,
    spline_order: int = 3,
    grid_range: tuple[float, float] = (-1.0, 1.0),
) -> Float[Tensor, "bases *curves"]:
    """Fit splines to sampled curves: least squares, and the smallest coefficients where that leaves a choice.

    Args:
        x: Where the curves are sampled; the same places for all of them.
        y: Values of the curves.
        grid_size: As in `bspline_basis`.
        spline_order: As in `bspline_basis`.
        grid_range: As in `bspline_basis`.

    Returns:
        Coefficients along the first axis.
    """
    basis = reference.bspline_basis(x, grid_size, spline_order, grid_range)
    # Few points, many curves: one pseudo-inverse serves all of them and is the minimum-norm solution by definition.
    return torch.tensordot(torch.linalg.pinv(basis), y, dims=1)
