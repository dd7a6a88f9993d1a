"""DICOM series: slices in the order of their place in the patient, rescaled; what is no stack is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanscan.data.lazy import pydicom_module
from kanscan.registry import unknown

#: What is read of every file to sort it.
_TAGS = (
    *("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "SOPClassUID", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "NumberOfFrames"),
)
#: Slices are evenly spaced where no gap differs from the usual one by more than this share.
_EVEN = 0.05
#: Direction cosines of one stack agree this well.
_PARALLEL = 1e-3


@dataclass(frozen=True)
class Series:
    """The files of one series.

    Attributes:
        uid: SeriesInstanceUID.
        number: SeriesNumber, or None.
        description: SeriesDescription, or "".
        modality: "MR", "CT" ...
        files: Its image files, sorted by name.
    """

    uid: str
    number: int | None
    description: str
    modality: str
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """How the series is named in sentences."""
        number = "without number" if self.number is None else str(self.number)
        plural = "s" * (len(self.files) != 1)
        return f"{number} {self.description!r} ({self.modality}, {len(self.files)} file{plural})"


def find_series(path: str | Path) -> list[Series]:
    """List the series of images in a folder (not below it), or of one file; other files are passed over.

    Args:
        path: A folder or a file.

    Returns:
        Series sorted by number, then UID; none where there is no DICOM image.
    """
    pydicom = pydicom_module()
    path = Path(path)
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file() and _may_be_dicom(p))
    members: dict[str, list[Path]] = {}
    heads: dict[str, Any] = {}
    for file in files:
        try:
            head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
        except Exception:  # pydicom raises many kinds on what is no DICOM
            continue
        if not getattr(head, "Rows", None):
            continue  # a DICOMDIR, a report, a structure set
        uid = str(getattr(head, "SeriesInstanceUID", ""))
        members.setdefault(uid, []).append(file)
        heads.setdefault(uid, head)
    found = [_series(uid, heads[uid], paths) for uid, paths in members.items()]
    return sorted(found, key=lambda one: (one.number is None, one.number or 0, one.uid))


def _may_be_dicom(path: Path) -> bool:
    # Scanners write names without an ending, or with a UID whose last number looks like one.
    others = (".nii", ".gz", ".png", ".jpg", ".jpeg", ".json", ".csv", ".txt", ".xml", ".pdf", ".zip", ".md")
    return not path.name.startswith(".") and path.suffix.lower() not in others and path.name.upper() != "DICOMDIR"


def _series(uid: str, head: Any, files: Sequence[Path]) -> Series:
    number = str(getattr(head, "SeriesNumber", "") or "").strip()
    return Series(
        uid,
        int(number) if number.isdecimal() else None,
        str(getattr(head, "SeriesDescription", "") or ""),
        str(getattr(head, "Modality", "") or "unknown modality"),
        tuple(files),
    )


def choose_series(path: str | Path, wanted: str | None = None) -> Series:
    """Choose one series of a folder.

    Args:
        path: The folder, or a file.
        wanted: Its UID, number or description; None: the only one there is.

    Raises:
        ValueError: There is none, there are several and none was chosen, or none is called so.
    """
    series = find_series(path)
    if not series:
        raise ValueError(f"no DICOM image in {path}")
    if wanted is None:
        if len(series) > 1:
            names = "; ".join(one.name for one in series)
            raise ValueError(f"{path} holds {len(series)} series: {names}; choose one with --series NUMBER")
        return series[0]
    matching = [one for one in series if wanted in (one.uid, str(one.number), one.description)]
    if len(matching) > 1:
        raise ValueError(f"{len(matching)} series of {path} are called {wanted!r}; choose one by its UID")
    if not matching:
        raise ValueError(f"{path}: {unknown('series', wanted, [str(one.number) for one in series])}")
    return matching[0]


def read_dicom(path: str | Path, series: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read a series as a volume.

    Args:
        path: Folder of slices, or one (multi-frame) file.
        series: As in `choose_series`.

    Returns:
        `(columns, rows, slices)` array, int16/int32 where the rescaling keeps whole numbers and float32 otherwise, and
        the affine to millimeters (right, front, head).

    Raises:
        ValueError: The slices do not form one evenly spaced stack, or a file cannot be decoded.
    """
    slices = sorted_slices(read_datasets(choose_series(path, series)), str(path))
    array = np.stack([one.pixels() for one in slices], axis=-1)
    return _integers_if_whole(array), _affine(slices)


