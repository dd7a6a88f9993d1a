"""Labels that were drawn as shapes instead of pixels, as annotation tools export them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Polygon:
    """A filled outline.

    Attributes:
        value: What its pixels hold.
        points: (x, y) of its corners, in pixels or, where `Outlines.size` is None, in shares of width and height.
    """

    value: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Runs:
    """A mask as lengths of runs, background first.

    Attributes:
        value: What its pixels hold.
        counts: The lengths.
        size: (height, width).
        by_columns: Runs go down the columns (COCO), not along the rows.
    """

    value: int
    counts: tuple[int, ...]
    size: tuple[int, int]
    by_columns: bool = True


@dataclass(frozen=True, slots=True)
class Outlines:
    """All shapes of one picture, later ones over earlier ones.

    Attributes:
        shapes: The shapes.
        size: (height, width) that points are counted in; None: points are shares of the picture's own size.
    """

    shapes: tuple[Polygon | Runs, ...]
    size: tuple[int, int] | None = None
