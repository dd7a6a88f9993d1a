"""How single numbers are written, the same for the terminal, Markdown and HTML."""

from __future__ import annotations

from kanscan.metrics import METRICS

#: Stands for a number that is not applicable.
NONE = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_LEGACY_TITLES = {"iou": "IoU", "f1": "F1 (Dice)"}


def title(metric: str) -> str:
    """Return the heading of a metric."""
    return METRICS[metric].title if metric in METRICS else _LEGACY_TITLES.get(metric, metric.replace("_", " "))


def number(value: float | None, metric: str) -> str:
    """Write a score: three decimals for a ratio, one for a length, none for a size; a dash where not applicable.

    Example:
        >>> number(0.81249, "dice"), number(1234.5, "size_error")
        ('0.812', '1,234')
    """
    if value is None or value != value:
        return NONE
    kind = METRICS[metric].unit if metric in METRICS else ""
    decimals = {"": 3, "length": 1, "size": 0}[kind]
    text = f"{value:,.{decimals}f}"
    # Rounding may leave a negative zero.
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text.replace("-", _MINUS)


def span(low: float | None, high: float | None, metric: str) -> str:
    """Write an interval, or a dash where there is none."""
    return NONE if low is None or high is None else f"{number(low, metric)} to {number(high, metric)}"


def unit_of(metric: str, unit: str, num_axes: int = 2) -> str:
    """Return the unit of a metric: "" for ratios, "px", "mm", "mm²" or "mm³".

    Args:
        metric: A key of `METRICS`.
        unit: Of lengths, "mm" or "pixels".
        num_axes: Axes of a case.
    """
    kind = METRICS[metric].unit
    if kind == "size" and unit == "mm":
        return {2: "mm²", 3: "mm³"}[num_axes]
    return {"mm": "mm", "pixels": "px"}[unit] if kind else ""


def heading(metric: str, unit: str, num_axes: int = 2) -> str:
    """Return a metric's title with its unit and which way is better; arguments as in `unit_of`."""
    suffix = unit_of(metric, unit, num_axes)
    arrow = {"higher": "↑", "lower": "↓", "zero": "→ 0"}[METRICS[metric].direction]
    return f"{title(metric)}{f' ({suffix})' if suffix else ''} {arrow}"
