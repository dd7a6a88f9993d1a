"""DICOM pictures (ultrasound, endoscopy, dermoscopy, radiographs, secondary captures) as a viewer shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kanscan.data.dicom.archive import open_file
from kanscan.data.dicom.series import PIXELS, SEGMENTATIONS, Header, kind_of, read_header
from kanscan.data.dicom.stack import decodable, decode, functional_group, read_dataset
from kanscan.data.limits import check_voxels
from kanscan.data.optional_imports import pydicom_module
from kanscan.data.readable import readable

if TYPE_CHECKING:
    from pydicom import Dataset

#: Of an ultrasound region: its axes are lengths, counted in centimeters; it shows tissue in two dimensions.
_CENTIMETERS, _TISSUE = 3, 1


def read_dicom_picture(path: str | Path, frame: int | None = None) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Read a picture as a viewer shows it.

    Gray values go through the modality's and the first VOI transformation; black is 0, also of MONOCHROME1. Where no
    window is given, more than 8 bits run from the darkest to the brightest pixel. Color becomes RGB of 8 bits.

    Args:
        path: The file.
        frame: Of a clip, counted from 0; None: the file holds one picture.

    Returns:
        `(H, W)` uint8 (8 bits stored) or uint16 (more), or `(H, W, 3)` uint8; and the distance of rows and columns in
        mm, or None where the file tells none.

    Raises:
        ValueError: The file is no picture, damaged, or holds another number of frames; the sentence names it.
    """
    path = Path(path)
    dataset = read_dataset(path)
    rows, columns, count = check_picture(path, dataset)
    if frame is None and count > 1:
        raise ValueError(f"{path} holds {count} frames, one was expected; take its frames one by one")
    if not 0 <= (frame or 0) < count:
        raise ValueError(f"{path} holds {count} frames, frame {frame} was asked for (counted from 0)")
    number = frame or 0
    with decodable(path):
        stored = decode(dataset, number)
        if stored.shape[:2] != (rows, columns):
            raise ValueError(f"its pixels are no picture of {columns} x {rows}")
        shown = _color(stored, dataset) if stored.ndim == 3 else _shown(stored, dataset, number)
        spacing = spacing_of_frame(dataset, number)
    return np.ascontiguousarray(shown), spacing


def check_picture(path: Path, dataset: Dataset) -> tuple[int, int, int]:
    """Return rows, columns and frames of a picture.

    Raises:
        ValueError: The file holds no picture, or says that it is larger than what is read.
    """
    with decodable(path):
        kind = kind_of(dataset)
        rows, columns = (int(getattr(dataset, name, None) or 0) for name in ("Rows", "Columns"))
        frames = int(getattr(dataset, "NumberOfFrames", None) or 1)
        samples = int(getattr(dataset, "SamplesPerPixel", None) or 1)
    if kind or not rows or not columns or not any(name in dataset for name in PIXELS):
        raise ValueError(f"{path} is no picture but a DICOM {kind or 'object without an image'}")
    check_voxels(path, (rows, columns, samples))
    return rows, columns, frames


def read_picture_header(path: str | Path, *, segmentations: bool = False) -> Header:
    """Read what a picture's header says of it, without its pixels.

    Args:
        path: The file.
        segmentations: Take those of pictures too.

    Raises:
        ValueError: The file is damaged, or no picture.
    """
    head = read_header(Path(path))
    if head is None:
        raise ValueError(f"cannot read {path}: it is no DICOM, or its header is damaged")
    if head.kind and not (segmentations and head.kind in SEGMENTATIONS):
        raise ValueError(f"{path} is no picture but a DICOM {head.kind}")
    return head


def read_picture_spacing(path: str | Path, frame: int | None = None) -> tuple[float, float] | None:
    """Read the distance of rows and columns in mm from a picture's header, None where it tells none.

    Raises:
        ValueError: The file is damaged.
    """
    pydicom = pydicom_module()
    with readable(Path(path)), open_file(Path(path)) as file:
        return spacing_of_frame(pydicom.dcmread(file, stop_before_pixels=True, force=True), frame or 0)
    raise AssertionError


