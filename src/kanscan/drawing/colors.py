"""Colors of classes and of the reference's outline, chosen by their distance from one another."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]

#: Colors of classes 1, 2, ...: Okabe and Ito's set, distinct for every kind of color vision, without its yellow. Sky
#: blue comes first: it stands out on red mucosa, on pink and violet stains and on grey.
CLASS_COLORS: tuple[Color, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
)
#: What pictures are made of: greys, mucosa, skin, and the stains of histology.
GROUNDS: tuple[Color, ...] = (
    *((level, level, level) for level in range(0, 256, 15)),
    *((180, 80, 60), (220, 140, 110), (200, 150, 120), (205, 135, 180), (120, 60, 140)),
)
#: Around the outline of a reference, so that it is seen on what is as bright as itself.
CASING_COLOR: Color = (0, 0, 0)

# Oklab, B. Ottosson, https://bottosson.github.io/posts/oklab/: linear light to cones, cones to lightness and hue.
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def class_color(index: int) -> Color:
    """Return the color of class `index` (from 1); colors repeat after the sixth."""
    return CLASS_COLORS[(index - 1) % len(CLASS_COLORS)]


def distance(one: Color, other: Color) -> float:
    """Return how different two colors look: 0 for the same, 100 from black to white (Euclidean, in Oklab)."""
    return float(100 * np.linalg.norm(_oklab(one) - _oklab(other)))


def _oklab(color: Color) -> NDArray[np.float64]:
    part = np.array(color) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return _TO_LAB @ np.cbrt(_TO_CONES @ linear)


def standing_out(candidates: Iterable[Color], others: Iterable[Color]) -> Color:
    """Return the candidate whose nearest other is farthest."""
    rest = list(others)
    return max(candidates, key=lambda one: min(distance(one, other) for other in rest))


#: Outline of a reference drawn over a prediction: of the corners of the color cube the one that is least like any
#: class and any picture.
REFERENCE_COLOR: Color = standing_out(product((0, 255), repeat=3), [*CLASS_COLORS, *GROUNDS])  # type: ignore[arg-type]
#: The same in words.
REFERENCE_WORDS = "bright green with a black edge"


def hexadecimal(color: Color) -> str:
    """Write a color as `#rrggbb`."""
    return "#" + "".join(f"{part:02x}" for part in color)
