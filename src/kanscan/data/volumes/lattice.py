"""Smaller label maps brought onto the voxels of their image, without any resampling."""

from __future__ import annotations

import numpy as np

from kanscan.data.volume import Volume, grid_text

#: Voxels of two grids are the same where none lies farther off than this share of one.
_OFF = 1e-2


def place_on(image: Volume, part: np.ndarray, affine: np.ndarray, out: np.ndarray, value: int, source: str) -> None:
    """Write a value into a label map wherever a part of its lattice is not 0; axes may be turned or run backwards.

    Args:
        image: Says where the voxels lie.
        part: `(i, j, k)`, of which what is not 0 counts.
        affine: `(4, 4)` of the part, in millimeters.
        out: `(I, J, K)` of the image's shape, changed in place.
        value: To write.
        source: The part's file, for sentences.

    Raises:
        ValueError: The part's voxels are not voxels of the image, or something of it lies outside.
    """
    to_image = np.linalg.inv(image.affine) @ affine
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners[:, :3] *= np.array(part.shape) - 1
    steps, origin = np.rint(to_image[:3, :3]), np.rint(to_image[:3, 3])
    off = np.abs(corners @ to_image[:3].T - corners[:, :3] @ steps.T - origin).max()
    if off > _OFF or not (np.abs(steps).sum(axis=0) == 1).all() or not (np.abs(steps).sum(axis=1) == 1).all():
        raise ValueError(
            f"{source} lies in another grid than {image.path}: {grid_text(Volume(part, affine))} against "
            f"{grid_text(image)}; resample one of them"
        )
    found = np.argwhere(part)
    places = (found @ steps.T + origin).astype(np.int64)
    if len(places) and (places.min() < 0 or (places >= np.array(image.shape)).any()):
        raise ValueError(f"{source} marks voxels outside {image.path} ({' x '.join(map(str, image.shape))} voxels)")
    out[tuple(places.T)] = value
