"""What can be said of a volume once it was read; problems become sentences instead of exceptions."""

from __future__ import annotations

from collections import Counter

import numpy as np

from kanscan.data.base import Case, LabelMap
from kanscan.data.examination import CaseFacts
from kanscan.data.label_values import value_counts
from kanscan.data.similarity import volume_signature
from kanscan.data.volumes import Volume, axis_codes, check_grid, format_name, read_case_volume, stored_labels
from kanscan.metrics import IGNORED


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
        }
    except (OSError, ValueError) as error:
        errors.append(str(error))
    try:
        if case.labels:
            facts |= _label_facts(case, label_map, image)
    except (OSError, ValueError) as error:
        errors.append(str(error))
    return CaseFacts(case.id, errors=tuple(errors), **facts)  # type: ignore[arg-type]


def _label_facts(case: Case, label_map: LabelMap, image: Volume | None) -> dict[str, object]:
    from kanscan.data.volumes import read_label_volume

    values: Counter[int] = Counter()
    modes = []
    for path, stored in zip(case.labels, stored_labels(case), strict=not case.stacked):
        values.update(value_counts(stored.array.astype(np.int64)))
        modes.append(f"{stored.array.dtype} {format_name(path)}")
        if image is not None:
            check_grid(image, stored)
    label = read_label_volume(case, label_map).array
    counts = np.bincount(label[label != IGNORED], minlength=label_map.num_classes)
    return {
        "label_modes": tuple(modes),
        "stored": values,
        "class_pixels": tuple(counts.tolist()),
    }
