"""Picture files: every odd encoding becomes a plain array, every broken file one clear sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from kanscan.data.dicom.picture import read_picture_header
from kanscan.data.dicom.series import is_named_like_dicom
from kanscan.data.label_map import LABEL_NOISE
from kanscan.data.pictures.decoding import TIFF_SUFFIXES, channel_pages, decode, full_pages, orientation_of
from kanscan.data.pictures.limits import open_pillow
from kanscan.data.readable import readable
from kanscan.files import atomic

#: More than this many channels are a volume.
_MOST_CHANNELS = 16
_CHANNEL_WORDS = {1: "gray", 2: "gray with alpha", 3: "RGB", 4: "RGBA"}
_MODE_WORDS = {
    "1": "1-bit",
    "L": "8-bit gray",
    "LA": "8-bit gray with alpha",
    "P": "8-bit palette",
    "RGB": "8-bit RGB",
    "RGBA": "8-bit RGBA",
    "CMYK": "8-bit CMYK",
    "I": "32-bit gray",
    "I;16": "16-bit gray",
    "F": "float gray",
}


def read_image(path: str | Path, *, frame: int | None = None) -> np.ndarray:
    """Read a picture as it would be seen.

    Alpha is dropped, palettes and CMYK become RGB, 1-bit becomes 0/255, the EXIF orientation is applied. Pixel values
    are otherwise untouched: 16-bit and floating-point files keep their range.

    Args:
        path: PNG, JPEG, BMP, TIFF, GIF, WebP, PGM/PPM, DICOM or NPY (channels last).
        frame: Page of a multi-page TIFF or frame of a DICOM clip, counted from 0.

    Returns:
        `(H, W)` or `(H, W, 3)` array of uint8, uint16 or float32.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable, truncated, not a 2D image, or holds NaN; the sentence names it.

    Example:
        >>> import numpy as np, tempfile
        >>> path = tempfile.mkdtemp() + "/label.png"
        >>> _ = write_label(path, np.eye(3, dtype=np.uint8))
        >>> read_image(path).shape
        (3, 3)
    """
    path = Path(path)
    return _plain(path, decode(path, frame).array)


def read_stored_label(path: str | Path, *, frame: int | None = None, as_colors: bool = False) -> np.ndarray:
    """Read the values a label file stores, before any map is applied.

    A palette with colors gives its indices (that is where annotation tools keep the class), one of grays alone what it
    shows. What is drawn in transparency is read from there. A gray picture stored as RGB or RGBA gives its gray values;
    a colored one stays `(H, W, 3)`.

    Args:
        path: The file.
        frame: Page of a multi-page TIFF, or picture of a stack, counted from 0.
        as_colors: A palette with colors gives the colors instead of its indices.

    Returns:
        `(H, W)` array of uint8, uint16, int64 (where values are negative) or float32, or `(H, W, 3)` of uint8.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable, or drawn in color and transparency at once; the sentence names it.
    """
    path = Path(path)
    found = decode(path, frame)
    if found.indices is not None and not found.gray_palette and not as_colors:
        return _plain(path, found.indices)
    array = _opaque(path, _plain(path, found.array), found.alpha)
    if array.ndim == 3:
        if array.shape[-1] != 3:
            raise ValueError(f"cannot read {path}: a mask has one value or one color a pixel, got {array.shape[-1]}")
        if (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all():
            array = np.ascontiguousarray(array[..., 0])
        elif is_lossy(path) and int(np.ptp(array.astype(np.int16), axis=-1).max(initial=0)) <= LABEL_NOISE:
            array = np.median(array, axis=-1).astype(array.dtype)  # compression colored a gray picture a little
    if found.inverted and array.ndim == 2 and array.dtype == np.uint8:
        # Class numbers under a tag that calls 0 white: no viewer could show them, but they were meant as they stand.
        stored = 255 - array
        if 0 < stored.max(initial=0) <= MOST_CLASSES:
            return stored
    return array


def read_channels(path: str | Path, *, frame: int | None = None) -> np.ndarray:
    """Read a file as it stands, whatever its channels mean."""
    return decode(Path(path), frame).array


#: Largest value that is taken for a class index as it stands.
MOST_CLASSES = 31


def is_lossy(path: Path) -> bool:
    """Tell by its name whether a format changes values a little."""
    return path.suffix.lower() in (".jpg", ".jpeg", ".webp")


def _opaque(path: Path, array: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Settle what a mask with transparency shows."""
    if alpha is None or (alpha == alpha.flat[0]).all():
        return array
    colors = array.reshape(*array.shape[:2], -1)
    if (colors == colors[0, 0]).all():
        return np.ascontiguousarray(alpha)
    hidden = alpha == 0
    if not colors[hidden].any():
        return array
    if (colors[~hidden] == 0).all(axis=-1).any():
        raise ValueError(
            f"{path} is drawn in color and in transparency: black pixels are opaque and colored ones transparent; save "
            "it without transparency"
        )
    return np.where(hidden if array.ndim == 2 else hidden[..., None], array.dtype.type(0), array)


def write_label(path: str | Path, label: np.ndarray) -> Path:
    """Write a label map as PNG, atomically; uint8 where the values allow it, else uint16.

    Args:
        path: Ends in `.png`.
        label: `(H, W)` non-negative integers.

    Returns:
        The path.
    """
    path = Path(path)
    if label.ndim != 2 or label.dtype.kind not in "biu":
        raise ValueError(f"cannot write {path}: a label map is a (height, width) array of integers, got {label.shape}")
    if label.size and (label.min() < 0 or label.max() > 65535):
        raise ValueError(f"cannot write {path}: label values must lie in 0..65535, got {label.min()}..{label.max()}")
    stored = label.astype(np.uint8 if label.max(initial=0) <= 255 else np.uint16)
    with atomic(path) as temporary:
        Image.fromarray(stored).save(temporary, format="PNG")
    return path


