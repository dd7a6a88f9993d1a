"""Charts as matplotlib figures, and as SVG in the colors of the page: they follow light, dark and print."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape

from kanscan.drawing.words import visible
from kanscan.metrics.calibration import Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colors of lines, in the order of a legend; then what lies behind, text, and the grid.
LINES = ("#2a6a8f", "#b4602b", "#3c7f63")
BEHIND, SOFT, GRID, PAPER = "#9dbfd2", "#5b6670", "#e1e4e3", "#ffffff"
#: The same colors as the style sheet calls them.
_OF_PAGE = {
    **{LINES[0]: "--c1", LINES[1]: "--c2", LINES[2]: "--c3"},
    **{BEHIND: "--bar", SOFT: "--soft", GRID: "--line", PAPER: "--paper"},
}


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: In the legend.
        values: One a step; None where there is none.
    """

    name: str
    values: Sequence[float | None]


@contextmanager
def page_style(salt: str = "kanscan") -> Iterator[None]:  # also serves as a decorator
    """Draw as the page looks: its colors, text that stays text, names in which `$` is a letter."""
    import matplotlib

    settings: dict[str, object] = {
        **{"svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False, "font.size": 8},
        **{"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "legend.frameon": False},
        **{name: SOFT for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
        **{"grid.color": GRID, "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.titlesize": 8},
    }
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        yield


def panels(columns: int = 1, rows: int = 1, size: tuple[float, float] = (4.8, 2.5)) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure and its axes, row by row, each of `size` inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def line_chart(
    series: Sequence[Series],
    steps: Sequence[float],
    *,
    x_label: str = "epoch",
    y_range: tuple[float, float] | None = None,
    mark: tuple[float, str] | None = None,
) -> Figure | None:
    """Draw lines over steps; None where there is no value.

    Args:
        series: Lines; a gap in the values is bridged.
        steps: Positions along the horizontal axis, one a value.
        x_label: Under the axis.
        y_range: None: from 0 or below to the largest value.
        mark: Step that gets a vertical line, and what is written beside it.
    """
    lines = [(one.name, np.array([np.nan if v is None else v for v in one.values], float)) for one in series]
    known = [values[np.isfinite(values)] for _, values in lines]
    if not any(map(len, known)):
        return None
    with page_style():
        figure, [[axes]] = panels()
        for color, (name, values) in enumerate(lines):
            there = np.isfinite(values)
            marker = "o" if there.sum() == 1 else ""
            axes.plot(np.asarray(steps)[there], values[there], color=LINES[color], marker=marker, label=visible(name))
        axes.set_ylim(*(y_range or (min(0.0, np.concatenate(known).min()), None)))
        _count(axes, "x")
        if mark is not None:
            axes.axvline(mark[0], color=SOFT, linestyle=":", linewidth=1, label=visible(mark[1]))
        _finish(axes, x_label)
        return figure


def histogram(values: Sequence[float], *, label: str, bins: int = 20) -> Figure | None:
    """Draw how many of the values, 0 to 1, fall where, with their mean and median; None without values."""
    if not len(values):
        return None
    with page_style():
        figure, [[axes]] = panels()
        axes.hist(values, bins=bins, range=(0, 1), color=BEHIND, rwidth=0.94)
        for color, (name, place) in enumerate((("mean", fmean(values)), ("median", median(values))), start=1):
            axes.axvline(place, color=LINES[color], linestyle=":", linewidth=1.4, label=f"{name} {place:.3f}")
        axes.set_xlim(0, 1)
        _count(axes, "y")
        _finish(axes, label)
        return figure


def strip_plot(rows: Mapping[str, Sequence[float]], *, label: str) -> Figure:
    """Draw each row's values as dots between 0 and 1, the first row on top, with the mean as a stroke."""
    with page_style():
        figure, [[axes]] = panels(size=(4.8, 0.7 + 0.17 * len(rows)))
        for place, values in enumerate(rows.values()):
            axes.plot(values, [place] * len(values), "o", color=LINES[0], alpha=0.45, markersize=4, markeredgewidth=0)
            axes.plot(fmean(values), place, marker="|", color=LINES[1], markersize=8, markeredgewidth=2)
        names = [visible(name) for name in rows]
        axes.set_yticks(range(len(rows)), [name if len(name) <= 18 else f"{name[:16]}..." for name in names])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.set_xlabel(visible(label))
        axes.grid(axis="x")
        return figure


def reliability_diagram(curves: Mapping[str, Reliability], what: str = "pixels") -> Figure:
    """Draw how often a class is right against how sure the network is of it, and where the pixels are.

    Args:
        curves: Name -> what was found, at most three; the bars are of the first.
        what: What the places of an image are called.
    """
    with page_style():
        figure, [[axes]] = panels(size=(4.8, 3.4))
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=":")
        first = next(iter(curves.values()))
        bins = len(first.count)
        shares = first.count / max(first.count.sum(), 1)
        axes.bar((np.arange(bins) + 0.5) / bins, shares, width=0.9 / bins, color=BEHIND, zorder=0)
        for color, (name, found) in zip(LINES, curves.items(), strict=False):
            there = found.count > 0
            text = f"{name}, ECE {found.error:.3f}"
            axes.plot(found.confidence[there], found.accuracy[there], "o-", color=color, markersize=4, label=text)
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel=f"share of {what} where it is right")
        _finish(axes, "probability of the chosen class")
        return figure


def rank_diagram(mean_ranks: Mapping[str, float], apart: float, alike: Sequence[Sequence[str]]) -> Figure:
    """Draw a critical-difference diagram (Demšar 2006): networks at their mean ranks, the best at the left.

    Args:
        mean_ranks: Network -> mean rank, best first.
        apart: Mean ranks closer than this are no evidence of a difference.
        alike: Networks that a bar joins, since they are that close.
    """
    count = len(mean_ranks)
    with page_style():
        figure, [[axes]] = panels(size=(5.6, 1.0 + 0.16 * count + 0.12 * len(alike)))
        left = (count + 1) // 2
        depth = 0.35 + 0.2 * len(alike)
        for place, (name, mean) in enumerate(mean_ranks.items()):
            is_left = place < left
            y = -depth - 0.35 * (place if is_left else count - 1 - place)
            axes.plot([mean, mean, 0.9 if is_left else count + 0.1], [0, y, y], color=SOFT, linewidth=0.8)
            axes.text(0.85 if is_left else count + 0.15, y, f"{visible(name)} {mean:.2f}",
                      ha="right" if is_left else "left", va="center")  # fmt: skip
        for place, names in enumerate(alike):
            y = -0.22 - 0.2 * place
            ends = mean_ranks[names[0]] - 0.04, mean_ranks[names[-1]] + 0.04
            axes.plot(ends, [y, y], color=LINES[1], linewidth=3, solid_capstyle="butt")
        axes.plot([1, min(1 + apart, count)], [0.8, 0.8], color=LINES[0], marker="|", linewidth=1.4)
        axes.text(1, 0.95, f"critical difference {apart:.2f}", va="bottom")
        axes.set(xlim=(0.2, count + 0.8), xticks=range(1, count + 1), yticks=[])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.spines["top"].set(visible=True, position=("data", 0), bounds=(1, count))
        axes.xaxis.set_ticks_position("top")
        return figure


def _count(axes: Axes, axis: str) -> None:
    """Mark whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    getattr(axes, f"{axis}axis").set_major_locator(MaxNLocator(6, integer=True))


def _finish(axes: Axes, x_label: str) -> None:
    axes.set_xlabel(visible(x_label))
    axes.grid(axis="y")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)


def svg_text(figure: Figure, salt: str = "kanscan") -> str:
    """Draw a figure as an SVG document, the same text each time.

    Args:
        figure: What to draw.
        salt: Drawings of one page need different ones where their parts have names in common.
    """
    buffer = io.StringIO()
    with page_style(salt):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return visible(buffer.getvalue())


def inline_svg(figure: Figure, label: str, salt: str = "kanscan") -> Markup:
    """Draw a figure for a page; arguments as of `svg_text` and `inlined`."""
    return inlined(svg_text(figure, salt), label)


def inlined(svg: str, label: str) -> Markup:
    """Make an SVG document a part of a page: in the page's colors, as wide as its place, hardly above its own size.

    Args:
        svg: As `svg_text` gives it.
        label: For readers who cannot see it, plain text.
    """
    box = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', svg)
    assert box, "matplotlib gives every drawing a box"
    head = f'<svg class="chart" role="img" aria-label="{escape(visible(label))}" {box[0]}'
    style = f' style="max-width: {1.5 * float(box[1]):.0f}px">'
    text = svg[svg.index(">", box.end()) + 1 :]
    for color, name in _OF_PAGE.items():
        text = text.replace(color, f"var({name})")
    return Markup(head + style + text)
