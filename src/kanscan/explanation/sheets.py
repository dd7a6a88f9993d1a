"""Figures that people can read, drawn from what the other modules found; every function gives a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kanscan.drawing import to_rgb
from kanscan.explanation.formulas import Formula
from kanscan.explanation.pruning import PrunePoint
from kanscan.explanation.receptive_field import ReceptiveField
from kanscan.explanation.scan_attention import ScanAttention
from kanscan.explanation.splines import SplineLayer
from kanscan.explanation.uncertainty import Calibration

_LINE, _DATA, _SOFT, _OTHER = "#2a6a8f", "#c9d9e2", "#5b6670", "#b4602b"
_HEAT = "viridis"


def _figure(columns: int, rows: int, width: float = 2.5, height: float = 2.0) -> tuple[Figure, NDArray[Any]]:
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7, colors=_SOFT)
    return figure, axes


def spline_sheet(layer: SplineLayer, formulas: Mapping[tuple[int, int], Formula], count: int = 12) -> Figure:
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
        for end in layer.grid.range:
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


def map_figure(
    image: NDArray[Any], maps: Sequence[tuple[str, NDArray[Any]]], label: NDArray[Any] | None = None
) -> Figure:
    """Draw an image and maps of it side by side, the contour of a label on each.

    Args:
        image: `(H, W)` or `(H, W, C)`.
        maps: Titles and `(H, W)` arrays from 0 to 1.
        label: `(H, W)`; its foreground is outlined.
    """
    figure, axes = _figure(len(maps) + 1, 1, 2.4, 2.6)
    picture = to_rgb(image)
    panels: list[tuple[str, NDArray[Any] | None]] = [("image", None), *maps]
    for axis, (title, heat) in zip(axes.flat, panels, strict=True):
        axis.imshow(picture if heat is None else picture.mean(-1), cmap=None if heat is None else "gray")
        if heat is not None:
            axis.imshow(heat, cmap=_HEAT, alpha=0.6, vmin=0, vmax=1)
        if label is not None and bool(np.any(label)):
            axis.contour(label > 0, levels=[0.5], colors="#f0e442", linewidths=1)
        axis.set_title(title, fontsize=8)
        axis.axis("off")
    return figure


def receptive_field_figure(fields: Sequence[tuple[str, ReceptiveField]]) -> Figure:
    """Draw effective receptive fields side by side; of a volume the middle slice. Brightness is the fourth root."""
    figure, axes = _figure(len(fields), 1, 3.0, 3.2)
    for axis, (title, found) in zip(axes.flat, fields, strict=True):
        plane = found.field if found.field.ndim == 2 else found.field[found.field.shape[0] // 2]
        axis.imshow(plane.pow(0.25).numpy(), cmap=_HEAT, vmin=0, vmax=1)
        area = 100 * found.area(0.95)
        axis.set_title(f"{title}\n95% of the gradient in {area:.0f}% of the image", fontsize=8)
        axis.axis("off")
    return figure


def scan_figure(image: NDArray[Any], attention: ScanAttention) -> Figure:
    """Draw what one pixel receives along each scan direction; brightness is the square root of the share."""
    height, width = attention.map_size
    figure, axes = _figure(len(attention.orders) + 1, 1, 2.4, 2.6)
    axes.flat[0].imshow(to_rgb(image), extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    top = float(attention.maps.max().sqrt())
    for axis, name, plane in zip(axes.flat[1:], attention.orders, attention.maps, strict=True):
        axis.imshow(plane.sqrt().numpy(), cmap=_HEAT, vmin=0, vmax=top or 1)
        axis.set_title(f"{name.replace('_', ' ')}: {100 * float(plane.sum()):.0f}%", fontsize=8)
    for axis in axes.flat:
        row, column = attention.query
        axis.plot(column, row, marker="+", color="#d55e00", markersize=9, markeredgewidth=1.6)
        axis.axis("off")
    return figure


def reliability_figure(before: Calibration, after: Calibration | None = None) -> Figure:
    """Draw accuracy against confidence, and where the pixels are."""
    figure, axes = _figure(1, 1, 4.2, 3.6)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.8, linestyle=":")
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
    axis.set_ylabel("share of pixels where it is right", fontsize=8)
    axis.legend(fontsize=8, frameon=False)
    return figure