def read_datasets(series: Series) -> list[Any]:
    """Read the files of a series completely.

    Raises:
        ValueError: A file is damaged.
    """
    pydicom = pydicom_module()
    found = []
    for file in series.files:
        try:
            found.append(pydicom.dcmread(file))
        except Exception as error:
            raise ValueError(f"cannot read {file}: {' '.join(str(error).split())}") from None
    return found


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

    dataset: Any
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

    def pixels(self) -> np.ndarray:
        """Decode and rescale: `(columns, rows)` float64."""
        try:
            stored = self.dataset.pixel_array
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"cannot decode {self.file}: {reason}") from None
        if int(getattr(self.dataset, "SamplesPerPixel", 1)) != 1:
            raise ValueError(f"{self.file} is a color picture; expected grey slices")
        plane = stored if self.frame is None or stored.ndim == 2 else stored[self.frame]
        slope, intercept = self._rescale()
        return plane.T.astype(np.float64) * slope + intercept

    def _rescale(self) -> tuple[float, float]:
        place = _functional(self.dataset, self.frame, "PixelValueTransformationSequence") or self.dataset
        slope, intercept = getattr(place, "RescaleSlope", None), getattr(place, "RescaleIntercept", None)
        return (1.0 if slope in (None, "") else float(slope)), (0.0 if intercept in (None, "") else float(intercept))


def _functional(dataset: Any, frame: int | None, name: str) -> Any:
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


def _slices_of(dataset: Any) -> list[Slice]:
    frames = int(getattr(dataset, "NumberOfFrames", 1) or 1)
    numbers: list[int | None] = list(range(frames)) if "NumberOfFrames" in dataset else [None]
    return [_slice(dataset, number) for number in numbers]


def _slice(dataset: Any, frame: int | None) -> Slice:
    def value(sequence: str, name: str) -> Any:
        place = _functional(dataset, frame, sequence)
        found = getattr(place, name, None) if place is not None else None
        return getattr(dataset, name, None) if found in (None, "") else found

    position = value("PlanePositionSequence", "ImagePositionPatient")
    orientation = value("PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = value("PixelMeasuresSequence", "PixelSpacing")
    missing = [
        name
        for name, found in (
            ("ImagePositionPatient", position),
            ("ImageOrientationPatient", orientation),
            ("PixelSpacing", spacing),
        )
        if found is None or len(found) == 0
    ]
    file = getattr(dataset, "filename", "the file")
    if missing:
        raise ValueError(f"{file} does not say where it lies in the patient (no {', '.join(missing)})")
    between, thick = (value("PixelMeasuresSequence", n) for n in ("SpacingBetweenSlices", "SliceThickness"))
    return Slice(
        dataset,
        frame,
        np.array(position, dtype=float),
        np.array(orientation, dtype=float).reshape(2, 3),
        (float(spacing[0]), float(spacing[1])),
        abs(float(between or thick or 1)) or 1.0,
    )


def sorted_slices(datasets: Sequence[Any], where: str) -> list[Slice]:
    """Sort slices by their place in the patient and see that they form one stack.

    Args:
        datasets: Files of one series, complete.
        where: The folder, for sentences.

    Raises:
        ValueError: Sizes, directions or pixel spacings are mixed, a place is taken twice, or slices are missing.
    """
    slices = sorted((one for dataset in datasets for one in _slices_of(dataset)), key=lambda one: one.height)
    first = slices[0]
    for one in slices[1:]:
        if one.size != first.size:
            raise ValueError(
                f"{where} mixes slices of {first.size[1]} x {first.size[0]} and {one.size[1]} x {one.size[0]} pixels "
                f"({first.file}, {one.file}); expected one stack"
            )
        if np.abs(one.orientation - first.orientation).max() > _PARALLEL:
            raise ValueError(
                f"{where} mixes slices of different directions ({first.file}, {one.file}), as a scout or a reformat "
                "does; expected one stack"
            )
        if not np.allclose(one.spacing, first.spacing, rtol=1e-3):
            raise ValueError(f"{where} mixes pixel spacings {first.spacing} and {one.spacing} mm; expected one stack")
    _check_gaps(slices, where)
    return slices


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
    normal = np.cross(first.orientation[0], first.orientation[1])
    # A tilted gantry shifts each slice sideways: the step is measured, not taken along the normal.
    step = (last.position - first.position) / (len(slices) - 1) if len(slices) > 1 else normal * first.thickness
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[0] * first.spacing[1]
    affine[:3, 1] = first.orientation[1] * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _integers_if_whole(array: np.ndarray) -> np.ndarray:
    whole = np.rint(array)
    if not np.array_equal(whole, array):
        return array.astype(np.float32)
    small = array.min() >= -32768 and array.max() <= 32767
    return whole.astype(np.int16 if small else np.int32)
