"""Several reports and the papers' numbers in one table, and whether the differences are more than chance."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import yaml

from kanscan.drawing.tables import csv_table, markdown_table, rich_notes, rich_table
from kanscan.drawing.words import markdown_text
from kanscan.metrics import METRICS, PairedDifference, adjust_p_values, paired_difference
from kanscan.papers import Claim, load_paper, paper_names
from kanscan.report.numerals import NONE, number, span, title
from kanscan.report.printed import pooled_name
from kanscan.report.ranking import Ranking, rank_networks
from kanscan.report.schema import Report
from kanscan.report.wording import agreeing, verdict

if TYPE_CHECKING:
    from rich.console import Group

#: Mean and the ends of its interval, where it has one.
Score = tuple[float, float | None, float | None]
_PROTOCOLS = {"batch_pooled": ("iou", "f1"), "pixel_pooled": ("iou", "dice")}
_PROTOCOL_WORDS = {"batch_pooled": "pooled by batch", "pixel_pooled": "pooled by pixel"}
#: Keys of a recipe in which repeated runs may differ.
_REPEATED = (("seed",), ("name",), ("split", "seed"), ("split", "fold"), ("data", "root"), ("trainer", "device"))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: Of the run, or where it was printed.
        kind: "run", "mean of runs" or "paper".
        model: Network.
        num_parameters: Its parameters, where known.
        data: Data set and part.
        num_cases: Cases, where known.
        scores: Metric -> (mean, low, high); of a mean of runs (mean, None, None).
        spread: Metric -> standard deviation over runs, or the printed one.
        pooled: "protocol metric" -> value, as the papers pool.
    """

    name: str
    kind: str
    model: str
    num_parameters: int | None
    data: str
    num_cases: int | None
    scores: dict[str, Score]
    spread: dict[str, float]
    pooled: dict[str, float]


@dataclass(frozen=True)
class Paired:
    """One report against the first, on the cases both have.

    Attributes:
        name: The other report.
        first: The first report.
        metric: What is compared.
        num_cases: Cases compared.
        difference: Other minus first, mean over the cases; None: they cannot be compared.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p_value: Adjusted for the number of comparisons (false discovery rate); None with fewer than six groups.
        verdict: In words.
    """

    name: str
    first: str
    metric: str
    num_cases: int
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """The table, the paired comparisons and what must be known."""

    metric: str
    rows: tuple[Row, ...]
    paired: tuple[Paired, ...]
    notes: tuple[str, ...]
    #: Every pair and mean ranks; of three reports or more on the same cases.
    ranking: Ranking | None = None

    def to_dict(self) -> dict[str, object]:
        """Return plain values."""
        return asdict(self)

    @property
    def columns(self) -> list[str]:
        """Heads of `cells`."""
        return ["", "Network", "Parameters", "Data", "Cases", *map(title, self._metrics()), *self._pooled_titles()]

    def _metrics(self) -> list[str]:
        wanted = [name for name, metric in METRICS.items() if metric.headline or name == self.metric]
        return [metric for metric in wanted if any(metric in row.scores for row in self.rows)]

    def _pooled_keys(self) -> list[str]:
        return list(dict.fromkeys(key for row in self.rows for key in row.pooled))

    def _pooled_titles(self) -> list[str]:
        pairs = (key.split(" ") for key in self._pooled_keys())
        return [f"{title(metric)}, {_PROTOCOL_WORDS[protocol]}" for protocol, metric in pairs]

    def cells(self) -> list[list[str]]:
        """Write the table as text."""
        return [
            [
                row.name,
                row.model,
                NONE if row.num_parameters is None else f"{row.num_parameters:,}",
                row.data,
                NONE if row.num_cases is None else f"{row.num_cases:,}",
                *(_score(row, metric) for metric in self._metrics()),
                *(number(row.pooled.get(key), "dice") + _sd(row, key, "dice") for key in self._pooled_keys()),
            ]
            for row in self.rows
        ]

    def paired_cells(self) -> list[list[str]]:
        """Write the paired comparisons as text, under `PAIRED_COLUMNS`."""
        return [
            [
                f"{p.name} minus {p.first}",
                f"{p.num_cases:,}",
                number(p.difference, p.metric),
                span(p.low, p.high, p.metric),
                NONE if p.p_value is None else f"{p.p_value:.3g}",
                p.verdict,
            ]
            for p in self.paired
        ]

    def markdown(self) -> str:
        """Write everything as Markdown."""
        parts = [markdown_table(self.columns, self.cells(), range(4, len(self.columns)))]
        if self.paired:
            table = markdown_table(PAIRED_COLUMNS, self.paired_cells(), range(1, 5))
            parts += [f"## {title(self.metric)}, case by case", table]
        if self.ranking is not None:
            parts += ["## Every pair", self.ranking.markdown().rstrip()]
        if self.notes:
            parts.append("\n".join(f"- {markdown_text(note)}" for note in self.notes))
        return "\n\n".join(parts) + "\n"

    def csv(self) -> str:
        """Write the table as CSV: plain numbers, a column each for mean, ends of the interval and deviation."""
        metrics, pooled = self._metrics(), self._pooled_keys()
        parts = [f"{metric}{part}" for metric in metrics for part in ("", "_low", "_high", "_sd")]
        facts = ["name", "kind", "model", "num_parameters", "data", "num_cases"]
        rows: list[list[str | float | None]] = []
        for row in self.rows:
            line: list[str | float | None] = [row.name, row.kind, row.model, row.num_parameters, row.data]
            line.append(row.num_cases)
            for metric in metrics:
                line += [*row.scores.get(metric, (None, None, None)), row.spread.get(metric)]
            rows.append([*line, *(row.pooled.get(key) for key in pooled)])
        return csv_table([*facts, *parts, *(key.replace(" ", "_") for key in pooled)], rows)

    def __rich__(self) -> Group:
        """Draw both tables for a terminal."""
        from rich.console import Group

        tables = [rich_table("Comparison", self.columns, _narrow(self.cells()), [2, *range(4, len(self.columns))])]
        if self.paired:
            heading = f"{title(self.metric)}, case by case"
            tables.append(rich_table(heading, PAIRED_COLUMNS, _narrow(self.paired_cells()), range(1, 5)))
        ranking = [] if self.ranking is None else [self.ranking]
        return Group(*tables, *ranking, *rich_notes(f"note: {note}" for note in self.notes))


