"""The functions a KAN layer learned, judged by the inputs that real data feeds them.

An edge is phi(x) = sum_f w_f f(x) with the features f = (SiLU, B_1, ..., B_M). Sums of products of features over the
data are therefore all that is needed to know mean, variance and straightness of every edge exactly, however large the
layer: one pass over the images, nothing sampled.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.kan import KANLinear
from kanscan.ops.bspline import bspline_basis

#: Bins of the histogram of inputs; it spans the grid and `HISTOGRAM_MARGIN` of its width on either side.
HISTOGRAM_BINS = 432
HISTOGRAM_MARGIN = 4.0


@dataclass(frozen=True)
class SplineLayer:
    """A KAN layer and the inputs it met; tensors are float64 on the CPU.

    Attributes:
        name: Dotted name of the layer in its network.
        grid_range: Ends of the spline grid.
        grid_size: Intervals of the grid.
        spline_order: Degree.
        num_inputs: Values each input feature met (tokens of all images).
        histogram: `(in, HISTOGRAM_BINS)` counts of the inputs; the outermost bins hold everything beyond.
        bin_edges: `(HISTOGRAM_BINS + 1,)`.
        share_outside: `(in,)` share of the inputs outside the grid range, where splines fade out.
        share_beyond: `(in,)` share so far outside that every spline is zero and only SiLU remains.
        coefficients: `(out, in, 1 + M)` weight of SiLU and of each basis, scales multiplied in.
        importance: `(out, in)` standard deviation of each edge's output over the data.
        nonlinearity: `(out, in)` share of that variance a straight line cannot explain, 0 to 1.
    """

    name: str
    grid_range: tuple[float, float]
    grid_size: int
    spline_order: int
    num_inputs: int
    histogram: Tensor
    bin_edges: Tensor
    share_outside: Tensor
    share_beyond: Tensor
    coefficients: Tensor
    importance: Tensor
    nonlinearity: Tensor

    def curve(self, output: int, input: int, x: Tensor) -> Tensor:
        """Evaluate the edge from feature `input` to feature `output` at `x`, any shape."""
        return (
            features(x.double(), self.grid_size, self.spline_order, self.grid_range) @ self.coefficients[output, input]
        )

    def span(self, input: int) -> tuple[float, float]:
        """Return where to look at an input feature: the grid and half of it on either side, more if 99% need it."""
        low, high = self.grid_range
        share = self.histogram[input].cumsum(0) / self.histogram[input].sum()
        first, last = (int(torch.searchsorted(share, share.new_tensor(q))) for q in (0.005, 0.995))
        margin = (high - low) / 2
        return min(low - margin, float(self.bin_edges[first])), max(high + margin, float(self.bin_edges[last + 1]))

    def strongest(self, count: int) -> list[tuple[int, int]]:
        """Return the (output, input) pairs of the edges with the greatest importance, the greatest first."""
        order = self.importance.flatten().topk(min(count, self.importance.numel())).indices.tolist()
        return [divmod(index, self.importance.shape[1]) for index in order]

    @property
    def edge_nonlinearity(self) -> float:
        """Mean of `nonlinearity` weighted by the variance of each edge; 0 if the layer is a linear one in effect."""
        variance = self.importance.square()
        total = variance.sum()
        return float((variance * self.nonlinearity).sum() / total) if total > 0 else 0.0


def features(x: Tensor, grid_size: int, spline_order: int, grid_range: tuple[float, float]) -> Tensor:
    """Return SiLU and the spline bases of `x` along a new last axis, 1 + M of them."""
    return torch.cat([F.silu(x)[..., None], bspline_basis(x, grid_size, spline_order, grid_range)], dim=-1)


def edge_coefficients(layer: KANLinear) -> Tensor:
    """Return `(out, in, 1 + M)`: what each edge multiplies SiLU and the bases with, float64 on the CPU."""
    spline: Tensor = layer.spline_weight
    if layer.spline_scaler is not None:
        spline = spline * layer.spline_scaler[..., None]
    return torch.cat([layer.base_weight[..., None], spline], dim=-1).detach().double().cpu()


def kan_layers(model: nn.Module) -> dict[str, KANLinear]:
    """Return the KAN layers of a network by their dotted names, in the order they stand."""
    return {name: module for name, module in model.named_modules() if isinstance(module, KANLinear)}


class _Moments:
    """Sums over everything a layer is fed, a feature at a time."""

    def __init__(self, layer: KANLinear) -> None:
        self.layer = layer
        low, high = layer.grid_range
        margin = (high - low) * HISTOGRAM_MARGIN
        self.bin_edges = torch.linspace(low - margin, high + margin, HISTOGRAM_BINS + 1, dtype=torch.float64)
        width, bases = layer.in_features, 1 + layer.grid_size + layer.spline_order
        # The input itself is one more feature, so that a straight line can be fitted.
        self.first = torch.zeros(width, bases + 1, dtype=torch.float64)
        self.second = torch.zeros(width, bases + 1, bases + 1, dtype=torch.float64)
        self.histogram = torch.zeros(width, HISTOGRAM_BINS, dtype=torch.float64)
        self.outside = torch.zeros(width, dtype=torch.float64)
        self.beyond = torch.zeros(width, dtype=torch.float64)
        self.count = 0

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().reshape(-1, self.layer.in_features)
        for part in x.split(4096):
            self._add(part.double().cpu())

    def _add(self, x: Tensor) -> None:
        layer = self.layer
        f = torch.cat([x[..., None], features(x, layer.grid_size, layer.spline_order, layer.grid_range)], dim=-1)
        self.first += f.sum(0)
        self.second += torch.einsum("nif,nig->ifg", f, f)
        low, high = layer.grid_range
        reach = (high - low) / layer.grid_size * layer.spline_order
        self.outside += ((x < low) | (x > high)).sum(0)
        self.beyond += ((x <= low - reach) | (x >= high + reach)).sum(0)
        place = torch.bucketize(x, self.bin_edges[1:-1])
        self.histogram.scatter_add_(1, place.T, torch.ones_like(x.T))
        self.count += len(x)

    def summary(self, name: str) -> SplineLayer:
        layer = self.layer
        coefficients = edge_coefficients(layer)
        mean = self.first / self.count
        covariance = self.second / self.count - mean[:, :, None] * mean[:, None, :]
        variance = torch.einsum("oif,ifg,oig->oi", coefficients, covariance[:, 1:, 1:], coefficients).clamp_min(0)
        along = torch.einsum("oif,if->oi", coefficients, covariance[:, 1:, 0])
        spread = covariance[:, 0, 0].clamp_min(torch.finfo(torch.float64).tiny)
        straight = along.square() / spread
        # An edge that does not vary bends nowhere.
        bent = torch.where(variance > 1e-24, 1 - straight / variance.clamp_min(1e-24), 0.0).clamp(0, 1)
        return SplineLayer(
            name,
            layer.grid_range,
            layer.grid_size,
            layer.spline_order,
            self.count,
            self.histogram,
            self.bin_edges,
            self.outside / self.count,
            self.beyond / self.count,
            coefficients,
            variance.sqrt(),
            bent,
        )


@torch.no_grad()
def observe_splines(model: nn.Module, batches: Iterable[Tensor]) -> list[SplineLayer]:
    """Run images through a network and describe each of its KAN layers by what it was fed.

    Args:
        model: The network, in the mode it is meant to be observed in.
        batches: Image batches `(B, C, *S)` on the model's device.

    Returns:
        One description for each KAN layer, in order.

    Raises:
        ValueError: The network has no KAN layer, or there are no images.
    """
    layers = kan_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no KAN layers to explain")
    moments = {name: _Moments(layer) for name, layer in layers.items()}
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(moments[name]).remove)
        for batch in batches:
            model(batch)
    if not all(m.count for m in moments.values()):
        raise ValueError("there are no images to observe the splines on")
    return [m.summary(name) for name, m in moments.items()]
