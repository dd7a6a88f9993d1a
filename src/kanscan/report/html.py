"""A report as one HTML file that needs nothing else: pictures, charts and style are inside."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from kanscan.drawing import charts
from kanscan.drawing.colors import class_color, hexadecimal
from kanscan.drawing.pages import Figure, facts, picture_address, render
from kanscan.metrics import METRICS
from kanscan.metrics.calibration import Reliability
from kanscan.report.content import content
from kanscan.report.numerals import number, span, title, unit_of
from kanscan.report.schema import CaseScores, Picture, Report
from kanscan.report.wording import environment_facts, reliability_sentence, sentence

#: Rows of the plot by group.
_MOST_GROUPS = 30


def html(report: Report, folder: Path) -> str:
    """Draw the page.

    Args:
        report: What to draw.
        folder: Where the files of `report.pictures` lie.
    """
    here = report.provenance
    size = "" if here.num_parameters is None else f", {here.num_parameters:,} parameters"
    names = ", ".join(report.class_names)
    several = f"Mean of {len(report.class_names)} classes: " if len(report.class_names) > 1 else ""
    sections = {
        "Case by case": _distribution(report),
        "Reliability": _reliability(report),
        "Training": _curves(report),
    }
    shown = {metric.name for metric in METRICS.values() if any(row.metric == metric.name for row in report.summary)}
    page = {
        "network": here.model and here.model + size,
        "headline": _headline(report),
        "classes": f"{several}{names}. " if names else "",
        "caveats": [sentence(text) for text in here.caveats],
        "scores": _scores(report),
        "pictures": _pictures(report, folder),
        "keys": [(hexadecimal(class_color(k)), name) for k, name in enumerate(report.class_names, start=1)],
        "chart_sections": [(heading, drawn) for heading, drawn in sections.items() if drawn],
        "definitions": facts((METRICS[name].title, METRICS[name].definition) for name in METRICS if name in shown),
        "environment": facts(environment_facts(report)),
        **_cases(report),
    }
    return render("report.html.j2", {**content(report), **page})


def _headline(report: Report) -> list[dict[str, str]]:
    return [
        {
            "title": metric.title,
            "mean": number(row.mean, metric.name),
            "unit": unit_of(metric.name, report.unit),
            "range": "no interval" if row.low is None else f"95 % CI {span(row.low, row.high, metric.name)}",
        }
        for metric in METRICS.values()
        if metric.headline and (row := report.row(metric.name)) is not None
    ]


def _scores(report: Report) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for name in report.classes_shown:
        found = [(metric, row) for metric in METRICS.values() if (row := report.row(metric.name, name)) is not None]
        for position, (metric, row) in enumerate(found):
            lines.append(
                {
                    "row": row,
                    "is_first": position == 0 and bool(lines),
                    "class_name": name if position == 0 else "",
                    "heading": report.heading(metric.name),
                    "mean": number(row.mean, metric.name),
                    "range": span(row.low, row.high, metric.name),
                    "is_share": metric.is_share,
                    "sd": number(row.sd, metric.name),
                    "median": number(row.median, metric.name),
                    "num_cases": f"{row.num_cases:,}",
                }
            )
    return lines


def _pictures(report: Report, folder: Path) -> list[tuple[str, list[dict[str, str]]]]:
    cases = {case.id: case for case in report.cases}
    groups = []
    for kind in ("best", "median", "worst"):
        shown = [_picture(one, cases[one.case], folder) for one in report.pictures if one.kind == kind]
        if shown:
            groups.append((kind.capitalize(), shown))
    return groups


def _picture(picture: Picture, case: CaseScores, folder: Path) -> dict[str, str]:
    return {
        "case": picture.case,
        "group": case.group if case.group and case.group != case.id else "",
        "scores": " · ".join(f"{title(m)} {number(case.value(m), m)}" for m in ("dice", "iou", "hd95")),
        "alt": f"{picture.kind} case {picture.case}, Dice {number(picture.score, 'dice')}",
        "address": picture_address(_compact(folder / picture.file), "webp"),
    }


def _compact(path: Path) -> bytes:
    """Encode a picture anew for the page: a quarter of the bytes, no visible difference."""
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.save(buffer, format="WEBP", quality=88, method=2)
    return buffer.getvalue()


def _distribution(report: Report) -> list[Figure]:
    drawn = []
    for name in report.class_names:
        values = [v for case in report.cases if (v := case.value("dice", name)) == v]
        chart = charts.histogram(values, label=f"Dice of {name}")
        if chart is not None:
            below = sum(value < 0.5 for value in values)
            caption = f"{len(values):,} cases; lowest {number(min(values), 'dice')}; {below:,} below 0.5"
            label = f"Histogram of Dice of {name}, {len(values)} cases"
            drawn.append(Figure(charts.inline_svg(chart, label, f"histogram {name}"), caption))
    groups, count = _hardest_groups(report)
    if drawn and groups:
        label = "Dice by group" + (f" ({len(groups)} hardest of {count} groups)" if len(groups) < count else "")
        chart = charts.strip_plot(groups, label=label)
        caption = "Each dot a case, the stroke its group's mean"
        drawn.append(Figure(charts.inline_svg(chart, f"{label}, a row a group", "groups"), caption))
    return drawn


def _hardest_groups(report: Report) -> tuple[Mapping[str, Sequence[float]], int]:
    """Return the Dice of each group, the best on top, the hardest ones where there are many; and how many there are."""
    groups: dict[str, list[float]] = {}
    for case in report.cases:
        value = case.value("dice")
        if case.group is not None and value == value:
            groups.setdefault(case.group, []).append(value)
    # Where most groups are single cases, the rows would only repeat the histogram.
    if len(groups) < 2 or len(groups) > len(report.cases) / 2:
        return {}, len(groups)
    ranked = sorted(groups, key=lambda name: (-float(np.mean(groups[name])), name))
    return {name: groups[name] for name in ranked[-_MOST_GROUPS:]}, len(groups)


def _reliability(report: Report) -> list[Figure]:
    if report.reliability is None:
        return []
    found = report.reliability
    sure, right = (np.array(part, float) for part in (found.confidence, found.accuracy))
    count = np.array(found.count, float)
    diagram = charts.reliability_diagram({"as trained": Reliability(count, sure, right, found.error)})
    most = 100 * float(count[count > 0][-1]) / max(1.0, float(count.sum())) if count.any() else 0
    caption = f"{reliability_sentence(report)} {most:.0f}% of the pixels are in the last of {len(count)} bins."
    return [Figure(charts.inline_svg(diagram, "Reliability diagram", "reliability"), caption)]


def _curves(report: Report) -> list[Figure]:
    columns = report.curves
    epochs = [e for e in columns.get("epoch", []) if e is not None]
    if not epochs:
        return []
    kept = report.provenance.epoch
    mark = None if kept is None else (kept, f"epoch {kept} kept")
    scores = [(f"val_{metric.name}", metric.title) for metric in METRICS.values() if metric.validation]
    wanted = (
        ("Loss", [("train_loss", "training"), ("val_loss", "validation")], None),
        ("Scores of the validation cases, at the size the network sees", scores, (0.0, 1.0)),
    )
    drawn = []
    for caption, names, y_range in wanted:
        lines = [charts.Series(text, columns[c]) for c, text in names if any(v is not None for v in columns.get(c, []))]
        chart = charts.line_chart(lines, epochs, y_range=y_range, mark=mark)
        if chart is not None:
            drawn.append(Figure(charts.inline_svg(chart, f"{caption}, over epochs", caption), caption))
    return drawn


def _cases(report: Report) -> dict[str, object]:
    groups = any(case.group and case.group != case.id for case in report.cases)
    several = len(report.class_names) > 1
    shown = [name for name, metric in METRICS.items() if metric.by_case]
    rows = []
    for case in report.cases:
        for name in report.class_names:
            words = [case.id, *([case.group or ""] if groups else []), *([name] if several else [])]
            values = [(case.scores[name].get(metric), metric) for metric in shown]
            cells = [("" if value is None else f"{value:.6g}", number(value, metric)) for value, metric in values]
            rows.append((words, cells, case.missing[name]))
    return {
        "case_columns": ["Case", *(["Group"] if groups else []), *(["Class"] if several else [])],
        "case_metrics": [report.heading(metric) for metric in shown],
        "case_rows": rows,
    }
