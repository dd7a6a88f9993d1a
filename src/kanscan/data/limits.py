"""How large an image may be: asked of a file's header before anything is decoded."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

#: Voxels (times channels) of the largest volume that is read; the variable of that name raises it.
MOST_VOXELS = 2**30
VARIABLE = "KANSCAN_MOST_VOXELS"


def most_voxels() -> int:
    """Return the limit.

    Raises:
        ValueError: The variable holds no whole number above 0.
    """
    chosen = os.environ.get(VARIABLE, "")
    if not chosen:
        return MOST_VOXELS
    if not chosen.isdecimal() or not int(chosen):
        raise ValueError(f"{VARIABLE} must be a whole number of voxels, got {chosen!r}")
    return int(chosen)


def check_voxels(what: str | Path, shape: Sequence[int]) -> None:
    """Refuse a shape that no memory should be asked for.

    Args:
        what: The file, or what else has the shape, for the sentence.
        shape: Sizes of all axes, channels included.

    Raises:
        ValueError: It is larger than the limit, or an axis is empty or negative.
    """
    sizes = [int(n) for n in shape]
    if any(n < 1 for n in sizes):
        raise ValueError(f"cannot read {what}: a volume of {' x '.join(map(str, sizes))} voxels is empty")
    count, most = math.prod(sizes), most_voxels()
    if count > most:
        raise ValueError(
            f"{what} would hold {' x '.join(map(str, sizes))} = {count:.3g} voxels, more than the {most:.3g} that are "
            f"read; set {VARIABLE} higher if that is what it holds"
        )
