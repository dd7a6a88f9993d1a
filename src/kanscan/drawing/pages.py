"""A page of sections as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from kanscan.drawing.style import SCRIPT, STYLE


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: Its heading.
        parts: HTML of its figures, tables and paragraphs, in order.
    """

    title: str
    parts: Sequence[str]


def document(title: str, body: str) -> str:
    """Frame the inside of a page: head, style sheet, script.

    Args:
        title: For the window, plain text.
        body: HTML.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n"
        f"</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def page(title: str, lead: str, sections: Iterable[Section]) -> str:
    """Draw a page.

    Args:
        title: Heading, plain text.
        lead: The sentence below it, plain text.
        sections: Its parts.
    """
    body = "\n".join(f"<h2>{escape(section.title)}</h2>\n" + "\n".join(section.parts) for section in sections)
    return document(title, f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n{body}')


def paragraph(text: str) -> str:
    """Set a sentence or two, plain text."""
    return f"<p>{escape(text)}</p>"


def figure(svg: str, caption: str) -> str:
    """Set a drawing with what it shows.

    Args:
        svg: An SVG document; its XML head is dropped.
        caption: Plain text.
    """
    drawing = svg[svg.index("<svg") :]
    return f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


def picture(png: bytes, caption: str) -> str:
    """Set a picture with what it shows.

    Args:
        png: A PNG file.
        caption: Plain text; it is read out in place of the picture too.
    """
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(caption)}" style="max-width:100%;height:auto">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """Set a table of plain text.

    Args:
        columns: Headings.
        rows: Cells.
        numeric: Indices of the columns to align at the right.
    """

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if index in numeric else ''}>{escape(cell)}</{tag}>" for index, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{cells(columns, "th")}</tr></thead><tbody>{body}</tbody></table></div>'
    )
