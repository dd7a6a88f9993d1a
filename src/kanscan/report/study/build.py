"""From the reports of all runs to one table: means, intervals, paired differences, ranks, and what was printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

import yaml

from kanscan.metrics import METRICS, paired_difference, spread_by_cause, summarize
from kanscan.metrics.ranking import adjust_by_holm, rank
from kanscan.papers import Claim, find_claims, load_paper
from kanscan.report.numerals import number, title
from kanscan.report.printed import differences, pooled_name, run_network, run_settings
from kanscan.report.schema import ALL_CLASSES, CaseScores, Report
from kanscan.report.study.schema import ALL_SETS, Cost, Entry, Pair, PrintedCell, Ranks, Spread, StudyTable
from kanscan.report.wording import agreeing, verdict


@dataclass(frozen=True)
class Measured:
    """One run of a study, or why there is none.

    Attributes:
        row: Its row.
        dataset: Its data set.
        printed_row: Its row in the printed table.
        printed_dataset: Its data set there.
        seed: Of weights and order.
        split: Equal for runs whose cases are split alike.
        words: Which run, in words.
        report: What it scored; None where it is missing.
        sentence: Why it is missing.
        can_be_made: Whether it could be trained at all.
        macs: Multiply-adds for one image or patch, where counted.
        ended: What must be known of its training, such as that its time was up.
    """

    row: str
    dataset: str
    printed_row: str
    printed_dataset: str
    seed: int
    split: str
    words: str
    report: Report | None
    sentence: str = ""
    can_be_made: bool = True
    macs: int | None = None
    ended: str = ""


def build_table(runs: Sequence[Measured], name: str, metrics: Sequence[str], printed: str = "") -> StudyTable:
    """Summarize all runs of a study.

    Args:
        runs: All cells, row after row, also those that are missing.
        name: Heading.
        metrics: Columns.
        printed: Key of the printed table beside them.
    """
    rows, datasets = (list(dict.fromkeys(values)) for values in zip(*((r.row, r.dataset) for r in runs), strict=True))
    claims = _claims(runs, printed)
    protocol = load_paper(printed.partition("/")[0]).pooling if printed else None
    entries = [
        entry
        for row in rows
        for dataset in datasets
        for entry in _entries(_of(runs, row, dataset), row, dataset, metrics, protocol)
    ]
    cells = _printed_cells(claims, metrics)
    if len(datasets) > 1:
        entries += _over_sets(runs, rows, datasets, metrics, entries)
        cells += _printed_over_sets(cells, rows, datasets, metrics)
    pairs = [p for dataset in datasets for metric in metrics for p in _pairs(runs, rows, dataset, metric)]
    ranks = [found for metric in metrics if (found := _ranks(entries, rows, datasets, metric)) is not None]
    spreads = [_spread(_of(runs, r, d), r, d, metrics[0]) for r in rows for d in datasets]
    return StudyTable(
        title=name,
        printed_key=printed,
        percent=any("percent" in claim.unit for claim in claims.values()),
        rows=rows,
        datasets=datasets,
        metrics=list(metrics),
        entries=entries,
        printed=cells,
        costs=_costs(runs),
        pairs=pairs,
        ranks=ranks,
        spreads=[spread for spread in spreads if spread is not None],
        findings=_findings(pairs, ranks, datasets, metrics[0]),
        differences=_differences(runs, claims),
        missing=[f"{r.words}: {r.sentence}" for r in runs if r.report is None and r.can_be_made],
        not_made=_not_made(runs),
        notes=_notes(runs, bool(claims)),
    )


def _of(runs: Sequence[Measured], row: str, dataset: str) -> list[Measured]:
    return [run for run in runs if (run.row, run.dataset) == (row, dataset) and run.report is not None]


def _overall(report: Report) -> str:
    """Return the class that stands for all."""
    return ALL_CLASSES if len(report.class_names) > 1 else report.class_names[0]


def _group(case: CaseScores) -> str:
    # One case in several runs is one thing that was seen several times.
    return f"case {case.id}" if case.group is None else f"group {case.group}"


def _entries(
    runs: Sequence[Measured], row: str, dataset: str, metrics: Sequence[str], protocol: str | None
) -> list[Entry]:
    reports = [run.report for run in runs if run.report is not None]
    if not reports:
        return []
    names = list(dict.fromkeys([_overall(reports[0]), *reports[0].class_names]))
    found = []
    for class_name in names:
        for metric in metrics:
            means = [line.mean for r in reports if (line := r.row(metric, class_name)) is not None]
            if not means:
                continue
            cases = [case for report in reports for case in report.cases]
            spread = summarize([c.value(metric, class_name) for c in cases], [_group(c) for c in cases])
            pooled = _pooled(reports, protocol, metric) if class_name == names[0] else []
            found.append(
                Entry(
                    row=row,
                    dataset=dataset,
                    class_name="" if class_name == names[0] else class_name,
                    metric=metric,
                    mean=fmean(means),
                    sd=_sd(means),
                    low=spread and spread.low,
                    high=spread and spread.high,
                    num_runs=len(means),
                    num_cases=spread and spread.num_cases,
                    num_groups=spread and spread.num_groups,
                    pooled=fmean(pooled) if pooled else None,
                    pooled_sd=_sd(pooled),
                )
            )
    return found


def _sd(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _pooled(reports: Sequence[Report], protocol: str | None, metric: str) -> list[float]:
    wanted = pooled_name(protocol, metric)
    found = [[f.value for f in r.legacy if f.protocol == protocol and f.metric == wanted] for r in reports]
    return [fmean(values) for values in found if values]


def _over_sets(
    runs: Sequence[Measured], rows: Sequence[str], datasets: Sequence[str], metrics: Sequence[str], entries: list[Entry]
) -> list[Entry]:
    """Average the data sets, of rows that have them all; the deviation is that of the runs' own averages."""
    found = []
    for row in rows:
        for metric in metrics:
            mine = [e for e in entries if (e.row, e.metric, e.class_name) == (row, metric, "")]
            if len(mine) < len(datasets):
                continue
            by_run: dict[tuple[int, str], list[float]] = {}
            for run in runs:
                if run.row == row and run.report is not None:
                    line = run.report.row(metric, _overall(run.report))
                    if line is not None:
                        by_run.setdefault((run.seed, run.split), []).append(line.mean)
            whole = [fmean(values) for values in by_run.values() if len(values) == len(datasets)]
            pooled = [e.pooled for e in mine if e.pooled is not None]
            found.append(
                Entry(
                    row=row,
                    dataset=ALL_SETS,
                    class_name="",
                    metric=metric,
                    mean=fmean(e.mean for e in mine),
                    sd=_sd(whole),
                    num_runs=len(whole),
                    pooled=fmean(pooled) if len(pooled) == len(mine) else None,
                )
            )
    return found


