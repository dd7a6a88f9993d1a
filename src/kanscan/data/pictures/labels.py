"""The label files of a picture become one map of classes, beside an image of the same size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kanscan.data.case import Case
from kanscan.data.dicom.labels import read_picture_segments
from kanscan.data.label_map import LabelMap, apply_label_map
from kanscan.data.pictures.drawing_outlines import draw_outlines
from kanscan.data.pictures.files import read_channels, read_header, read_image, read_size, read_stored_label
from kanscan.data.pictures.search import is_segmentation
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
    if case.merge not in ("union", "classes", "channels"):
        raise ValueError(f"case {case.id!r} asks for merge={case.merge!r}; known are 'union', 'classes' and 'channels'")
    return merge_labels(case, read_stored_labels(case, label_map), label_map)


def read_stored_labels(case: Case, label_map: LabelMap | None = None) -> list[np.ndarray]:
    """Read the values that each label file of a case stores.

    Args:
        case: With labels.
        label_map: Whose rule may ask for the colors of palettes; see `read_stored_label`.
    """
    if case.outlines is not None:
        size = case.outlines.size or read_size(case.images[0])
        try:
            return [draw_outlines(case.outlines, size)]
        except ValueError as error:
            raise ValueError(f"cannot read the label of case {case.id!r} in {case.labels[0]}: {error}") from None
    if case.merge == "channels":
        return [_classes_of_channels(path, read_channels(path, frame=case.frame)) for path in case.labels]
    as_colors = label_map is not None and label_map.rule == "colors"
    names = None if label_map is None else label_map.names
    return [
        read_picture_segments(path, names, case.frame)
        if is_segmentation(path)
        else read_stored_label(path, frame=case.frame, as_colors=as_colors)
        for path in case.labels
    ]


def _classes_of_channels(path: Path, channels: np.ndarray) -> np.ndarray:
    if channels.ndim != 3 or channels.shape[-1] < 2:
        raise ValueError(f"{path} holds an array of shape {channels.shape}, expected a channel for each class")
    label = np.zeros(channels.shape[:2], np.uint8)
    for index in range(channels.shape[-1] - 1):
        label[channels[..., index] > 0] = index + 1
    return label


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
            index = case.classes[position] if case.classes else position + 1
            label = (label > 0).astype(np.uint8) * np.uint8(index)
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
        hint = _turn_hint(Path(image_path), Path(label_path)) or (
            "; if the mask shows the same scene in another size, add the reader option labels_resize=nearest"
        )
        raise ValueError(_size_sentence(label_path, label_shape, "image", image_path, image_shape) + hint)


def _turn_hint(image: Path, label: Path) -> str:
    """Explain sizes that differ because one of two files carries a camera's turn (EXIF orientation)."""
    try:
        ours, theirs = (read_header(path).orientation for path in (image, label))
    except (OSError, ValueError):
        return ""
    if ours == theirs:
        return ""
    turned, other = (image, label) if ours != 1 else (label, image)
    return (
        f"; {turned.name} carries an EXIF orientation ({max(ours, theirs)}) and is shown turned, {other.name} has "
        "none: save the pictures upright, or the masks with the same orientation"
    )


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
    label = fit_label(read_label(case, label_map), image.shape, label_map)
    check_pair(case.images[0], image.shape, case.labels[0], label.shape)
    return image, label


def fit_label(label: np.ndarray, image_shape: tuple[int, ...], label_map: LabelMap) -> np.ndarray:
    """Bring a label map to the size of its image where the label map asks for it, picking the nearest pixel."""
    if not label_map.resize or label.shape == tuple(image_shape[:2]):
        return label
    # The middle of each new pixel, in the old grid.
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(image_shape, label.shape, strict=False)
    )
    return np.ascontiguousarray(label[rows[:, None], columns[None, :]])


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