def _color(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    if stored.shape[-1] != 3:
        kind = getattr(dataset, "PhotometricInterpretation", "unknown")
        raise ValueError(f"pictures of {stored.shape[-1]} samples a pixel ({kind}) are not supported")
    # Decoders give RGB whatever the file stores.
    return _eight_bits(stored, int(getattr(dataset, "BitsStored", 8)))


def _eight_bits(color: np.ndarray, bits: int) -> np.ndarray:
    return (color >> max(0, bits - 8)).astype(np.uint8)


def _shown(stored: np.ndarray, dataset: Dataset, frame: int) -> np.ndarray:
    from pydicom.pixels.processing import apply_color_lut

    interpretation = str(getattr(dataset, "PhotometricInterpretation", "MONOCHROME2"))
    if interpretation == "PALETTE COLOR":
        color = apply_color_lut(stored, dataset)
        return _eight_bits(color[..., :3], 8 * color.dtype.itemsize)
    bits = int(getattr(dataset, "BitsStored", 8) or 8)
    values = _of_modality(stored, _functional(dataset, frame, "PixelValueTransformationSequence"), dataset)
    share = _through_window(values, _functional(dataset, frame, "FrameVOILUTSequence"))
    inverted = interpretation == "MONOCHROME1"
    if share is None and bits <= 8 and stored.dtype == np.uint8 and values.dtype.kind in "iu":
        gray = stored * np.uint8(255) if bits == 1 else stored
        return np.uint8(2 ** max(bits, 2) - 1 if 1 < bits < 8 else 255) - gray if inverted else gray
    if share is None:
        share = _stretched(values, getattr(dataset, "PixelPaddingValue", None))
    most = 255 if bits <= 8 else 65535
    return np.rint((1 - share if inverted else share) * most).astype(np.uint8 if bits <= 8 else np.uint16)


def _of_modality(stored: np.ndarray, place: Dataset, dataset: Dataset) -> np.ndarray:
    """Turn stored values into those of the modality, by its table or by slope and intercept."""
    if table := getattr(dataset, "ModalityLUTSequence", None):
        return _looked_up(stored, table[0])[0]
    slope, intercept = _first(getattr(place, "RescaleSlope", None)), _first(getattr(place, "RescaleIntercept", None))
    if slope in (None, 1.0) and intercept in (None, 0.0):
        return stored
    return stored * (1.0 if slope is None else slope) + (intercept or 0.0)


def _looked_up(values: np.ndarray, table: Dataset) -> tuple[np.ndarray, int]:
    """Look values up in a table of the modality or of the window; those beyond its ends take the ends.

    Returns:
        What the table holds for them, and the bits of its entries.
    """
    count, first, bits = (int(v) for v in table.LUTDescriptor)
    data = table.LUTData
    if isinstance(data, bytes):
        entries = np.frombuffer(data, "<u2" if len(data) >= 2 * (count or 65536) else "u1")
    else:
        entries = np.atleast_1d(np.asarray(data))
    places = np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)
    return entries[places].astype(np.int64), bits


def _functional(dataset: Dataset, frame: int, name: str) -> Dataset:
    """Find a functional group of a frame, or the dataset itself where it has none."""
    return functional_group(dataset, frame, name) or dataset


def _stretched(values: np.ndarray, padding: float | None) -> np.ndarray:
    """Spread gray values from 0 to 1, what only fills the frame left aside."""
    if not np.isfinite(values).all():
        raise ValueError("its pixels are not all numbers")
    inside = values if padding is None else values[values != padding]
    low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
    return np.clip((values.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)


def _through_window(values: np.ndarray, place: Dataset) -> np.ndarray | None:
    """Apply the first VOI LUT or window: 0 is black, 1 white. None where there is none that can be applied.

    Source: DICOM PS3.3, C.11.2.
    """
    if table := getattr(place, "VOILUTSequence", None):
        found, bits = _looked_up(values, table[0])
        return np.clip(found / float(2**bits - 1), 0, 1)
    center, width = (_first(getattr(place, name, None)) for name in ("WindowCenter", "WindowWidth"))
    function = str(getattr(place, "VOILUTFunction", "") or "LINEAR")
    if center is None or width is None or width < (1 if function == "LINEAR" else 1e-9):
        return None
    values = values.astype(np.float64)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    return np.clip((values - center + 0.5) / max(width - 1, 1e-9) + 0.5, 0, 1)


def _first(value: Sequence[float] | float | str | None) -> float | None:
    if value is None or value == "":
        return None
    return float(value if isinstance(value, int | float | str) else value[0])


def spacing_of_frame(dataset: Dataset, frame: int = 0) -> tuple[float, float] | None:
    """Return the distance of rows and columns in mm: in the patient, at the detector, or in an ultrasound's region."""
    measures = _functional(dataset, frame, "PixelMeasuresSequence")
    named = (
        (measures, "PixelSpacing"),
        *((dataset, name) for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")),
    )
    for place, name in named:
        found = getattr(place, name, None)
        if found is not None and not isinstance(found, str) and len(found) == 2 and min(map(float, found)) > 0:
            return float(found[0]), float(found[1])
    regions = [one for one in getattr(dataset, "SequenceOfUltrasoundRegions", None) or () if _is_tissue(one)]
    if not regions:
        return None
    largest = max(regions, key=_area)
    down, across = (abs(float(getattr(largest, name))) * 10 for name in ("PhysicalDeltaY", "PhysicalDeltaX"))
    return (down, across) if min(down, across) > 0 else None


def _is_tissue(region: Dataset) -> bool:
    units = (getattr(region, f"PhysicalUnits{axis}Direction", None) for axis in "XY")
    delta = all(getattr(region, f"PhysicalDelta{axis}", None) for axis in "XY")
    return delta and set(units) == {_CENTIMETERS} and getattr(region, "RegionSpatialFormat", _TISSUE) == _TISSUE


def _area(region: Dataset) -> int:
    ends = (int(getattr(region, f"RegionLocation{name}", 0)) for name in ("MinX0", "MaxX1", "MinY0", "MaxY1"))
    left, right, top, bottom = ends
    return max(0, right - left) * max(0, bottom - top)
