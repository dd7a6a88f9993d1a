"""Label files whose segments have names: Slicer's `.seg.nrrd`, DICOM-SEG and RTSTRUCT."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kanscan.data.dicom.labels import read_contours, read_segments
from kanscan.data.dicom.series import read_header
from kanscan.data.dicom.stack import read_dataset
from kanscan.data.readable import readable
from kanscan.data.volume import Volume
from kanscan.data.volumes.itk_files import ITK_SUFFIXES, read_fields, read_itk
from kanscan.data.volumes.lattice import place_on
from kanscan.registry import unknown


def names_of(path: Path) -> tuple[str, ...]:
    """List the segments that a label file names, in its order; none where it holds bare numbers."""
    lower = path.name.lower()
    if lower.endswith(ITK_SUFFIXES):
        with readable(path):
            return tuple(name for name, _, _ in _nrrd_segments(path))
    if lower.endswith((".nii", ".gz", ".mgz", ".npz", ".h5", ".tif", ".tiff")):
        return ()
    head = read_header(path)
    return head.segments if head is not None else ()


def _nrrd_segments(path: Path) -> list[tuple[str, int, int]]:
    """Read (name, layer, value) of each segment from an NRRD header."""
    fields = read_fields(path)
    numbers = sorted(int(m[1]) for key in fields if (m := re.fullmatch(r"segment(\d+)_name", key)))
    found = []
    for number in numbers:
        # Before version 4.11 Slicer gave each segment a layer of its own and no value.
        layer = int(fields.get(f"segment{number}_layer", number))
        value = int(fields.get(f"segment{number}_labelvalue", 1))
        found.append((fields[f"segment{number}_name"], layer, value))
    return found


def read_named(path: Path, classes: Sequence[str], image: Volume) -> Volume:
    """Read a label file with named segments as numbers of classes on the voxels of the image.

    Slicer stores no more than the box around its segments, DICOM no empty frames; what is missing is background. Where
    segments overlap, the later one is seen.

    Args:
        path: The file.
        classes: Names, background first.
        image: Says where the voxels lie.

    Returns:
        `(I, J, K)` uint16 in the image's grid: k for the k-th class.

    Raises:
        ValueError: A segment has no class of its name, or the voxels are not those of the image.
    """
    out = np.zeros(image.shape, np.uint16)

    def number_of(name: str) -> int:
        if name not in classes:
            raise ValueError(f"{path}: {unknown('segment', name, list(classes[1:]))}")
        return list(classes).index(name)

    if path.name.lower().endswith(ITK_SUFFIXES):
        with readable(path):
            stored = read_itk(path)
        layers = stored.array if stored.array.ndim == 4 else stored.array[..., None]
        for name, layer, value in _nrrd_segments(path):
            if layer >= layers.shape[-1]:
                raise ValueError(f"{path} names layer {layer} for {name!r} and holds {layers.shape[-1]}")
            place_on(image, layers[..., layer] == value, stored.affine, out, number_of(name), str(path))
        return Volume(out, image.affine, image.header, str(path))
    dataset = read_dataset(path)
    if "SegmentSequence" in dataset:
        for name, plane, affine in read_segments(path, dataset):
            place_on(image, plane, _in_slice(affine, image), out, number_of(name), str(path))
    else:
        for name, place, inside in read_contours(path, dataset, image.affine, image.shape):
            out[..., place][inside] = number_of(name)
    return Volume(out, image.affine, image.header, str(path))


def _in_slice(affine: np.ndarray, image: Volume) -> np.ndarray:
    """Give a single plane the step of the image's axis that it lies across; its own thickness says nothing."""
    steps = np.linalg.inv(image.affine)[:3, :3] @ affine[:3, :2]
    across = int(np.abs(steps).sum(axis=1).argmin())
    whole = affine.copy()
    whole[:3, 2] = image.affine[:3, across]
    return whole
