"""An explanation on disk: one page that needs nothing else, each figure as SVG and PNG, all arrays as npz."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kanscan.drawing.charts import inlined, svg_text
from kanscan.drawing.pages import Figure, Part, Section, Table, page
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
        missing = [f"{name.replace('_', ' ')}: {why}." for name, why in left_out.items()]
        sections.append(Section("Left out", missing))
    return write_text(folder / "index.html", page("What the network learned", lead, sections))


def _clear(folder: Path) -> None:
    """Remove the figures and arrays of the explanation that is replaced: cases and layers may be others now."""
    for path in folder.iterdir():
        if path.suffix in (".svg", ".png", ".npz") and path.stem.partition("-")[0] in _STEMS:
            path.unlink()


def _section(folder: Path, chapter: Chapter) -> Section:
    parts: list[Part] = [*chapter.sentences, *(Table(*table) for table in chapter.tables)]
    for name, drawing, caption in chapter.figures:
        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        text = svg_text(drawing, f"kanscan-{stem}")
        write_text(folder / f"{stem}.svg", text)
        # The panels have found their places; finding them again takes as long as drawing.
        drawing.set_layout_engine("none")
        with atomic(folder / f"{stem}.png") as path:
            drawing.savefig(path, format="png", dpi=150)
        parts.append(Figure(inlined(text, f"{chapter.title}: {name}"), caption))
    if chapter.arrays:
        with atomic(folder / f"{chapter.key}.npz") as path, path.open("wb") as file:
            np.savez_compressed(file, **dict(chapter.arrays))  # type: ignore[arg-type]
    for name, text in chapter.texts.items():
        write_text(folder / name, text)
    return Section(chapter.title, parts)
