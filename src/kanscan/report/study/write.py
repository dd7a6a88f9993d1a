"""The files of a study's table: table.json, table.csv, table.md, table.tex, table.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kanscan.drawing.charts import Series
from kanscan.files import write_json, write_text
from kanscan.report.study.page import Shown, html
from kanscan.report.study.schema import StudyTable
from kanscan.report.study.text import csv, latex, markdown


def write_table(
    table: StudyTable, folder: Path, curves: Mapping[str, Sequence[Series]], shown: Sequence[Shown]
) -> StudyTable:
    """Write every form of a table; equal content gives equal bytes.

    Args:
        table: What to write.
        folder: Where.
        curves: Data set -> validation score of each row over the epochs.
        shown: Cases as every network labels them.

    Returns:
        The table, knowing its folder.
    """
    write_text(folder / "table.csv", csv(table))
    write_text(folder / "table.md", markdown(table))
    write_text(folder / "table.tex", latex(table))
    write_text(folder / "table.html", html(table, curves, shown))
    # JSON comes last: where it is, the rest is there too.
    write_json(folder / "table.json", table.to_dict())
    table._folder = folder
    return table
