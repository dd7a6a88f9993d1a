"""Resizing pictures, probabilities and label maps as the papers' OpenCV calls do."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize bilinearly with half-pixel centers and without antialiasing, as the papers' OpenCV call does.

    Where torch is loaded it computes, so that trainings repeat to the bit. Elsewhere NumPy does: equal but for float32
    rounding, of a million 8-bit values about four, which lie halfway between two grey levels, fall on the other one.

    Args:
        image: `(C, H, W)`; uint8 stays uint8 (rounded, within one grey level of OpenCV's fixed-point arithmetic).
        size: (height, width).
    """
    values = np.require(image, np.float32, ["C", "W"])
    resized = _by_torch(values, size) if "torch" in sys.modules else _by_numpy(values, size)
    return np.rint(resized).astype(np.uint8) if image.dtype == np.uint8 else resized


def _by_torch(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    import torch

    x = torch.from_numpy(image)[None]
    return torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)[0].numpy()


def _by_numpy(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    for axis, new in ((1, size[0]), (2, size[1])):
        old = image.shape[axis]
        places = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
        before = np.minimum(places.astype(int), old - 1)
        share = (places - before).astype(np.float32)[:, None] if axis == 1 else (places - before).astype(np.float32)
        low = image.take(before, axis)
        image = low + (image.take(np.minimum(before + 1, old - 1), axis) - low) * share
    return image


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a label map to `size` by picking pixel floor(i * old / new) on each axis, as OpenCV's nearest does."""
    if label.shape == tuple(size):
        return label
    # Integers: a rounded scale factor would pick the neighbor at exact multiples.
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, label.shape, strict=True))
    return np.ascontiguousarray(label[rows[:, None], columns[None, :]])
