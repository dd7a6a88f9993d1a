"""Pictures of labels on images: overlays, contact sheets, PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kanscan.drawing.colors import CASING_COLOR, REFERENCE_COLOR, class_color
from kanscan.drawing.words import visible
from kanscan.files import atomic

_FILL = 0.35


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Turn any image into one that can be shown.

    Args:
        image: `(H, W)` or `(H, W, C)`; 8-bit values are kept, others stretched from their 0.5..99.5 percentiles.

    Returns:
        `(H, W, 3)` uint8.
    """
    if image.ndim == 3 and image.shape[-1] != 3:
        image = image[..., :3] if image.shape[-1] > 3 else image[..., 0]
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * np.uint8(255)
    if image.dtype != np.uint8:
        low, high = np.percentile(image, (0.5, 99.5))
        image = (np.clip((image - low) / max(high - low, 1e-12), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1))


def contour(mask: np.ndarray, width: int = 1) -> np.ndarray:
    """Mark the pixels of a boolean `(H, W)` mask that lie within `width` pixels of its border."""
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def overlay(image: np.ndarray, label: np.ndarray, *, reference: np.ndarray | None = None) -> np.ndarray:
    """Draw a label map over its image: each class as a tint with a solid contour.

    Args:
        image: `(H, W)` or `(H, W, C)`.
        label: `(H, W)` class indices, 0 is background.
        reference: A second label map of the same size; its contours are drawn in
            `kanscan.drawing.colors.REFERENCE_COLOR`, with a dark edge on both sides.

    Returns:
        `(H, W, 3)` uint8.

    Raises:
        ValueError: The sizes differ.

    Example:
        >>> import numpy as np
        >>> overlay(np.zeros((8, 8), np.uint8), np.eye(8, dtype=np.uint8)).shape
        (8, 8, 3)
    """
    picture = to_rgb(image).astype(np.float32)
    for what, other in (("label", label), ("reference", reference)):
        if other is not None and other.shape != picture.shape[:2]:
            raise ValueError(f"the {what} has size {other.shape}, the image {picture.shape[:2]}; they must agree")
    # More than one pixel once the picture is shrunk to a thumbnail.
    width = max(1, round(max(label.shape) / 150))
    for index in np.unique(label[label > 0]):
        mask = label == index
        color = np.array(class_color(int(index)), dtype=np.float32)
        picture[mask] = (1 - _FILL) * picture[mask] + _FILL * color
        picture[contour(mask, width)] = color
    if reference is not None:
        lines = np.zeros(reference.shape, bool)
        thin = max(1, round(max(label.shape) / 220))
        # A border between two classes is drawn once, on the side of the higher one.
        for index in np.unique(reference[reference > 0]):
            lines |= contour(reference >= index, thin)
        picture[contour(~lines, max(1, thin // 2))] = CASING_COLOR
        picture[lines] = REFERENCE_COLOR
    return picture.round().astype(np.uint8)


def contact_sheet(
    tiles: Sequence[np.ndarray], captions: Sequence[str] = (), columns: int = 4, *, tile_size: int = 220
) -> np.ndarray:
    """Lay pictures out in a grid with a line of text under each.

    Args:
        tiles: `(H, W)` or `(H, W, 3)` images of any size; each is scaled to fit a square cell.
        captions: One line a tile, shortened to the cell's width; fewer than tiles leave the rest bare.
        columns: Cells a row.
        tile_size: Side of a cell in pixels.

    Returns:
        The sheet, `(H, W, 3)` uint8.

    Raises:
        ValueError: There is no tile.
    """
    if not len(tiles):
        raise ValueError("a contact sheet needs at least one picture")
    font = ImageFont.load_default(13)
    gap, line = 6, 18 if captions else 0
    columns = max(1, min(columns, len(tiles)))
    pictures = [_fitted(Image.fromarray(to_rgb(tile)), tile_size) for tile in tiles]
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    # Each row is as high as its highest picture: wide ones leave no empty bands.
    heights = [max(picture.height for picture in row) for row in rows]
    size = (columns * (tile_size + gap) + gap, sum(heights) + len(rows) * (line + gap) + gap)
    sheet = Image.new("RGB", size, (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    top = gap
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for column, picture in enumerate(row):
            left, position = gap + column * (tile_size + gap), number * columns + column
            sheet.paste(picture, (left + (tile_size - picture.width) // 2, top + (height - picture.height) // 2))
            if position < len(captions):
                text = _shortened(captions[position], font, tile_size)
                draw.text((left, top + height + 2), text, fill=(235, 235, 235), font=font)
        top += height + line + gap
    return np.asarray(sheet)


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    width, height = (max(1, round(s * scale)) for s in picture.size)
    method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return picture.resize((width, height), method)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    text = " ".join(visible(text).split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def png_bytes(array: np.ndarray) -> bytes:
    """Encode `(H, W)` or `(H, W, 3)` uint8 as PNG, for embedding."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_png(path: str | Path, array: np.ndarray) -> Path:
    """Write `(H, W)` or `(H, W, 3)` uint8 as PNG, atomically, and return the path."""
    with atomic(path) as temporary:
        Image.fromarray(array).save(temporary, format="PNG")
    return Path(path)
