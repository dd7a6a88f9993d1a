"""Drawn shapes become a label map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kanscan.data.outlines import Outlines, Polygon, Runs


def draw_outlines(outlines: Outlines, size: tuple[int, int]) -> np.ndarray:
    """Draw shapes into a map of values.

    Args:
        outlines: The shapes.
        size: (height, width) of the picture, for shapes in shares of it.

    Returns:
        `(H, W)` uint8, in the size that the outlines name, else in `size`.

    Raises:
        ValueError: A mask of runs has another size, or its runs do not fill it.
    """
    height, width = outlines.size or size
    label = np.zeros((height, width), np.uint8)
    for shape in outlines.shapes:
        if isinstance(shape, Runs):
            mask = expand_runs(shape)
            if mask.shape != label.shape:
                raise ValueError(f"a mask of runs is {mask.shape[1]} x {mask.shape[0]}, its picture {width} x {height}")
            label[mask] = shape.value
        else:
            _fill(label, shape, (1.0, 1.0) if outlines.size else (float(width), float(height)))
    return label


def _fill(label: np.ndarray, shape: Polygon, scale: tuple[float, float]) -> None:
    """Set the pixels whose middle lies inside an outline; where it crosses itself, inside an odd number of times."""
    corners = np.asarray(shape.points, dtype=np.float64) * scale
    x, y = corners.T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    for row in range(max(int(np.ceil(y.min() - 0.5)), 0), min(int(np.floor(y.max() - 0.5)), len(label) - 1) + 1):
        middle = row + 0.5
        crossed = (y <= middle) != (next_y <= middle)
        share = (middle - y[crossed]) / (next_y[crossed] - y[crossed])
        crossings = np.sort(x[crossed] + share * (next_x[crossed] - x[crossed]))
        borders = np.clip(np.ceil(crossings - 0.5), 0, label.shape[1]).astype(int).tolist()
        for begin, end in zip(borders[0::2], borders[1::2], strict=True):
            label[row, begin:end] = shape.value


def expand_runs(runs: Runs) -> np.ndarray:
    """Expand lengths of runs to a boolean mask `(H, W)`.

    Raises:
        ValueError: The runs do not fill the mask.
    """
    height, width = runs.size
    counts = np.asarray(runs.counts, dtype=np.int64)
    if (counts < 0).any() or counts.sum() != height * width:
        raise ValueError(f"a mask of runs holds {int(counts.sum())} pixels, expected {width} x {height}")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape((width, height)).T if runs.by_columns else flat.reshape((height, width))


def coco_counts(text: str) -> tuple[int, ...]:
    """Decode the compressed form of COCO's runs: numbers of 5 bits a letter, from the third on as differences.

    Raises:
        ValueError: It is cut off.
    """
    counts: list[int] = []
    place = 0
    while place < len(text):
        number, shift, more = 0, 0, True
        while more:
            if place >= len(text):
                raise ValueError("the compressed runs of a mask are cut off")
            code = ord(text[place]) - 48
            number |= (code & 0x1F) << shift
            more, shift, place = bool(code & 0x20), shift + 5, place + 1
            if not more and code & 0x10:
                number -= 1 << shift
        counts.append(number + counts[-2] if len(counts) > 2 else number)
    return tuple(counts)


def label_studio_mask(rle: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Decode the brush strokes that Label Studio exports: packed runs of RGBA values, of which alpha is drawn.

    Args:
        rle: Bytes as numbers 0..255.
        size: (height, width).

    Returns:
        Boolean mask `(H, W)`.

    Raises:
        ValueError: It is no such export, or of another size.
    """
    bits = np.unpackbits(np.asarray(rle, dtype=np.uint8))
    place = 0

    def take(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise ValueError("the brush strokes of a mask are cut off")
        number = int("".join(map(str, bits[place : place + count])) or "0", 2)
        place += count
        return number

    total, word = take(32), take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    if total != size[0] * size[1] * 4:
        raise ValueError(f"brush strokes hold {total // 4} pixels, expected {size[1]} x {size[0]}")
    values = np.zeros(total, dtype=np.uint8)
    filled = 0
    while filled < total:
        is_run = take(1)
        end = filled + 1 + take(lengths[take(2)])
        if is_run:
            values[filled:end] = take(word)
        else:
            values[filled:end] = [take(word) for _ in range(min(end, total) - filled)]
        filled = end
    return values.reshape(*size, 4)[..., 3] > 0
