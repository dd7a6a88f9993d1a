"""Pictures and volumes with maps laid over them, panel by panel; every function gives a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kanscan.drawing.charts import page_style
from kanscan.drawing.colors import CASING_COLOR, REFERENCE_COLOR, hexadecimal
from kanscan.drawing.images import to_rgb
from kanscan.drawing.planes import Plane, planes
from kanscan.explanation.receptive_field import ReceptiveField

HEAT = "viridis"
_MARK, _ALPHA = "#d55e00", 0.6
#: Inches a panel is wide.
_WIDTH = 2.3


@dataclass(frozen=True)
class Row:
    """A row of panels: the image, then maps over it.

    Attributes:
        title: Written at its left, "" for nothing.
        maps: Titles and `(*s)` arrays from 0 to 1, on the image's grid or a coarser one.
        first: Title of the first panel.
        outline: `(*S)` label map outlined in the first panel; that of the figure if None.
        mark: A place of the image's grid that is marked with a cross.
    """

    title: str
    maps: Sequence[tuple[str, NDArray[np.generic]]]
    first: str = "image"
    outline: NDArray[np.generic] | None = None
    mark: tuple[int, ...] | None = None


@page_style()
def map_figure(
    image: NDArray[np.generic],
    rows: Sequence[Row],
    label: NDArray[np.generic] | None = None,
    *,
    bar: str,
    spacing_mm: Sequence[float] | None = None,
) -> Figure:
    """Draw an image and maps of it side by side, the outline of a label on each; of a volume three planes.

    The planes of a volume meet in the marked voxel of their row, or else in the middle.

    Args:
        image: `(H, W)`, `(H, W, 3)` or `(D, H, W)`.
        rows: What is drawn.
        label: `(*S)`; its foreground is outlined.
        bar: What the colors say, beside their bar.
        spacing_mm: Of a volume or a slice of one.
    """
    volume = image.ndim == 3 and image.shape[-1] != 3
    size = image.shape if volume else image.shape[:2]
    picture = image if volume else to_rgb(image)
    window = (float(picture.min()), float(picture.max())) if volume else (0.0, 255.0)
    figure, axes = _grid(planes(size, spacing_mm), len(rows), 1 + max(len(row.maps) for row in rows))
    for number, row in enumerate(rows):
        shown = planes(size, spacing_mm, row.mark)
        outlined = label if row.outline is None else row.outline
        maps = [(title, _on_grid(heat, size)) for title, heat in row.maps]
        for place, plane in enumerate(shown):
            line = axes[number * len(shown) + place]
            base = plane.cut(picture)
            titles = [row.first, *(title for title, _ in maps)] if place == 0 else [""] * (1 + len(maps))
            _draw(line[0], plane, base, None, outlined, window)
            named = [row.title, plane.title] if place == 0 else [plane.title]
            line[0].set_ylabel("\n".join(filter(None, named)), fontsize=8)
            for axis, (_, heat) in zip(line[1:], maps, strict=False):
                _draw(axis, plane, base, plane.cut(heat), label, window)
            for axis, title in zip(line, titles, strict=False):
                axis.set_title(title, fontsize=8)
                if row.mark is not None:
                    _cross(axis, plane.point(row.mark))
            for axis in line[1 + len(maps) :]:
                axis.set_visible(False)
    _bar(figure, axes, bar, alpha=_ALPHA, fraction=0.03, aspect=30)
    return figure


def _bar(figure: Figure, axes: Sequence[Sequence[Axes]], text: str, alpha: float, fraction: float, aspect: int) -> None:
    everywhere = [axis for line in axes for axis in line]
    colors = ScalarMappable(Normalize(0, 1), HEAT)
    drawn = figure.colorbar(colors, ax=everywhere, fraction=fraction, pad=0.01, aspect=aspect, alpha=alpha)
    drawn.set_label(text, fontsize=8)
    drawn.ax.tick_params(labelsize=7)


def _grid(shown: Sequence[Plane], rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    # Each line of panels is as high as its plane is, so that nothing is squeezed and little is empty.
    heights = [_WIDTH * min(1.6, max(0.5, p.size[0] * p.aspect / p.size[1])) for p in shown] * rows
    # The text beside the color bar needs its length.
    height = max(2.4, sum(heights) + 0.25 * rows)
    figure = Figure(figsize=(_WIDTH * columns + 0.8, height), layout="constrained")
    axes = figure.subplots(len(heights), columns, squeeze=False, gridspec_kw={"height_ratios": heights}).tolist()
    for axis in (axis for line in axes for axis in line):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    return figure, axes


def _draw(
    axis: Axes,
    plane: Plane,
    base: NDArray[np.generic],
    heat: NDArray[np.generic] | None,
    label: NDArray[np.generic] | None,
    window: tuple[float, float],
) -> None:
    grey = base.mean(-1) if base.ndim == 3 and heat is not None else base
    axis.imshow(grey, cmap="gray", vmin=window[0], vmax=window[1], aspect=plane.aspect)
    if heat is not None:
        axis.imshow(heat, cmap=HEAT, alpha=_ALPHA, vmin=0, vmax=1, aspect=plane.aspect, interpolation="nearest")
    if label is not None:
        outlined = plane.cut(label) != 0
        if outlined.any() and not outlined.all():
            for color, width in ((CASING_COLOR, 2.4), (REFERENCE_COLOR, 1.2)):
                axis.contour(outlined, levels=[0.5], colors=hexadecimal(color), linewidths=width)


def _cross(axis: Axes, point: tuple[int, int]) -> None:
    row, column = point
    axis.plot(column, row, marker="+", color=_MARK, markersize=9, markeredgewidth=1.6)


def _on_grid(heat: NDArray[np.generic], size: Sequence[int]) -> NDArray[np.generic]:
    """Repeat the places of a coarser map until it has the image's size."""
    for axis, n in enumerate(size):
        if heat.shape[axis] != n:
            heat = np.take(heat, np.arange(n) * heat.shape[axis] // n, axis=axis)
    return heat


def on_image(place: Sequence[int], size: Sequence[int], image_size: Sequence[int]) -> tuple[int, ...]:
    """Return the middle, on the image's grid, of a place of a coarser map."""
    return tuple(min(int((p + 0.5) * n / s), n - 1) for p, s, n in zip(place, size, image_size, strict=True))


@page_style()
def receptive_field_figure(
    fields: Sequence[tuple[str, ReceptiveField]], spacing_mm: Sequence[float] | None = None
) -> Figure:
    """Draw effective receptive fields side by side, of a volume three planes. Brightness is the fourth root."""
    shown = planes(fields[0][1].field.shape, spacing_mm)
    figure, axes = _grid(shown, 1, len(fields))
    for column, (title, found) in enumerate(fields):
        for plane, line in zip(shown, axes, strict=True):
            heat = plane.cut(found.field.pow(0.25).numpy())
            line[column].imshow(heat, cmap=HEAT, vmin=0, vmax=1, aspect=plane.aspect)
            if column == 0:
                line[column].set_ylabel(plane.title, fontsize=8)
        axes[0][column].set_title(f"{title}\n95% of it in {100 * found.area(0.95):.0f}% of the image", fontsize=8)
    _bar(figure, axes, "gradient, fourth root", alpha=1, fraction=0.04, aspect=20)
    return figure
