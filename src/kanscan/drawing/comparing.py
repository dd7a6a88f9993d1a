"""Charts that set many methods beside one another: intervals, ranks, score against cost, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kanscan.drawing.charts import BEHIND, LINES, SOFT, Series, page_style, panels
from kanscan.drawing.words import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Attributes:
        name: What it belongs to.
        value: The value.
        low: Lower end; None: no interval.
        high: Upper end.
        beside: A value to compare it with, such as a printed one; None: none.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    beside: float | None = None


def interval_chart(rows: Sequence[Estimate], *, label: str, beside: str = "", zero: bool = False) -> Figure:
    """Draw a bar or a point with its interval for each row, the first on top.

    Args:
        rows: What is drawn.
        label: Under the axis.
        beside: What the values beside are, for the legend.
        zero: The values are differences: points around a line at 0, in place of bars.
    """
    with page_style():
        figure, [[axes]] = panels(size=(4.8, 0.8 + 0.24 * len(rows)))
        for place, row in enumerate(rows):
            if not zero:
                axes.barh(place, row.value, color=BEHIND, height=0.62)
            else:
                axes.plot(row.value, place, "o", color=LINES[0], markersize=4)
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [place, place], color=LINES[0], linewidth=1.6)
            if row.beside is not None:
                axes.plot(row.beside, place, "D", color=LINES[1], markersize=4, label=beside)
        if zero:
            axes.axvline(0, color=SOFT, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(rows)), [_short(row.name) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(visible(label))
        axes.grid(axis="x")
        handles, names = axes.get_legend_handles_labels()
        if names and beside:
            axes.legend(handles[:1], names[:1], loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        return figure


def critical_difference_diagram(mean_ranks: Mapping[str, float], critical_difference: float) -> Figure:
    """Draw mean ranks on a line, and bars over those that are not told apart (Demsar, 2006).

    Args:
        mean_ranks: Method -> mean rank, 1 is best.
        critical_difference: Ranks nearer than this are joined by a bar.
    """
    ranked = sorted(mean_ranks.items(), key=lambda item: (item[1], item[0]))
    groups = _joined([rank for _, rank in ranked], critical_difference)
    with page_style():
        figure, [[axes]] = panels(size=(5.6, 0.9 + 0.2 * len(ranked) + 0.1 * len(groups)))
        bottom = -(len(ranked) + len(groups) * 0.5 + 0.5)
        axes.set(xlim=(0.8, len(ranked) + 0.2), ylim=(bottom, 1.2))
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.spines["top"].set_visible(True)
        axes.xaxis.tick_top()
        axes.set_xticks(range(1, len(ranked) + 1))
        axes.set_yticks([])
        axes.plot([1, min(1 + critical_difference, len(ranked))], [0.7, 0.7], color=LINES[1], linewidth=2)
        axes.text(1, 0.75, f"critical difference {critical_difference:.2f}", fontsize=7, va="bottom")
        for level, (first, last) in enumerate(groups, start=1):
            ends = [ranked[first][1] - 0.04, ranked[last][1] + 0.04]
            axes.plot(ends, [-0.5 * level] * 2, color=LINES[0], linewidth=3, solid_capstyle="butt")
        for place, (name, rank) in enumerate(ranked, start=1):
            height = -(0.5 * len(groups) + place)
            axes.plot([rank, rank], [1.2, height], color=SOFT, linewidth=0.8)
            left = rank > len(ranked) / 2 + 0.5
            text = f" {_short(name)}, {rank:.2f} "
            axes.text(rank, height, text, fontsize=8, va="center", ha="right" if left else "left")
        return figure


def _joined(ranks: Sequence[float], distance: float) -> list[tuple[int, int]]:
    """Find the largest runs of sorted ranks that lie within a distance."""
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(place for place, other in enumerate(ranks) if other - rank < distance)
        if last > first and not (found and found[-1][1] >= last):
            found.append((first, last))
    return found


def cost_chart(points: Mapping[str, tuple[float, float]], *, cost: str, score: str) -> Figure:
    """Draw a score against a cost, and the line of those that none beats in both.

    Args:
        points: Name -> cost (above 0) and score (higher is better).
        cost: Under the horizontal axis, which is logarithmic.
        score: Beside the vertical one.
    """
    front: list[tuple[float, float]] = []
    for point in sorted(points.values(), key=lambda p: (p[0], -p[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    with page_style():
        figure, [[axes]] = panels(size=(4.8, 3.2))
        axes.plot(*zip(*front, strict=True), color=BEHIND, linewidth=1.4, drawstyle="steps-post")
        for name, (x, y) in points.items():
            axes.plot(x, y, "o", color=LINES[0 if (x, y) in front else 1], markersize=5)
            axes.annotate(_short(name), (x, y), xytext=(5, 3), textcoords="offset points", fontsize=7)
        axes.set_xscale("log")
        axes.margins(0.15)
        axes.set(xlabel=visible(cost), ylabel=visible(score))
        axes.grid()
        return figure


def curve_chart(series: Sequence[Series], *, y_label: str) -> Figure:
    """Draw one line for each method over the epochs; colors first, then dashes tell them apart."""
    with page_style():
        figure, [[axes]] = panels(size=(4.8, 3.0))
        for number, one in enumerate(series):
            values = np.array([np.nan if v is None else v for v in one.values], float)
            there = np.isfinite(values)
            dash = _DASHES[number // len(LINES) % len(_DASHES)]
            color, steps = LINES[number % len(LINES)], np.arange(1, len(values) + 1)
            axes.plot(steps[there], values[there], label=_short(one.name), color=color, linestyle=dash)
        axes.set(xlabel="epoch", ylabel=visible(y_label), ylim=(0, None))
        axes.grid(axis="y")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
        return figure


def _short(name: str) -> str:
    name = visible(name)
    return name if len(name) <= 34 else f"{name[:32]}..."
