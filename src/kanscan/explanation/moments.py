"""What a spline layer is fed, as sums from which mean, variance and straightness of every function follow.

A function is phi(x) = sum_f w_f f(x) with the features f = (SiLU, B_1, ..., B_M). Sums of products of features over the
data are therefore all that is needed, however many functions read them: one pass over the images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.spline import Bases, SharedSplineLayer, SplineLayer

#: Bins of the histogram of inputs; it spans the grid and `HISTOGRAM_MARGIN` of its width on either side.
HISTOGRAM_BINS = 432
HISTOGRAM_MARGIN = 4.0
#: Values a layer's sums take from one batch; of more, every so many-th is taken.
MOST_VALUES = 2**19


def features(x: Tensor, bases: Bases) -> Tensor:
    """Return SiLU and the bases of `x` along a new last axis, 1 + M of them."""
    return torch.cat([F.silu(x)[..., None], bases(x)], dim=-1)


class Moments:
    """Sums over the values that each source of inputs gave.

    Args:
        bases: Bases the values enter.
        sources: Number of sources: inputs that some function reads apart from the others.
    """

    def __init__(self, bases: Bases, sources: int) -> None:
        self.bases = bases
        low, high = bases.grid.grid_range
        margin = (high - low) * HISTOGRAM_MARGIN
        self.bin_edges = torch.linspace(low - margin, high + margin, HISTOGRAM_BINS + 1, dtype=torch.float64)
        # The input itself is one more feature, so that a straight line can be fitted.
        width = 2 + bases.grid.num_bases
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
        f = torch.cat([x[..., None], features(x, self.bases)], dim=-1)
        self.first += f.sum(0)
        by_source = f.transpose(0, 1)
        self.second += by_source.mT @ by_source
        (low, high), reach = self.bases.grid.grid_range, self.bases.reach
        self.outside += ((x < low) | (x > high)).sum(0)
        self.beyond += ((x <= low - reach) | (x >= high + reach)).sum(0)
        place = torch.bucketize(x.contiguous(), self.bin_edges[1:-1])
        self.histogram.scatter_add_(1, place.T, torch.ones_like(x.T))
        self.count += len(x)

    def covariance(self) -> Tensor:
        """Return `(sources, 2 + M, 2 + M)`: covariances of the input itself, SiLU and the bases."""
        mean = self.first / self.count
        return self.second / self.count - mean[:, :, None] * mean[:, None, :]


@dataclass(frozen=True)
class Functions:
    """The functions of a layer, judged; see `kanscan.explanation.splines.ObservedLayer`.

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
    """

    def __init__(self, layer: SplineLayer) -> None:
        self.layer = layer
        self.coefficients = layer.coefficients().detach().double().cpu().unflatten(0, (layer.groups, -1))
        self.moments = Moments(layer.bases, layer.groups * self.coefficients.shape[2])

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Take what the layer is fed."""
        self.moments.add(self.layer.sources(inputs[0].detach()))

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
        covariance = self.moments.covariance().unflatten(0, (self.layer.groups, -1))
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
    """

    def __init__(self, layer: SharedSplineLayer) -> None:
        super().__init__(layer)
        self.window_sums = layer.window_sums
        (outputs, bases), groups = layer.spline_weight.shape, layer.groups
        self.num_sums = 0
        self.first = torch.zeros(groups, bases, dtype=torch.float64)
        self.second = torch.zeros(groups, bases, bases, dtype=torch.float64)
        self.base_first = torch.zeros(outputs, dtype=torch.float64)
        self.base_second = torch.zeros(outputs, dtype=torch.float64)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Take what the layer is fed."""
        super().__call__(module, inputs)
        bases, base = self.window_sums(inputs[0].detach())
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


def observer_of(layer: SplineLayer) -> Observer:
    """Make what watches a layer of splines."""
    return SharedObserver(layer) if isinstance(layer, SharedSplineLayer) else Observer(layer)
