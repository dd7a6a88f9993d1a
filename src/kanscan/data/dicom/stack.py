"""The slices of a DICOM series become one array: in the order of their place in the patient, rescaled as they say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kanscan.data.case import Series
from kanscan.data.dicom.archive import open_file
from kanscan.data.dicom.series import PIXELS
from kanscan.data.limits import check_voxels
from kanscan.data.optional_imports import pydicom_module
from kanscan.data.readable import readable
from kanscan.data.volume import Instance, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

#: Slices are evenly spaced where no gap differs from the usual one by more than this share.
_EVEN = 0.05
#: Direction cosines of one stack agree this well.
_PARALLEL = 1e-3


def read_series(series: Series) -> Volume:
    """Read a series as a volume; each file is read once, and gives up its pixels before the next one is read.

    Args:
        series: As `find_series` gives it.

    Returns:
        `(columns, rows, slices)`, int16/int32 where the rescaling keeps whole numbers and float32 otherwise, with the
        affine to millimeters (right, front, head) and the instances as `source`.

    Raises:
        ValueError: The slices do not form one evenly spaced stack, or a file cannot be decoded.
    """
    where = str(series.folder)
    check_voxels(where, [series.voxels])
    slices: list[Slice] = []
    stored: np.ndarray | None = None
    for file in series.files:
        dataset = read_dataset(file)
        frames = frames_of(dataset)
        for one in frames:
            _check_alike((slices or frames)[0], one, where)
        for place, plane in enumerate(_planes(dataset, file, frames), start=len(slices)):
            stored = _stored(stored, plane, place, series.voxels // plane.size)
        slices += frames
    if stored is None or len(stored) != len(slices):
        raise ValueError(f"{where} holds {len(slices)} slices, its headers promise another number")
    order = sorted(range(len(slices)), key=lambda k: slices[k].height)
    slices = [slices[k] for k in order]
    _check_gaps(slices, where)
    _reorder(stored, order)
    with readable(Path(where)):  # elements are understood when they are asked for
        scales = [one.rescale for one in slices]
    array = _rescaled(stored, scales).transpose(2, 1, 0)
    source = tuple(Instance(one.dataset, one.frame) for one in slices)
    return Volume(array, _affine(slices), None, where, source, (*series.notes, *_tilt(slices, where)))


def read_dataset(file: Path) -> Dataset:
    """Read a file completely; one without preamble and meta says by its encoding how it was written.

    Raises:
        ValueError: It is damaged.
    """
    pydicom = pydicom_module()
    with readable(file):
        with open_file(file) as content:
            dataset = pydicom.dcmread(content, force=True)
        dataset.filename = str(file)
        if "TransferSyntaxUID" not in dataset.file_meta:
            implicit, little = dataset.original_encoding
            dataset.file_meta.TransferSyntaxUID = (
                pydicom.uid.ImplicitVRLittleEndian
                if implicit
                else pydicom.uid.ExplicitVRLittleEndian
                if little
                else pydicom.uid.ExplicitVRBigEndian
            )
    return dataset


@dataclass
class Slice:
    """One slice: a file, or a frame of a multi-frame file.

    Attributes:
        dataset: The file's content.
        frame: Frame of a multi-frame file, from 0; None for single-frame files.
        position: ImagePositionPatient in millimeters (left, back, head).
        orientation: ImageOrientationPatient as `(2, 3)`: direction of rows, direction of columns.
        spacing: (row distance, column distance) in millimeters.
        thickness: Slice thickness or distance as stored, 1 where it is not.
    """

    dataset: Dataset
    frame: int | None
    position: np.ndarray
    orientation: np.ndarray
    spacing: tuple[float, float]
    thickness: float

    @property
    def file(self) -> str:
        """The file's path, for sentences."""
        return str(getattr(self.dataset, "filename", "the file"))

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.dataset.Rows), int(self.dataset.Columns)

    @property
    def height(self) -> float:
        """Place along the normal of the slice, in millimeters."""
        return float(self.position @ np.cross(self.orientation[0], self.orientation[1]))

    @property
    def affine(self) -> np.ndarray:
        """`(4, 4)`: (column, row, slice) to millimeters (right, front, head); the step across is the normal."""
        across = np.cross(self.orientation[0], self.orientation[1])
        return _placed(self, across * self.thickness)

    @property
    def rescale(self) -> tuple[float, float]:
        """Slope and intercept from stored values to the modality's."""
        place = functional_group(self.dataset, self.frame, "PixelValueTransformationSequence") or self.dataset
        slope, intercept = getattr(place, "RescaleSlope", None), getattr(place, "RescaleIntercept", None)
        return (1.0 if slope in (None, "") else float(slope)), (0.0 if intercept in (None, "") else float(intercept))


