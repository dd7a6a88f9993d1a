"""What is shown of a picture or a volume: the picture itself, or three planes through one voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)

#: The planes of a volume -> the axis (of D, H, W) they lie across.
PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}


@dataclass(frozen=True)
class Plane:
    """A cut, seen as radiologists see it: patient's right on the left, front or head on top.

    Attributes:
        name: "axial", "coronal" or "sagittal"; "" for a picture.
        axis: Axis it lies across; None for a picture.
        index: Where along that axis.
        size: Rows and columns.
        aspect: Height of a pixel over its width.
        flipped: Rows and columns run against those of the array, as they do in a slice of a volume.
    """

    name: str
    axis: int | None
    index: int
    size: tuple[int, int]
    aspect: float
    flipped: bool = True

    def cut(self, array: NDArray[Number]) -> NDArray[Number]:
        """Take the plane out of `(H, W)`, `(H, W, C)` or `(D, H, W)`."""
        flat = array if self.axis is None else np.take(array, self.index, axis=self.axis)
        # D, H, W run to the head, the front and the left.
        return flat[::-1, ::-1] if self.flipped else flat

    def point(self, place: Sequence[int]) -> tuple[int, int]:
        """Return row and column of a place of the volume."""
        row, column = (n for axis, n in enumerate(place) if axis != self.axis)
        return (self.size[0] - 1 - row, self.size[1] - 1 - column) if self.flipped else (row, column)

    def square(self, array: NDArray[Number], spacing: Sequence[float]) -> NDArray[Number]:
        """Take the plane and repeat its rows or columns until pixels are square.

        Args:
            array: As for `cut`.
            spacing: Along the axes of `array`.
        """
        cut = self.cut(array)
        along = [step for axis, step in enumerate(spacing) if axis != self.axis]
        finest = min(along)
        wanted = [max(1, round(n * step / finest)) for n, step in zip(cut.shape, along, strict=False)]
        rows, columns = (np.arange(count) * n // count for n, count in zip(cut.shape, wanted, strict=False))
        return np.ascontiguousarray(cut[rows[:, None], columns[None, :]])

    @property
    def title(self) -> str:
        """Name and number of the cut."""
        return "" if self.axis is None else f"{self.name} {self.index}"


def planes(
    size: Sequence[int], spacing_mm: Sequence[float] | None = None, through: Sequence[int] | None = None
) -> list[Plane]:
    """Return what is shown of an array.

    Args:
        size: `(H, W)` or `(D, H, W)`.
        spacing_mm: Of a volume along D, H, W, of a slice of one along its axes; None for a picture.
        through: Voxel that the planes meet in; the middle one if None.
    """
    if len(size) == 2:
        aspect = 1.0 if spacing_mm is None else spacing_mm[0] / spacing_mm[1]
        return [Plane("", None, 0, (size[0], size[1]), aspect, spacing_mm is not None)]
    spacing = [1.0] * 3 if spacing_mm is None else spacing_mm
    through = [n // 2 for n in size] if through is None else through
    found = []
    for name, axis in PLANES.items():
        row, column = (a for a in range(3) if a != axis)
        found.append(Plane(name, axis, through[axis], (size[row], size[column]), spacing[row] / spacing[column]))
    return found
