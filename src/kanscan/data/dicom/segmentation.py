"""Label maps as DICOM segmentations beside their source images, for PACS and viewers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kanscan.data.dicom.picture import check_picture
from kanscan.data.dicom.series import PIXELS
from kanscan.data.dicom.stack import read_dataset
from kanscan.data.volume import Volume
from kanscan.files import atomic

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom import Dataset
    from pydicom.sr.coding import Code


def write_segmentation(
    path: Path,
    volume: Volume,
    label: np.ndarray,
    class_names: Sequence[str],
    codes: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write a segment for each class that occurs, referring to the source images.

    Args:
        path: Ends in `.dcm`.
        volume: The image, read from DICOM.
        label: `(columns, rows, slices)` class indices in its grid.
        class_names: Background first.
        codes: Class name -> (value, scheme, meaning) where the label file says so; others are found by their names.

    Returns:
        The path.

    Raises:
        ValueError: highdicom is not installed, the volume is no DICOM, or the label has another size.
    """
    from pydicom.uid import generate_uid

    if volume.source is None:
        raise ValueError(f"{volume.path} is no DICOM; a DICOM segmentation refers to DICOM images")
    if label.shape != volume.shape:
        raise ValueError(f"the label has {label.shape} voxels, the series in {volume.path} {volume.shape}")
    planes = np.transpose(label, (2, 1, 0))
    sources = list({id(one.dataset): one.dataset for one in volume.source}.values())
    if volume.source[0].frame is not None:
        planes = planes[np.argsort([one.frame or 0 for one in volume.source])]
    _complete(sources)
    frame_of_reference = generate_uid()
    for source in sources:
        if not getattr(source, "FrameOfReferenceUID", None):
            source.FrameOfReferenceUID = frame_of_reference
    classes = _present(planes, len(class_names))
    made = _made(sources, planes, classes, class_names, codes or {}, omit_empty=bool(planes.any()))
    with atomic(path) as temporary:
        made.save_as(temporary)
    return path


def write_picture_segmentation(
    path: Path,
    source: Path,
    label: np.ndarray,
    class_names: Sequence[str],
    codes: Mapping[str, Sequence[str]] | None = None,
    frame: int | None = None,
) -> Path:
    """Write a segment for each class, found in a picture or in the frames of a clip, one item a frame.

    All classes are described, also those that do not occur: the number of a segment is that of its class everywhere.

    Args:
        path: Ends in `.dcm`.
        source: The DICOM picture.
        label: `(H, W)` class indices, or `(N, H, W)` of all N frames of a clip.
        class_names: Background first.
        codes: Class name -> (value, scheme, meaning) where the label file says so; others are found by their names.
        frame: Of a clip, the one that a single label belongs to, from 0.

    Returns:
        The path.

    Raises:
        ValueError: highdicom is not installed, the source is no picture, or the label has another size.
    """
    from pydicom.uid import SecondaryCaptureImageStorage

    dataset = read_dataset(source)
    rows, columns, count = check_picture(source, dataset)
    planes = label if label.ndim == 3 else label[None]
    numbers = list(range(count)) if label.ndim == 3 else [frame or 0]
    if planes.shape != (len(numbers), rows, columns) or numbers[-1] >= count:
        raise ValueError(f"the label has {label.shape} pixels, {source} {count} frames of {(rows, columns)}")
    _complete([dataset])
    for name in PIXELS:
        if name in dataset:
            delattr(dataset, name)
    sop_class = dataset.SOPClassUID
    if "NumberOfFrames" in dataset:
        # Of clips highdicom demands what only images with a place in the patient have: a frame is shown to it alone.
        del dataset.NumberOfFrames
        dataset.SOPClassUID = SecondaryCaptureImageStorage
    classes = list(range(1, len(class_names)))
    # Without a frame of reference a segmentation is made of one frame; those of a clip are put together.
    kept = [k for k in range(len(planes)) if planes[k].any()] or [0]
    parts = [
        _made([dataset], planes[k : k + 1], classes, class_names, codes or {}, omit_empty=bool(planes[k].any()))
        for k in kept
    ]
    for k, part in zip(kept, parts, strict=True):
        _refer(part, sop_class, numbers[k] + 1 if count > 1 else None)
    with atomic(path) as temporary:
        _joined(parts).save_as(temporary)
    return path


def _present(planes: np.ndarray, num_classes: int) -> list[int]:
    # An empty result is a result: its first class is written without any foreground.
    return [index for index in range(1, num_classes) if (planes == index).any()] or [1]


