"""Two folders of masks, made apart, brought to one set of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kanscan.data.case import Case
from kanscan.data.label_map import LabelMap
from kanscan.data.pictures.files import MOST_CLASSES
from kanscan.data.pictures.label_meaning import infer_label_map, label_map_from_option, named_values, values_text
from kanscan.data.pictures.label_values import LabelValues, read_label_values


def agree_on_labels(
    predictions: Sequence[Case], references: Sequence[Case], labels: Any = "auto"
) -> tuple[LabelMap, LabelMap, str]:
    """Find out what the stored values mean in both.

    Args:
        predictions: With label files.
        references: Likewise.
        labels: As the reader option of that name; holds for both. "auto": told from the files.

    Returns:
        Map of the predictions, map of the references, and what was decided, or "".

    Raises:
        ValueError: The predictions hold values that the references do not explain, or colors that nobody named.
    """
    if labels != "auto":
        found = read_label_values([*references, *predictions]) if isinstance(labels, list | tuple) else None
        label_map = label_map_from_option(labels, found)
        return label_map, label_map, ""
    theirs, ours = read_label_values(references), read_label_values(predictions)
    label_map = infer_label_map(theirs, "the references")
    if label_map.rule != "values":
        prediction_map = infer_label_map(ours, "the predictions")
        if prediction_map.num_classes == label_map.num_classes:
            return prediction_map, label_map, ""
    elif not ours.num_color and set(ours.pixels) <= set(label_map.values):
        return label_map, label_map, ""
    elif not ours.num_color and max(ours.pixels, default=0) < label_map.num_classes:
        indices = named_values(range(label_map.num_classes), exact=True, names=label_map.names)
        return indices, label_map, f"predictions were read as class indices, references as {values_text(label_map)}"
    together = _together(ours, theirs)
    if together is not None:
        return together, together, "classes that no reference holds are counted as false where they are predicted"
    stored = sorted(ours.pixels)
    shown = ", ".join(map(str, stored[:6])) + (", ..." if len(stored) > 6 else "")
    raise ValueError(
        f"the predictions hold the values {shown}, the references {values_text(label_map)}; store the same values in "
        "both, or say what they mean with labels, for example labels={0: background, 128: disc, 255: cup}"
    )


def _together(ours: LabelValues, theirs: LabelValues) -> LabelMap | None:
    """Read both as one set of classes, of which the references happen to lack some."""
    # Only class indices say by themselves which class they are.
    listed = (set(ours.pixels) | set(theirs.pixels)) - {255}
    if ours.num_color or theirs.num_color or max(listed, default=0) > MOST_CLASSES:
        return None
    try:
        found = infer_label_map(ours + theirs)
    except ValueError:
        return None
    return found if found.rule == "values" else None
