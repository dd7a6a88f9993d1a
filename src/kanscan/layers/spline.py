"""What every layer of learned functions is, and what optimizer, explanation and pruning ask of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.ops.bspline import Grid, bspline_basis

Layer = TypeVar("Layer", bound="SplineLayer")

#: Mean coefficients, and shares of their sum, that count as none.
SMALLEST = 1e-12
#: Places for each basis at which functions are compared when they change to another grid.
SAMPLES = 16


@dataclass(frozen=True)
class Bases(ABC):
    """The functions that a layer weighs beside SiLU.

    Attributes:
        grid: Where they are placed.
    """

    grid: Grid

    @property
    @abstractmethod
    def reach(self) -> float:
        """How far outside the range of the grid one of them is not zero."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate them at `x`, along a new last axis."""


class BSplines(Bases):
    """The B-splines of a uniform grid."""

    @property
    def reach(self) -> float:
        """As far as the extended knots."""
        return self.grid.step * self.grid.spline_order

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate them at `x`, along a new last axis."""
        return bspline_basis(x, *self.grid)


class SplineLayer(nn.Module, ABC):
    """A layer of learned functions phi(x) = base_weight * SiLU(x) + sum_m coefficient_m * B_m(x).

    All parameters of such a layer train at the rate `optim.kan_lr`. Here every edge has a function of its own: `(out,
    inputs of a group, *taps)` of them, the taps being those of a convolution's window.

    Attributes:
        grid: Grid of the splines.
        base_weight: Weights of SiLU `(out, inputs of a group, *taps)`.
        spline_weight: Coefficients, one function along the last axis.
        spline_scaler: Scale of each edge's spline, shaped like `base_weight`, or None.
        groups: Groups of a convolution; 1 of a linear layer.
        shared: One function serves all inputs of an output.
    """

    shared: ClassVar[bool] = False
    grid: Grid
    base_weight: nn.Parameter
    spline_weight: nn.Parameter
    spline_scaler: nn.Parameter | None
    groups: int = 1

    @property
    def bases(self) -> Bases:
        """The functions it weighs."""
        return BSplines(self.grid)

    @property
    def taps(self) -> tuple[int, ...] | None:
        """The taps of a convolution's window, or None of a linear layer."""
        return tuple(self.base_weight.shape[2:]) or None

    def scaled_spline_weight(self) -> Tensor:
        """Return the coefficients with the scales multiplied in."""
        return self.spline_weight if self.spline_scaler is None else self.spline_weight * self.spline_scaler[..., None]

    def coefficients(self) -> Tensor:
        """Return `(out, inputs of a group, taps, 1 + M)`: the weight of SiLU and of each basis, for every function."""
        weights = torch.cat([self.base_weight[..., None], self.scaled_spline_weight()], dim=-1)
        return weights.flatten(2, -2) if self.taps else weights[:, :, None]

    def sources(self, x: Tensor) -> Tensor:
        """Return `(N, sources)` of the layer's input: the values that some function reads apart from the others."""
        return x.movedim(1 if self.taps else -1, -1).flatten(0, -2)

    def refined(self: Layer, grid_size: int) -> Layer:
        """Return the same layer on a grid of other fineness (grid extension, arXiv 2404.19756, section 2.4).

        Inside the range the functions stay what they are, to the error of a least-squares fit; a multiple of the
        present number of intervals holds them exactly. Beyond it splines fade out over `spline_order` of the new
        intervals.

        Args:
            grid_size: Intervals inside the range.

        Raises:
            ValueError: The grid is not legal, or the layer's functions are no B-splines.
        """
        return self._on(Grid.checked(grid_size, self.grid.spline_order, self.grid.grid_range))

    def updated_grid(self: Layer, x: Tensor, *, grid_size: int | None = None) -> Layer:
        """Return the same layer on a grid that spans the inputs it is fed.

        Where the new range lies in what the splines covered before the functions stay what they are, as in `refined`.

        Args:
            x: Inputs as of `forward`.
            grid_size: Intervals inside the range; as many as now if None.

        Raises:
            ValueError: The inputs are not finite or all the same, or the layer's functions are no B-splines.
        """
        low, high = (float(end) for end in x.detach().aminmax())
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"a grid must span inputs that are finite and differ, got inputs from {low:g} to {high:g}")
        size = self.grid.grid_size if grid_size is None else grid_size
        return self._on(Grid.checked(size, self.grid.spline_order, (low, high)))

    @torch.no_grad()
    def _on(self: Layer, grid: Grid) -> Layer:
        """Return a copy whose splines are those of another grid, fitted to the present ones over its range."""
        if not isinstance(self.bases, BSplines):
            raise ValueError(f"{type(self).__name__} learns no B-splines, and no other grid can hold its functions")
        points = torch.linspace(*grid.grid_range, SAMPLES * grid.num_bases, dtype=torch.float64, device="cpu")
        old, new = (bspline_basis(points, *g, backend="reference") for g in (self.grid, grid))
        # More points than bases, each of which is not zero on some: the inverse exists.
        transfer = (torch.linalg.pinv(new) @ old).to(self.spline_weight.device)
        layer = deepcopy(self)
        layer.grid = grid
        fitted = (self.spline_weight.double() @ transfer.mT).to(self.spline_weight.dtype)
        layer.spline_weight = nn.Parameter(fitted, requires_grad=self.spline_weight.requires_grad)
        return layer

    def regularization_loss(self, activation: float = 1.0, entropy: float = 1.0) -> Tensor:
        """Penalize many active functions: the sum of their mean absolute coefficients, and the entropy of its shares.

        Args:
            activation: Weight of the sum.
            entropy: Weight of the entropy.
        """
        size = self.spline_weight.abs().mean(-1)
        total = size.sum()
        # Where a function is zero, or all of them are, neither the logarithm nor its slope may be infinite.
        share = size / total.clamp_min(SMALLEST)
        return activation * total - entropy * (share * share.clamp_min(SMALLEST).log()).sum()

    @torch.no_grad()
    def keep(self, kept: Tensor) -> None:
        """Set the functions to zero that are not `kept` `(out, n)`."""
        kept = kept.to(self.base_weight.device).view_as(self.base_weight)
        self.base_weight.mul_(kept)
        self.spline_weight.mul_(kept[..., None])


