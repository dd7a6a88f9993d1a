"""DICOM series: found once, with one look at the header of each file; what is no image of the series is told."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kanscan.data.case import Series
from kanscan.data.dicom.archive import is_archive, members, open_file
from kanscan.data.optional_imports import pydicom_module
from kanscan.registry import unknown

if TYPE_CHECKING:
    from pydicom import Dataset

#: What is read of every file to sort it into its series.
_TAGS = (
    *("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "SOPClassUID", "SOPInstanceUID"),
    *("Rows", "Columns", "NumberOfFrames", "ImageType", "SpecificCharacterSet"),
    *("SamplesPerPixel", "BitsStored", "PhotometricInterpretation", "ImagePositionPatient"),
    *("ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence", "SegmentSequence", "StructureSetROISequence"),
)
DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
#: Where a file may keep its pixels.
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
#: SOP classes that are no images to predict though some hold pixels: how they begin, and what they are.
_NO_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation (SEG)",
    "1.2.840.10008.5.1.4.1.1.66.5": "surface segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "label map (SEG)",
    "1.2.840.10008.5.1.4.1.1.481.2": "dose (RTDOSE)",
    "1.2.840.10008.5.1.4.1.1.481.3": "structure set (RTSTRUCT)",
    "1.2.840.10008.5.1.4.1.1.481.5": "plan (RTPLAN)",
    "1.2.840.10008.5.1.4.1.1.88.": "report (SR)",
    "1.2.840.10008.5.1.4.1.1.11.": "presentation state (PR)",
    "1.2.840.10008.5.1.4.1.1.104.": "document",
    "1.2.840.10008.5.1.4.1.1.66": "registration or raw data",
    "1.2.840.10008.1.3.10": "directory (DICOMDIR)",
}
#: Those of them that hold label maps.
SEGMENTATIONS = ("segmentation (SEG)", "label map (SEG)")


@dataclass(frozen=True)
class Header:
    """What the header of a file says, by which it is sorted.

    Attributes:
        path: The file.
        series_uid: SeriesInstanceUID, or "".
        instance_uid: SOPInstanceUID, or "".
        number: SeriesNumber, or None.
        description: SeriesDescription, or "".
        modality: Modality, or "".
        kind: What the file is where it is no image ("segmentation (SEG)"), else "".
        rows: Of each frame; 0 where there are no pixels.
        columns: Likewise.
        frames: NumberOfFrames, 1 where there is none.
        is_color: Its pixels are colors, or numbers of colors.
        bits: Stored of each sample.
        is_placed: It says where in the patient it lies: a slice, no picture.
        is_localizer: The scanner calls it a localizer.
        segments: Of a segmentation or structure set: the names of what it marks.
        refers_to: The same: SeriesInstanceUID of the images it was drawn on.
    """

    path: Path
    series_uid: str = ""
    instance_uid: str = ""
    number: int | None = None
    description: str = ""
    modality: str = ""
    kind: str = ""
    rows: int = 0
    columns: int = 0
    frames: int = 1
    is_color: bool = False
    bits: int = 8
    is_placed: bool = False
    is_localizer: bool = False
    segments: tuple[str, ...] = ()
    refers_to: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What lies in a place.

    Attributes:
        series: Of images, sorted by number, then UID.
        labels: Segmentations and structure sets.
        notes: What was left out, one sentence each.
    """

    series: tuple[Series, ...]
    labels: tuple[Header, ...]
    notes: tuple[str, ...]


def is_dicom_file(path: Path) -> bool:
    """Tell by its first bytes whether a file is DICOM, also without the preamble that the standard asks for."""
    try:
        return _begins_like_dicom(path)
    except OSError:
        return False


def _begins_like_dicom(path: Path) -> bool:
    with open_file(path) as file:
        start = file.read(132)
    return start[128:] == b"DICM" or _begins_with_element(start)


def is_named_like_dicom(path: Path) -> bool:
    """Tell by name, and where that says nothing by its first bytes, whether a file is DICOM."""
    suffix = path.suffix.lower()
    if suffix in DICOM_SUFFIXES:
        return True
    # Scanners leave endings out, or write a UID whose last number looks like one.
    bare = not suffix or suffix[1:].isdecimal()
    return bare and path.name.upper() != "DICOMDIR" and is_dicom_file(path)


