"""What the values in label files mean: told from the files, or by the reader option `labels`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kanscan.data.label_map import LABEL_NOISE, LabelMap, color_text, map_text
from kanscan.data.pictures.files import MOST_CLASSES
from kanscan.data.pictures.label_values import LabelValues
from kanscan.metrics import IGNORED

#: So few values that all fill areas are classes, however close to each other.
_MOST_EXACT = 16
#: Of blurred masks, a value that fills less than this share of the pixels is no class.
_LEAST_AREA = 2e-4
#: Share of a class index's pixels that lie among their like, where it is a class and not the rim of a blurred one.
_LEAST_INSIDE = 0.1
#: Colors named in a sentence.
_MOST_NAMED = 8
#: The name of what nobody labelled.
IGNORE = "ignore"
BACKGROUND = "background"


def infer_label_map(found: LabelValues, where: str = "the masks") -> LabelMap:
    """Decide which stored value is which class.

    0/1 and 0/255, blurred or not, are one foreground class cut at the middle. Values 0, 1, ... n are class indices, and
    255 (or -1) beside them marks pixels that nobody labelled. A few other values that fill areas (0/128/255) are taken
    as they are, in ascending order. Where many more occur, as resizing and JPEG leave them at borders, those that fill
    areas are the classes and the rest goes to the nearest.

    Args:
        found: Of all label files.
        where: Named in the sentence.

    Raises:
        ValueError: The files hold colors, more values than classes are likely, or two codings at once.
    """
    if found.num_color:
        raise ValueError(_colors_sentence(found, where))
    values = sorted(found.pixels)
    if values and values[0] < 0:
        return _with_negatives(values, where)
    if not values or values[-1] <= 1:
        return LabelMap()
    if found.num_lossy and values[-1] <= MOST_CLASSES:
        raise ValueError(
            f"{found.num_lossy} of {where} are JPEG files with the values 0..{values[-1]}: their compression mixes "
            "class indices that lie so close together; save them as PNG from the original annotation"
        )
    if _marks_unlabelled(found, values):
        if not found.num_both:
            raise ValueError(
                f"{found.num_index} of {where} hold class indices up to {values[-2]}, {found.num_255} others hold 0 "
                "and 255: if both codings mean the same, store one of them; else say what each value is with the "
                "reader option labels, for example {0: background, 1: foreground, 255: foreground} or "
                "{0: background, 1: foreground, 255: ignore}"
            )
        indexed = named_values(values[:-1], exact=True)
        return replace(indexed, values=indexed.values | {255: IGNORED})
    return _by_areas(found, values, where)


def _marks_unlabelled(found: LabelValues, values: Sequence[int]) -> bool:
    """Tell 255 beside class indices from the white of a blurred mask."""
    if len(values) < 3 or values[-1] != 255 or values[-2] > MOST_CLASSES:
        return False
    low = {value: found.pixels[value] for value in values[:-1] if value > 0}
    areas = sum(n for value, n in low.items() if found.inside[value] >= max(_LEAST_INSIDE * n, 1))
    have_inside = 2 * areas > sum(low.values())
    if sorted(low) == [*range(1, len(low) + 1)]:
        # A single index may be thin everywhere (vessels); several faint values without an inside are a blurred rim.
        return len(low) == 1 or have_inside
    # With gaps they may be dark frames beside white objects: then they are few.
    return have_inside and sum(low.values()) > 0.1 * found.pixels[255]


def _with_negatives(values: Sequence[int], where: str) -> LabelMap:
    indices = [value for value in values if value >= 0]
    if values[1:] != indices or values[0] != -1 or not indices or indices[-1] > MOST_CLASSES:
        raise ValueError(
            f"{where} hold the negative values {', '.join(map(str, [v for v in values if v < 0][:5]))}; say what each "
            "value is with the reader option labels, for example {-1: ignore, 0: background, 1: foreground}"
        )
    indices = sorted({0, 1, *indices}) if len(indices) < 2 else indices
    indexed = named_values(indices, exact=True)
    if len(indices) == 2:
        indexed = replace(indexed, names=(BACKGROUND, "foreground"))
    return replace(indexed, values=indexed.values | {-1: IGNORED})


def _by_areas(found: LabelValues, values: Sequence[int], where: str) -> LabelMap:
    areas = _areas(found)
    are_indices = len(values) > 2 and list(values) == [*range(len(values))]
    if values[-1] > MOST_CLASSES and all(v <= LABEL_NOISE or 255 - LABEL_NOISE <= v <= 255 for v in values):
        return LabelMap()
    if values[-1] <= MOST_CLASSES or (len(values) <= _MOST_EXACT and set(values) == set(found.inside)):
        return named_values(values, exact=True)
    if are_indices or len(areas) > MOST_CLASSES:
        raise ValueError(
            f"{where} hold {len(values)} different values, too many for classes; if they number objects, take any of "
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


def _colors_sentence(found: LabelValues, where: str) -> str:
    """List the colors with their shares, and the option that would name them."""
    gray = {value * 0x010101 if value <= 255 else 0xFFFFFF: count for value, count in found.pixels.items()}
    counts = found.colors + type(found.colors)(gray)
    inside = found.color_inside + type(found.colors)({v * 0x010101: n for v, n in found.inside.items() if v <= 255})
    total = sum(counts.values())
    kept: list[int] = []
    # Colors at blurred borders fill no area; each of those that do stands for the colors near it.
    for color, count in (inside or counts).most_common():
        if (
            len(kept) < _MOST_NAMED
            and count >= _LEAST_AREA * total
            and all(_distance(color, o) > LABEL_NOISE for o in kept)
        ):
            kept.append(color)
    shares = ", ".join(f"{color_text(color)} ({100 * counts[color] / total:.2g} %)" for color in kept)
    names = [BACKGROUND, *(f"class {k}" for k in range(1, len(kept)))]
    option = ", ".join(f'"{color_text(color)}": {name}' for color, name in zip(kept, names, strict=True))
    return (
        f"{found.num_color} of {where} are color pictures; their colors are {shares}. Say which class each color is "
        f"with the reader option labels, for example labels={{{option}}}, or take any color but black as foreground "
        "with labels=nonzero"
    )


def _distance(one: int, other: int) -> int:
    return max(abs((one >> shift & 255) - (other >> shift & 255)) for shift in (0, 8, 16))


def named_values(values: Sequence[int], *, exact: bool, names: Sequence[str] = ()) -> LabelMap:
    """Make the map in which the k-th value is class k; class 0 is called background unless named."""
    standing = tuple(names) or (BACKGROUND, *(f"class {k}" for k in range(1, len(values))))
    return LabelMap(standing, "values", {v: k for k, v in enumerate(values)}, snap=not exact)


def label_map_from_option(labels: object, found: LabelValues | None = None) -> LabelMap:
    """Turn the reader option `labels` into a map.

    Args:
        labels: "threshold", "nonzero", a list of class names (their order is that of the stored values, lowest first),
            or a mapping of stored values or colors ("#ff0000") to class names, such as {0: background, 128: cytoplasm,
            255: nucleus}. Two values of one name are one class; the class named background is index 0 whatever its
            value; what is named ignore counts in no loss and no score.
        found: Counts of the label files, needed for a list of names.

    Raises:
        ValueError: The option is none of these, or does not fit the files.
    """
    if labels in ("threshold", "nonzero"):
        return LabelMap(rule=str(labels))
    if isinstance(labels, Mapping) and labels:
        return _from_mapping(labels)
    if isinstance(labels, list | tuple) and len(labels) >= 2 and found is not None:
        return _from_names(tuple(map(str, labels)), infer_label_map(found), max(found.pixels, default=1))
    raise ValueError(
        f"labels must be auto, threshold, nonzero, a list of class names or a mapping of stored values or colors to "
        f"names, got {labels!r}"
    )


def _from_mapping(labels: Mapping[Any, Any]) -> LabelMap:
    colors = {parse_color(key) for key in labels}
    if None not in colors:
        named = {color: str(name) for key, name in labels.items() if (color := parse_color(key)) is not None}
        return _map_of(named, list(named), "colors", snap=True)
    try:
        stored = {int(value): str(name) for value, name in labels.items()}
    except (TypeError, ValueError):
        raise ValueError(
            f'labels must map whole numbers, or colors such as "#ff0000", to class names, got {dict(labels)!r}'
        ) from None
    gaps = np.diff(sorted(stored))
    # Far apart, a value in between is a blurred border; side by side it would be a mistake.
    return _map_of(stored, sorted(stored), "values", snap=bool(len(gaps) and gaps.min() > 2 * LABEL_NOISE))


def _map_of(named: Mapping[int, str], order: Sequence[int], rule: str, *, snap: bool) -> LabelMap:
    names = background_first(named[value] for value in order if named[value] != IGNORE)
    if len(names) < 2:
        shown = {color_text(k) if rule == "colors" else k: v for k, v in named.items()}
        raise ValueError(f"labels must name at least 2 classes, background included, got {shown!r}")
    classes = {value: IGNORED if named[value] == IGNORE else names.index(named[value]) for value in order}
    return LabelMap(names, rule, classes, snap=snap)


def background_first(names: Iterable[str]) -> tuple[str, ...]:
    """List names once each, in their order, the one called background before all others."""
    return tuple(sorted(dict.fromkeys(names), key=lambda name: name != BACKGROUND))


def parse_color(key: object) -> int | None:
    """Read "#ff0000" or "255,0,0" as 0xRRGGBB; None for anything else."""
    text = str(key).strip().lower()
    if re.fullmatch(r"#[0-9a-f]{6}", text):
        return int(text[1:], 16)
    parts = [part.strip() for part in text.strip("()[]").split(",")]
    if len(parts) == 3 and all(part.isdecimal() and int(part) <= 255 for part in parts):
        red, green, blue = map(int, parts)
        return red << 16 | green << 8 | blue
    return None


def _from_names(names: tuple[str, ...], inferred: LabelMap, highest: int) -> LabelMap:
    values = inferred.values or {0: 0, (255 if highest > 1 else 1): 1}
    stored = sorted(values) if IGNORE in names else [v for v in sorted(values) if values[v] != IGNORED]
    if len(stored) != len(names):
        raise ValueError(
            f"labels names {len(names)} classes ({', '.join(names)}), the masks hold {len(stored)} "
            f"({values_text(inferred)})"
        )
    if inferred.rule == "threshold" and BACKGROUND not in names[1:] and IGNORE not in names:
        return replace(inferred, names=names)
    snap = inferred.snap or (inferred.rule == "threshold" and highest > 1)
    named = _map_of(dict(zip(stored, names, strict=True)), stored, "values", snap=snap)
    unlabelled = {value: IGNORED for value, index in values.items() if index == IGNORED}
    return replace(named, values=named.values | unlabelled)


def values_text(label_map: LabelMap) -> str:
    """Say in words how stored values become classes."""
    if label_map.rule == "threshold":
        return f"above the middle (0/1 or 0/255) = {label_map.names[1]}"
    if label_map.rule == "nonzero":
        return f"any value but 0 = {label_map.names[1]}"
    return map_text(label_map)[1:-1] + (", others to the nearest" if label_map.snap else "")


def label_notes(label_map: LabelMap, found: LabelValues) -> list[str]:
    """Say what was decided about label values that a user may want to know."""
    notes = []
    total = max(sum(found.pixels.values()), 1)
    for value in sorted(value for value, index in label_map.values.items() if index == IGNORED):
        share = 100 * found.pixels[value] / total
        notes.append(
            f"{value} marks pixels that nobody labelled ({share:.2g} % of all): they count in no loss and no score; if "
            "it means something else, say so with the reader option labels"
        )
    if found.num_lossy and label_map.rule == "values":
        notes.append(
            f"{found.num_lossy} of {found.num_files} masks are JPEG files, whose compression changes values: each "
            "pixel takes the nearest listed value"
        )
    often = found.corners.most_common(1)
    if label_map.rule == "values" and often and 2 * often[0][1] > sum(found.corners.values()):
        index = label_map.values.get(often[0][0], 0)
        if index not in (0, IGNORED):
            notes.append(
                f"most corners hold the value {often[0][0]}, which is read as {label_map.names[index]!r}; if it is the "
                "background, say so with the reader option labels"
            )
    return notes
