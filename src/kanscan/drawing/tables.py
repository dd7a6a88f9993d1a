"""One table for people in each form: terminal, Markdown, CSV. Pages draw theirs from a template."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from kanscan.drawing.words import csv_text, markdown_text, visible

if TYPE_CHECKING:
    from rich.table import Table


def rich_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Collection[int] = (), about: str = ""
) -> Table:
    """Draw a table for a terminal.

    Args:
        title: Above it; "" for none.
        columns: Headings.
        rows: Cells, plain text.
        numeric: Indices of the columns to align at the right.
        about: A quieter line below the title.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    head = "\n".join(filter(None, [escape(visible(title)), about and f"[not bold]{escape(visible(about))}[/]"]))
    table = Table(title=head or None, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(escape(visible(column)), justify="right" if index in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(visible(cell)) for cell in row))
    return table


def rich_notes(notes: Iterable[str]) -> list[str]:
    """Write sentences below a table, as markup that says what it says."""
    from rich.markup import escape

    return [escape(visible(text)) for text in notes]


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Collection[int] = ()) -> str:
    """Write a table as Markdown; arguments as of `rich_table`."""
    rules = ["---:" if index in numeric else "---" for index in range(len(columns))]
    lines = [[markdown_text(cell) for cell in columns], rules, *([markdown_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> str:
    """Write a table as CSV: numbers as they are, text that no spreadsheet takes for a formula, nothing for None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([csv_text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return text.getvalue()
