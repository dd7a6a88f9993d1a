"""What can be said of a case once its pixels were read; problems become sentences instead of exceptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kanscan.data.case import Case
from kanscan.data.label_map import LabelMap, pack_colors
from kanscan.data.pictures.files import read_header
from kanscan.data.pictures.label_values import value_counts
from kanscan.data.pictures.labels import check_pair, merge_labels, read_case_image, read_stored_labels
from kanscan.data.similarity import Signature, near_blocks, sign, volume_signature
from kanscan.data.volume import Volume, axis_codes, check_grid
from kanscan.data.volumes.formats import format_name, read_case_volume, read_label_volume, stored_labels
from kanscan.metrics import IGNORED


@dataclass(frozen=True)
class CaseFacts:
    """What reading a case showed.

    Attributes:
        id: The case.
        size: (height, width) of the image, the axes of a volume backwards; None if it could not be read.
        image_mode: How the image file stores pixels, in words.
        label_modes: The same for each label file.
        is_grey: The image has no color, however it is stored.
        signature: What it has in common with equal and similar pictures.
        stored: Stored label value -> pixels.
        class_pixels: Pixels of each class; empty if the label could not be read.
        ignored_pixels: Pixels that nobody labelled; they are in no class.
        image_turned: The image carries a camera's turn (EXIF orientation), which was applied.
        label_turned: A label file carries one.
        errors: What is wrong, one sentence each.
        spacing_mm: Of a volume, along the axes of its file.
        notes: Of a volume: what was decided while it was read, one sentence each.
        orientation: Of a volume: where the axes of its file point ("RAS" is right, front, head).
    """

    id: str
    size: tuple[int, ...] | None = None
    image_mode: str = ""
    label_modes: tuple[str, ...] = ()
    is_grey: bool = False
    signature: Signature | None = None
    stored: Counter[int] = field(default_factory=Counter)
    class_pixels: tuple[int, ...] = ()
    ignored_pixels: int = 0
    image_turned: bool = False
    label_turned: bool = False
    errors: tuple[str, ...] = ()
    spacing_mm: tuple[float, ...] | None = None
    orientation: str = ""
    notes: tuple[str, ...] = ()


def examine(case: Case, label_map: LabelMap) -> CaseFacts:
    """Read a case and say all that is wrong with it.

    Args:
        case: With or without labels.
        label_map: How stored values become classes.
    """
    facts: dict[str, object] = {}
    errors: list[str] = []
    image: np.ndarray | None = None
    try:
        image = read_case_image(case)
        header = read_header(case.images[0])
        facts["image_turned"] = header.orientation != 1
        facts["image_mode"] = header.mode
    except (OSError, ValueError) as error:
        errors.append(str(error))
    if image is not None:
        facts |= _image_facts(image)
    try:
        if case.labels:
            facts |= _label_facts(case, label_map, None if image is None else image.shape)
    except (OSError, ValueError) as error:
        errors.append(str(error))
    return CaseFacts(case.id, errors=tuple(errors), **facts)  # type: ignore[arg-type]


def _image_facts(image: np.ndarray) -> dict[str, object]:
    is_grey = image.ndim == 2 or all((image[..., 0] == image[..., k]).all() for k in range(1, image.shape[-1]))
    size = (int(image.shape[0]), int(image.shape[1]))
    return {"size": size, "is_grey": is_grey, "signature": sign(image, size)}


def _label_facts(case: Case, label_map: LabelMap, image_shape: tuple[int, ...] | None) -> dict[str, object]:
    stored = read_stored_labels(case, label_map)
    values: Counter[int] = Counter()
    for one in stored:
        if label_map.rule == "colors":
            values.update(value_counts(pack_colors(one)))
        else:
            values.update(value_counts(np.rint(one.max(axis=-1) if one.ndim == 3 else one).astype(np.int64)))
    if image_shape is not None and not label_map.resize:
        for path, one in zip(case.labels, stored, strict=True):
            check_pair(case.images[0], image_shape, path, one.shape)
    label = merge_labels(case, stored, label_map)
    headers = [] if case.outlines is not None else [read_header(path) for path in case.labels]
    counts = np.bincount(label.ravel(), minlength=IGNORED + 1)
    return {
        "label_modes": tuple(header.mode for header in headers) or ("drawn outlines",),
        "label_turned": any(header.orientation != 1 for header in headers),
        "stored": values,
        "class_pixels": tuple(counts[: label_map.num_classes].tolist()),
        "ignored_pixels": int(counts[IGNORED]) if label_map.num_classes <= IGNORED else 0,
    }


def find_duplicates(facts: Sequence[CaseFacts]) -> list[list[str]]:
    """List the ids of cases that share one picture, pixel for pixel."""
    by_digest: dict[str, list[str]] = {}
    for one in facts:
        if one.signature is not None:
            by_digest.setdefault(one.signature.digest, []).append(one.id)
    return [ids for ids in by_digest.values() if len(ids) > 1]


@dataclass(frozen=True)
class LookAlikes:
    """Pairs of cases that look the same though their pixels differ, and that no declared group keeps together.

    Attributes:
        count: How many.
        crossing: Those of them whose cases lie in different subsets.
        pairs: Ids of the first ones, at most `MOST_PAIRS`.
    """

    count: int = 0
    crossing: int = 0
    pairs: tuple[tuple[str, str], ...] = ()


#: Pairs of look-alikes that are listed; all are counted.
MOST_PAIRS = 1000


def find_look_alikes(
    facts: Sequence[CaseFacts], groups: Sequence[str | None], subsets: Sequence[str | None]
) -> LookAlikes:
    """Count the look-alikes of a data set and list the first ones, in memory that does not grow with their number.

    Args:
        facts: Of all cases.
        groups: Group of each case, or None.
        subsets: Subset of each case, or None.
    """
    known = [k for k, one in enumerate(facts) if one.signature is not None]
    signatures = [one.signature for one in facts if one.signature is not None]
    digests = _numbered([one.digest for one in signatures])
    parts = _numbered([subsets[k] for k in known])
    together = _numbered([groups[k] for k in known])
    together[[groups[k] is None for k in known]] = -1
    count = crossing = 0
    listed: list[tuple[int, int]] = []
    for one, other in near_blocks(signatures):
        apart = (digests[one] != digests[other]) & ((together[one] != together[other]) | (together[one] < 0))
        one, other = one[apart], other[apart]
        count += len(one)
        crossing += int((parts[one] != parts[other]).sum())
        listed += [(min(i, j), max(i, j)) for i, j in zip(one[:MOST_PAIRS].tolist(), other.tolist(), strict=False)]
        listed = sorted(listed)[:MOST_PAIRS]
    pairs = tuple((facts[known[i]].id, facts[known[j]].id) for i, j in listed)
    return LookAlikes(count, crossing, pairs)


def _numbered(values: Sequence[object]) -> np.ndarray:
    """Give equal values equal numbers."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


