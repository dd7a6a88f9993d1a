"""DICOM-SEG and RTSTRUCT as labels: segments and contours, by name, on the voxels of the image they refer to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kanscan.data.dicom.archive import open_file
from kanscan.data.dicom.series import segment_names
from kanscan.data.dicom.stack import decoded_frames, frames_of, read_dataset
from kanscan.data.optional_imports import pydicom_module
from kanscan.data.readable import readable
from kanscan.registry import unknown

if TYPE_CHECKING:
    from pydicom import Dataset

#: A contour belongs to the slice that it lies in within this share of the distance of slices.
_IN_SLICE = 0.5


def read_segments(path: Path, dataset: Dataset) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Take a DICOM-SEG apart: each frame with something in it.

    Args:
        path: Its file, for sentences.
        dataset: Its content.

    Yields:
        The segment's name, `(columns, rows, 1)` of which what is not 0 belongs to it, and the frame's affine in
        millimeters (right, front, head) with the unit normal as its third column.
    """
    with readable(path):
        numbered = (int(one.SegmentNumber) for one in dataset.SegmentSequence)
        names = dict(zip(numbered, segment_names(dataset), strict=True))
        label_map = str(getattr(dataset, "SegmentationType", "BINARY")) == "LABELMAP"
        half = float(getattr(dataset, "MaximumFractionalValue", 1) or 1) / 2
        frames = frames_of(dataset)
        numbers = None if label_map else [_segment_number(dataset, k) for k in range(len(frames))]
        for k, plane in enumerate(decoded_frames(dataset, len(frames))):
            present = [int(v) for v in np.unique(plane) if v] if numbers is None else [numbers[k]]
            for number in present:
                inside = plane == number if numbers is None else plane > half * 0.999
                if number in names and inside.any():
                    yield names[number], inside.T[..., None], frames[k].affine


def _segment_number(dataset: Dataset, frame: int) -> int:
    own = dataset.PerFrameFunctionalGroupsSequence[frame]
    shared = getattr(dataset, "SharedFunctionalGroupsSequence", None) or (None,)
    for group in (own, shared[0]):
        found = getattr(group, "SegmentIdentificationSequence", None)
        if found:
            return int(found[0].ReferencedSegmentNumber)
    raise ValueError(f"frame {frame + 1} does not say to which segment it belongs")


def read_picture_segments(path: Path, names: Sequence[str] | None = None, frame: int | None = None) -> np.ndarray:
    """Read a DICOM-SEG of a picture, which has no place in a patient.

    Args:
        path: The file.
        names: Classes, background first, by which segments are numbered; None: by the numbers they have in the file.
        frame: Of a clip, the frame that is asked for, from 0; None: all items belong to one picture.

    Returns:
        `(H, W)` uint8; where segments overlap, the later one is seen.

    Raises:
        ValueError: The file is damaged, or a segment has no class of its name.
    """
    dataset = read_dataset(path)
    with readable(path):
        numbers = [int(one.SegmentNumber) for one in dataset.SegmentSequence]
        values = dict(zip(numbers, numbers, strict=True))
        if names is not None:
            for number, name in zip(numbers, segment_names(dataset), strict=True):
                if name not in names[1:]:
                    raise ValueError(f"{path}: {unknown('segment', name, list(names[1:]))}")
                values[number] = list(names).index(name)
        out = np.zeros((int(dataset.Rows), int(dataset.Columns)), np.uint8)
        count = int(getattr(dataset, "NumberOfFrames", 1) or 1)
        for k, plane in enumerate(decoded_frames(dataset, count)):
            if frame is None or _source_frame(dataset, k) == frame:
                out[plane > 0] = values[_segment_number(dataset, k)]
    return out


def marked_frames(path: Path) -> set[int]:
    """List the frames of a clip, from 0, for which a DICOM-SEG has an item.

    Raises:
        ValueError: The file is damaged.
    """
    pydicom = pydicom_module()
    with readable(path), open_file(path) as file:
        dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        return {_source_frame(dataset, k) for k in range(len(dataset.PerFrameFunctionalGroupsSequence))}
    raise AssertionError


def _source_frame(dataset: Dataset, k: int) -> int:
    """Return the frame of the source that an item belongs to, from 0; 0 where the source is one picture."""
    for derivation in getattr(dataset.PerFrameFunctionalGroupsSequence[k], "DerivationImageSequence", None) or ():
        for source in getattr(derivation, "SourceImageSequence", None) or ():
            number = getattr(source, "ReferencedFrameNumber", None)
            return 0 if number is None else int(number) - 1
    return 0


def read_contours(
    path: Path, dataset: Dataset, affine: np.ndarray, shape: Sequence[int]
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Take an RTSTRUCT apart: each region of interest in each slice.

    A voxel belongs to a region where its center lies inside an odd number of the region's contours: a contour within
    another is a hole.

    Args:
        path: Its file, for sentences.
        dataset: Its content.
        affine: `(4, 4)` of the image in millimeters.
        shape: Its `(columns, rows, slices)`.

    Yields:
        The region's name, the slice, and `(columns, rows)` bool.

    Raises:
        ValueError: A contour does not lie in a slice.
    """
    to_image = np.linalg.inv(affine) @ np.diag([-1.0, -1.0, 1.0, 1.0])
    with readable(path):
        numbers = (int(one.ROINumber) for one in dataset.StructureSetROISequence)
        names = dict(zip(numbers, segment_names(dataset), strict=True))
        for region in getattr(dataset, "ROIContourSequence", None) or ():
            name = names[int(region.ReferencedROINumber)]
            slices: dict[int, np.ndarray] = {}
            for contour in getattr(region, "ContourSequence", None) or ():
                if str(getattr(contour, "ContourGeometricType", "")) != "CLOSED_PLANAR":
                    continue
                points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
                places = np.c_[points, np.ones(len(points))] @ to_image[:3].T
                number = _slice_of(places, shape, name)
                if number is not None:
                    inside = fill_polygon(places[:, :2], shape[:2])
                    slices[number] = slices[number] ^ inside if number in slices else inside
            for number, inside in sorted(slices.items()):
                yield name, number, inside


def _slice_of(places: np.ndarray, shape: Sequence[int], name: str) -> int | None:
    middle = float(places[:, 2].mean())
    if np.abs(places[:, 2] - middle).max() > _IN_SLICE:
        raise ValueError(f"a contour of {name!r} does not lie in one slice of the image; other planes are not read")
    number = round(middle)
    return number if 0 <= number < shape[2] else None


def fill_polygon(corners: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Fill a polygon: pixels whose centers lie inside it, by counting the edges to their left.

    Args:
        corners: `(N, 2)` places along the two axes of the array, pixel centers at whole numbers.
        shape: Of the array.

    Returns:
        Bool array of that shape.
    """
    out = np.zeros(shape, dtype=bool)
    ends = np.roll(corners, -1, axis=0)
    low, high = np.minimum(corners[:, 1], ends[:, 1]), np.maximum(corners[:, 1], ends[:, 1])
    first, last = max(0, int(np.ceil(low.min()))), min(shape[1] - 1, int(np.floor(high.max())))
    centers = np.arange(shape[0])
    for line in range(first, last + 1):
        met = (low <= line) & (line < high)
        share = (line - corners[met, 1]) / (ends[met, 1] - corners[met, 1])
        crossings = np.sort(corners[met, 0] + share * (ends[met, 0] - corners[met, 0]))
        out[:, line] = np.searchsorted(crossings, centers, side="right") % 2 == 1
    return out
