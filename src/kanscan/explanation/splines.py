"""The functions a spline layer learned, judged by the inputs that real data feeds it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kanscan.explanation.moments import Observer, features, observer_of
from kanscan.layers.spline import Bases, spline_layers


@dataclass(frozen=True)
class ObservedLayer:
    """A layer of splines and the inputs it met; tensors are float64 on the CPU.

    A function is called by its output and its place among the functions of that output. In a KAN layer these are the
    edges, one for each input (in a convolution for each channel and tap); where the inputs of an output share one
    spline (ALL U-KAN Eq. 7) there is one, at place 0, and SiLU with its own weights for every input is no part of it.

    Attributes:
        name: Dotted name of the layer in its network.
        bases: The bases and their grid.
        num_inputs: Values each source met (tokens or pixels of all images).
        sources: `(out, n)` which row of the four below a function reads.
        histogram: `(sources, HISTOGRAM_BINS)` counts of the inputs; the outermost bins hold everything beyond.
        bin_edges: `(HISTOGRAM_BINS + 1,)`.
        share_outside: `(sources,)` share of the inputs outside the grid range, where splines fade out.
        share_beyond: `(sources,)` share so far outside that every spline is zero; zero for bases that never are.
        coefficients: `(out, n, 1 + M)` weight of SiLU and of each basis, scales multiplied in.
        importance: `(out, n)` standard deviation over the data of what each function adds to its output.
        nonlinearity: `(out, n)` share of a function's variance a straight line cannot explain, 0 to 1.
        other_variance: `(out,)` variance of what else enters an output: the SiLU part beside a shared spline.
        shared: One function serves all inputs of an output.
        taps: Taps of a convolution's window along each axis, or None.
    """

    name: str
    bases: Bases
    num_inputs: int
    sources: Tensor
    histogram: Tensor
    bin_edges: Tensor
    share_outside: Tensor
    share_beyond: Tensor
    coefficients: Tensor
    importance: Tensor
    nonlinearity: Tensor
    other_variance: Tensor
    shared: bool = False
    taps: tuple[int, ...] | None = None

    def curve(self, output: int, place: int, x: Tensor) -> Tensor:
        """Evaluate a function at `x`, any shape."""
        return features(x.double(), self.bases) @ self.coefficients[output, place]

    def distribution(self, output: int, place: int) -> Tensor:
        """Return `(HISTOGRAM_BINS,)` counts of the inputs a function met."""
        return self.histogram[self.sources[output, place]]

    def outside(self, output: int, place: int) -> float:
        """Return the share of a function's inputs outside the grid."""
        return float(self.share_outside[self.sources[output, place]])

    def span(self, output: int, place: int) -> tuple[float, float]:
        """Return where to look at a function: the grid and half of it on either side, more if 99% of inputs need it."""
        low, high = self.bases.grid.grid_range
        counts = self.distribution(output, place)
        share = counts.cumsum(0) / counts.sum()
        first, last = (int(torch.searchsorted(share, share.new_tensor(q))) for q in (0.005, 0.995))
        margin = (high - low) / 2
        return min(low - margin, float(self.bin_edges[first])), max(high + margin, float(self.bin_edges[last + 1]))

    def strongest(self, count: int) -> list[tuple[int, int]]:
        """Return the (output, place) pairs of the functions with the greatest importance, the greatest first."""
        order = self.importance.flatten().topk(min(count, self.importance.numel())).indices.tolist()
        return [divmod(index, self.importance.shape[1]) for index in order]

    def reads(self, output: int, place: int) -> str:
        """Name what a function reads: an input, a channel and tap, or the inputs that share it."""
        if self.shared:
            groups = self.histogram.shape[0]
            return "all" if groups == 1 else f"group {int(self.sources[output, place])}"
        source = str(int(self.sources[output, place]))
        if self.taps is None or max(self.taps) == 1:
            return source
        tap = np.unravel_index(place % math.prod(self.taps), self.taps)
        return f"{source} ({', '.join(map(str, tap))})"

    @property
    def edge_nonlinearity(self) -> float:
        """Mean of `nonlinearity` weighted by the functions' variance; 0 if the layer is a linear one in effect."""
        variance = self.importance.square()
        total = variance.sum()
        return float((variance * self.nonlinearity).sum() / total) if total > 0 else 0.0


@torch.no_grad()
def observe_splines(model: nn.Module, batches: Iterable[Tensor]) -> list[ObservedLayer]:
    """Run images through a network and describe each of its spline layers by what it was fed.

    Args:
        model: The network, in the mode it is meant to be observed in.
        batches: Image batches `(B, C, *S)` on the model's device.

    Returns:
        One description for each spline layer that the images reached, in order.

    Raises:
        ValueError: The network has no spline layer, or there are no images.
    """
    layers = spline_layers(model)
    if not layers:
        raise ValueError("the network has no KAN layers to explain")
    observers = {name: observer_of(layer) for name, layer in layers.items()}
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(observers[name]).remove)
        for batch in batches:
            model(batch)
    if not any(observer.moments.count for observer in observers.values()):
        raise ValueError("there are no images to observe the splines on")
    return [_summary(name, observer) for name, observer in observers.items() if observer.moments.count]


def _summary(name: str, observer: Observer) -> ObservedLayer:
    moments = observer.moments
    found = observer.functions()
    return ObservedLayer(
        name,
        moments.bases,
        moments.count,
        found.sources,
        moments.histogram,
        moments.bin_edges,
        moments.outside / moments.count,
        moments.beyond / moments.count,
        found.coefficients,
        found.variance.sqrt(),
        found.bent,
        found.other_variance,
        observer.layer.shared,
        observer.layer.taps,
    )
