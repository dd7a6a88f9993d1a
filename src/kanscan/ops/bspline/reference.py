"""The definition: Cox-de Boor recursion on a uniform extended grid. Short, slow, right in float64.

Knots are rounded to float32 whatever the inputs are, because the released networks built theirs so: a float64 run then
agrees with theirs to the last digits. Inputs narrower than float32 are widened.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from kanscan.ops.bspline.grid import Grid, knots
from kanscan.ops.dispatch import result_dtype, wide_dtype, without_autocast


def widened(x: Tensor) -> Tensor:
    """Return `x` in float32 at least: half precision cannot place an input between two knots."""
    return x.to(wide_dtype(x))


def bspline_basis(
    x: Float[Tensor, "*shape"],
    grid_size: int = 5,
    spline_order: int = 3,
    grid_range: tuple[float, float] = (-1.0, 1.0),
) -> Float[Tensor, "*shape bases"]:
    """Evaluate every basis function at every input; see `kanscan.ops.bspline.bspline_basis`."""
    wide = widened(x)
    t = knots(grid_size, spline_order, grid_range, dtype=wide.dtype, device=x.device)
    return _recursion(wide, t, spline_order).to(x.dtype)


def _recursion(x: Tensor, t: Tensor, spline_order: int) -> Tensor:
    x = x.unsqueeze(-1)
    basis = ((x >= t[:-1]) & (x < t[1:])).to(x.dtype)
    for order in range(1, spline_order + 1):
        rising = (x - t[: -order - 1]) / (t[order:-1] - t[: -order - 1])
        falling = (t[order + 1 :] - x) / (t[order + 1 :] - t[1:-order])
        basis = rising * basis[..., :-1] + falling * basis[..., 1:]
    return basis


def basis_derivative(
    x: Float[Tensor, "*shape"],
    grid_size: int = 5,
    spline_order: int = 3,
    grid_range: tuple[float, float] = (-1.0, 1.0),
) -> Float[Tensor, "*shape bases"]:
    """Differentiate every basis function: a difference of two functions of one order less."""
    if spline_order == 0:
        return torch.zeros_like(bspline_basis(x, grid_size, spline_order, grid_range))
    wide = widened(x)
    t = knots(grid_size, spline_order, grid_range, dtype=wide.dtype, device=x.device)
    lower = _recursion(wide, t, spline_order - 1) / (t[spline_order:] - t[:-spline_order])
    return (spline_order * (lower[..., :-1] - lower[..., 1:])).to(x.dtype)


def kan_linear(
    x: Float[Tensor, "*batch inputs"],
    base_weight: Float[Tensor, "outputs inputs"],
    spline_weight: Float[Tensor, "outputs inputs bases"],
    spline_scaler: Float[Tensor, "outputs inputs"] | None,
    grid: Grid,
) -> Float[Tensor, "*batch outputs"]:
    """Evaluate a layer of splines; see `kanscan.ops.bspline.kan_linear`."""
    dtype = result_dtype(x, base_weight)
    wide = torch.promote_types(widened(x).dtype, base_weight.dtype)
    x, base_weight, spline_weight = (t.to(wide) for t in (x, base_weight, spline_weight))
    if spline_scaler is not None:
        spline_weight = spline_weight * spline_scaler.to(wide).unsqueeze(-1)
    with without_autocast(x):
        basis = bspline_basis(x, *grid)
        y = F.linear(F.silu(x), base_weight) + F.linear(basis.flatten(-2), spline_weight.flatten(1))
    return y.to(dtype)


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
    basis = bspline_basis(x, grid_size, spline_order, grid_range)
    # Few points, many curves: one pseudo-inverse serves all of them and is the minimum-norm solution by definition.
    return torch.tensordot(torch.linalg.pinv(basis), y, dims=1)
