"""Charts as inline SVG: colors come from the page, so they follow light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 30, 36


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: In the legend.
        values: One a step; None where there is none.
        color: Number of the page's series color, from 1.
    """

    name: str
    values: Sequence[float | None]
    color: int = 1


@dataclass(frozen=True)
class _Frame:
    """Maps values to the plane of the chart."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / ((high - low) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return _HEIGHT - _BOTTOM - (value - low) / ((high - low) or 1) * (_HEIGHT - _TOP - _BOTTOM)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round numbers from `low` to `high`, at most `most` of them where possible.

    Example:
        >>> ticks(0, 1)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    steps = (s * power for s in (1, 2, 5, 10, 20, 50))
    step = next(s for s in steps if math.floor(span / s + 1e-9) < most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def line_chart(
    series: Sequence[Series],
    steps: Sequence[float],
    *,
    title: str,
    x_label: str = "epoch",
    y_range: tuple[float, float] | None = None,
    mark: float | None = None,
    mark_label: str = "",
) -> str:
    """Draw lines over steps.

    Args:
        series: Lines; a gap in the values is bridged.
        steps: Positions along the horizontal axis, one a value.
        title: For readers who cannot see the chart.
        x_label: Under the axis.
        y_range: None: from the values.
        mark: Step that gets a vertical line.
        mark_label: Beside it.
    """
    known = [v for s in series for v in s.values if v is not None and math.isfinite(v)]
    if not known or not steps:
        return ""
    low, high = y_range or (min(0.0, *known), max(known) * 1.05 or 1.0)
    frame = _Frame((min(steps), max(steps)), (low, high))
    parts = [_axes(frame, ticks(*frame.x_range), ticks(low, high), x_label)]
    if mark is not None:
        parts.append(_mark(frame, mark, mark_label))
    for line in series:
        points = [
            (frame.x(x), frame.y(y))
            for x, y in zip(steps, line.values, strict=True)
            if y is not None and math.isfinite(y)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line c{line.color}" points="{path}"/>')
        if len(points) == 1:
            parts.append(f'<circle class="dot c{line.color}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3"/>')
    return _svg([*parts, _legend(series)], title)


def histogram(values: Sequence[float], *, title: str, bins: int = 20) -> str:
    """Draw how many cases fall where between 0 and 1, with the mean and the median.

    Args:
        values: Scores within 0..1.
        title: For readers who cannot see the chart.
        bins: Bars.
    """
    if not values:
        return ""
    counts = [0] * bins
    for value in values:
        counts[min(int(value * bins), bins - 1)] += 1
    frame = _Frame((0.0, 1.0), (0.0, max(counts) * 1.08))
    whole = [t for t in ticks(0, frame.y_range[1], 5) if t == int(t)]
    parts = [_axes(frame, ticks(0, 1), whole, title)]
    for index, count in enumerate(counts):
        if count:
            left, right = frame.x(index / bins), frame.x((index + 1) / bins)
            top, ground = frame.y(count), frame.y(0)
            what = f"{index / bins:.2f} to {(index + 1) / bins:.2f}: {count} case{'s' * (count > 1)}"
            parts.append(
                f'<rect class="bar" x="{left + 0.75:.1f}" y="{top:.1f}" width="{right - left - 1.5:.1f}" '
                f'height="{ground - top:.1f}"><title>{what}</title></rect>'
            )
    ranked = sorted(values)
    middle = len(ranked) // 2
    median = ranked[middle] if len(ranked) % 2 else (ranked[middle - 1] + ranked[middle]) / 2
    mean = sum(values) / len(values)
    for place, name, color in ((mean, "mean", 2), (median, "median", 3)):
        x = frame.x(place)
        parts.append(
            f'<line class="mark c{color}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}">'
            f"<title>{name} {place:.3f}</title></line>"
        )
    legend = [Series(f"mean {mean:.3f}", (), 2), Series(f"median {median:.3f}", (), 3)]
    return _svg([*parts, _legend(legend)], f"Histogram of {title}, {len(values)} cases")


def strip_plot(rows: Sequence[tuple[str, Sequence[float]]], *, title: str) -> str:
    """Draw each row's values as dots between 0 and 1, with the mean as a stroke.

    Args:
        rows: Name and values within 0..1, drawn top to bottom.
        title: Under the axis, and for readers who cannot see the chart.
    """
    if not rows:
        return ""
    left, step = 130, 17
    height = _TOP + step * len(rows) + _BOTTOM
    ground, right = height - _BOTTOM + 4, _WIDTH - _RIGHT

    def at(value: float) -> float:
        return left + value * (right - left)

    parts = []
    for value in ticks(0, 1):
        x = at(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{ground}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{ground + 15}" text-anchor="middle">{value:g}</text>')
    for place, (name, values) in enumerate(rows):
        y = _TOP + step * (place + 0.5)
        shown = name if len(name) <= 18 else f"{name[:16]}..."
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 3.5:.1f}" text-anchor="end">{escape(shown)}</text>')
        parts += [f'<circle class="case" cx="{at(v):.1f}" cy="{y:.1f}" r="3.5"/>' for v in values]
        mean = sum(values) / len(values)
        parts.append(
            f'<line class="mean" x1="{at(mean):.1f}" x2="{at(mean):.1f}" y1="{y - 6:.1f}" y2="{y + 6:.1f}">'
            f"<title>{escape(name)}: mean {mean:.3f} of {len(values)}</title></line>"
        )
    parts.append(
        f'<text class="label" x="{(left + right) / 2:.0f}" y="{height - 4}" text-anchor="middle">{escape(title)}</text>'
    )
    return _svg(parts, f"{title}, a row a group", height)


def interval_bar(mean: float, low: float | None, high: float | None) -> str:
    """Draw a mean and its interval on the line from 0 to 1, small enough for a table cell."""
    width, y = 120, 8

    def at(value: float) -> str:
        return f"{4 + max(0.0, min(1.0, value)) * (width - 8):.1f}"

    span = ""
    if low is not None and high is not None:
        span = f'<line class="span" x1="{at(low)}" x2="{at(high)}" y1="{y}" y2="{y}"/>'
    return (
        f'<svg class="interval" viewBox="0 0 {width} 16" width="{width}" height="16" aria-hidden="true">'
        f'<line class="rail" x1="4" x2="{width - 4}" y1="{y}" y2="{y}"/>{span}'
        f'<circle cx="{at(mean)}" cy="{y}" r="3.2"/></svg>'
    )


def _axes(frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str) -> str:
    ground, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{ground}" y2="{ground}"/>']
    for value in y_ticks:
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{value:g}</text>')
    for value in x_ticks:
        if value == int(value) or frame.x_range == (0.0, 1.0):
            x = frame.x(value)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{ground + 15}" text-anchor="middle">{value:g}</text>')
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text class="label" x="{middle:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
    )
    return "".join(parts)


def _mark(frame: _Frame, step: float, label: str) -> str:
    x = frame.x(step)
    # Beside the line on the side where there is room.
    anchor, shift = ("end", -5) if x > _WIDTH * 0.6 else ("start", 5)
    return (
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text class="label" x="{x + shift:.1f}" y="{_HEIGHT - _BOTTOM - 6}" text-anchor="{anchor}">'
        f"{escape(label)}</text>"
    )


def _legend(series: Sequence[Series]) -> str:
    parts, x = [], float(_LEFT)
    for line in series:
        parts.append(f'<line class="line c{line.color}" x1="{x:.0f}" x2="{x + 18:.0f}" y1="12" y2="12"/>')
        parts.append(f'<text class="label" x="{x + 24:.0f}" y="16">{escape(line.name)}</text>')
        x += 24 + 7 * len(line.name) + 20
    return "".join(parts)


def _svg(parts: Sequence[str], title: str, height: int = _HEIGHT) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )
