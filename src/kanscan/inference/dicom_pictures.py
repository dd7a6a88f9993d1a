"""Of pictures that are DICOM: the segmentation that is written beside their label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kanscan.data.case import Case
from kanscan.data.dicom.picture import read_picture_header
from kanscan.data.dicom.series import is_named_like_dicom
from kanscan.data.pictures.files import read_image
from kanscan.data.pictures.search import frame_id
from kanscan.inference.files import Output


def clip_segmentation(case: Case, output: Output) -> Path | None:
    """Name the DICOM segmentation that is written with a case; one clip has one, written with its last frame.

    Returns:
        Its path; None where the picture is no DICOM, or a frame of a clip that goes on.
    """
    source = case.images[0]
    if len(case.images) > 1 or not is_named_like_dicom(source):
        return None
    if case.frame is None:
        return output.folder / f"{case.id}.dcm"
    if case.frame != read_picture_header(source).frames - 1:
        return None
    return output.folder / f"{_clip_id(case)}.dcm"


def _clip_id(case: Case) -> str:
    assert case.frame is not None
    return case.id.removesuffix(frame_id("", case.frame))


def clip_label(case: Case, output: Output, last: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put the label maps of a clip together, `(N, H, W)` class indices; frames that were not written are empty.

    Args:
        case: The last frame.
        output: Says where the other frames were written, and with which values.
        last: Class indices of the last frame.
    """
    assert case.frame is not None
    classes = np.zeros(max(output.values) + 1, np.uint8)
    classes[list(output.values)] = np.arange(len(output.values))
    out = np.zeros((case.frame + 1, *last.shape), np.uint8)
    out[-1] = last
    for k in range(case.frame):
        path = output.folder / f"{frame_id(_clip_id(case), k)}.png"
        if path.is_file():
            out[k] = classes[read_image(path)]
    return out


def segmentation_problem(
    path: Path,
    source: Path,
    label: NDArray[np.uint8],
    class_names: Sequence[str],
    codes: Mapping[str, Sequence[str]],
) -> str:
    """Write a DICOM segmentation of a picture; say what hinders it, or "" if nothing does."""
    from kanscan.data.dicom.segmentation import write_picture_segmentation

    try:
        write_picture_segmentation(path, source, label, class_names, codes)
    except OSError:
        raise
    except Exception as error:  # highdicom raises many kinds on sources that break the standard
        return " ".join(str(error).split()) or type(error).__name__
    return ""