def _claims(runs: Sequence[Measured], printed: str) -> dict[tuple[str, str, str], Claim]:
    """Look up what is printed: row, data set and metric -> number."""
    if not printed:
        return {}
    found: dict[tuple[str, str, str], Claim] = {}
    paper, _, table = printed.partition("/")
    known = {(c.dataset, c.method) for c in load_paper(paper).claims() if c.table == table}
    for run in runs:
        place = (run.printed_dataset, run.printed_row)
        if place in known:
            for claim in find_claims([f"{printed}/{'/'.join(place)}"]):
                found.setdefault((run.row, run.dataset, claim.metric), claim)
    return found


def _printed_cells(claims: dict[tuple[str, str, str], Claim], metrics: Sequence[str]) -> list[PrintedCell]:
    cells = []
    for (row, dataset, metric), claim in claims.items():
        if metric in metrics:
            factor = 0.01 if "percent" in claim.unit else 1.0
            sd = None if claim.sd is None else claim.sd * factor
            text = _as_printed(claim)
            value = claim.value * factor
            cells.append(PrintedCell(row=row, dataset=dataset, metric=metric, value=value, sd=sd, text=text))
    return cells


def _as_printed(claim: Claim) -> str:
    if "percent" not in claim.unit:
        return str(claim.cell)
    return f"{claim.cell.bound}{claim.value:.2f}" + ("" if claim.sd is None else f" ± {claim.sd:.2f}")


