"""The piecewise cubic functions that the released VMKLA-UNet learns in place of splines."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kanscan.layers.spline import Bases, SplineLayer
from kanscan.ops.bspline import Grid, check_grid
from kanscan.ops.dispatch import transformed, without_autocast

#: Numbers a block of bases may hold: some ten temporaries of this size live at once.
BLOCK_NUMBERS = 2**21


def as_coded_knots(
    grid_size: int,
    spline_order: int,
    grid_range: tuple[float, float],
    *,
    device: torch.device | str | None = None,
) -> Float[Tensor, " knots"]:
    """Return the extended knots, rounded to float32 at every step as released: the functions jump there."""
    low, high = grid_range
    index = torch.arange(-spline_order, grid_size + spline_order + 1, dtype=torch.float32, device=device)
    return index * ((high - low) / grid_size) + low


def as_coded_basis(
    x: Float[Tensor, "*shape"],
    grid_size: int = 5,
    spline_order: int = 3,
    grid_range: tuple[float, float] = (-1.0, 1.0),
) -> Float[Tensor, "*shape bases"]:
    """Evaluate the functions that the released VMKLA-UNet takes for B-splines.

    In the released recursion over the degree k two pairs of parentheses are missing, so that the first term reads

        (x - t_i) / t_(i+k) - t_i * b_i     where     (x - t_i) / (t_(i+k) - t_i) * b_i     was meant.

    These functions are not B-splines: they have no local support, do not sum to one, jump at the knots and grow like a
    cubic away from the grid. Weights trained with them work with nothing else.

    Args:
        x: Inputs, any shape.
        grid_size: Number of intervals inside the range.
        spline_order: Number of recursions.
        grid_range: Ends of the range.

    Returns:
        `grid_size + spline_order` values for each input, along a new last axis.

    Raises:
        ValueError: The grid is not legal, or a knot at zero would be divided by.
    """
    check_as_coded_grid(grid_size, spline_order, grid_range)
    knots = as_coded_knots(grid_size, spline_order, grid_range, device=x.device)
    return _basis(x, knots.to(x.dtype), spline_order)


def check_as_coded_grid(grid_size: int, spline_order: int, grid_range: tuple[float, float]) -> None:
    """Refuse a grid on which the recursion as coded divides by zero.

    Raises:
        ValueError: The sentence names the grid.
    """
    check_grid(grid_size, spline_order, grid_range)
    low, high = grid_range
    step = (high - low) / grid_size
    divisors = [low + step * j for j in range(1 - spline_order, grid_size + spline_order)]
    if spline_order and min(map(abs, divisors)) < 1e-6 * step:
        raise ValueError(
            f"the spline recursion as coded divides by its knots, and grid_size={grid_size} on {grid_range} has one at "
            "zero; choose an odd grid_size on a range around zero"
        )


def _basis(x: Tensor, t: Tensor, spline_order: int) -> Tensor:
    x = x.unsqueeze(-1)
    basis = ((x >= t[:-1]) & (x < t[1:])).to(x.dtype)
    for order in range(1, spline_order + 1):
        rising = (x - t[: -order - 1]) / t[order:-1] - t[: -order - 1] * basis[..., :-1]
        falling = (t[order + 1 :] - x) / (t[order + 1 :] - t[1:-order])
        basis = rising + falling * basis[..., 1:]
    return basis


class AsCodedBases(Bases):
    """The functions of `as_coded_basis`."""

    @property
    def reach(self) -> float:
        """They never end."""
        return math.inf

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate them at `x`, along a new last axis."""
        return as_coded_basis(x, *self.grid)


class AsCodedKANLinear(SplineLayer):
    """KAN layer on `as_coded_basis`: parameters, shapes and starting values of `KANLinear`, other functions.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        grid_size: Intervals inside the range.
        spline_order: Number of recursions.
        grid_range: Ends of the range.
        noise_scale: Amplitude of the noise to which the fresh functions are fitted.
    """

    spline_scaler: nn.Parameter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        noise_scale: float = 0.1,
    ) -> None:
        super().__init__()
        check_as_coded_grid(grid_size, spline_order, grid_range)
        self.grid = Grid.checked(grid_size, spline_order, grid_range)
        self.in_features, self.out_features, self.noise_scale = in_features, out_features, noise_scale
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.spline_weight = nn.Parameter(torch.empty(out_features, in_features, self.grid.num_bases))
        self.spline_scaler = nn.Parameter(torch.empty(out_features, in_features))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw fresh weights as released: uniform of bound 1/sqrt(in), functions through small noise at the knots."""
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5))
        points = self.grid.inner(self.knots())
        noise = torch.rand(len(points), self.in_features, self.out_features, dtype=points.dtype) - 0.5
        noise *= self.noise_scale / self.grid.grid_size
        inverse = torch.linalg.pinv(_basis(points, self.knots(), self.grid.spline_order))
        self.spline_weight.copy_(torch.tensordot(inverse, noise, dims=1).permute(2, 1, 0))

    @property
    def bases(self) -> AsCodedBases:
        """The functions as coded."""
        return AsCodedBases(self.grid)

    def knots(self, device: torch.device | str | None = None) -> Float[Tensor, " knots"]:
        """Return the extended knots that every input shares."""
        return as_coded_knots(*self.grid, device=device)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer to the last axis."""
        rows = x.reshape(-1, self.in_features)
        # Bases need float32: half precision cannot place an input between two knots.
        rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
        size = max(BLOCK_NUMBERS // (self.in_features * self.grid.num_bases), 16)
        parts = [self._block(part) for part in rows.split(size)]
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).view(*x.shape[:-1], self.out_features)

    def _block(self, rows: Tensor) -> Tensor:
        # The backward pass forms the bases again: keeping the recursion's steps costs some fifty numbers an input.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and not transformed():
            result = checkpoint(self._apply_rows, rows, use_reentrant=False, preserve_rng_state=False)
            assert isinstance(result, Tensor)
            return result
        return self._apply_rows(rows)

    def _apply_rows(self, rows: Tensor) -> Tensor:
        basis = _basis(rows, self.knots(rows.device).to(rows.dtype), self.grid.spline_order)
        base, weight = (t.to(rows.dtype) for t in (self.base_weight, self.scaled_spline_weight()))
        # Values in the hundreds cancel in this sum; half precision would leave little of it.
        with without_autocast(rows):
            y = F.linear(F.silu(rows), base) + F.linear(basis.flatten(1), weight.flatten(1))
        return y.to(self.base_weight.dtype)

    def released_buffers(self) -> dict[str, Tensor]:
        """Give what the released layer stores beside its weights: the knots, one row for each input."""
        return {"grid": self.knots().to(self.base_weight).repeat(self.in_features, 1)}

    def extra_repr(self) -> str:
        """Show widths and grid."""
        return f"{self.in_features}, {self.out_features}, {self.grid}"