def _begins_with_element(start: bytes) -> bool:
    """Older archives leave out the preamble: the first element of group 0002 or 0008 comes at once."""
    if len(start) < 132:
        return False
    for order in ("<", ">"):
        group, element, length = struct.unpack(f"{order}HHI", start[:8])
        explicit = start[4:6].isalpha() and start[4:6].isupper()
        if group in (0x0002, 0x0008) and element < 0x0100 and (explicit or length < 1024):
            return True
    return False


def read_header(path: Path) -> Header | None:
    """Read what sorts a file; None where it is no DICOM. That it cannot be read is its kind, so that it is told."""
    pydicom = pydicom_module()
    try:
        if not _begins_like_dicom(path):
            return None
        with open_file(path) as file:
            head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
        return _header(path, head)
    except Exception:  # pydicom raises many kinds on damaged files
        return Header(path, kind="file that cannot be read")


def _header(path: Path, head: Dataset) -> Header:
    def text(name: str) -> str:
        return str(getattr(head, name, None) or "").strip()

    rows, columns = (int(getattr(head, name, None) or 0) for name in ("Rows", "Columns"))
    image_type = getattr(head, "ImageType", None) or ()
    number, frames = text("SeriesNumber"), int(text("NumberOfFrames") or 1)
    return Header(
        path,
        text("SeriesInstanceUID"),
        text("SOPInstanceUID"),
        int(number) if number.isdecimal() else None,
        text("SeriesDescription"),
        text("Modality"),
        kind_of(head) or ("" if rows and columns else "object without an image"),
        rows,
        columns,
        frames,
        int(text("SamplesPerPixel") or 1) > 1 or text("PhotometricInterpretation") == "PALETTE COLOR",
        int(text("BitsStored") or 8),
        bool(getattr(head, "ImagePositionPatient", None)),
        "LOCALIZER" in ([image_type] if isinstance(image_type, str) else [str(part) for part in image_type]),
        segment_names(head),
        tuple(dict.fromkeys(_references(head))),
    )


def segment_names(dataset: Dataset) -> tuple[str, ...]:
    """List the names of a file's segments (SEG) or regions of interest (RTSTRUCT), in their order."""
    segments = getattr(dataset, "SegmentSequence", None)
    if segments is not None:
        return tuple(str(getattr(one, "SegmentLabel", "")) or f"segment {one.SegmentNumber}" for one in segments)
    regions = getattr(dataset, "StructureSetROISequence", None) or ()
    return tuple(str(getattr(one, "ROIName", "")) or f"region {one.ROINumber}" for one in regions)


def _references(head: Dataset) -> Iterator[str]:
    for series in getattr(head, "ReferencedSeriesSequence", None) or ():
        yield str(getattr(series, "SeriesInstanceUID", ""))
    for frame in getattr(head, "ReferencedFrameOfReferenceSequence", None) or ():
        for study in getattr(frame, "RTReferencedStudySequence", None) or ():
            for series in getattr(study, "RTReferencedSeriesSequence", None) or ():
                yield str(getattr(series, "SeriesInstanceUID", ""))


def kind_of(dataset: Dataset) -> str:
    """Say what a file is where its SOP class is no image to look at, else ""."""
    meta = getattr(dataset, "file_meta", None)
    sop_class = str(getattr(dataset, "SOPClassUID", "") or getattr(meta, "MediaStorageSOPClassUID", ""))
    return next((what for start, what in _NO_IMAGES.items() if sop_class == start or _under(sop_class, start)), "")


def _under(sop_class: str, start: str) -> bool:
    return start.endswith(".") and sop_class.startswith(start)


def find_series(path: str | Path, *, deep: bool = False) -> Found:
    """Find the series of images in a folder (not below it), or of one file; the header of each file is read once.

    Args:
        path: A folder, a ZIP archive or a file.
        deep: Look into the folders below it too, as a DICOMDIR does: its series lie across folders.
    """
    path = Path(path)
    headers = [head for head in map(read_header, _files(path, deep)) if head is not None]
    images = [head for head in headers if not head.kind]
    notes = _told(path, Counter(head.kind for head in headers if head.kind))
    if any(not head.is_localizer for head in images):
        scouts = sum(head.is_localizer for head in images)
        notes += _told(path, Counter({"localizer": scouts}))
        images = [head for head in images if not head.is_localizer]
    members: dict[str, list[Header]] = {}
    for head in images:
        members.setdefault(head.series_uid, []).append(head)
    found = [_series(path, heads) for heads in members.values()]
    found.sort(key=lambda one: (one.number is None, one.number or 0, one.uid))
    notes += [note for one in found for note in one.notes]
    return Found(tuple(found), tuple(head for head in headers if head.kind and head.segments), tuple(notes))


