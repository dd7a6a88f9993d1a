"""DICOM clips with segmentations: each frame that somebody marked becomes a case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kanscan.data.case import Case
from kanscan.data.dicom.labels import marked_frames
from kanscan.data.dicom.series import is_named_like_dicom, read_header
from kanscan.data.pictures.search import frame_id, is_segmentation


def expand_clips(cases: Sequence[Case]) -> tuple[list[Case], list[str]]:
    """Put the frames of clips in their place; frames of one clip are kept together by a split.

    A frame without an item in the segmentation may hold nothing or may not have been looked at: it is left out.

    Returns:
        The cases, and what was left out, one sentence a clip.
    """
    found: list[Case] = []
    notes: list[str] = []
    for case in cases:
        source = case.images[0]
        head = read_header(source) if is_named_like_dicom(source) else None
        if head is None or head.kind or head.frames == 1 or case.frame is not None:
            found.append(case)
            continue
        marked = set(range(head.frames))
        for path in case.labels:
            marked &= marked_frames(path) if is_segmentation(path) else set()
        found += [
            replace(case, id=frame_id(case.id, k), frame=k, group=case.group or case.id)
            for k in sorted(marked)
            if k < head.frames
        ]
        left = head.frames - len(marked)
        if left:
            notes.append(f"{source} is a clip of {head.frames} frames, {left} of them not marked and left out")
    return found, notes
