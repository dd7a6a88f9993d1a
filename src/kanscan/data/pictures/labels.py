"""The label files of a picture become one map of classes, beside an image of the same size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kanscan.data.case import Case
from kanscan.data.label_map import LabelMap, apply_label_map
from kanscan.data.pictures.files import read_image, read_stored_label
from kanscan.metrics import IGNORED


def read_label(case: Case, label_map: LabelMap) -> np.ndarray:
    """Read a case's label files as one map of class indices.

    Args:
        case: With at least one label file; several are merged as `case.merge` says.
        label_map: How stored values become classes.

    Returns:
        `(H, W)` uint8 array of class indices below `label_map.num_classes`.

    Raises:
        FileNotFoundError: A label file is missing.
        ValueError: The case has no label, a file is unreadable, sizes differ, or a value is outside the map.
    """
    if not case.labels:
        raise ValueError(f"case {case.id!r} has no label file, only the image {case.images[0]}")
    if case.merge not in ("union", "classes"):
        raise ValueError(f"case {case.id!r} asks for merge={case.merge!r}; known are 'union' and 'classes'")
    stored = [read_stored_label(path, frame=case.frame) for path in case.labels]
    return merge_labels(case, stored, label_map)


def merge_labels(case: Case, stored: Sequence[np.ndarray], label_map: LabelMap) -> np.ndarray:
    """Make one map of class indices from what the case's label files store; the second half of `read_label`.

    Args:
        case: Says how several files are merged.
        stored: What `read_stored_label` gave for each file of `case.labels`.
        label_map: How stored values become classes.

    Raises:
        ValueError: Sizes differ, or a value is outside the map.
    """
    merged: np.ndarray | None = None
    for position, path in enumerate(case.labels):
        label = apply_label_map(stored[position], label_map, path)
        if case.merge == "classes":
            label = (label > 0).astype(np.uint8) * np.uint8(position + 1)
        if merged is None:
            merged = label
        elif merged.shape != label.shape:
            raise ValueError(_size_sentence(path, label.shape, "mask", case.labels[0], merged.shape))
        elif case.merge == "classes":
            merged = np.where(label > 0, label, merged)
        else:
            merged = np.maximum(merged, label)
    assert merged is not None
    if merged.max(initial=0, where=merged != IGNORED) >= label_map.num_classes:
        raise ValueError(
            f"case {case.id!r} has label files for {len(case.labels)} classes, "
            f"the label map names {label_map.num_classes - 1} besides the background"
        )
    return merged


def check_pair(
    image_path: str | Path, image_shape: tuple[int, ...], label_path: str | Path, label_shape: tuple[int, ...]
) -> None:
    """Refuse a mask of another size than its image.

    Args:
        image_path: Named in the sentence.
        image_shape: `(H, W)` or `(H, W, C)`.
        label_path: Named in the sentence.
        label_shape: `(H, W)`.

    Raises:
        ValueError: Height or width differ; the sentence gives both sizes.
    """
    if tuple(image_shape[:2]) != tuple(label_shape[:2]):
        raise ValueError(_size_sentence(label_path, label_shape, "image", image_path, image_shape))


def _size_sentence(
    path: str | Path, shape: tuple[int, ...], what: str, other: str | Path, other_shape: tuple[int, ...]
) -> str:
    return (
        f"mask {path} is {shape[1]} x {shape[0]} pixels, its {what} {other} is {other_shape[1]} x {other_shape[0]} "
        "(width x height); they must agree"
    )


def read_pair(case: Case, label_map: LabelMap) -> tuple[np.ndarray, np.ndarray]:
    """Read the image and the label of a case and check that their sizes agree."""
    image = read_case_image(case)
    label = read_label(case, label_map)
    check_pair(case.images[0], image.shape, case.labels[0], label.shape)
    return image, label


def read_case_image(case: Case) -> np.ndarray:
    """Read a case's image; several files (modalities) become channels in their order."""
    arrays = [read_image(path, frame=case.frame) for path in case.images]
    if len(arrays) == 1:
        return arrays[0]
    for path, array in zip(case.images, arrays, strict=True):
        if array.shape[:2] != arrays[0].shape[:2]:
            raise ValueError(
                f"image {path} is {array.shape[1]} x {array.shape[0]} pixels, the other modality {case.images[0]} is "
                f"{arrays[0].shape[1]} x {arrays[0].shape[0]} (width x height); they must agree"
            )
    return np.dstack(arrays)
