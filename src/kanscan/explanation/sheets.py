"""Curves that people can read, drawn from what the other modules found; every function gives a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure

from kanscan.drawing.charts import LINES, SOFT, page_style, panels
from kanscan.explanation.formulas import Formula
from kanscan.explanation.pruning import PrunePoint
from kanscan.explanation.splines import ObservedLayer

_DATA = "#c9d9e2"


@page_style()
def spline_sheet(layer: ObservedLayer, formulas: Mapping[tuple[int, int], Formula], count: int = 12) -> Figure:
    """Draw the strongest functions of a layer over the distribution of the inputs they met.

    Args:
        layer: An observed layer.
        formulas: Fitted formulas by (output, place); drawn dashed where there is one.
        count: Number of functions.
    """
    edges = layer.strongest(count)
    columns = min(4, len(edges))
    figure, rows = panels(columns, math.ceil(len(edges) / columns), (2.5, 2.0))
    axes = [axis for row in rows for axis in row]
    for axis, (output, place) in zip(axes, edges, strict=False):
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
        axis.plot(x.numpy(), layer.curve(output, place, x).numpy(), color=LINES[0], linewidth=1.6)
        if (output, place) in formulas:
            axis.plot(x.numpy(), formulas[output, place](x).numpy(), color=LINES[1], linewidth=1, linestyle="--")
        axis.autoscale(axis="y")
        for end in layer.bases.grid.grid_range:
            axis.axvline(end, color=SOFT, linewidth=0.6, linestyle=":")
        outside = 100 * layer.outside(output, place)
        axis.set_title(f"{layer.reads(output, place)} → {output}   {outside:.0f}% outside", fontsize=8, color=SOFT)
    for axis in axes[len(edges) :]:
        axis.set_visible(False)
    return figure


@page_style()
def prune_figure(points: Sequence[PrunePoint], score_name: str, what: str = "edges") -> Figure:
    """Draw a score against the share of functions removed; `what` is their name."""
    figure, [[axis]] = panels(size=(5.5, 3.0))
    axis.plot(
        [100 * p.share_removed for p in points], [p.score for p in points], color=LINES[0], marker="o", markersize=4
    )
    axis.set_xlabel(f"{what} removed, %", fontsize=8)
    axis.set_ylabel(score_name, fontsize=8)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    return figure
