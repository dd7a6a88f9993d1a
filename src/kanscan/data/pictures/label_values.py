"""What numbers and colors a folder's label files hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

import numpy as np

from kanscan.data.case import Case
from kanscan.data.label_map import pack_colors
from kanscan.data.pictures.files import MOST_CLASSES, is_lossy
from kanscan.data.pictures.labels import read_stored_labels
from kanscan.data.remembered import Packing, remembered


@dataclass(frozen=True)
class LabelValues:
    """What label files store; those of several files add up.

    Attributes:
        pixels: Stored value -> number of pixels, of files with one value a pixel.
        inside: The same for pixels whose eight neighbors hold the same value; borders blurred by resizing have none.
        corners: Value in the four corners of each file -> how often.
        colors: Color as 0xRRGGBB -> number of pixels, of files with colors.
        color_inside: The same for pixels among their like.
        num_files: Files that could be read.
        num_color: Those that hold colors instead of one value a pixel.
        num_lossy: Those whose format changes values a little.
        num_index: Those with class indices above 0 and no 255.
        num_255: Those with 255 and nothing else but 0.
        num_both: Those with class indices above 0 and 255.
    """

    pixels: Counter[int] = field(default_factory=Counter)
    inside: Counter[int] = field(default_factory=Counter)
    corners: Counter[int] = field(default_factory=Counter)
    colors: Counter[int] = field(default_factory=Counter)
    color_inside: Counter[int] = field(default_factory=Counter)
    num_files: int = 0
    num_color: int = 0
    num_lossy: int = 0
    num_index: int = 0
    num_255: int = 0
    num_both: int = 0

    def __add__(self, other: LabelValues) -> LabelValues:
        return total_values((self, other))


def total_values(parts: Iterable[LabelValues]) -> LabelValues:
    """Add up what several files store."""
    counters: dict[str, Counter[int]] = {}
    numbers: Counter[str] = Counter()
    for part in parts:
        for name in (one.name for one in fields(LabelValues)):
            value = getattr(part, name)
            if isinstance(value, Counter):
                counters.setdefault(name, Counter()).update(value)
            else:
                numbers[name] += value
    return LabelValues(**counters, **numbers)  # type: ignore[arg-type]


def read_label_values(cases: Iterable[Case]) -> LabelValues:
    """Count the values in all label files; unreadable files are passed over (reading the case reports them)."""
    labelled = [case for case in cases if case.labels]
    files = [((*case.labels, *case.images[: case.outlines is not None]), _decides(case)) for case in labelled]
    return total_values(remembered("label values", files, lambda k: _read_one(labelled[k]), _PACKING))


def _decides(case: Case) -> tuple[object, ...]:
    return case.frame, case.merge, case.outlines


def _read_one(case: Case) -> LabelValues:
    try:
        stored = read_stored_labels(case)
    except (OSError, ValueError):
        return LabelValues()
    return total_values(count_values(one, lossy=is_lossy(path)) for path, one in zip(case.labels, stored, strict=True))


def count_values(stored: np.ndarray, *, lossy: bool = False) -> LabelValues:
    """Count the values of one label map `(H, W)`, or the colors of a picture `(H, W, 3)`.

    Args:
        stored: As `read_stored_label` gives it.
        lossy: The file's format changes values a little.
    """
    is_color = stored.ndim == 3
    values = pack_colors(stored) if is_color else _whole(stored)
    pixels, inside = value_counts(values), value_counts(values[_among_their_like(values)])
    if is_color:
        return LabelValues(colors=pixels, color_inside=inside, num_files=1, num_color=1, num_lossy=int(lossy))
    highest = max((value for value in pixels if value != 255), default=0)
    has_index = 0 < highest <= MOST_CLASSES
    return LabelValues(
        pixels,
        inside,
        Counter(int(values[row, column]) for row in (0, -1) for column in (0, -1)),
        num_files=1,
        num_lossy=int(lossy),
        num_index=int(has_index and 255 not in pixels),
        num_255=int(highest == 0 and 255 in pixels),
        num_both=int(has_index and 255 in pixels),
    )


def _whole(stored: np.ndarray) -> np.ndarray:
    return stored if stored.dtype.kind in "biu" else np.rint(stored).astype(np.int64)


def _among_their_like(values: np.ndarray) -> np.ndarray:
    same = np.zeros(values.shape, dtype=bool)
    if min(values.shape) >= 3:
        middle = values[1:-1, 1:-1]
        height, width = values.shape
        offsets = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
        equal = [values[i : height - 2 + i, j : width - 2 + j] == middle for i, j in offsets]
        same[1:-1, 1:-1] = np.logical_and.reduce(equal)
    return same


def value_counts(values: np.ndarray) -> Counter[int]:
    """Count the pixels of each whole-numbered value."""
    if values.size and values.min() >= 0 and values.max() < 2**24:
        # Counting is many times quicker than sorting, on masks of ten megapixels.
        counts = np.bincount(values.ravel().astype(np.int64, copy=False))
        present = np.flatnonzero(counts)
        return Counter(dict(zip(present.tolist(), counts[present].tolist(), strict=True)))
    present, counts = np.unique(values, return_counts=True)
    return Counter(dict(zip(present.tolist(), counts.tolist(), strict=True)))


def _pack(found: LabelValues) -> bytes:
    return json.dumps([list(v.items()) if isinstance(v, Counter) else v for v in _content(found)]).encode()


def _unpack(content: bytes) -> LabelValues:
    values = json.loads(content)
    counted = [Counter({int(k): int(n) for k, n in v}) if isinstance(v, list) else int(v) for v in values]
    return LabelValues(**dict(zip((one.name for one in fields(LabelValues)), counted, strict=True)))  # type: ignore[arg-type]


def _content(found: LabelValues) -> list[Counter[int] | int]:
    return [getattr(found, one.name) for one in fields(LabelValues)]


_PACKING: Packing[LabelValues] = Packing(_pack, _unpack)