def _narrow(rows: list[list[str]]) -> list[list[str]]:
    """Put intervals on a line of their own."""
    return [[cell.replace(" (", "\n(") for cell in row] for row in rows]


PAIRED_COLUMNS = ("Difference", "Cases", "Mean", "95 % CI", "Adjusted p", "In words")


def compare_reports(reports: dict[str, Report], claims: Sequence[Claim] = (), metric: str = "dice") -> Comparison:
    """Put reports and printed numbers into one table, and compare each report with the first, case by case.

    Args:
        reports: Name -> report; the first is what the others are compared with.
        claims: Printed numbers to show beside those the reports quote themselves.
        metric: A key of `METRICS`; of the only class, or the mean over the classes.
    """
    rows = [_run_row(name, report) for name, report in reports.items()]
    rows += _means_of_runs(reports)
    rows += _paper_rows(reports, claims)
    protocols = {key.split(" ")[0] for row in rows if row.kind == "paper" for key in row.pooled} or {"batch_pooled"}
    rows = [
        Row(**vars(row) | {"pooled": {k: v for k, v in row.pooled.items() if k.split(" ")[0] in protocols}})
        for row in rows
    ]
    paired, notes = _paired(reports, metric)
    if any(row.kind == "paper" for row in rows):
        notes.append(
            "printed numbers were pooled by their authors' code, on another split and often on the cases that chose "
            "the epoch; compare them with the pooled columns only, and with caution"
        )
    return Comparison(metric, tuple(rows), tuple(paired), tuple(notes), _ranking(reports, metric))


def _ranking(reports: dict[str, Report], metric: str) -> Ranking | None:
    if len(reports) < 3 or METRICS[metric].direction == "zero":
        return None
    found = rank_networks({name: {report.provenance.reference: report} for name, report in reports.items()}, metric)
    return found if found.ranks is not None else None


def _score(row: Row, metric: str) -> str:
    if metric not in row.scores:
        return NONE
    mean, low, high = row.scores[metric]
    text = number(mean, metric) + _sd(row, metric, metric)
    return text if low is None or high is None else f"{text} ({span(low, high, metric)})"


def _sd(row: Row, key: str, metric: str) -> str:
    return f" ± {number(row.spread[key], metric)}" if key in row.spread else ""


def _run_row(name: str, report: Report) -> Row:
    here = report.provenance
    scores = {metric: (row.mean, row.low, row.high) for metric in METRICS if (row := report.row(metric)) is not None}
    values: dict[str, list[float]] = {}
    for figure in report.legacy:
        if figure.metric in _PROTOCOLS[figure.protocol]:
            values.setdefault(f"{figure.protocol} {figure.metric}", []).append(figure.value)
    pooled = {key: statistics.fmean(found) for key, found in values.items()}
    part = f", {here.part}" if here.part else ""
    return Row(
        name, "run", here.model, here.num_parameters, here.reference + part, report.num_cases, scores, {}, pooled
    )


