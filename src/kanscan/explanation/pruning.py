"""Removing the learned functions that real data hardly uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from kanscan.explanation.splines import ObservedLayer
from kanscan.layers.spline import spline_layers

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class PrunePoint:
    """One point of a prune curve.

    Attributes:
        share_removed: Share of all functions that were removed.
        num_edges: Functions that are left: edges, or splines that all inputs of an output share.
        score: What the judge said of the pruned network.
    """

    share_removed: float
    num_edges: int
    score: float


def node_importance(layers: Sequence[ObservedLayer]) -> dict[str, Tensor]:
    """Return `(sources,)` for each layer: the root of the summed variances of the functions that read each source."""
    found = {}
    for layer in layers:
        total = torch.zeros(layer.histogram.shape[0], dtype=torch.float64)
        total.scatter_add_(0, layer.sources.flatten(), layer.importance.square().flatten())
        found[layer.name] = total.sqrt()
    return found


def relative_importance(layer: ObservedLayer) -> Tensor:
    """Return `(out, n)`: the share of an output's variance that each function brings, so that layers can be compared.

    Beside a shared spline the SiLU part counts as the rest of the output.
    """
    variance = layer.importance.square()
    total = variance.sum(dim=1, keepdim=True) + layer.other_variance[:, None]
    return variance / total.clamp_min(torch.finfo(variance.dtype).tiny)


def prune(model: Model, layers: Sequence[ObservedLayer], share: float) -> Model:
    """Copy a network without the least important functions of its spline layers.

    Functions are ranked over all layers by the share of their output's variance that they bring on the observed data. A
    removed edge gives its mean to nobody: its weights are zero, those of SiLU too. Of a spline that the inputs of an
    output share the coefficients are zero; SiLU, with its own weight for each input, stays.

    Args:
        model: The network that was observed; it is not changed.
        layers: Its description from `observe_splines`.
        share: Share of all functions to remove, 0 to 1.

    Returns:
        The pruned copy.

    Raises:
        ValueError: The share is outside 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of edges to remove must be between 0 and 1, got {share}")
    pruned = deepcopy(model)
    modules = spline_layers(pruned)
    ranks = {layer.name: relative_importance(layer) for layer in layers}
    everything = torch.cat([rank.flatten() for rank in ranks.values()])
    removed = round(share * everything.numel())
    order = everything.argsort(stable=True)
    keep = torch.ones_like(everything, dtype=torch.bool)
    keep[order[:removed]] = False
    parts = keep.split([rank.numel() for rank in ranks.values()])
    for (name, rank), kept in zip(ranks.items(), parts, strict=True):
        modules[name].keep(kept.view_as(rank))
    return pruned


def prune_curve(
    model: Model, layers: Sequence[ObservedLayer], shares: Sequence[float], judge: Callable[[Model], float]
) -> list[PrunePoint]:
    """Judge a network after removing growing shares of its learned functions.

    Args:
        model: The network that was observed.
        layers: Its description from `observe_splines`.
        shares: Shares to remove.
        judge: Scores a network, for example mean Dice on the test cases.
    """
    total = sum(layer.importance.numel() for layer in layers)
    return [
        PrunePoint(share, total - round(share * total), float(judge(prune(model, layers, share)))) for share in shares
    ]
