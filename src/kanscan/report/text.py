"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kanscan.report.numerals import number
from kanscan.report.schema import SUMMARY_COLUMNS, Report
from kanscan.report.wording import (
    LEGACY_COLUMNS,
    PRINTED_COLUMNS,
    legacy_row,
    method_sentences,
    printed_row,
    provenance_facts,
    reliability_sentence,
)


def markdown(report: Report) -> str:
    """Write the report as Markdown; pictures are linked by their path beside it."""
    parts = [f"# {report.provenance.title}", report.about]
    if report.provenance.caveats:
        parts.append("**Before quoting a number**\n\n" + "\n".join(f"- {text}" for text in report.provenance.caveats))
    parts += ["## Scores", _table(SUMMARY_COLUMNS, report.summary_cells(), numeric=range(2, 7))]
    if report.pictures:
        parts.append("## Cases worth a look")
        panels = "image, prediction (outline of the reference in yellow), reference"
        parts.append(f"Panels: {panels if report.provenance.has_images else panels.removeprefix('image, ')}.")
        parts += [
            f"{p.kind.capitalize()}: {p.case}, Dice {number(p.score, 'dice')}\n\n![{p.kind}: {p.case}]({p.file})"
            for p in report.pictures
        ]
    if report.printed:
        rows = [printed_row(figure, report) for figure in report.printed]
        parts += ["## Beside the paper", _table(PRINTED_COLUMNS, rows, numeric=range(2, 5))]
        parts += dict.fromkeys(filter(None, (figure.note for figure in report.printed)))
        if report.differences:
            parts.append("What differs from the printed run:\n\n" + "\n".join(f"- {d}" for d in report.differences))
    if report.legacy:
        shown = [f for f in report.legacy if f.metric in ("iou", "f1", "dice")]
        parts += ["## Legacy figures, pooled as the papers' code pools", report.legacy_note]
        parts.append(_table(LEGACY_COLUMNS, [legacy_row(f) for f in shown], numeric=(3,)))
    if report.reliability is not None:
        parts += ["## Reliability", reliability_sentence(report)]
    parts += ["## How the numbers were taken", "\n".join(f"- {text}" for text in method_sentences(report))]
    parts += ["## Where the numbers come from", _table(("Fact", "Value"), provenance_facts(report))]
    return "\n\n".join(parts) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()) -> str:
    right = set(numeric)
    rules = ["---:" if index in right else "---" for index in range(len(columns))]
    lines = [columns, rules, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