def _made(
    sources: Sequence[Dataset],
    planes: np.ndarray,
    classes: Sequence[int],
    class_names: Sequence[str],
    codes: Mapping[str, Sequence[str]],
    *,
    omit_empty: bool,
) -> Segmentation:
    try:
        import highdicom
    except ImportError:
        raise ValueError(
            "DICOM segmentations need highdicom; install it with: pip install 'kanscan[clinical]'"
        ) from None
    from pydicom.uid import generate_uid

    segments = np.zeros(planes.shape, np.uint8)
    for number, index in enumerate(classes, start=1):
        segments[planes == index] = number
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=segments,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(n, class_names[i], codes) for n, i in enumerate(classes, start=1)],
        series_instance_uid=generate_uid(),
        series_number=int(getattr(sources[0], "SeriesNumber", 0) or 0) + 1000,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="kanscan",
        manufacturer_model_name="kanscan",
        software_versions=version("kanscan"),
        device_serial_number="1",
        series_description="kanscan segmentation",
        omit_empty_frames=omit_empty,
    )


def _refer(made: Segmentation, sop_class: str, frame: int | None) -> None:
    """Say to what a segmentation refers: the source's own class, and the frame, counted from 1."""
    for element in made.iterall():
        if element.keyword == "ReferencedSOPClassUID":
            element.value = sop_class
    for item in made.PerFrameFunctionalGroupsSequence if frame is not None else ():
        for derivation in item.DerivationImageSequence:
            for source in derivation.SourceImageSequence:
                source.ReferencedFrameNumber = frame


def _joined(parts: Sequence[Segmentation]) -> Segmentation:
    """Put segmentations of single frames together to one of many; their segments are the same."""
    from pydicom.pixels import pixel_array
    from pydicom.pixels.utils import pack_bits

    made = parts[0]
    if len(parts) == 1:
        return made
    shape = (-1, int(made.Rows), int(made.Columns))
    frames = np.concatenate([pixel_array(part).reshape(shape) for part in parts])
    items = [item for part in parts for item in part.PerFrameFunctionalGroupsSequence]
    made.PerFrameFunctionalGroupsSequence = items
    made.NumberOfFrames = len(items)
    made.PixelData = pack_bits(frames)
    _index_frames(made)
    return made


def _index_frames(made: Segmentation) -> None:
    """Count the frames of the clip as a dimension, beside the segments."""
    from pydicom.dataset import Dataset
    from pydicom.tag import Tag

    one = Dataset()
    one.DimensionIndexPointer, one.FunctionalGroupPointer = Tag("TemporalPositionIndex"), Tag("FrameContentSequence")
    one.DimensionOrganizationUID = made.DimensionOrganizationSequence[0].DimensionOrganizationUID
    one.DimensionDescriptionLabel = "Frame of the clip"
    made.DimensionIndexSequence.append(one)
    for item in made.PerFrameFunctionalGroupsSequence:
        number = int(item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        content = item.FrameContentSequence[0]
        content.TemporalPositionIndex = number
        known = content.DimensionIndexValues
        content.DimensionIndexValues = [*([known] if isinstance(known, int) else known), number]


#: What every DICOM object must name, if only emptily; anonymizers drop it.
_DEMANDED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)


_TEXT = ("PN", "LO", "SH", "LT", "ST", "UT")
_ESCAPE = re.compile("\x1b[ -/]+[0-~]")


def _complete(sources: Sequence[Dataset]) -> None:
    """Add what an anonymizer left out of the source images, in memory only, and say everything in UTF-8."""
    for source in sources:
        for name in _DEMANDED:
            if name not in source:
                setattr(source, name, "")
        # Names in the older encodings (ISO 2022) are decoded by what the file says and written as what all can read.
        source.decode()
        for element in source:
            # pydicom leaves in the escapes that lead over to GB 2312.
            if element.VR in _TEXT and element.VM == 1 and "\x1b" in str(element.value):
                element.value = _ESCAPE.sub("", str(element.value))
        source.SpecificCharacterSet = "ISO_IR 192"


def _description(number: int, name: str, codes: Mapping[str, Sequence[str]]) -> SegmentDescription:
    import highdicom

    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=_category(),
        segmented_property_type=(highdicom.sr.CodedConcept(*codes[name]) if name in codes else anatomy_code(name)),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="kanscan", version=version("kanscan"), family=_family()
        ),
    )


def _category() -> Code:
    from pydicom.sr.codedict import codes

    return codes.SCT.AnatomicalStructure


def _family() -> Code:
    from pydicom.sr.codedict import codes

    return codes.DCM.ArtificialIntelligence


def anatomy_code(name: str) -> Code:
    """Find the SNOMED CT code of a structure by its English name ("left kidney"); "anatomical structure" for others.

    Args:
        name: Of a class.
    """
    from pydicom.sr.codedict import codes

    words = re.findall(r"[A-Za-z]+", name)
    # Context group 7192, "Anatomical Structure": elsewhere "anterior" would be a direction.
    keywords = {known.lower(): known for known in dir(codes.cid7192)}
    without_side = [w for w in words if w.lower() not in ("left", "right")]
    for parts in (words, without_side):
        keyword = keywords.get("".join(parts).lower())
        if parts and keyword:
            return getattr(codes.cid7192, keyword)
    return codes.SCT.AnatomicalStructure