def _told(path: Path, kinds: Counter[str]) -> list[str]:
    parts = [f"{count} {kind}{' files' * (count > 1)}" for kind, count in sorted(kinds.items()) if count]
    return [f"{path}: left out what is no image of a volume: {', '.join(parts)}"] if parts else []


def _files(path: Path, deep: bool) -> Iterable[Path]:
    if is_archive(path):
        return [p for p in members(path) if _may_be_dicom(p)]
    if path.is_file():
        return [path]
    inside = path.rglob("*") if deep else path.iterdir()
    return sorted(p for p in inside if _may_be_dicom(p) and p.is_file())


def _may_be_dicom(path: Path) -> bool:
    # Scanners write names without an ending, or with a UID whose last number looks like one.
    others = (".nii", ".gz", ".png", ".jpg", ".jpeg", ".json", ".csv", ".txt", ".xml", ".pdf", ".zip", ".md")
    return not path.name.startswith(".") and path.suffix.lower() not in others and path.name.upper() != "DICOMDIR"


def _series(path: Path, heads: Sequence[Header]) -> Series:
    first = heads[0]
    kept, copies = _without_copies(heads)
    notes = (f"{path}: {copies} file{'s' * (copies > 1)} repeated byte by byte, taken once",) if copies else ()
    return Series(
        first.series_uid,
        first.number,
        first.description,
        first.modality or "unknown modality",
        tuple(head.path for head in kept),
        path,
        sum(head.rows * head.columns * head.frames for head in kept),
        notes,
    )


def _without_copies(heads: Sequence[Header]) -> tuple[list[Header], int]:
    """Drop files that are byte for byte another of the same instance; only instances met twice are compared."""
    repeated = Counter(head.instance_uid for head in heads)
    kept: list[Header] = []
    seen: set[tuple[str, bytes]] = set()
    for head in heads:
        if repeated[head.instance_uid] > 1:
            key = head.instance_uid, _digest(head.path)
            if key in seen:
                continue
            seen.add(key)
        kept.append(head)
    return kept, len(heads) - len(kept)


def _digest(path: Path) -> bytes:
    with open_file(path) as file:
        return hashlib.blake2b(file.read()).digest()


def choose_series(path: str | Path, wanted: str | None = None) -> Series:
    """Find the series of a folder and choose one.

    Args:
        path: The folder, or a file.
        wanted: Its UID, number or description; None: the only one there is.

    Raises:
        ValueError: There is none, there are several and none was chosen, or none is called so.
    """
    found = find_series(path)
    series = found.series
    if not series:
        raise ValueError("; ".join([f"no DICOM image in {path}", *found.notes]))
    if wanted is not None:
        matching = tuple(one for one in series if one.is_called(wanted))
        if not matching:
            raise ValueError(f"{path}: {unknown('series', wanted, [str(one.number) for one in series])}")
        if len(matching) > 1:
            raise ValueError(f"{len(matching)} series of {path} are called {wanted!r}; choose one by its UID")
        series = matching
    if len(series) > 1:
        names = "; ".join(one.name for one in series)
        raise ValueError(f"{path} holds {len(series)} series: {names}; choose one with --series NUMBER")
    return replace(series[0], notes=found.notes)


def series_names(series: Sequence[Series], place: str) -> list[str]:
    """Name the cases that the series of one folder become: by number where there are several, by UID where that fails.

    Args:
        series: All of the folder.
        place: The folder's own name.
    """
    if len(series) == 1:
        return [place]
    numbers = Counter(one.number for one in series)
    length = _telling([one.uid for one in series])
    named = []
    for one in series:
        parts = [place] if one.number is None else [place, str(one.number)]
        if one.number is None or numbers[one.number] > 1:
            parts.append(one.uid[-length:].replace(".", "-") or "unnamed")
        named.append("_".join(parts))
    return named


def _telling(uids: Sequence[str]) -> int:
    """Count the last characters that tell UIDs from one another."""
    return next((n for n in (6, 12, 24) if len({one[-n:] for one in uids}) == len(uids)), 64)
