"""The uniform grid on which splines are formed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Range = tuple[float, float]


class Grid(NamedTuple):
    """A uniform grid.

    Attributes:
        grid_size: Intervals inside the range.
        spline_order: Degree of the pieces.
        grid_range: Ends of the range.
    """

    grid_size: int = 5
    spline_order: int = 3
    grid_range: Range = (-1.0, 1.0)

    @classmethod
    def checked(cls, grid_size: int, spline_order: int, grid_range: Range) -> Grid:
        """Build a grid, refusing one on which no spline can be formed.

        Raises:
            ValueError: The sentence names the value and what is legal.
        """
        check_grid(grid_size, spline_order, grid_range)
        return cls(grid_size, spline_order, (float(grid_range[0]), float(grid_range[1])))

    @property
    def num_bases(self) -> int:
        """Number of basis functions M."""
        return self.grid_size + self.spline_order

    @property
    def step(self) -> float:
        """Length of an interval."""
        return (self.grid_range[1] - self.grid_range[0]) / self.grid_size

    def inner(self, knots: Float[Tensor, " knots"]) -> Float[Tensor, " inner"]:
        """Return those of the extended knots that lie in the range, its ends included."""
        return knots[self.spline_order : self.spline_order + self.grid_size + 1]

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self._asdict().items())


def check_grid(grid_size: int, spline_order: int, grid_range: Range) -> None:
    """Refuse a grid on which no spline can be formed.

    Raises:
        ValueError: The sentence names the value and what is legal.
    """
    if grid_size < 1:
        raise ValueError(f"grid_size must be at least 1, got {grid_size}")
    if spline_order < 0:
        raise ValueError(f"spline_order must be 0 or more, got {spline_order}")
    if not grid_range[0] < grid_range[1]:
        raise ValueError(f"grid_range must rise, got {grid_range}")


def knots(
    grid_size: int,
    spline_order: int,
    grid_range: Range,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Float[Tensor, " knots"]:
    """Return the `grid_size + 2 * spline_order + 1` knots, `spline_order` of them beyond either end of the range."""
    low, high = grid_range
    index = torch.arange(-spline_order, grid_size + spline_order + 1, dtype=torch.float32, device=device)
    return (index * ((high - low) / grid_size) + low).to(dtype)


#: Degrees of splines that kernels have.
KERNEL_ORDERS = (1, 2, 3)


def order_refusal(spline_order: int) -> str | None:
    """Return why a kernel cannot compute splines of this order, or None if it can."""
    if spline_order in KERNEL_ORDERS:
        return None
    known = ", ".join(map(str, KERNEL_ORDERS))
    return f"the kernel has splines of order {known}, and order {spline_order} was asked for"