def _printed_over_sets(
    cells: Sequence[PrintedCell], rows: Sequence[str], datasets: Sequence[str], metrics: Sequence[str]
) -> list[PrintedCell]:
    found = []
    for row in rows:
        for metric in metrics:
            mine = [c for c in cells if (c.row, c.metric) == (row, metric)]
            if len(mine) == len(datasets):
                mean = fmean(c.value for c in mine)
                text = f"{100 * mean:.2f}" if max(c.value for c in mine) <= 1 else number(mean, metric)
                found.append(PrintedCell(row=row, dataset=ALL_SETS, metric=metric, value=mean, text=text))
    return found


def _costs(runs: Sequence[Measured]) -> list[Cost]:
    found: dict[tuple[str, str], Cost] = {}
    for run in runs:
        if run.report is not None and run.report.provenance.num_parameters is not None:
            count = run.report.provenance.num_parameters
            place = (run.row, run.dataset)
            found.setdefault(place, Cost(row=run.row, dataset=run.dataset, num_parameters=count, macs=run.macs))
    return list(found.values())


def _pairs(runs: Sequence[Measured], rows: Sequence[str], dataset: str, metric: str) -> list[Pair]:
    """Compare every two rows on the cases that both were judged on, run by run of equal seed and split."""
    compared = {}
    for first, second in combinations(rows, 2):
        both = _cases_of_both(_of(runs, first, dataset), _of(runs, second, dataset))
        if len(both) < 2:
            continue
        ours, theirs = ([case.value(metric) for case in cases] for cases in zip(*both, strict=True))
        found = paired_difference(theirs, ours, [_group(case) for case, _ in both])
        if found is not None:
            compared[first, second] = found
    adjusted = adjust_by_holm({pair: d.p_value for pair, d in compared.items() if d.p_value is not None})
    return [
        Pair(
            dataset=dataset,
            metric=metric,
            first=pair[0],
            second=pair[1],
            num_cases=found.difference.num_cases,
            num_groups=found.difference.num_groups,
            difference=found.difference.mean,
            low=found.difference.low,
            high=found.difference.high,
            p_value=found.p_value,
            p_adjusted=adjusted.get(pair),
            verdict=verdict(found.difference, adjusted.get(pair), metric),
        )
        for pair, found in compared.items()
    ]


def _cases_of_both(first: Sequence[Measured], second: Sequence[Measured]) -> list[tuple[Any, Any]]:
    others = {(run.seed, run.split): run.report for run in second}
    both: list[tuple[Any, Any]] = []
    for run in first:
        other = others.get((run.seed, run.split))
        if run.report is not None and other is not None:
            both += agreeing(run.report, other)[1]
    return both


def friedman_words(p_value: float | None) -> str:
    """Write the probability of ranks like these by chance."""
    return "too few data sets for any evidence" if p_value is None else f"p {p_value:.2g}"


def _ranks(entries: Sequence[Entry], rows: Sequence[str], datasets: Sequence[str], metric: str) -> Ranks | None:
    means = {(e.row, e.dataset): e.mean for e in entries if e.metric == metric and e.class_name == ""}
    whole = [row for row in rows if all((row, dataset) in means for dataset in datasets)]
    direction = METRICS[metric].direction
    if direction == "zero" or not whole:
        return None
    scores = {row: [means[row, dataset] for dataset in datasets] for row in whole}
    found = rank(scores, higher_is_better=direction == "higher")
    if found is None:
        return None
    return Ranks(
        metric=metric,
        mean_ranks=found.mean_ranks,
        p_value=found.p_value,
        critical_difference=found.critical_difference,
        num_sets=found.num_blocks,
    )