def functional_group(dataset: Dataset, frame: int | None, name: str) -> Dataset | None:
    """Find a functional group of a frame, its own or the one all frames share; None where there is none."""
    if frame is None:
        return None
    own = getattr(dataset, "PerFrameFunctionalGroupsSequence", None)
    shared = getattr(dataset, "SharedFunctionalGroupsSequence", None)
    for group in (own[frame] if own else None, shared[0] if shared else None):
        content = getattr(group, name, None) if group is not None else None
        if content:
            return content[0]
    return None


def frames_of(dataset: Dataset) -> list[Slice]:
    """List the frames of a file with their places, in the file's order.

    Raises:
        ValueError: A frame does not say where it lies, or is a color picture.
    """
    file = Path(str(getattr(dataset, "filename", "the file")))
    with readable(file):
        frames = int(getattr(dataset, "NumberOfFrames", 1) or 1)
        numbers: list[int | None] = list(range(frames)) if "NumberOfFrames" in dataset else [None]
        return [_slice(dataset, number, file) for number in numbers]
    raise AssertionError


def _slice(dataset: Dataset, frame: int | None, file: Path) -> Slice:
    def value(sequence: str, name: str) -> Any:
        place = functional_group(dataset, frame, sequence)
        found = getattr(place, name, None) if place is not None else None
        return getattr(dataset, name, None) if found in (None, "") else found

    position = value("PlanePositionSequence", "ImagePositionPatient")
    orientation = value("PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = value("PixelMeasuresSequence", "PixelSpacing")
    missing = [
        name
        for name, found, count in (
            ("ImagePositionPatient", position, 3),
            ("ImageOrientationPatient", orientation, 6),
            ("PixelSpacing", spacing, 2),
        )
        if found is None or isinstance(found, str) or len(found) != count
    ]
    if missing:
        raise ValueError(f"{file} does not say where it lies in the patient (no {', '.join(missing)})")
    if int(getattr(dataset, "SamplesPerPixel", 1) or 1) != 1:
        raise ValueError(f"{file} is a color picture; expected gray slices")
    between, thick = (value("PixelMeasuresSequence", n) for n in ("SpacingBetweenSlices", "SliceThickness"))
    return Slice(
        dataset,
        frame,
        np.array(position, dtype=float),
        np.array(orientation, dtype=float).reshape(2, 3),
        (float(spacing[0]), float(spacing[1])),
        abs(float(between or thick or 1)) or 1.0,
    )


def _check_alike(first: Slice, one: Slice, where: str) -> None:
    if one.size != first.size:
        raise ValueError(
            f"{where} mixes slices of {first.size[1]} x {first.size[0]} and {one.size[1]} x {one.size[0]} pixels "
            f"({first.file}, {one.file}); expected one stack"
        )
    if np.abs(one.orientation - first.orientation).max() > _PARALLEL:
        raise ValueError(
            f"{where} mixes slices of different directions ({first.file}, {one.file}), as a scout or a reformat does; "
            "expected one stack"
        )
    if not np.allclose(one.spacing, first.spacing, rtol=1e-3):
        raise ValueError(f"{where} mixes pixel spacings {first.spacing} and {one.spacing} mm; expected one stack")


def _check_gaps(slices: Sequence[Slice], where: str) -> None:
    if len(slices) < 2:
        return
    heights = np.array([one.height for one in slices])
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    twice = np.flatnonzero(gaps < 1e-3)
    if len(twice):
        one, other = slices[twice[0]], slices[twice[0] + 1]
        raise ValueError(
            f"{where} has {len(twice)} places taken twice, first by {one.file} and {other.file}: several echoes, times "
            "or copies in one series; leave one of them"
        )
    wide = np.flatnonzero(np.abs(gaps - usual) > _EVEN * usual)
    if len(wide):
        k = int(wide[0])
        about = round(gaps[k] / usual) - 1
        missing = f"{about} slice{'s' * (about > 1)} missing" if about >= 1 else "slices are unevenly spaced"
        raise ValueError(
            f"{where}: {missing} between {slices[k].file} and {slices[k + 1].file} ({gaps[k]:.3g} mm apart, the others "
            f"{usual:.3g} mm); expected one evenly spaced stack"
        )


def _affine(slices: Sequence[Slice]) -> np.ndarray:
    first, last = slices[0], slices[-1]
    # A tilted gantry shifts each slice sideways: the step is measured, not taken along the normal.
    return _placed(first, (last.position - first.position) / (len(slices) - 1)) if len(slices) > 1 else first.affine


def _placed(one: Slice, step: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 0] = one.orientation[0] * one.spacing[1]
    affine[:3, 1] = one.orientation[1] * one.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = one.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _tilt(slices: Sequence[Slice], where: str) -> tuple[str, ...]:
    step = slices[-1].position - slices[0].position
    length = float(np.linalg.norm(step))
    if not length:
        return ()
    along = abs(slices[-1].height - slices[0].height) / length
    degrees = float(np.degrees(np.arccos(min(along, 1.0))))
    text = f"{where}: the gantry is tilted by {degrees:.1f} degrees; label maps keep the shear in their sform alone"
    return (text,) if degrees > 0.1 else ()


def _planes(dataset: Dataset, file: Path, frames: Sequence[Slice]) -> Iterator[np.ndarray]:
    """Decode the frames of a file, which has no pixels any more afterwards."""
    rows, columns = frames[0].size
    found = 0
    with decodable(file):
        for plane in decoded_frames(dataset, len(frames)):
            if plane.shape != (rows, columns):
                raise ValueError(f"its pixels are no gray slice of {columns} x {rows}")
            yield plane
            found += 1
        if found != len(frames):
            raise ValueError(f"it holds {found} of its {len(frames)} frames")
    for name in PIXELS:
        if name in dataset:
            delattr(dataset, name)


def decoded_frames(dataset: Dataset, count: int) -> Iterable[np.ndarray]:
    """Decode a file frame by frame; many compressed ones at once: finding each would take a walk through all.

    Frames of single bits are decoded at once too, since they need not begin with a byte.
    """
    packed = int(getattr(dataset, "BitsAllocated", 8)) == 1
    if count > 1 and (packed or dataset.file_meta.TransferSyntaxUID.is_encapsulated):
        return decode(dataset, None)
    return (decode(dataset, k) for k in range(count))


def decode(dataset: Any, frame: int | None) -> np.ndarray:
    """Decode a frame, or all of them, with the first decoder that can.

    GDCM ends the whole process on some damaged streams, where all others raise: it is asked only where there is no
    other, for lossless JPEG.
    """
    from pydicom.pixels import get_decoder, pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return pixel_array(dataset, index=frame)
    known = get_decoder(syntax).available_plugins
    plugins = [name for name in known if name != "gdcm"] or [""]
    for plugin in plugins[:-1]:
        try:
            return pixel_array(dataset, index=frame, decoding_plugin=plugin)
        except Exception:  # the next one may know more
            continue
    return pixel_array(dataset, index=frame, decoding_plugin=plugins[-1])


@contextmanager
def decodable(file: Path) -> Iterator[None]:
    """Turn whatever a decoder throws, what is no `Exception` included, into one sentence that names the file."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # decoders in other languages panic with what is no Exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot decode {file}: {reason}") from None


def _stored(stored: np.ndarray | None, plane: np.ndarray, place: int, count: int) -> np.ndarray:
    """Put a plane in its place of the array of stored values, which is made with the first."""
    if stored is None:
        stored = np.empty((count, *plane.shape), plane.dtype)
    if not np.can_cast(plane.dtype, stored.dtype, "safe"):
        stored = stored.astype(np.promote_types(plane.dtype, stored.dtype))
    if place < len(stored):
        stored[place] = plane
    return stored


def _reorder(planes: np.ndarray, order: Sequence[int]) -> None:
    """Bring planes into an order in place, one cycle after the other: a copy of all would double the memory."""
    done = [False] * len(order)
    for start in range(len(order)):
        if done[start] or order[start] == start:
            continue
        kept, place = planes[start].copy(), start
        while order[place] != start:
            planes[place] = planes[order[place]]
            done[place] = True
            place = order[place]
        planes[place] = kept
        done[place] = True


def _rescaled(stored: np.ndarray, scales: Sequence[tuple[float, float]]) -> np.ndarray:
    """Apply slope and intercept slice by slice, in place wherever the result takes no more room than the stored."""
    whole = stored.dtype.kind in "iu" and all(s.is_integer() and i.is_integer() for s, i in scales)
    wanted: np.dtype[Any] = np.dtype(np.float32)
    if whole:
        pairs = zip(stored, scales, strict=True)
        ends = [s * float(end) + i for plane, (s, i) in pairs for end in (plane.min(), plane.max())]
        wanted = np.dtype(np.int16 if min(ends) >= -32768 and max(ends) <= 32767 else np.int32)
    out = stored.view(wanted) if stored.dtype.itemsize == wanted.itemsize else np.empty(stored.shape, wanted)
    work = np.int64 if whole else np.float64
    for place, (slope, intercept) in enumerate(scales):
        plane = stored[place]
        if (slope, intercept) != (1.0, 0.0):
            plane = plane.astype(work) * work(slope) + work(intercept)
        out[place] = plane
    return out
