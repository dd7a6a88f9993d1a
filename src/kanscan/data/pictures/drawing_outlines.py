"""Drawn shapes become a label map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

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
    picture = Image.new("L", (width, height))
    label = np.asarray(picture)
    for shape in outlines.shapes:
        if isinstance(shape, Runs):
            mask = expand_runs(shape)
            if mask.shape != (height, width):
                raise ValueError(f"a mask of runs is {mask.shape[1]} x {mask.shape[0]}, its picture {width} x {height}")
            label = np.where(mask, np.uint8(shape.value), np.asarray(picture))
            picture = Image.fromarray(label)
        else:
            scale = (1.0, 1.0) if outlines.size else (float(width), float(height))
            _fill(picture, shape, scale)
    return np.array(picture)


def _fill(picture: Image.Image, shape: Polygon, scale: tuple[float, float]) -> None:
    # A pixel's middle is counted at half a pixel by the tools, at a whole number by Pillow.
    points = [(x * scale[0] - 0.5, y * scale[1] - 0.5) for x, y in shape.points]
    if len(points) > 2:
        ImageDraw.Draw(picture).polygon(points, fill=shape.value)


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
