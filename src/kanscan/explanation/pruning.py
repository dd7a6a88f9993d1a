"""Removing the edges of KAN layers that real data hardly uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from kanscan.explanation.splines import SplineLayer, kan_layers

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class PrunePoint:
    """One point of a prune curve.

    Attributes:
        share_removed: Share of all edges that were removed.
        num_edges: Edges that are left.
        score: What the judge said of the pruned network.
    """

    share_removed: float
    num_edges: int
    score: float


def node_importance(layers: Sequence[SplineLayer]) -> dict[str, Tensor]:
    """Return `(in,)` for each layer: the root of the summed variances of the edges that leave each input feature."""
    return {layer.name: layer.importance.square().sum(0).sqrt() for layer in layers}


def relative_importance(layer: SplineLayer) -> Tensor:
    """Return `(out, in)`: the share of an output's variance that each edge brings, so that layers can be compared."""
    variance = layer.importance.square()
    return variance / variance.sum(dim=1, keepdim=True).clamp_min(torch.finfo(variance.dtype).tiny)


def prune(model: Model, layers: Sequence[SplineLayer], share: float) -> Model:
    """Copy a network without the least important edges of its KAN layers.

    Edges are ranked over all layers by the share of their output's variance that they bring on the observed data. A
    removed edge gives its mean to nobody: its weights are zero.

    Args:
        model: The network that was observed; it is not changed.
        layers: Its description from `observe_splines`.
        share: Share of all edges to remove, 0 to 1.

    Returns:
        The pruned copy.

    Raises:
        ValueError: The share is outside 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of edges to remove must be between 0 and 1, got {share}")
    pruned = deepcopy(model)
    modules = kan_layers(pruned)
    ranks = {layer.name: relative_importance(layer) for layer in layers}
    everything = torch.cat([rank.flatten() for rank in ranks.values()])
    removed = round(share * everything.numel())
    order = everything.argsort(stable=True)
    keep = torch.ones_like(everything, dtype=torch.bool)
    keep[order[:removed]] = False
    start = 0
    with torch.no_grad():
        for layer in layers:
            rank, module = ranks[layer.name], modules[layer.name]
            kept = keep[start : start + rank.numel()].view_as(rank).to(module.base_weight.device)
            start += rank.numel()
            module.base_weight.mul_(kept)
            module.spline_weight.mul_(kept[..., None])
    return pruned


def prune_curve(
    model: Model, layers: Sequence[SplineLayer], shares: Sequence[float], judge: Callable[[Model], float]
) -> list[PrunePoint]:
    """Judge a network after removing growing shares of its edges.

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
