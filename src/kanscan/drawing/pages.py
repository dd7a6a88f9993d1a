"""Pages of one file each that need nothing else, filled from the templates beside this file.

Whatever is put into a template is shown and never obeyed: markup is escaped, and what is not for the eye is written out
(`kanscan.drawing.words.visible`). Only drawings of our own (`Markup`) go in as they are.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kanscan.drawing.tables import markdown_table
from kanscan.drawing.words import markdown_text, visible

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Table:
    """A table of plain text.

    Attributes:
        columns: Headings.
        rows: Cells.
        numeric: Indices of the columns to align at the right.
        kind: For the style sheet: "" or "facts" (names and values).
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Collection[int] = ()
    kind: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing or a picture with what it shows.

    Attributes:
        drawing: An `<svg>`, or the address of a picture ("data:...").
        caption: Plain text; it is read out in place of a picture too.
        wide: As wide as the page.
    """

    drawing: Markup | str
    caption: str
    wide: bool = False


#: Of a section, in order: sentences, tables, figures.
Part = str | Table | Figure


@dataclass(frozen=True)
class Section:
    """A part of a page: its heading and what stands below it."""

    title: str
    parts: Sequence[Part]


def page(title: str, lead: str, sections: Iterable[Section]) -> str:
    """Draw a page.

    Args:
        title: Heading.
        lead: The sentence below it.
        sections: Its parts.
    """
    return render("page.html.j2", {"title": title, "lead": lead, "sections": list(sections)})


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Set names and values."""
    return Table((), list(pairs), kind="facts")


def render(template: str, content: Mapping[str, object]) -> str:
    """Fill a template of this room: `*.html.j2` or `*.md.j2`."""
    return _environment(template.endswith(".md.j2")).get_template(template).render(content)


@lru_cache
def _environment(is_markdown: bool) -> Environment:
    def shown(value: object) -> object:
        if not isinstance(value, str) or isinstance(value, Markup):
            return value
        return Markup(markdown_text(value)) if is_markdown else visible(value)

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["markdown_table"] = lambda *args: Markup(markdown_table(*args))
    return environment


def picture_address(data: bytes, kind: str = "png") -> str:
    """Return a picture's bytes as the address of themselves."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
