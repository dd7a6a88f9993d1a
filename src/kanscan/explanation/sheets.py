"""Curves that people can read, drawn from what the other modules found; every function gives a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kanscan.explanation.formulas import Formula
from kanscan.explanation.pruning import PrunePoint
from kanscan.explanation.splines import ObservedLayer
from kanscan.explanation.uncertainty import Calibration

_LINE, _DATA, _SOFT, _OTHER = "#2a6a8f", "#c9d9e2", "#5b6670", "#b4602b"


def _figure(columns: int, rows: int, width: float = 2.5, height: float = 2.0) -> tuple[Figure, NDArray[Any]]:
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7, colors=_SOFT)
    return figure, axes


def spline_sheet(layer: ObservedLayer, formulas: Mapping[tuple[int, int], Formula], count: int = 12) -> Figure:
    """Draw the strongest functions of a layer over the distribution of the inputs they met.

    Args:
        layer: An observed layer.
        formulas: Fitted formulas by (output, place); drawn dashed where there is one.
        count: Number of functions.
    """
    edges = layer.strongest(count)
    columns = min(4, len(edges))
    figure, axes = _figure(columns, math.ceil(len(edges) / columns))
    for axis, (output, place) in zip(axes.flat, edges, strict=False):
        start, end = layer.span(output, place)
        inside = (layer.bin_edges >= start - 1e-9) & (layer.bin_edges <= end + 1e-9)
        edges_seen = layer.bin_edges[inside]
        counts = layer.distribution(output, place)
        heights = (counts / counts.max())[inside[:-1] & inside[1:]]
        # The distribution fills the lower half of the panel, in axes' own height.
        behind = axis.get_xaxis_transform()
        axis.stairs((0.45 * heights).numpy(), edges_seen.numpy(), fill=True, color=_DATA, transform=behind, zorder=0)
        x = torch.linspace(start, end, 200, dtype=torch.float64)
        axis.set_xlim(start, end)
        axis.plot(x.numpy(), layer.curve(output, place, x).numpy(), color=_LINE, linewidth=1.6)
        if (output, place) in formulas:
            axis.plot(x.numpy(), formulas[output, place](x).numpy(), color=_OTHER, linewidth=1, linestyle="--")
        axis.autoscale(axis="y")
        for end in layer.bases.grid.grid_range:
            axis.axvline(end, color=_SOFT, linewidth=0.6, linestyle=":")
        outside = 100 * layer.outside(output, place)
        axis.set_title(f"{layer.reads(output, place)} → {output}   {outside:.0f}% outside", fontsize=8, color=_SOFT)
    for axis in axes.flat[len(edges) :]:
        axis.set_visible(False)
    return figure


def prune_figure(points: Sequence[PrunePoint], score_name: str, what: str = "edges") -> Figure:
    """Draw a score against the share of functions removed; `what` is their name."""
    figure, axes = _figure(1, 1, 5.5, 3.0)
    axis = axes[0, 0]
    axis.plot([100 * p.share_removed for p in points], [p.score for p in points], color=_LINE, marker="o", markersize=4)
    axis.set_xlabel(f"{what} removed, %", fontsize=8)
    axis.set_ylabel(score_name, fontsize=8)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    return figure


def reliability_figure(before: Calibration, after: Calibration | None = None, what: str = "pixels") -> Figure:
    """Draw accuracy against confidence, and where the pixels are."""
    figure, axes = _figure(1, 1, 4.2, 3.6)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.8, linestyle=":")
    bins = len(before.count)
    shares = before.count / before.count.sum().clamp_min(1)
    axis.bar((torch.arange(bins) + 0.5) / bins, shares, width=0.9 / bins, color=_DATA, zorder=0)
    for found, color, name in ((before, _LINE, "as trained"), (after, _OTHER, "with temperature")):
        if found is not None:
            there = found.count > 0
            axis.plot(
                found.confidence[there],
                found.accuracy[there],
                color=color,
                marker="o",
                markersize=4,
                label=f"{name}, ECE {found.error:.3f}",
            )
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_xlabel("probability of the chosen class", fontsize=8)
    axis.set_ylabel(f"share of {what} where it is right", fontsize=8)
    axis.legend(fontsize=8, frameon=False)
    return figure
