"""A report's files: report.json, report.md, report.html, cases.csv, pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kanscan.drawing.images import save_png
from kanscan.drawing.tables import csv_table
from kanscan.files import write_json, write_text
from kanscan.metrics import METRICS
from kanscan.report.html import html
from kanscan.report.pictures import Kind
from kanscan.report.schema import CaseScores, Picture, Report
from kanscan.report.text import markdown

#: Folder of the pictures, beside the report.
PICTURES = "pictures"


def write_report(
    report: Report, folder: str | Path, drawn: Sequence[tuple[Kind, CaseScores, NDArray[np.uint8]]] = ()
) -> Report:
    """Write every form of a report; files of an earlier one are replaced, each at once.

    Args:
        report: What to write.
        folder: Created if it is not there.
        drawn: Kind, case and picture (as `draw_case` gives it) of the cases worth a look.

    Returns:
        The report with its pictures, knowing its folder.

    Raises:
        OSError: The folder cannot be written to.
    """
    folder = Path(folder)
    pictures = [
        Picture(
            kind=kind, case=case.id, score=case.value("dice"), file=f"{PICTURES}/{number:02d}-{_plain(case.id)}.png"
        )
        for number, (kind, case, _) in enumerate(drawn, start=1)
    ]
    for picture, (_, _, pixels) in zip(pictures, drawn, strict=True):
        save_png(folder / picture.file, pixels)
    _remove_others(folder / PICTURES, {folder / picture.file for picture in pictures})
    report = report.model_copy(update={"pictures": pictures})
    report._folder = folder
    write_text(folder / "cases.csv", cases_csv(report))
    write_text(folder / "report.md", markdown(report))
    write_text(folder / "report.html", html(report, folder))
    # JSON comes last: where it is, the rest is there too.
    write_json(folder / "report.json", report.to_dict())
    return report


def draw_again(folder: str | Path) -> Report:
    """Draw Markdown, HTML and CSV anew from a folder's report.json."""
    report = Report.load(folder)
    assert report.folder is not None
    write_text(report.folder / "cases.csv", cases_csv(report))
    write_text(report.folder / "report.md", markdown(report))
    write_text(report.folder / "report.html", html(report, report.folder))
    return report


def cases_csv(report: Report) -> str:
    """Write a row a case and class; empty where a score is not applicable."""
    columns = ["case", "group", "class", "size", "reference_pixels", "missing_from", *METRICS]
    rows: list[list[str | float | None]] = []
    for case in report.cases:
        for name in report.class_names:
            scores = [case.scores[name].get(metric) for metric in METRICS]
            rounded = [None if score is None else float(f"{score:.6g}") for score in scores]
            size = "x".join(map(str, case.size))
            facts = [case.id, case.group, name, size, case.reference_pixels[name], case.missing[name]]
            rows.append([*facts, *rounded])
    return csv_table(columns, rows)


def _plain(name: str) -> str:
    """Make a case's name fit for a file and a link."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "case"


def _remove_others(folder: Path, keep: set[Path]) -> None:
    # Only names that write_report gives: a user's own files stay.
    for path in folder.glob("[0-9][0-9]-*.png") if folder.is_dir() else ():
        if path not in keep:
            path.unlink()
