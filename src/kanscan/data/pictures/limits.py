"""How large a picture may be: asked of a file's header before anything is decoded, alike for every format."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

#: Pixels of the largest picture that is read; the variable of that name raises it.
MOST_PIXELS = 178_956_970
VARIABLE = "KANSCAN_MOST_PIXELS"


def most_pixels() -> int:
    """Return the limit.

    Raises:
        ValueError: The variable holds no whole number above 0.
    """
    chosen = os.environ.get(VARIABLE, "")
    if not chosen:
        return MOST_PIXELS
    if not chosen.isdecimal() or not int(chosen):
        raise ValueError(f"{VARIABLE} must be a whole number of pixels, got {chosen!r}")
    return int(chosen)


class TooLargeError(ValueError):
    """A picture has more pixels than are read; another decoder would be asked for as many."""


def check_pixels(path: str | Path, size: Sequence[int]) -> None:
    """Refuse a picture that no memory should be asked for.

    Args:
        path: Named in the sentence.
        size: (height, width), or the shape of a stack.

    Raises:
        TooLargeError: It is larger than the limit.
    """
    count, most = math.prod(int(n) for n in size), most_pixels()
    if count > most:
        raise TooLargeError(
            f"cannot read {path}: {' x '.join(str(int(n)) for n in reversed(size))} are {count:,} pixels, more than "
            f"the {most:,} that are read; set the environment variable {VARIABLE} higher if the file is meant to be so "
            "large"
        )


def open_pillow(path: Path) -> Image.Image:
    """Open a file with Pillow, under our limit instead of its own.

    Raises:
        ValueError: The picture is larger than the limit.
    """
    # Pillow would ask while it opens, with a limit of its own for some formats and none for others.
    Image.MAX_IMAGE_PIXELS = None
    picture = Image.open(path)
    check_pixels(path, (picture.height, picture.width))
    return picture