def _means_of_runs(reports: dict[str, Report]) -> list[Row]:
    """Average runs that differ in seed, split or fold alone, as papers print them."""
    families: dict[str, list[str]] = {}
    for name, report in reports.items():
        if report.recipe_yaml:
            families.setdefault(f"{report.provenance.part} {_without_repeats(report.recipe_yaml)}", []).append(name)
    rows = []
    for names in families.values():
        # A copy is no second run.
        if len({reports[name].recipe_yaml for name in names}) < 2:
            continue
        members = [_run_row(name, reports[name]) for name in names]
        first = members[0]
        scores: dict[str, Score] = {}
        spread: dict[str, float] = {}
        for metric in first.scores:
            values = [row.scores[metric][0] for row in members if metric in row.scores]
            scores[metric] = (statistics.fmean(values), None, None)
            if len(values) > 1:
                spread[metric] = statistics.stdev(values)
        pooled = {key: [row.pooled[key] for row in members if key in row.pooled] for key in first.pooled}
        spread |= {key: statistics.stdev(values) for key, values in pooled.items() if len(values) > 1}
        title_ = f"mean ± sd of {len(names)} runs: {', '.join(names)}"
        means = {key: statistics.fmean(values) for key, values in pooled.items()}
        rows.append(
            Row(title_, "mean of runs", first.model, first.num_parameters, first.data, None, scores, spread, means)
        )
    return rows


def _without_repeats(recipe_yaml: str) -> str:
    content = yaml.safe_load(recipe_yaml)
    for path in _REPEATED:
        part = content
        for key in path[:-1]:
            part = part.get(key, {})
        part.pop(path[-1], None)
    return json.dumps(content, sort_keys=True)


def _paper_rows(reports: dict[str, Report], claims: Sequence[Claim]) -> list[Row]:
    """Gather printed scores, each row of a printed table once."""
    found: dict[tuple[str, str, str, str], dict[str, tuple[float, float | None]]] = {}

    def add(paper: str, table: str, dataset: str, method: str, metric: str, value: float, sd: float | None) -> None:
        found.setdefault((paper, table, dataset, method), {})[metric] = (value, sd)

    for report in reports.values():
        for f in report.printed:
            factor = 0.01 if "percent" in f.unit else 1.0
            sd = None if f.printed_sd is None else f.printed_sd * factor
            add(f.paper, f.table, f.dataset, f.method, f.metric, f.printed * factor, sd)
    for claim in claims:
        if claim.metric in METRICS:
            factor = 0.01 if "percent" in claim.unit else 1.0
            sd = None if claim.sd is None else claim.sd * factor
            add(claim.paper, claim.table, claim.dataset, claim.method, claim.metric, claim.value * factor, sd)
    rows = []
    for (paper, table, dataset, method), values in found.items():
        # A report may come from a version that knew more papers.
        protocol = load_paper(paper).pooling if paper in paper_names() else None
        scores: dict[str, Score] = {}
        spread: dict[str, float] = {}
        pooled: dict[str, float] = {}
        for metric, (value, sd) in values.items():
            legacy = pooled_name(protocol, metric)
            if protocol is not None and legacy in _PROTOCOLS[protocol]:
                key = f"{protocol} {legacy}"
                pooled[key] = value
            else:
                key = metric
                scores[metric] = (value, None, None)
            if sd is not None:
                spread[key] = sd
        rows.append(Row(f"printed: {paper}, {table}", "paper", method, None, dataset, None, scores, spread, pooled))
    return rows


def _paired(reports: dict[str, Report], metric: str) -> tuple[list[Paired], list[str]]:
    names = list(reports)
    first, notes, results = names[0], [], []
    found: dict[str, tuple[PairedDifference, int]] = {}
    for name in names[1:]:
        why, both = agreeing(reports[first], reports[name])
        if why:
            notes.append(f"{name} and {first}: {why}")
        if len(both) < 2:
            continue
        ours, theirs = ([case.value(metric) for case in cases] for cases in zip(*both, strict=True))
        difference = paired_difference(theirs, ours, [case.group for case, _ in both])
        if difference is not None:
            found[name] = (difference, len(both))
    adjusted = adjust_p_values({name: d.p_value for name, (d, _) in found.items() if d.p_value is not None})
    for name in names[1:]:
        if name not in found:
            words = "cannot be compared case by case"
            results.append(Paired(name, first, metric, 0, None, None, None, None, words))
            continue
        difference, _ = found[name]
        s = difference.difference
        words = verdict(s, adjusted.get(name), metric)
        results.append(Paired(name, first, metric, s.num_cases, s.mean, s.low, s.high, adjusted.get(name), words))
    return results, notes
