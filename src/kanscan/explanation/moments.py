"""What a spline layer is fed, as sums from which mean, variance and straightness of every function follow.

A function is phi(x) = sum_f w_f f(x) with the features f = (SiLU, B_1, ..., B_M). Sums of products of features over the
data are therefore all that is needed, however many functions read them: one pass over the images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.as_coded_spline import AsCodedKANLinear, as_coded_basis
from kanscan.layers.kan import KANLinear
from kanscan.layers.kan_conv import KAConv, KANConv, SharedKANLinear
from kanscan.ops.bspline import bspline_basis
from kanscan.ops.kaconv import ka_conv, ka_linear

#: Bins of the histogram of inputs; it spans the grid and `HISTOGRAM_MARGIN` of its width on either side.
HISTOGRAM_BINS = 432
HISTOGRAM_MARGIN = 4.0
#: Values a layer's sums take from one batch; of more, every so many-th is taken.
MOST_VALUES = 2**19


@dataclass(frozen=True)
class Grid:
    """The bases of a layer.

    Attributes:
        size: Intervals inside the range.
        order: Degree.
        range: Ends of the range.
        as_coded: The functions of the released VMKLA-UNet in place of B-splines; they have no local support.
    """

    size: int
    order: int
    range: tuple[float, float]
    as_coded: bool = False

    @property
    def reach(self) -> float:
        """How far outside the range some basis is not zero."""
        low, high = self.range
        return float("inf") if self.as_coded else (high - low) / self.size * self.order


def features(x: Tensor, grid: Grid) -> Tensor:
    """Return SiLU and the bases of `x` along a new last axis, 1 + M of them."""
    basis = as_coded_basis if grid.as_coded else bspline_basis
    return torch.cat([F.silu(x)[..., None], basis(x, grid.size, grid.order, grid.range)], dim=-1)


class Moments:
    """Sums over the values that each source of inputs gave.

    Args:
        grid: Bases the values enter.
        sources: Number of sources: inputs that some function reads apart from the others.
    """

    def __init__(self, grid: Grid, sources: int) -> None:
        self.grid = grid
        low, high = grid.range
        margin = (high - low) * HISTOGRAM_MARGIN
        self.bin_edges = torch.linspace(low - margin, high + margin, HISTOGRAM_BINS + 1, dtype=torch.float64)
        # The input itself is one more feature, so that a straight line can be fitted.
        width = 2 + grid.size + grid.order
        self.first = torch.zeros(sources, width, dtype=torch.float64)
        self.second = torch.zeros(sources, width, width, dtype=torch.float64)
        self.histogram = torch.zeros(sources, HISTOGRAM_BINS, dtype=torch.float64)
        self.outside = torch.zeros(sources, dtype=torch.float64)
        self.beyond = torch.zeros(sources, dtype=torch.float64)
        self.count = 0

    def add(self, values: Tensor) -> None:
        """Take values `(N, sources)`."""
        # An odd step does not walk down the columns of a map.
        step = (-(-values.numel() // MOST_VALUES)) | 1
        rows = max(1, 2**18 // values.shape[1])
        for part in (values[::step] if values.numel() > MOST_VALUES else values).split(rows):
            self._add(part.cpu().double())

    def _add(self, x: Tensor) -> None:
        f = torch.cat([x[..., None], features(x, self.grid)], dim=-1)
        self.first += f.sum(0)
        by_source = f.transpose(0, 1)
        self.second += by_source.mT @ by_source
        low, high = self.grid.range
        self.outside += ((x < low) | (x > high)).sum(0)
        self.beyond += ((x <= low - self.grid.reach) | (x >= high + self.grid.reach)).sum(0)
        place = torch.bucketize(x.contiguous(), self.bin_edges[1:-1])
        self.histogram.scatter_add_(1, place.T, torch.ones_like(x.T))
        self.count += len(x)

    def covariance(self) -> Tensor:
        """Return `(sources, 2 + M, 2 + M)`: covariances of the input itself, SiLU and the bases."""
        mean = self.first / self.count
        return self.second / self.count - mean[:, :, None] * mean[:, None, :]


@dataclass(frozen=True)
class Functions:
    """The functions of a layer, judged; see `kanscan.explanation.splines.SplineLayer`.

    Attributes:
        coefficients: `(out, n, 1 + M)`.
        sources: `(out, n)`.
        variance: `(out, n)`.
        bent: `(out, n)`.
        other_variance: `(out,)`.
    """

    coefficients: Tensor
    sources: Tensor
    variance: Tensor
    bent: Tensor
    other_variance: Tensor


class Observer:
    """Watches a layer whose every edge has a function of its own.

    Args:
        layer: The layer.
        grid: Its bases.
        groups: Groups of a convolution.
        coefficients: `(out, inputs of a group, taps, 1 + M)`.
        taps: Of a convolution's window.
        values: From the layer's input to `(N, sources)`.
    """

    shared = False

    def __init__(
        self,
        layer: nn.Module,
        grid: Grid,
        groups: int,
        coefficients: Tensor,
        taps: tuple[int, int] | None,
        values: Callable[[Tensor], Tensor],
    ) -> None:
        self.layer, self.groups, self.taps, self.values = layer, groups, taps, values
        self.coefficients = coefficients.detach().double().cpu().unflatten(0, (groups, -1))
        self.moments = Moments(grid, groups * coefficients.shape[1])

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Take what the layer is fed."""
        self.moments.add(self.values(inputs[0].detach()))

    def functions(self) -> Functions:
        """Judge the layer's functions by what was taken."""
        variance, bent = self._spread()
        groups, outputs, inputs, taps, width = self.coefficients.shape
        source = torch.arange(groups * inputs).view(groups, 1, inputs, 1).expand(-1, outputs, -1, taps)
        count = groups * outputs
        flat = (count, inputs * taps)
        return Functions(
            self.coefficients.reshape(*flat, width),
            source.reshape(flat),
            variance.reshape(flat),
            bent.reshape(flat),
            torch.zeros(count, dtype=torch.float64),
        )

    def _spread(self) -> tuple[Tensor, Tensor]:
        """Return variance over the inputs, and the share of it that is not straight, of each function."""
        w = self.coefficients
        covariance = self.moments.covariance().unflatten(0, (self.groups, -1))
        variance = torch.einsum("goctf,gcfh,gocth->goct", w, covariance[..., 1:, 1:], w).clamp_min(0)
        along = torch.einsum("goctf,gcf->goct", w, covariance[..., 1:, 0])
        spread = covariance[..., 0, 0].clamp_min(torch.finfo(torch.float64).tiny)
        straight = along.square() / spread[:, None, :, None]
        # A function that does not vary bends nowhere.
        bent = torch.where(variance > 1e-24, 1 - straight / variance.clamp_min(1e-24), 0.0).clamp(0, 1)
        return variance, bent


