"""A report as Markdown."""

from __future__ import annotations

from kanscan.drawing.pages import render
from kanscan.report.content import content
from kanscan.report.numerals import number
from kanscan.report.schema import Report


def markdown(report: Report) -> str:
    """Write the report as Markdown; pictures are linked by their path beside it."""
    return render("report.md.j2", {**content(report), "number": number})
