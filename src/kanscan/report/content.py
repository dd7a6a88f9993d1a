"""What the page and the Markdown of a report say alike, as plain values for their templates."""

from __future__ import annotations

from typing import TypedDict

from kanscan.drawing.colors import REFERENCE_WORDS
from kanscan.drawing.pages import Table, facts
from kanscan.report.schema import SUMMARY_COLUMNS, Report
from kanscan.report.wording import (
    LEGACY_COLUMNS,
    PRINTED_COLUMNS,
    legacy_row,
    method_sentences,
    printed_row,
    provenance_facts,
    reliability_sentence,
    sentence,
)


class Content(TypedDict):
    """Values of the templates."""

    report: Report
    title: str
    summary: Table
    panels: str
    printed: Table
    printed_notes: list[str]
    legacy: Table
    reliability: str
    method: list[str]
    provenance: Table


def content(report: Report) -> Content:
    """Gather what both forms show."""
    panels = f"the image, the prediction with the outline of the reference in {REFERENCE_WORDS}, the reference"
    legacy = [legacy_row(figure) for figure in report.legacy if figure.metric in ("iou", "f1", "dice")]
    notes = dict.fromkeys(figure.note for figure in report.printed if figure.note)
    return Content(
        report=report,
        title=report.provenance.title,
        summary=Table(SUMMARY_COLUMNS, report.summary_cells(), numeric=range(2, 7)),
        panels=panels if report.provenance.has_images else panels.removeprefix("the image, "),
        printed=Table(PRINTED_COLUMNS, [printed_row(one, report) for one in report.printed], numeric=(2, 3, 4)),
        printed_notes=[sentence(note) for note in notes],
        legacy=Table(LEGACY_COLUMNS, legacy, numeric=(3,)),
        reliability=reliability_sentence(report) if report.reliability else "",
        method=method_sentences(report),
        provenance=facts(provenance_facts(report)),
    )
