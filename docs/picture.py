"""Draw the README's picture from the report of a finished demo: best, median and worst test case, with their Dice.

`python docs/picture.py runs/demo` writes docs/pictures/demo.png. It is not part of `make docs`, since it needs the run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from kanscan.report import Report

TARGET = Path(__file__).resolve().parent / "pictures" / "demo.png"


def draw(run: Path, target: Path) -> Path:
    """Put one case of each kind below the other."""
    report = Report.load(run)
    # The first of each kind, except that the very worst stands for the worst.
    chosen = {picture.kind: picture for picture in reversed(report.pictures)}
    chosen |= {picture.kind: picture for picture in report.pictures if picture.kind == "worst"}
    rows = [chosen[kind] for kind in ("best", "median", "worst") if kind in chosen]
    strips = [np.asarray(Image.open(run / row.file)) for row in rows]
    height = sum(strip.shape[0] / strip.shape[1] for strip in strips) * 7 + 0.3 * len(rows)
    figure = Figure(figsize=(7, height), layout="constrained")
    for axes, row, strip in zip(figure.subplots(len(rows), 1), rows, strips, strict=True):
        axes.imshow(strip)
        axes.set_axis_off()
        axes.set_title(f"{row.kind}: {row.case}, Dice {row.score:.2f}", fontsize=10, loc="left")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=90)
    # A palette makes the file a third as large; nobody sees the difference.
    Image.open(target).convert("RGB").quantize(128).save(target, optimize=True)
    return target


if __name__ == "__main__":
    draw(Path(sys.argv[1]), TARGET)