def read_size(path: str | Path) -> tuple[int, int]:
    """Read (height, width) of the upright picture from a file's header.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable.
    """
    size = read_header(Path(path)).size
    return size


@dataclass(frozen=True)
class Header:
    """What a picture's file says of it before any pixel is decoded.

    Attributes:
        size: (height, width), upright.
        channels: 1 for gray, 3 for color, more for others; alpha is not counted.
        mode: How pixels are stored, in words ("1-bit", "8-bit RGBA", "16-bit gray").
        orientation: The camera's turn, 1..8; 1 is none.
    """

    size: tuple[int, int]
    channels: int
    mode: str
    orientation: int = 1


def read_header(path: Path) -> Header:
    """Read the header of a picture file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file at {path}")
    suffix = path.suffix.lower()
    if is_named_like_dicom(path):
        head = read_picture_header(path, segmentations=True)
        kind = "color" if head.is_color else "gray"
        mode = "DICOM segmentation" if head.kind else f"{head.bits}-bit {kind} DICOM"
        return Header((head.rows, head.columns), 3 if head.is_color else 1, mode)
    if suffix in (".npy", ".mat"):
        array = decode(path).array
        return Header((int(array.shape[0]), int(array.shape[1])), _num_channels(array.shape), _array_mode(array))
    with readable(path):
        try:
            if suffix in TIFF_SUFFIXES:
                return _tiff_header(path)
            with open_pillow(path) as picture:
                return _pillow_header(picture)
        except UnidentifiedImageError:
            raise ValueError("it is not an image of a known format, or damaged") from None


def _tiff_header(path: Path) -> Header:
    import tifffile

    with tifffile.TiffFile(path) as stack:
        page = full_pages(stack)[0]
        samples, pages = int(page.samplesperpixel), channel_pages(stack)
        depth = "float" if page.sampleformat == 3 else f"{page.bitspersample}-bit"
        words = (
            "palette" if page.photometric == 3 else _CHANNEL_WORDS.get(pages or samples, f"{pages or samples} channels")
        )
        channels = 3 if page.photometric in (3, 5, 6, 8) else pages or (samples - (samples in (2, 4)))
        orientation = int(page.tags.valueof(274) or 1)
        size = int(page.imagelength), int(page.imagewidth)
        return Header(
            _upright(size, orientation), channels, depth if depth == "1-bit" else f"{depth} {words}", orientation
        )


def _pillow_header(picture: Image.Image) -> Header:
    orientation = orientation_of(picture)
    channels = 1 if picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;16") else 3
    mode = _MODE_WORDS.get(picture.mode, picture.mode)
    return Header(_upright((picture.height, picture.width), orientation), channels, mode, orientation)


def _upright(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (size[1], size[0]) if orientation in (5, 6, 7, 8) else size


def _num_channels(shape: tuple[int, ...]) -> int:
    return 1 if len(shape) == 2 else int(shape[-1])


def _array_mode(array: np.ndarray) -> str:
    channels = _num_channels(array.shape)
    depth = "float" if array.dtype.kind == "f" else f"{8 * array.dtype.itemsize if array.dtype != bool else 1}-bit"
    return f"{depth} {_CHANNEL_WORDS.get(channels, f'{channels} channels')}"


def read_mode(path: str | Path) -> str:
    """Say in words how a file stores its pixels ("1-bit", "8-bit RGBA", "16-bit gray"), from its header.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable.
    """
    return read_header(Path(path)).mode


def read_reduced(path: str | Path, *, frame: int | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Read a picture for comparison with others; JPEG files, many times quicker, at an eighth of their size.

    Identical JPEG pixels come from identical coefficients, so the small ones tell the same files apart.

    Returns:
        The picture as `read_image` gives it, perhaps reduced, and its true (height, width).
    """
    path = Path(path)
    if path.suffix.lower() not in (".jpg", ".jpeg") or not path.is_file():
        array = read_image(path, frame=frame)
        return array, (int(array.shape[0]), int(array.shape[1]))
    with readable(path):
        try:
            with open_pillow(path) as picture:
                width, height = picture.size
                picture.draft("RGB", (max(width // 8, 1), max(height // 8, 1)))
                return np.asarray(picture.convert("RGB")), (height, width)
        except UnidentifiedImageError:
            raise ValueError("it is not an image of a known format, or damaged") from None
    raise AssertionError


def _plain(path: Path, array: np.ndarray) -> np.ndarray:
    """Bring a decoded array to the promised shapes and types, or say why it cannot be."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] > _MOST_CHANNELS) or 0 in array.shape:
        raise ValueError(
            f"cannot read {path}: expected an image (height, width), or (height, width, channels) with at most "
            f"{_MOST_CHANNELS} channels, got an array of shape {array.shape}"
        )
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(array.dtype, np.floating):
        bad = int(np.size(array) - np.isfinite(array).sum())
        if bad:
            raise ValueError(f"{path} contains NaN or infinite values ({bad} of {array.size}); repair or leave it out")
        return np.ascontiguousarray(array, dtype=np.float32)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"cannot read {path}: pixels of type {array.dtype} are not supported")
    if array.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))
    low, high = int(array.min()), int(array.max())
    if low < 0 and high <= 255 and low >= -255:
        return np.ascontiguousarray(array.astype(np.int64))
    # 32-bit containers usually hold 16-bit pictures (Pillow's mode I).
    return np.ascontiguousarray(array, dtype=np.uint16 if low >= 0 and high <= 65535 else np.float32)
