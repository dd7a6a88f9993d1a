"""What the numbers in a folder's label files mean, told from the files themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kanscan.data.case import Case, LabelMap
from kanscan.data.label_map import LABEL_NOISE
from kanscan.data.pictures.files import read_stored_label
from kanscan.metrics import IGNORED

#: Largest value that is taken for a class index as it stands.
_LARGEST_INDEX = 31
#: So few values that all fill areas are classes, however close to each other.
_MOST_EXACT = 16
#: Of blurred masks, a value that fills less than this share of the pixels is no class.
_LEAST_AREA = 2e-4


@dataclass(frozen=True)
class LabelValues:
    """What label files store.

    Attributes:
        pixels: Stored value -> number of pixels.
        inside: The same for pixels whose eight neighbors hold the same value; borders blurred by resizing have none.
        num_color: Files that hold colors instead of one value a pixel.
    """

    pixels: Counter[int] = field(default_factory=Counter)
    inside: Counter[int] = field(default_factory=Counter)
    num_color: int = 0


def read_label_values(cases: Iterable[Case]) -> LabelValues:
    """Count the values in all label files; unreadable files are passed over (reading the case reports them)."""
    files = [(path, case.frame) for case in cases for path in case.labels]
    found = LabelValues()
    num_color = 0
    # Decoding leaves Python's lock, so threads help.
    with ThreadPoolExecutor(4) as pool:
        for one in pool.map(_read_one, files):
            found.pixels.update(one.pixels)
            found.inside.update(one.inside)
            num_color += one.num_color
    return LabelValues(found.pixels, found.inside, num_color)


def _read_one(file: tuple[Any, int | None]) -> LabelValues:
    try:
        stored = read_stored_label(file[0], frame=file[1])
    except (OSError, ValueError):
        return LabelValues()
    return count_values(stored)


def count_values(stored: np.ndarray) -> LabelValues:
    """Count the values of one label map `(H, W)`, or of the brightest channel of a color picture `(H, W, 3)`."""
    is_color = stored.ndim == 3
    grey = np.rint(stored.max(axis=-1) if is_color else stored).astype(np.int64)
    same = np.zeros(grey.shape, dtype=bool)
    if min(grey.shape) >= 3:
        middle = grey[1:-1, 1:-1]
        height, width = grey.shape
        offsets = [(i, j) for i in range(3) for j in range(3)]
        equal = [grey[i : height - 2 + i, j : width - 2 + j] == middle for i, j in offsets]
        same[1:-1, 1:-1] = np.logical_and.reduce(equal)
    return LabelValues(value_counts(grey), value_counts(grey[same]), int(is_color))


def value_counts(values: np.ndarray) -> Counter[int]:
    """Count the pixels of each whole-numbered value."""
    if values.size and values.min() >= 0 and values.max() < 2**16:
        # Counting is many times quicker than sorting, on masks of ten megapixels.
        counts = np.bincount(values.ravel().astype(np.int64))
        present = np.flatnonzero(counts)
        return Counter(dict(zip(present.tolist(), counts[present].tolist(), strict=True)))
    present, counts = np.unique(values, return_counts=True)
    return Counter(dict(zip(present.tolist(), counts.tolist(), strict=True)))


def infer_label_map(found: LabelValues, where: str = "the masks") -> LabelMap:
    """Decide which stored value is which class.

    0/1 and 0/255, blurred or not, are one foreground class cut at the middle. Values 0, 1, ... n are class indices. A
    few other values that fill areas (0/128/255) are taken as they are, in ascending order. Where many more occur, as
    resizing and JPEG leave them at borders, those that fill areas are the classes and the rest goes to the nearest.

    Args:
        found: Of all label files.
        where: Named in the sentence.

    Raises:
        ValueError: The files hold several colors, more values than classes are likely, or class indices beside 255.
    """
    values = sorted(found.pixels)
    areas = _areas(found)
    if found.num_color and len(areas) > 2:
        raise ValueError(
            f"{found.num_color} of {where} are color pictures with several colors; store one class index a pixel, or "
            "take any color as foreground with the reader option labels=nonzero"
        )
    if not values or values[-1] <= 1:
        return LabelMap()
    indices = values[:-1] if values[-1] == 255 else values
    are_indices = len(indices) > 2 and indices == [*range(len(indices))]
    if are_indices and indices != values:
        raise ValueError(
            f"{where} hold the class indices 0..{indices[-1]} and 255, which often marks pixels to ignore; say what it "
            f"is with the reader option labels, for example {{0: background, 1: one, ..., 255: background}}"
        )
    if values[-1] > _LARGEST_INDEX and all(v <= LABEL_NOISE or 255 - LABEL_NOISE <= v <= 255 for v in values):
        return LabelMap()
    if values[-1] <= _LARGEST_INDEX or (len(values) <= _MOST_EXACT and set(values) == set(found.inside)):
        return named_values(values, exact=True)
    if are_indices or len(areas) > _LARGEST_INDEX:
        raise ValueError(
            f"{where} hold {len(indices)} different values, too many for classes; if they number objects, take any of "
            "them as foreground with the reader option labels=nonzero"
        )
    if len(areas) < 2 or areas == [0, 255]:
        return LabelMap()
    return named_values(areas, exact=False)


def _areas(found: LabelValues) -> list[int]:
    """Values that fill areas, each standing for those near it."""
    counts = found.inside or found.pixels
    least = _LEAST_AREA * sum(found.pixels.values())
    kept: list[int] = []
    for value, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if count >= least and all(abs(value - other) > 2 * LABEL_NOISE for other in kept):
            kept.append(value)
    return sorted(kept)


def named_values(values: Sequence[int], *, exact: bool, names: Sequence[str] = ()) -> LabelMap:
    """Make the map in which the k-th value is class k; class 0 is called background unless named."""
    standing = tuple(names) or ("background", *(f"class {k}" for k in range(1, len(values))))
    return LabelMap(standing, "values", {v: k for k, v in enumerate(values)}, snap=not exact)


def label_map_from_option(labels: Any, found: LabelValues | None = None) -> LabelMap:
    """Turn the reader option `labels` into a map.

    Args:
        labels: "threshold", "nonzero", a list of class names (their order is that of the stored values, lowest first),
            or a mapping of stored values to class names, such as {0: background, 128: cytoplasm, 255: nucleus}. Two
            values of one name are one class.
        found: Counts of the label files, needed for a list of names.

    Raises:
        ValueError: The option is none of these, or does not fit the files.
    """
    if labels in ("threshold", "nonzero"):
        return LabelMap(rule=str(labels))
    if isinstance(labels, Mapping) and labels:
        try:
            stored = {int(value): str(name) for value, name in labels.items()}
        except (TypeError, ValueError):
            raise ValueError(f"labels must map whole numbers to class names, got {dict(labels)!r}") from None
        names = tuple(dict.fromkeys(stored[value] for value in sorted(stored)))
        if len(names) < 2:
            raise ValueError(f"labels must name at least 2 classes, background included, got {dict(labels)!r}")
        gaps = np.diff(sorted(stored))
        # Far apart, a value in between is a blurred border; side by side it would be a mistake.
        far_apart = bool(gaps.min() > 2 * LABEL_NOISE)
        return LabelMap(names, "values", {value: names.index(name) for value, name in stored.items()}, snap=far_apart)
    if isinstance(labels, list | tuple) and len(labels) >= 2 and found is not None:
        inferred = infer_label_map(found)
        if inferred.num_classes != len(labels):
            raise ValueError(
                f"labels names {len(labels)} classes ({', '.join(map(str, labels))}), the masks hold "
                f"{inferred.num_classes} ({values_text(inferred)})"
            )
        return LabelMap(tuple(map(str, labels)), inferred.rule, inferred.values, inferred.snap)
    raise ValueError(
        f"labels must be auto, threshold, nonzero, a list of class names or a mapping of stored values to names, "
        f"got {labels!r}"
    )


def values_text(label_map: LabelMap) -> str:
    """Say in words how stored values become classes."""
    if label_map.rule == "threshold":
        return f"above the middle (0/1 or 0/255) = {label_map.names[1]}"
    if label_map.rule == "nonzero":
        return f"any value but 0 = {label_map.names[1]}"
    names = dict(enumerate(label_map.names)) | {IGNORED: "ignored"}
    listed = ", ".join(f"{value} = {names[k]}" for value, k in sorted(label_map.values.items()))
    return listed + (", others to the nearest" if label_map.snap else "")
