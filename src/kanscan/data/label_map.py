"""How the values stored in label files become classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kanscan.metrics import IGNORED

#: Re-encoding (JPEG) and resizing move label values by up to this much. A mask whose largest value lies between it and
#: the threshold is no 0/255 mask.
LABEL_NOISE = 16
#: Share of a picture that pixels of one value, surrounded by their like, must fill to be more than a blurred border.
_LEAST_AREA = 5e-3


@dataclass(frozen=True, slots=True)
class LabelMap:
    """How the values stored in label files become classes 0..n-1.

    Attributes:
        names: Class names; index 0 is the background.
        rule: "threshold" (grey > 127 of 255, bool True, or RGB likewise is class 1), "nonzero" (any non-zero value is
            class 1: instance labels), or "values" (each stored value is listed).
        values: With "values": stored value -> class index, or `kanscan.metrics.IGNORED` for pixels that nobody
            labelled. Values in between go to the nearest listed one if `snap` is set, and are an error otherwise;
            values beyond the listed ones are an error always.
        snap: See `values`.
        codes: Class name -> (value, scheme, meaning) of a code for DICOM, where the data set names it.
    """

    names: tuple[str, ...] = ("background", "foreground")
    rule: str = "threshold"
    values: dict[int, int] = field(default_factory=dict)
    snap: bool = False
    codes: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.names)


def apply_label_map(stored: np.ndarray, label_map: LabelMap, path: str | Path = "the label") -> np.ndarray:
    """Turn stored label values into class indices.

    Args:
        stored: `(H, W)` or `(H, W, 3)` values as `read_stored_label` gives them.
        label_map: The rule.
        path: Named in the sentence when a value does not fit.

    Returns:
        `(H, W)` uint8 class indices.

    Raises:
        ValueError: A value is outside the map; the sentence names file, value and map.
    """
    if label_map.rule == "values":
        return _by_values(stored, label_map, path)
    # A mask drawn in one color (red lesions) has its signal in one channel only.
    grey = stored.max(axis=-1) if stored.ndim == 3 else stored
    if label_map.rule == "nonzero":
        return (grey > 0).astype(np.uint8)
    if label_map.rule != "threshold":
        raise ValueError(f"unknown label rule {label_map.rule!r}; known are 'nonzero', 'threshold', 'values'")
    highest = float(grey.max(initial=0))
    if highest <= 1:
        return (grey > 0.5).astype(np.uint8)
    threshold = 127 if highest <= 255 else 32767
    if LABEL_NOISE < highest <= threshold:
        raise ValueError(
            f"{path} holds label values up to {highest:g}, outside the map (0/1 or 0/255 with a threshold at 127); "
            "name the values with the reader option labels"
        )
    return (grey > threshold).astype(np.uint8)


def _by_values(stored: np.ndarray, label_map: LabelMap, path: str | Path) -> np.ndarray:
    listed = sorted(label_map.values)
    if stored.ndim == 3:
        raise ValueError(f"{path} is a color picture; a label must hold one of the values {listed} in every pixel")
    present, inverse = np.unique(stored, return_inverse=True)
    keys = np.array(listed, dtype=np.float64)
    distance = np.abs(present[:, None].astype(np.float64) - keys[None, :])
    nearest = distance.argmin(axis=1)
    outside = distance[np.arange(len(present)), nearest] > 0
    if label_map.snap:
        beyond = (present < listed[0] - LABEL_NOISE) | (present > listed[-1] + LABEL_NOISE)
        between = np.array([_fills_area(stored, v) for v in present[outside & ~beyond]], dtype=bool)
        outside[outside & ~beyond] = between
    if outside.any():
        shown = ", ".join(f"{v:g}" for v in present[outside][:5])
        raise ValueError(
            f"{path} holds label value{'s' if outside.sum() > 1 else ''} {shown}, outside the map "
            f"{_map_text(label_map)}"
        )
    classes = np.array([label_map.values[v] for v in listed], dtype=np.uint8)
    return classes[nearest][inverse].reshape(stored.shape)


def _fills_area(stored: np.ndarray, value: float) -> bool:
    """Tell a class that nobody named from the blurred border between two: only the former has an inside."""
    from scipy.ndimage import binary_erosion

    least = _LEAST_AREA * stored.size
    mask = stored == value
    return bool(mask.sum() >= least and binary_erosion(mask, np.ones((3, 3))).sum() >= least)


def _map_text(label_map: LabelMap) -> str:
    names = dict(enumerate(label_map.names)) | {IGNORED: "ignored"}
    parts = (f"{value} = {names[index]}" for value, index in sorted(label_map.values.items()))
    return "{" + ", ".join(parts) + "}"
