"""An explanation on disk: one page that needs nothing else, each figure as SVG and PNG, all arrays as npz."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from kanscan.drawing.pages import Section, figure, page, paragraph, table
from kanscan.explanation.chapters import Chapter
from kanscan.files import atomic, write_text

#: How the names of figures and arrays begin.
_STEMS = (
    *("splines", "pruning", "maps", "receptive_field", "scans"),
    *("attention", "uncertainty", "calibration", "reliability"),
)


def write_page(folder: Path, lead: str, chapters: Sequence[Chapter], left_out: dict[str, str]) -> Path:
    """Write chapters into a folder and return the page.

    Args:
        folder: Made if it is not there.
        lead: What was looked at, plain text.
        chapters: In the order of the page.
        left_out: Chapter -> why it is not there; told at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "index.html").exists():
        _clear(folder)
    sections = [_section(folder, chapter) for chapter in chapters]
    if left_out:
        missing = [paragraph(f"{name.replace('_', ' ')}: {why}.") for name, why in left_out.items()]
        sections.append(Section("Left out", missing))
    return write_text(folder / "index.html", page("What the network learned", lead, sections))


def _clear(folder: Path) -> None:
    """Remove the figures and arrays of the explanation that is replaced: cases and layers may be others now."""
    for path in folder.iterdir():
        if path.suffix in (".svg", ".png", ".npz") and path.stem.partition("-")[0] in _STEMS:
            path.unlink()


def _section(folder: Path, chapter: Chapter) -> Section:
    parts = [paragraph(text) for text in chapter.sentences]
    parts += [table(columns, rows, numeric) for columns, rows, numeric in chapter.tables]
    for name, drawing, caption in chapter.figures:
        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        buffer = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"kanscan-{stem}"}):
            drawing.savefig(buffer, format="svg", metadata={"Date": None}, transparent=False)
        write_text(folder / f"{stem}.svg", buffer.getvalue())
        # The panels have found their places; finding them again takes as long as drawing.
        drawing.set_layout_engine("none")
        with atomic(folder / f"{stem}.png") as path:
            drawing.savefig(path, format="png", dpi=150)
        # On a narrow page a drawing shrinks with it.
        shrinking = buffer.getvalue().replace("<svg ", '<svg role="img" style="max-width:100%;height:auto" ', 1)
        parts.append(figure(shrinking, caption))
    if chapter.arrays:
        with atomic(folder / f"{chapter.key}.npz") as path, path.open("wb") as file:
            np.savez_compressed(file, **dict(chapter.arrays))  # type: ignore[arg-type]
    for name, text in chapter.texts.items():
        write_text(folder / name, text)
    return Section(chapter.title, parts)
