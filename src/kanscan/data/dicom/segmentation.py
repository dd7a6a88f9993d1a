"""A label map as a DICOM segmentation beside its source images, for PACS and viewers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kanscan.data.volume import Volume
from kanscan.files import atomic


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
    try:
        import highdicom
    except ImportError:
        raise ValueError(
            "DICOM segmentations need highdicom; install it with: pip install 'kanscan[clinical]'"
        ) from None
    from pydicom.uid import generate_uid

    if volume.source is None:
        raise ValueError(f"{volume.path} is no DICOM; a DICOM segmentation refers to DICOM images")
    if label.shape != volume.shape:
        raise ValueError(f"the label has {label.shape} voxels, the series in {volume.path} {volume.shape}")
    present = [index for index in range(1, len(class_names)) if (label == index).any()]
    # An empty result is a result: its first class is written without a frame of foreground.
    chosen = present or [1]
    planes = np.transpose(label, (2, 1, 0))
    sources = list({id(one.dataset): one.dataset for one in volume.source}.values())
    if volume.source[0].frame is not None:
        planes = planes[np.argsort([one.frame or 0 for one in volume.source])]
    segments = np.zeros(planes.shape, np.uint8)
    for number, index in enumerate(chosen, start=1):
        segments[planes == index] = number
    _complete(sources)
    made = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=segments,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(n, class_names[i], codes or {}) for n, i in enumerate(chosen, start=1)],
        series_instance_uid=generate_uid(),
        series_number=int(getattr(sources[0], "SeriesNumber", 0) or 0) + 1000,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="kanscan",
        manufacturer_model_name="kanscan",
        software_versions=version("kanscan"),
        device_serial_number="1",
        series_description="kanscan segmentation",
        omit_empty_frames=bool(present),
    )
    with atomic(path) as temporary:
        made.save_as(temporary)
    return path


#: What every DICOM object must name, if only emptily; anonymizers drop it.
_DEMANDED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)


_TEXT = ("PN", "LO", "SH", "LT", "ST", "UT")
_ESCAPE = re.compile("\x1b[ -/]+[0-~]")


def _complete(sources: Sequence[Any]) -> None:
    """Add what an anonymizer left out of the source images, in memory only, and say everything in UTF-8."""
    from pydicom.uid import generate_uid

    frame_of_reference = generate_uid()
    for source in sources:
        for name in _DEMANDED:
            if name not in source:
                setattr(source, name, "")
        if not getattr(source, "FrameOfReferenceUID", None):
            source.FrameOfReferenceUID = frame_of_reference
        # Names in the older encodings (ISO 2022) are decoded by what the file says and written as what all can read.
        source.decode()
        for element in source:
            # pydicom leaves in the escapes that lead over to GB 2312.
            if element.VR in _TEXT and element.VM == 1 and "\x1b" in str(element.value):
                element.value = _ESCAPE.sub("", str(element.value))
        source.SpecificCharacterSet = "ISO_IR 192"


def _description(number: int, name: str, codes: Mapping[str, Sequence[str]]) -> Any:
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


def _category() -> Any:
    from pydicom.sr.codedict import codes

    return codes.SCT.AnatomicalStructure


def _family() -> Any:
    from pydicom.sr.codedict import codes

    return codes.DCM.ArtificialIntelligence


def anatomy_code(name: str) -> Any:
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