class SharedObserver(Observer):
    """Watches a layer whose outputs have one spline each, shared by all their inputs (ALL U-KAN Eq. 7 to 11).

    What a shared spline adds to its output is its sum over a window. The sums of the bases over windows come from the
    layer's own operator with weights of one, so their variance is exact, ties between neighbors included.

    Args:
        layer: The layer.
        grid: Its bases.
        groups: Groups of a convolution.
        spline_weight: `(out, M)`.
        taps: Of a convolution's window.
        values: From the layer's input to `(N, groups)`.
        sums: From the layer's input to the sums of bases `(N, groups, M)` and the SiLU part `(N, out)`.
    """

    shared = True

    def __init__(
        self,
        layer: nn.Module,
        grid: Grid,
        groups: int,
        spline_weight: Tensor,
        taps: tuple[int, int] | None,
        values: Callable[[Tensor], Tensor],
        sums: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> None:
        alone = F.pad(spline_weight, (1, 0))[:, None, None, :]
        super().__init__(layer, grid, groups, alone, taps, values)
        self.sums = sums
        outputs, bases = spline_weight.shape
        self.num_sums = 0
        self.first = torch.zeros(groups, bases, dtype=torch.float64)
        self.second = torch.zeros(groups, bases, bases, dtype=torch.float64)
        self.base_first = torch.zeros(outputs, dtype=torch.float64)
        self.base_second = torch.zeros(outputs, dtype=torch.float64)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Take what the layer is fed."""
        super().__call__(module, inputs)
        bases, base = self.sums(inputs[0].detach())
        for part in bases.split(max(1, 2**20 // bases[0].numel())):
            by_group = part.cpu().double().transpose(0, 1)
            self.first += by_group.sum(1)
            self.second += by_group.mT @ by_group
        # On the CPU first: some devices have no float64.
        wide = base.cpu().double()
        self.base_first += wide.sum(0)
        self.base_second += wide.square().sum(0)
        self.num_sums += len(base)

    def functions(self) -> Functions:
        """Judge the layer's functions by what was taken."""
        found = super().functions()
        mean = self.first / self.num_sums
        covariance = self.second / self.num_sums - mean[:, :, None] * mean[:, None, :]
        w = self.coefficients[:, :, 0, 0, 1:]
        variance = torch.einsum("gom,gmn,gon->go", w, covariance, w).clamp_min(0)
        base = self.base_second / self.num_sums - (self.base_first / self.num_sums).square()
        return Functions(
            found.coefficients, found.sources, variance.reshape(-1, 1), found.bent, base.clamp_min(0).reshape(-1)
        )


def spline_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of splines of a network by their dotted names, in the order they stand."""
    return {name: module for name, module in model.named_modules() if type(module) in _OBSERVERS}


def observer_of(layer: nn.Module) -> Observer:
    """Make what watches a layer of splines."""
    return _OBSERVERS[type(layer)](layer)


def _of_linear(layer: Any) -> Observer:
    spline = layer.spline_weight
    if layer.spline_scaler is not None:
        spline = spline * layer.spline_scaler[..., None]
    weights = torch.cat([layer.base_weight[..., None], spline], dim=-1)[:, :, None]
    grid = Grid(layer.grid_size, layer.spline_order, layer.grid_range, isinstance(layer, AsCodedKANLinear))
    return Observer(layer, grid, 1, weights, None, lambda x: x.reshape(-1, x.shape[-1]))


def _of_kan_conv(layer: Any) -> Observer:
    spline = layer.spline_weight * layer.spline_scaler[..., None]
    weights = torch.cat([layer.base_weight[..., None], spline], dim=-1).flatten(2, 3)
    taps = tuple(layer.base_weight.shape[2:])
    return Observer(layer, _grid(layer), layer.groups, weights, taps, lambda x: x.transpose(0, 1).flatten(1).T)


def _of_shared_linear(layer: Any) -> Observer:
    outputs, bases = layer.spline_weight.shape
    zeros = layer.base_weight.new_zeros(bases, layer.base_weight.shape[1])
    ones = torch.eye(bases).to(layer.base_weight)

    def sums(x: Tensor) -> tuple[Tensor, Tensor]:
        base = F.linear(F.silu(x), layer.base_weight)
        return ka_linear(x, zeros, ones, layer.input_weight, **layer.grid).reshape(-1, 1, bases), base.reshape(
            -1, outputs
        )

    return SharedObserver(layer, _grid(layer), 1, layer.spline_weight, None, lambda x: x.reshape(-1, 1), sums)


def _of_ka_conv(layer: Any) -> Observer:
    outputs, bases = layer.spline_weight.shape
    groups, shape = layer.window["groups"], tuple(layer.base_weight.shape[1:])
    zeros = layer.base_weight.new_zeros(groups * bases, *shape)
    ones = torch.eye(bases).repeat(groups, 1).to(layer.base_weight)

    def values(x: Tensor) -> Tensor:
        return x.unflatten(1, (groups, -1)).transpose(0, 1).flatten(1).T

    def sums(x: Tensor) -> tuple[Tensor, Tensor]:
        how = {"padding_contributes": layer.padding_contributes, **layer.window, **layer.grid}
        maps = ka_conv(x, zeros, ones, layer.input_weight, **how).unflatten(1, (groups, bases))
        base = F.conv2d(F.silu(x), layer.base_weight, None, **layer.window)
        return maps.permute(0, 3, 4, 1, 2).flatten(0, 2), base.permute(0, 2, 3, 1).reshape(-1, outputs)

    return SharedObserver(layer, _grid(layer), groups, layer.spline_weight, shape[1:], values, sums)


def _grid(layer: Any) -> Grid:
    return Grid(layer.grid["grid_size"], layer.grid["spline_order"], layer.grid["grid_range"])


_OBSERVERS: dict[Any, Callable[[Any], Observer]] = {
    KANLinear: _of_linear,
    AsCodedKANLinear: _of_linear,
    KANConv: _of_kan_conv,
    SharedKANLinear: _of_shared_linear,
    KAConv: _of_ka_conv,
}
