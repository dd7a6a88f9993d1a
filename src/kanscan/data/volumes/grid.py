"""The way from a file's grid to the network's and back: axes, crop, resampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanscan.data.optional_imports import nibabel_module
from kanscan.data.volume import Volume
from kanscan.metrics import IGNORED

#: A voxel this many times longer than wide is resampled in its plane first, and by nearest neighbors across.
ANISOTROPY = 3.0

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Arrangement:
    """How a file's array axes are brought to (foot to head, back to front, left to right), the network's D, H, W.

    An oblique volume keeps its own axes, each under the name of the nearest direction.

    Attributes:
        order: Array axis that becomes D, H and W.
        flipped: Whether each of D, H, W runs backwards in the file.
    """

    order: Triple
    flipped: tuple[bool, bool, bool]

    @classmethod
    def of(cls, affine: np.ndarray) -> Arrangement:
        """Read the arrangement off an affine."""
        axes = nibabel_module().orientations.io_orientation(affine)
        by_direction = {int(direction): (axis, sign < 0) for axis, (direction, sign) in enumerate(axes)}
        found = [by_direction[direction] for direction in (2, 1, 0)]
        return cls(tuple(a for a, _ in found), tuple(f for _, f in found))  # type: ignore[arg-type]

    def forward(self, array: np.ndarray) -> np.ndarray:
        """Rearrange `(I, J, K)` or `(I, J, K, C)` to `(D, H, W)` or `(D, H, W, C)`; a view."""
        moved = np.transpose(array, (*self.order, *range(3, array.ndim)))
        return moved[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]

    def backward(self, array: np.ndarray) -> np.ndarray:
        """Undo `forward` of three axes."""
        unflipped = array[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]
        return np.transpose(unflipped, np.argsort(self.order))

    def spacing(self, spacing_mm: Sequence[float]) -> tuple[float, float, float]:
        """Reorder a file's spacing to D, H, W."""
        return tuple(float(spacing_mm[axis]) for axis in self.order)  # type: ignore[return-value]


@dataclass(frozen=True)
class Canonical:
    """A volume in the network's axes, before any resampling.

    Attributes:
        image: `(C, D, H, W)` float32.
        spacing_mm: Along D, H, W.
        arrangement: The way back.
    """

    image: np.ndarray
    spacing_mm: tuple[float, float, float]
    arrangement: Arrangement


def canonical(volume: Volume) -> Canonical:
    """Bring a volume to the network's axes, channels first."""
    arrangement = Arrangement.of(volume.affine)
    array = volume.array if volume.array.ndim == 4 else volume.array[..., None]
    image = np.ascontiguousarray(np.moveaxis(arrangement.forward(array), -1, 0), dtype=np.float32)
    return Canonical(image, arrangement.spacing(volume.spacing_mm), arrangement)


def content_box(image: np.ndarray) -> tuple[slice, slice, slice]:
    """Find the smallest box around all voxels that are not 0 in some channel; the whole volume if all are 0.

    Args:
        image: `(C, D, H, W)`.
    """
    depth, height, width = image.shape[1:]
    met = [np.zeros(n, dtype=bool) for n in (depth, height, width)]
    for k in range(depth):  # slice after slice: a mask of the whole volume would be as large as a small one
        inside = (image[:, k] != 0).any(axis=0)
        met[1] |= inside.any(axis=1)
        met[2] |= inside.any(axis=0)
        met[0][k] = inside.any()
    places = [np.flatnonzero(one) for one in met]
    full = zip(places, (depth, height, width), strict=True)
    return tuple(slice(int(p[0]), int(p[-1]) + 1) if len(p) else slice(0, n) for p, n in full)  # type: ignore[return-value]


def resampled_shape(shape: Sequence[int], spacing_mm: Sequence[float], wanted_mm: Sequence[float]) -> Triple:
    """Return the voxels of a volume at another spacing, at least one an axis."""
    sizes = (max(1, round(n * s / w)) for n, s, w in zip(shape, spacing_mm, wanted_mm, strict=True))
    return tuple(sizes)  # type: ignore[return-value]


def coarse_axis(spacing_mm: Sequence[float], wanted_mm: Sequence[float]) -> int | None:
    """Return the axis along which voxels are more than `ANISOTROPY` times longer than across, before or after."""
    for spacing in (spacing_mm, wanted_mm):
        if max(spacing) / min(spacing) > ANISOTROPY:
            return int(np.argmax(spacing))
    return None


def resample_image(image: np.ndarray, shape: Triple, *, coarse: int | None = None, order: int = 3) -> np.ndarray:
    """Resample an image by splines, along a coarse axis by the nearest slice, as nnU-Net does.

    Args:
        image: `(C, D, H, W)` float32.
        shape: Wanted `(D, H, W)`.
        coarse: See `coarse_axis`.
        order: Of the spline.
    """
    if image.shape[1:] == tuple(shape):
        return image
    out = np.empty((len(image), *shape), np.float32)
    for channel, target in zip(image, out, strict=True):
        _resample(channel, target, coarse, order)
    return out


def _interpolate(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Interpolate between half-voxel centers, the border repeated: splines of order 1, axis by axis."""
    for axis in reversed(range(array.ndim)):
        old, new = array.shape[axis], size[axis]
        if old == new:
            continue
        places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        before = np.minimum(places.astype(np.intp), max(old - 2, 0))
        shape = [-1 if a == axis else 1 for a in range(array.ndim)]
        share = (places - before).astype(array.dtype).reshape(shape)
        low = array.take(before, axis, mode="clip")
        high = array.take(before + 1, axis, mode="clip")
        high -= low
        high *= share
        low += high
        array = low
    return array


def _resample(array: np.ndarray, out: np.ndarray, coarse: int | None, order: int) -> None:
    """Resample an array into another of the wanted size."""
    from scipy.ndimage import zoom

    def stretched(part: np.ndarray, size: Sequence[int]) -> np.ndarray:
        if order == 1:
            return _interpolate(part, size)
        factors = [new / old for new, old in zip(size, part.shape, strict=True)]
        # Half-voxel centers, the border repeated: nothing moves sideways. Splines overshoot at edges; values that were
        # not there before are cut.
        return np.clip(zoom(part, factors, order=order, mode="nearest", grid_mode=True), part.min(), part.max())

    if coarse is None:
        out[...] = stretched(array, out.shape)
        return
    flat, target = np.moveaxis(array, coarse, 0), np.moveaxis(out, coarse, 0)
    new, old = len(target), len(flat)
    nearest = np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
    for k in range(new):
        if k and nearest[k] == nearest[k - 1]:
            target[k] = target[k - 1]
        else:
            plane = flat[nearest[k]]
            target[k] = plane if plane.shape == target.shape[1:] else stretched(plane, target.shape[1:])


def resample_label(label: np.ndarray, shape: Triple, num_classes: int, *, coarse: int | None = None) -> np.ndarray:
    """Resample a label map: each class linearly, a voxel to the class that has half of it or more, as nnU-Net does.

    Args:
        label: `(D, H, W)` class indices; ignored voxels are resampled like a class.
        shape: Wanted.
        num_classes: Background included.
        coarse: See `coarse_axis`.

    Returns:
        `shape` uint8.
    """
    if label.shape == tuple(shape):
        return label.astype(np.uint8)
    chosen, share = np.zeros(shape, np.uint8), np.empty(shape, np.float32)
    for index in (*range(1, num_classes), IGNORED):
        inside = label == index
        if inside.any():
            _resample(inside.astype(np.float32), share, coarse, 1)
            chosen[share >= 0.5] = index
    return chosen
