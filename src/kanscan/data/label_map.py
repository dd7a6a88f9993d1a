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
        rule: "threshold" (gray > 127 of 255, bool True, or RGB likewise is class 1), "nonzero" (any non-zero value is
            class 1: instance labels), "values" (each stored value is listed) or "colors" (each color is).
        values: With "values": stored value -> class index, or `kanscan.metrics.IGNORED` for pixels that nobody
            labelled. Values in between go to the nearest listed one if `snap` is set, and are an error otherwise;
            values beyond the listed ones are an error always. With "colors": the same of colors as 0xRRGGBB.
        snap: See `values`.
        resize: Masks of another size than their image are brought to it, each pixel taking the nearest value.
        codes: Class name -> (value, scheme, meaning) of a code for DICOM, where the data set names it.
    """

    names: tuple[str, ...] = ("background", "foreground")
    rule: str = "threshold"
    values: dict[int, int] = field(default_factory=dict)
    snap: bool = False
    resize: bool = False
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
        `(H, W)` uint8 class indices, or `kanscan.metrics.IGNORED`.

    Raises:
        ValueError: A value is outside the map; the sentence names file, value and map.
    """
    if label_map.rule == "colors":
        return _by_colors(stored, label_map, path)
    if label_map.rule == "values":
        return _by_values(stored, label_map, path)
    # A mask drawn in one color (red lesions) has its signal in one channel only.
    gray = stored.max(axis=-1) if stored.ndim == 3 else stored
    if float(gray.min(initial=0)) < 0:
        raise ValueError(
            f"{path} holds the negative label value {gray.min():g}; name the values with the reader option labels, for "
            "example {-1: ignore, 0: background, 1: foreground}"
        )
    if label_map.rule == "nonzero":
        return (gray > 0).astype(np.uint8)
    if label_map.rule != "threshold":
        raise ValueError(f"unknown label rule {label_map.rule!r}; known are 'colors', 'nonzero', 'threshold', 'values'")
    highest = float(gray.max(initial=0))
    if highest <= 1:
        return (gray > 0.5).astype(np.uint8)
    threshold = 127 if highest <= 255 else 32767
    if LABEL_NOISE < highest <= threshold:
        raise ValueError(
            f"{path} holds label values up to {highest:g}, outside the map (0/1 or 0/255 with a threshold at 127); "
            "name the values with the reader option labels"
        )
    return (gray > threshold).astype(np.uint8)


def _by_values(stored: np.ndarray, label_map: LabelMap, path: str | Path) -> np.ndarray:
    listed = sorted(label_map.values)
    if stored.ndim == 3:
        raise ValueError(
            f"{path} is a color picture; a label must hold one of the values {listed} in every pixel, or the reader "
            'option labels must name colors, for example {"#000000": background, "#ff0000": foreground}'
        )
    present, inverse = _distinct(stored)
    keys = np.array(listed, dtype=np.float64)
    distance = np.abs(present[:, None].astype(np.float64) - keys[None, :])
    nearest = distance.argmin(axis=1)
    outside = distance[np.arange(len(present)), nearest] > 0
    if label_map.snap:
        beyond = (present < listed[0] - LABEL_NOISE) | (present > listed[-1] + LABEL_NOISE)
        between = np.array([_fills_area(stored == v) for v in present[outside & ~beyond]], dtype=bool)
        outside[outside & ~beyond] = between
    if outside.any():
        raise ValueError(
            f"{path} holds label value{'s' if outside.sum() > 1 else ''} "
            f"{', '.join(f'{v:g}' for v in present[outside][:5])}, outside the map {map_text(label_map)}"
        )
    classes = np.array([label_map.values[v] for v in listed], dtype=np.uint8)
    return classes[nearest][inverse].reshape(stored.shape)


def _by_colors(stored: np.ndarray, label_map: LabelMap, path: str | Path) -> np.ndarray:
    packed = pack_colors(stored)
    present, inverse = np.unique(packed, return_inverse=True)
    listed = np.array(sorted(label_map.values))
    distance = np.abs(_channels(present)[:, None] - _channels(listed)[None]).max(axis=-1)
    nearest = distance.argmin(axis=1)
    far = distance[np.arange(len(present)), nearest] > LABEL_NOISE
    # Borders blurred by resizing lie between two colors; what fills an area is a color that nobody named.
    unknown = [color for color in present[far] if _fills_area(packed == color)]
    if unknown:
        raise ValueError(
            f"{path} holds the color{'s' * (len(unknown) > 1)} {', '.join(map(color_text, unknown[:5]))}, outside the "
            f"map {map_text(label_map)}"
        )
    classes = np.array([label_map.values[int(color)] for color in listed], dtype=np.uint8)
    return classes[nearest][inverse].reshape(packed.shape)


def _distinct(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List the values and, for each pixel, the position of its value among them."""
    if stored.dtype not in (np.uint8, np.uint16):
        present, inverse = np.unique(stored, return_inverse=True)
        return present, inverse
    # Counting is many times quicker than sorting.
    present = np.flatnonzero(np.bincount(stored.ravel()))
    places = np.zeros(int(present[-1]) + 1 if len(present) else 1, dtype=np.intp)
    places[present] = np.arange(len(present))
    return present, places[stored.ravel()]


def pack_colors(stored: np.ndarray) -> np.ndarray:
    """Write each pixel's color as one number 0xRRGGBB; `(H, W)` is gray."""
    if stored.dtype != np.uint8:
        stored = np.clip(np.rint(stored / 257 if stored.dtype == np.uint16 else stored), 0, 255)
    red, green, blue = (stored[..., k] if stored.ndim == 3 else stored for k in range(3))
    return (red.astype(np.int64) << 16) | (green.astype(np.int64) << 8) | blue.astype(np.int64)


def _channels(colors: np.ndarray) -> np.ndarray:
    return np.stack([colors >> 16 & 255, colors >> 8 & 255, colors & 255], axis=-1)


def color_text(color: int) -> str:
    """Write a color 0xRRGGBB as the option `labels` takes it: "#ff0000"."""
    return f"#{int(color):06x}"


def _fills_area(mask: np.ndarray) -> bool:
    """Tell a class that nobody named from the blurred border between two: only the former has an inside."""
    from scipy.ndimage import binary_erosion

    least = _LEAST_AREA * mask.size
    return bool(mask.sum() >= least and binary_erosion(mask, np.ones((3, 3))).sum() >= least)


def map_text(label_map: LabelMap) -> str:
    """Write down which stored value, or color, is which class."""
    names = dict(enumerate(label_map.names)) | {IGNORED: "ignored"}
    write = color_text if label_map.rule == "colors" else str
    return "{" + ", ".join(f"{write(value)} = {names[k]}" for value, k in sorted(label_map.values.items())) + "}"
