"""A volume that knows its place in the patient; where two of them lie on one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kanscan.data.optional_imports import nibabel_module

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header
    from pydicom import Dataset

#: Two grids are one where no corner lies farther apart than this share of a voxel.
_SAME_GRID = 1e-2


@dataclass(frozen=True)
class Instance:
    """Where a slice of a DICOM volume came from.

    Attributes:
        dataset: The file's content without its pixels.
        frame: Frame of a multi-frame file, from 0; None for single-frame files.
    """

    dataset: Dataset
    frame: int | None = None


@dataclass(frozen=True)
class Volume:
    """A volume in its file's own grid.

    Attributes:
        array: `(I, J, K)`, or `(I, J, K, C)` for several channels, axes as the file (NIfTI) or the scanner (columns,
            rows, slices of DICOM) orders them.
        affine: `(4, 4)`: voxel index to millimeters, x to the right, y to the front, z to the head.
        header: NIfTI header of the file, which a label map written into the same grid takes over; None for others.
        path: The file or folder, for sentences.
        source: Of DICOM, one instance a slice in the order of the last array axis, which a segmentation refers to.
        notes: What was decided while reading, one sentence each.
        step: What one stored number is worth where the file scales them (NIfTI's scl_slope), else 0.
    """

    array: np.ndarray
    affine: np.ndarray
    header: Nifti1Header | None = None
    path: str = "the volume"
    source: tuple[Instance, ...] | None = None
    notes: tuple[str, ...] = ()
    step: float = 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the three axes."""
        return tuple(self.array.shape[:3])

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighboring voxels along each array axis."""
        return spacing_of(self.affine)

    @property
    def channels(self) -> int:
        """Channels held in the file itself."""
        return int(self.array.shape[3]) if self.array.ndim == 4 else 1


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the distance of neighboring voxels along each array axis in millimeters."""
    return tuple(float(s) for s in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))  # type: ignore[return-value]


def axis_codes(affine: np.ndarray) -> str:
    """Say whither the array axes run: "RAS" is right, front, head."""
    nibabel = nibabel_module()
    return "".join(nibabel.orientations.aff2axcodes(affine))


def same_grid(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> bool:
    """Tell whether two affines put the corners of a volume at the same places, within a hundredth of a voxel."""
    corners = np.array([[i, j, k, 1] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])], dtype=float)
    apart = np.abs(corners @ (np.asarray(one) - np.asarray(other)).T)[:, :3].max()
    return bool(apart <= _SAME_GRID * min(spacing_of(np.asarray(one))))


def check_grid(image: Volume, label: Volume) -> None:
    """Refuse two volumes whose voxels do not lie on one another.

    Raises:
        ValueError: Shape or affine differ; the sentence gives both.
    """
    if image.shape == label.shape and same_grid(image.affine, label.affine, image.shape):
        return
    raise ValueError(
        f"{label.path} lies in another grid than {image.path}: {grid_text(label)} against {grid_text(image)}; "
        "resample one of them"
    )


def grid_text(volume: Volume) -> str:
    """Say where a volume lies: voxels, orientation, spacing and the affine."""
    rows = "; ".join(" ".join(f"{v:.6g}" for v in row) for row in volume.affine[:3])
    return f"{' x '.join(map(str, volume.shape))} voxels, affine [{rows}]"
