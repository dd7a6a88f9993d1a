"""Which cases deserve a look, and how they are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kanscan.drawing.images import overlay, to_rgb
from kanscan.report.schema import CaseScores

Kind = Literal["best", "median", "worst"]
#: Width of the panels of a case together and their greatest height, in pixels: as wide as a page.
SHEET_SIZE = (1280, 720)
_GAP = 8
#: Ground where there is no image to draw on.
_BLANK = 70


def worth_a_look(cases: Sequence[CaseScores], *, each: int = 3, metric: str = "dice") -> list[tuple[Kind, CaseScores]]:
    """Choose the best, the median and the worst cases, none twice; cases without a score are left out.

    Args:
        cases: Scored cases.
        each: How many of a kind; fewer where there are fewer cases.
        metric: What ranks them, as the mean over the classes; higher is better.

    Returns:
        Best first, worst last; among equals the order of the names decides.
    """
    ranked = sorted((c for c in cases if not math.isnan(c.value(metric))), key=lambda c: (-c.value(metric), c.id))
    if not ranked:
        return []
    each = max(1, min(each, len(ranked) // 3))
    middle = (len(ranked) - each) // 2
    # The worst are chosen first: of a single case that is what a reader should see.
    places: dict[int, Kind] = dict.fromkeys(range(max(0, len(ranked) - each), len(ranked)), "worst")
    for place in range(min(each, len(ranked))):
        places.setdefault(place, "best")
    for place in range(middle, min(middle + each, len(ranked))):
        places.setdefault(place, "median")
    return [(places[place], ranked[place]) for place in sorted(places)]


def draw_case(image: NDArray | None, prediction: NDArray[np.uint8], reference: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw a case as panels of one size: the image, the prediction with the reference's outline, the reference.

    Args:
        image: `(H, W)` or `(H, W, C)`; None: two panels on plain ground.
        prediction: `(H, W)` class indices.
        reference: `(H, W)` class indices.

    Returns:
        `(h, w, 4)` uint8, the panels beside one another; the gaps are transparent, so they suit any page.
    """
    height, width = reference.shape
    count = 2 if image is None else 3
    scale = min(((SHEET_SIZE[0] + _GAP) / count - _GAP) / width, SHEET_SIZE[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    ground = np.full((height, width), _BLANK, np.uint8) if image is None else to_rgb(image)
    # Labels are drawn after the change of size, so that outlines stay as thin as they are meant to be.
    small = np.asarray(Image.fromarray(ground).convert("RGB").resize(size, Image.Resampling.LANCZOS))
    ours, theirs = (
        np.asarray(Image.fromarray(m.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
        for m in (prediction, reference)
    )
    panels = [overlay(small, ours, reference=theirs), overlay(small, theirs)]
    if image is not None:
        panels.insert(0, small)
    sheet = np.zeros((size[1], len(panels) * (size[0] + _GAP) - _GAP, 4), dtype=np.uint8)
    for position, panel in enumerate(panels):
        left = position * (size[0] + _GAP)
        sheet[:, left : left + size[0], :3] = panel
        sheet[:, left : left + size[0], 3] = 255
    return sheet
