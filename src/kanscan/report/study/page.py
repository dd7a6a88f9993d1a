"""The table of a study as one HTML page: what was found first, then the table, charts and cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from kanscan.drawing.charts import Series, inline_svg
from kanscan.drawing.comparing import Estimate, cost_chart, critical_difference_diagram, curve_chart, interval_chart
from kanscan.drawing.images import contact_sheet, png_bytes
from kanscan.drawing.pages import Figure, Part, Section, Table, page, picture_address
from kanscan.metrics import METRICS
from kanscan.report.numerals import title
from kanscan.report.study.build import friedman_words
from kanscan.report.study.schema import StudyTable
from kanscan.report.study.text import main_table, sections

#: Pairs in a chart; more are in the table alone.
_MOST_PAIRS = 40


@dataclass(frozen=True)
class Shown:
    """A case as every network labels it.

    Attributes:
        dataset: Its data set.
        case: Its id.
        captions: What each panel is.
        panels: `(H, W, 3)` uint8 each: image, reference, then the networks.
    """

    dataset: str
    case: str
    captions: tuple[str, ...]
    panels: tuple[NDArray[np.uint8], ...]


def html(table: StudyTable, curves: Mapping[str, Sequence[Series]], shown: Sequence[Shown]) -> str:
    """Draw the page; arguments as of `kanscan.report.study.write.write_table`."""
    lead = " ".join(table.findings) or "Too few runs for a comparison."
    texts = dict(sections(table))
    texts.pop("Found", None)
    found: list[tuple[str, Sequence[Part]]] = [
        ("Scores", [main_table(table), *_bars(table)]),
        ("Missing", texts.pop("Missing", [])),  # type: ignore[list-item]
        ("Differences case by case", _differences(table)),
        ("Ranks over the data sets", _ranks(table)),
        ("Score against cost", _costs(table)),
        ("Learning curves", _curves(curves)),
        ("Cases", [_sheet(case) for case in shown]),
        *((heading, [part] if isinstance(part, Table) else part) for heading, part in texts.items()),
    ]
    return page(table.title, lead, [Section(heading, parts) for heading, parts in found if parts])


def _bars(table: StudyTable) -> list[Figure]:
    drawn = []
    for dataset in table.datasets:
        for metric in table.metrics:
            rows = []
            for row in table.rows:
                entry, printed = table.entry(row, dataset, metric), table.printed_cell(row, dataset, metric)
                if entry is not None:
                    beside = None if printed is None else printed.value
                    rows.append(Estimate(row, entry.mean, entry.low, entry.high, beside))
            if rows:
                label = f"{title(metric)} on {dataset}"
                chart = interval_chart(rows, label=label, beside="printed")
                text = f"{label}: mean over the runs, 95 % interval over the cases"
                drawn.append(Figure(inline_svg(chart, text, f"bars {label}"), text))
    return drawn


def _differences(table: StudyTable) -> list[Part]:
    drawn: list[Part] = []
    for dataset in table.datasets:
        pairs = [p for p in table.pairs if (p.dataset, p.metric) == (dataset, table.metrics[0])][:_MOST_PAIRS]
        if pairs:
            rows = [Estimate(f"{p.second} - {p.first}", p.difference, p.low, p.high) for p in pairs]
            label = f"difference of {title(table.metrics[0])} on {dataset}"
            told = [f"{p.second} - {p.first}" for p in pairs if p.verdict in ("better", "worse")]
            text = f"Paired differences with 95 % intervals; after Holm's correction told apart: {', '.join(told)}"
            if not told:
                text = "Paired differences with 95 % intervals; no evidence of a difference after Holm's correction"
            drawn.append(Figure(inline_svg(interval_chart(rows, label=label, zero=True), text, f"pairs {label}"), text))
    return drawn


def _ranks(table: StudyTable) -> list[Part]:
    if not table.ranks:
        enough = "Ranks need three networks on two data sets."
        return [enough] if len(table.rows) > 1 else []
    drawn: list[Part] = []
    for found in table.ranks:
        chart = critical_difference_diagram(found.mean_ranks, found.critical_difference)
        text = (
            f"{title(found.metric)}: mean ranks over {found.num_sets} data sets, Friedman "
            f"{friedman_words(found.p_value)}; networks under one bar are not told apart (Nemenyi)"
        )
        drawn.append(Figure(inline_svg(chart, text, f"ranks {found.metric}"), text))
    return drawn


def _costs(table: StudyTable) -> list[Part]:
    metric = table.metrics[0]
    if METRICS[metric].direction != "higher":
        return []
    drawn: list[Part] = []
    for name, unit in (("num_parameters", "parameters (million)"), ("macs", "GMACs an image")):
        scale = 1e-6 if name == "num_parameters" else 1e-9
        points = {}
        for row in table.rows:
            costs = [v for c in table.costs if c.row == row and (v := getattr(c, name)) is not None]
            scores = [e.mean for d in table.datasets if (e := table.entry(row, d, metric)) is not None]
            if costs and scores:
                points[row] = (scale * fmean(costs), fmean(scores))
        if len(points) > 1:
            text = f"{title(metric)} (mean of the data sets) against {unit}; the line joins what nothing beats in both"
            chart = cost_chart(points, cost=unit, score=title(metric))
            drawn.append(Figure(inline_svg(chart, text, f"cost {name}"), text))
    return drawn


def _curves(curves: Mapping[str, Sequence[Series]]) -> list[Part]:
    drawn: list[Part] = []
    for dataset, series in curves.items():
        if any(v is not None for one in series for v in one.values):
            text = f"Dice of the validation cases of {dataset} at the network's size, mean over the runs"
            chart = curve_chart(series, y_label=f"validation Dice, {dataset}")
            drawn.append(Figure(inline_svg(chart, text, f"curves {dataset}"), text))
    return drawn


def _sheet(case: Shown) -> Figure:
    sheet = contact_sheet(case.panels, case.captions, columns=len(case.panels), tile_size=180)
    text = f"{case.dataset}, {case.case}: {', '.join(case.captions)}"
    return Figure(picture_address(png_bytes(sheet)), text, wide=True)
