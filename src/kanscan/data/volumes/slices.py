"""Slices of volumes as pictures: seen as radiologists see them, with square pixels."""

from __future__ import annotations

import numpy as np

from kanscan.data.volume import Volume
from kanscan.data.volumes.grid import Arrangement
from kanscan.drawing.planes import PLANES, planes

__all__ = ["PLANES", "shown_slice"]


def shown_slice(
    volume: Volume, *labels: np.ndarray, plane: str = "axial", index: int | None = None
) -> tuple[np.ndarray, list[np.ndarray], int]:
    """Cut one slice: patient's right on the left, front or head on top, pixels square.

    Args:
        volume: The image.
        *labels: Label maps of its shape; the first one decides which slice is shown.
        plane: A key of `PLANES`.
        index: Which slice; None: the one with most foreground, the middle one where there is none.

    Returns:
        Picture `(h, w)` uint8, label maps `(h, w)`, and the slice's number from the feet (back, left).
    """
    arrangement, axis = Arrangement.of(volume.affine), PLANES[plane]
    array = volume.array if volume.array.ndim == 3 else volume.array[..., 0]
    image = arrangement.forward(array)
    maps = [arrangement.forward(label) for label in labels]
    if index is None:
        index = image.shape[axis] // 2
        across = tuple(a for a in range(3) if a != axis)
        if maps and maps[0].any():
            index = int((maps[0] > 0).sum(axis=across).argmax())
    spacing = arrangement.spacing(volume.spacing_mm)
    through = [index if a == axis else 0 for a in range(3)]
    shown = planes(image.shape, spacing, through)[axis]
    low, high = np.percentile(image, (0.5, 99.5))
    cut = shown.square(image, spacing).astype(np.float32)
    gray = (np.clip((cut - low) / max(float(high - low), 1e-12), 0, 1) * 255).astype(np.uint8)
    return gray, [shown.square(one, spacing) for one in maps], index