def _spread(runs: Sequence[Measured], row: str, dataset: str, metric: str) -> Spread | None:
    by_split: dict[str, list[float]] = {}
    for run in runs:
        if run.report is not None and (line := run.report.row(metric, _overall(run.report))) is not None:
            by_split.setdefault(run.split, []).append(line.mean)
    if sum(map(len, by_split.values())) < 2:
        return None
    both = spread_by_cause(by_split)
    if both is not None:
        split_sd, seed_sd = both
        words = f"splits differ by {number(split_sd, metric)}, seeds of one split by {number(seed_sd, metric)}"
        return Spread(row=row, dataset=dataset, metric=metric, split_sd=split_sd, seed_sd=seed_sd, words=words)
    values = [value for found in by_split.values() for value in found]
    if len(by_split) > 1:
        return Spread(row=row, dataset=dataset, metric=metric, words=_ENTANGLED)
    words = "one split: the deviation is that of the seeds"
    return Spread(row=row, dataset=dataset, metric=metric, seed_sd=stdev(values), words=words)


_ENTANGLED = "every run has its own split: what comes of the seed and what of the split cannot be told apart"


def _findings(pairs: Sequence[Pair], ranks: Sequence[Ranks], datasets: Sequence[str], metric: str) -> list[str]:
    sentences = []
    for dataset in datasets:
        mine = [pair for pair in pairs if (pair.dataset, pair.metric) == (dataset, metric)]
        told = [pair for pair in mine if pair.p_adjusted is not None and pair.verdict in ("better", "worse")]
        if not mine:
            continue
        if not told:
            some = "any two networks" if len(mine) > 1 else f"{mine[0].first} and {mine[0].second}"
            sentences.append(f"{dataset}: no evidence of a difference in {title(metric)} between {some}.")
            continue
        words = [
            f"{p.second} is {p.verdict} than {p.first} by {number(abs(p.difference), metric)} "
            f"(adjusted p {p.p_adjusted:.2g})"
            for p in told
        ]
        rest = len(mine) - len(told)
        none = f"; of {rest} other pairs there is no evidence of a difference" if rest else ""
        sentences.append(f"{dataset}, {title(metric)}: {'; '.join(words)}{none}.")
    for found in ranks:
        if found.metric == metric:
            differ = "differ" if (found.p_value or 1) < 0.05 else "give no evidence of a difference"
            sentences.append(
                f"Over {found.num_sets} data sets the ranks of {len(found.mean_ranks)} networks by {title(metric)} "
                f"{differ} (Friedman, {friedman_words(found.p_value)})."
            )
    return sentences


def _differences(runs: Sequence[Measured], claims: dict[tuple[str, str, str], Claim]) -> list[str]:
    """Say how the runs differ from the printed ones, each sentence once with those it holds for."""
    found: dict[str, list[str]] = {}
    seen = set()
    for run in runs:
        place = (run.row, run.dataset)
        claim = next((c for (row, dataset, _), c in claims.items() if (row, dataset) == place), None)
        if claim is None or run.report is None or place in seen:
            continue
        seen.add(place)
        recipe = yaml.safe_load(run.report.recipe_yaml)
        for text in differences(claim, run_network(recipe), run_settings(recipe, run.report)):
            found.setdefault(text, []).append(f"{run.row} on {run.dataset}")
    return [text if len(places) == len(seen) else f"{text} [{'; '.join(places)}]" for text, places in found.items()]


def _not_made(runs: Sequence[Measured]) -> list[str]:
    there = [run for run in runs if not run.can_be_made]
    return list(dict.fromkeys(f"{run.row}: {run.sentence}" for run in there))


def _notes(runs: Sequence[Measured], is_printed: bool) -> list[str]:
    notes = []
    if is_printed:
        notes.append(
            "printed numbers were made by the authors' code, on another split and often on the cases that chose the "
            "epoch; they stand beside ours for orientation"
        )
    notes.append(
        "mean ± deviation over runs; in brackets the 95 % interval of the mean over the cases of all runs, whole "
        "groups (patients, sequences) drawn where they are known"
    )
    notes += [f"{run.words}: {run.ended}" for run in runs if run.ended]
    caveats = dict.fromkeys(c for run in runs if run.report is not None for c in run.report.provenance.caveats)
    return [*notes, *caveats]