class SharedSplineLayer(SplineLayer):
    """A layer whose outputs have one spline each, shared by all their inputs (ALL U-KAN Eq. 7 to 11).

    SiLU has a weight of its own for every input and is no part of the shared function. The coefficients are `(out, M)`.

    Attributes:
        input_weight: Weight of the bases of each input, or None for one.
    """

    shared = True
    spline_scaler = None
    input_weight: nn.Parameter | None

    @abstractmethod
    def window_sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what enters an output: the sums of the bases `(N, groups, M)` and the SiLU part `(N, out)`."""

    def coefficients(self) -> Tensor:
        """Return `(out, 1, 1, 1 + M)`; the weight of SiLU is zero."""
        return F.pad(self.spline_weight, (1, 0))[:, None, None, :]

    def sources(self, x: Tensor) -> Tensor:
        """Return `(N, groups)` of the layer's input: an output reads all inputs of its group alike."""
        if not self.taps:
            return x.reshape(-1, 1)
        return x.unflatten(1, (self.groups, -1)).movedim(1, -1).flatten(0, -2)

    @torch.no_grad()
    def keep(self, kept: Tensor) -> None:
        """Set the shared functions to zero that are not `kept` `(out, 1)`; SiLU stays."""
        self.spline_weight.mul_(kept.to(self.spline_weight.device))


def spline_layers(network: nn.Module) -> Mapping[str, SplineLayer]:
    """Return the layers of learned functions of a network by their dotted names, in the order they stand."""
    return {name: module for name, module in network.named_modules() if isinstance(module, SplineLayer)}


def kan_parameters(network: nn.Module) -> list[nn.Parameter]:
    """List the parameters of all layers of learned functions, each once."""
    found = {id(p): p for layer in spline_layers(network).values() for p in layer.parameters()}
    return list(found.values())
