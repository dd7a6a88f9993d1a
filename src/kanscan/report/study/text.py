"""The table of a study as Markdown, CSV and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from kanscan.drawing.pages import Table
from kanscan.drawing.tables import csv_table, markdown_table
from kanscan.drawing.words import markdown_text, visible
from kanscan.report.numerals import NONE, number, span, title
from kanscan.report.study.schema import StudyTable

PAIR_COLUMNS = ("Data", "Score", "Difference", "Cases", "Groups", "Mean", "95 % CI", "p", "p (Holm)", "In words")
_LATEX = {
    **{c: rf"\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "\N{EN DASH}": "--", "\N{MINUS SIGN}": "$-$", "\N{MULTIPLICATION SIGN}": r"$\times$"},
}


def main_table(table: StudyTable) -> Table:
    """Return the table in the paper's layout."""
    columns = table.columns()
    return Table(columns, table.cells(), numeric=range(1, len(columns)))


def class_table(table: StudyTable) -> Table | None:
    """Return the scores of single classes, None where there is only one."""
    names = [name for name in table.class_names if name]
    entries = [entry for entry in table.entries if entry.class_name]
    if len(names) < 2:
        return None
    rows = [
        (
            *(entry.row, entry.dataset, entry.class_name, title(entry.metric)),
            table.with_spread(entry.mean, entry.sd, entry.metric),
            f"{table.figure(entry.low, entry.metric)} to {table.figure(entry.high, entry.metric)}"
            if entry.low is not None
            else NONE,
        )
        for entry in entries
    ]
    return Table(("Network", "Data", "Class", "Score", "Mean ± SD", "95 % CI"), rows, numeric=(4, 5))


def pair_table(table: StudyTable) -> Table | None:
    """Return the paired differences, None where there are none."""
    rows = [
        (
            *(pair.dataset, title(pair.metric), f"{pair.second} minus {pair.first}"),
            *(f"{pair.num_cases:,}", f"{pair.num_groups:,}", number(pair.difference, pair.metric)),
            span(pair.low, pair.high, pair.metric),
            *(NONE if p is None else f"{p:.2g}" for p in (pair.p_value, pair.p_adjusted)),
            pair.verdict,
        )
        for pair in table.pairs
    ]
    return Table(PAIR_COLUMNS, rows, numeric=range(3, 9)) if rows else None


def spread_table(table: StudyTable) -> Table | None:
    """Return what comes of the split and what of the seed, None for single runs."""
    rows = [(spread.row, spread.dataset, title(spread.metric), spread.words) for spread in table.spreads]
    return Table(("Network", "Data", "Score", "Spread over the runs"), rows) if rows else None


def sections(table: StudyTable) -> Iterable[tuple[str, Table | Sequence[str]]]:
    """List what follows the main table: heading, and a table or sentences; empty parts are left out."""
    found: list[tuple[str, Table | Sequence[str] | None]] = [
        ("Found", table.findings),
        ("Missing", table.missing),
        ("Printed, and not made here", table.not_made),
        ("Class by class", class_table(table)),
        ("Case by case, every pair", pair_table(table)),
        ("Seeds and splits", spread_table(table)),
        ("How this differs from the printed runs", table.differences),
        ("Notes", table.notes),
    ]
    return [(heading, part) for heading, part in found if part]


def markdown(table: StudyTable) -> str:
    """Write everything as Markdown."""
    main = main_table(table)
    parts = [f"# {markdown_text(table.title)}", markdown_table(main.columns, main.rows, main.numeric)]
    for heading, part in sections(table):
        parts.append(f"## {heading}")
        if isinstance(part, Table):
            parts.append(markdown_table(part.columns, part.rows, part.numeric))
        else:
            parts.append("\n".join(f"- {markdown_text(text)}" for text in part))
    return "\n\n".join(parts) + "\n"


def csv(table: StudyTable) -> str:
    """Write a line for each row, data set, class and score, plain numbers."""
    columns = [
        *("row", "dataset", "class", "metric", "mean", "sd", "low", "high", "num_runs", "num_cases", "num_groups"),
        *("pooled", "pooled_sd", "printed", "printed_sd", "num_parameters", "macs"),
    ]
    costs = {(cost.row, cost.dataset): (cost.num_parameters, cost.macs) for cost in table.costs}
    rows: list[list[str | float | None]] = []
    for e in table.entries:
        printed = None if e.class_name else table.printed_cell(e.row, e.dataset, e.metric)
        line = [*(e.row, e.dataset, e.class_name, e.metric), *(e.mean, e.sd, e.low, e.high)]
        line += [e.num_runs, e.num_cases, e.num_groups, e.pooled, e.pooled_sd]
        line += [None, None] if printed is None else [printed.value, printed.sd]
        rows.append([*line, *costs.get((e.row, e.dataset), (None, None))])
    return csv_table(columns, rows)


def latex(table: StudyTable) -> str:
    """Write the main table for a paper (package booktabs): means, deviations and what is printed."""
    columns = table.columns()
    # Intervals are too wide for a page of print; they are in every other form.
    rows = [[re.sub(r" \([^)]*\)$", "", cell) if k else cell for k, cell in enumerate(row)] for row in table.cells()]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"\toprule",
        *(f"{' & '.join(map(_latex, line))} \\\\" for line in [columns]),
        r"\midrule",
        *(f"{' & '.join(map(_latex, line))} \\\\" for line in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in visible(text))
