"""What every layer of learned functions is, and what optimizer, explanation and pruning ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.ops.bspline import Grid, bspline_basis


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