#: A foreground of more than this share is rather a mask read the wrong way round.
_MOST_FOREGROUND = 0.99


def doubtful(facts: Sequence[CaseFacts]) -> list[str]:
    """Say what in the labels of all cases is rather a mistake than meant: one sentence each."""
    found = []
    judged = [one for one in facts if one.class_pixels]
    total, foreground = sum(sum(one.class_pixels) for one in judged), sum(sum(one.class_pixels[1:]) for one in judged)
    full = [one.id for one in judged if sum(one.class_pixels) and not one.class_pixels[0]]
    if total and foreground > _MOST_FOREGROUND * total:
        found.append(
            f"{100 * foreground / total:.4g} % of all labelled pixels are foreground: the masks may be read the wrong "
            "way round, or show something else; look at the contact sheet"
        )
    elif full:
        found.append(f"{len(full)} of {len(judged)} masks are foreground in every pixel, first that of {full[0]}")
    turned = [one for one in facts if one.image_turned]
    alone = [one.id for one in turned if one.class_pixels and not one.label_turned]
    if alone:
        found.append(
            f"{len(alone)} of {len(facts)} images carry a turn of the camera (EXIF orientation) which their masks "
            f"lack, first {alone[0]}: images are turned, masks are not; the contact sheet shows whether they fit"
        )
    return found


def examine_volume(case: Case, label_map: LabelMap) -> CaseFacts:
    """Read a volume and say all that is wrong with it.

    Args:
        case: With or without labels.
        label_map: How stored values become classes.
    """
    facts: dict[str, object] = {}
    errors: list[str] = []
    image: Volume | None = None
    try:
        image = read_case_volume(case)
        facts |= {
            "size": tuple(reversed(image.shape)),
            "image_mode": f"{image.array.dtype} {format_name(case.images[0])}",
            "is_grey": True,
            "signature": volume_signature(image.array),
            "spacing_mm": image.spacing_mm,
            "orientation": axis_codes(image.affine),
            "notes": image.notes,
        }
    except (OSError, ValueError) as error:
        errors.append(str(error))
    try:
        if case.labels:
            facts |= _volume_label_facts(case, label_map, image)
    except (OSError, ValueError) as error:
        errors.append(str(error))
    return CaseFacts(case.id, errors=tuple(errors), **facts)  # type: ignore[arg-type]


def _volume_label_facts(case: Case, label_map: LabelMap, image: Volume | None) -> dict[str, object]:
    values: Counter[int] = Counter()
    modes = []
    for path, stored in zip(case.labels, stored_labels(case, label_map, image), strict=not case.stacked):
        values.update(value_counts(stored.array.astype(np.int64)))
        modes.append(f"{stored.array.dtype} {format_name(path)}")
        if image is not None:
            check_grid(image, stored)
    label = read_label_volume(case, label_map, image).array
    counts = np.bincount(label[label != IGNORED], minlength=label_map.num_classes)
    return {
        "label_modes": tuple(modes),
        "stored": values,
        "class_pixels": tuple(counts.tolist()),
    }
