"""The definition: Cox-de Boor recursion on a uniform extended grid. Short, slow, right in float64.

Knots are rounded to float32 whatever the inputs are, because the released networks built theirs so: a float64 run then
agrees with theirs to the last digits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def knots(
    grid_size: int,
    spline_order: int,
    grid_range: tuple[float, float],
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Float[Tensor, " knots"]:
    """Return the `grid_size + 2 * spline_order + 1` knots, `spline_order` of them beyond either end of the range."""
    low, high = grid_range
    index = torch.arange(-spline_order, grid_size + spline_order + 1, dtype=torch.float32, device=device)
    return (index * ((high - low) / grid_size) + low).to(dtype)


def bspline_basis(
    x: Float[Tensor, "*shape"],
    grid_size: int = 5,
    spline_order: int = 3,
    grid_range: tuple[float, float] = (-1.0, 1.0),
) -> Float[Tensor, "*shape bases"]:
    """Evaluate every basis function at every input; see `kanscan.ops.bspline.bspline_basis`."""
    t = knots(grid_size, spline_order, grid_range, dtype=x.dtype, device=x.device)
    return _recursion(x, t, spline_order)


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
    t = knots(grid_size, spline_order, grid_range, dtype=x.dtype, device=x.device)
    lower = _recursion(x, t, spline_order - 1) / (t[spline_order:] - t[:-spline_order])
    return spline_order * (lower[..., :-1] - lower[..., 1:])


def kan_linear(
    x: Float[Tensor, "*batch inputs"],
    base_weight: Float[Tensor, "outputs inputs"],
    spline_weight: Float[Tensor, "outputs inputs bases"],
    spline_scaler: Float[Tensor, "outputs inputs"] | None = None,
    *,
    grid_size: int = 5,
    spline_order: int = 3,
    grid_range: tuple[float, float] = (-1.0, 1.0),
) -> Float[Tensor, "*batch outputs"]:
    """Evaluate a layer of splines; see `kanscan.ops.bspline.kan_linear`."""
    if spline_scaler is not None:
        spline_weight = spline_weight * spline_scaler.unsqueeze(-1)
    basis = bspline_basis(x, grid_size, spline_order, grid_range)
    return F.linear(F.silu(x), base_weight) + F.linear(basis.flatten(-2), spline_weight.flatten(1))
