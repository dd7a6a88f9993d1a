"""Slices of volumes as pictures: seen as radiologists see them, with square pixels."""

from __future__ import annotations

import numpy as np

from kanscan.data.volume import Volume
from kanscan.data.volumes.grid import Arrangement

#: The plane that is shown -> the axis (of D, H, W) it lies across.
PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}


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
    spacing = [s for a, s in enumerate(arrangement.spacing(volume.spacing_mm)) if a != axis]
    low, high = np.percentile(image, (0.5, 99.5))
    cut = np.take(image, index, axis=axis).astype(np.float32)
    grey = (np.clip((cut - low) / max(float(high - low), 1e-12), 0, 1) * 255).astype(np.uint8)
    return _upright(grey, spacing), [_upright(np.take(one, index, axis=axis), spacing) for one in maps], index


def _upright(cut: np.ndarray, spacing: list[float]) -> np.ndarray:
    # Rows run to the back or feet and columns to the patient's left (or back): flipped against D, H, W.
    cut = cut[::-1, ::-1]
    finest = min(spacing)
    rows, columns = (max(1, round(n * s / finest)) for n, s in zip(cut.shape, spacing, strict=True))
    pick = np.arange(rows) * cut.shape[0] // rows, np.arange(columns) * cut.shape[1] // columns
    return np.ascontiguousarray(cut[pick[0][:, None], pick[1][None, :]])
