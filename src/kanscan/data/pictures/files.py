"""Picture files: every odd encoding becomes a plain array, every broken file one clear sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kanscan.data.dicom.picture import read_dicom_picture, read_picture_header
from kanscan.data.dicom.series import is_named_like_dicom
from kanscan.files import atomic

_TIFF = frozenset({".tif", ".tiff"})
_CHANNEL_WORDS = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGBA"}
_MODE_WORDS = {
    "1": "1-bit",
    "L": "8-bit grey",
    "LA": "8-bit grey with alpha",
    "P": "8-bit palette",
    "RGB": "8-bit RGB",
    "RGBA": "8-bit RGBA",
    "CMYK": "8-bit CMYK",
    "I": "32-bit grey",
    "I;16": "16-bit grey",
    "F": "float grey",
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
    array = _decode(path, frame, keep_palette=False)
    return _plain(path, array)


def read_stored_label(path: str | Path, *, frame: int | None = None) -> np.ndarray:
    """Read the values a label file stores, before any map is applied.

    Palette files give their indices (that is where annotation tools keep the class); a grey picture stored as RGB or
    RGBA gives its grey values; a colored one stays `(H, W, 3)`.
    """
    path = Path(path)
    array = _plain(path, _decode(path, frame, keep_palette=True))
    if array.ndim == 3 and (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all():
        array = array[..., 0]
    return array


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
    """Read (height, width) from a file's header, without its pixels where the format allows.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable.
    """
    path = Path(path)
    if path.is_file() and is_named_like_dicom(path):
        head = read_picture_header(path)
        return head.rows, head.columns
    if path.suffix.lower() in _TIFF or path.suffix.lower() == ".npy":
        shape = _decode(path, 0 if path.suffix.lower() in _TIFF else None, keep_palette=True).shape
        return int(shape[0]), int(shape[1])
    with _readable(path), Image.open(path) as picture:
        width, height = picture.size
        # Orientations 5..8 lie on their side.
        sideways = picture.getexif().get(0x0112, 1) >= 5
    return (width, height) if sideways else (height, width)


def read_mode(path: str | Path, *, frame: int | None = None) -> str:
    """Say in words how a file stores its pixels ("1-bit", "8-bit RGBA", "16-bit grey"), from its header if possible.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable.
    """
    path = Path(path)
    if path.is_file() and is_named_like_dicom(path):
        head = read_picture_header(path)
        return f"{head.bits}-bit {'color' if head.is_color else 'grey'} DICOM"
    if path.suffix.lower() in _TIFF or path.suffix.lower() == ".npy":
        array = _decode(path, frame, keep_palette=True)
        channels = array.shape[-1] if array.ndim == 3 else 1
        depth = "float" if array.dtype.kind == "f" else f"{8 * array.dtype.itemsize if array.dtype != bool else 1}-bit"
        return f"{depth} {_CHANNEL_WORDS.get(channels, f'{channels} channels')}"
    with _readable(path), Image.open(path) as picture:
        return _MODE_WORDS.get(picture.mode, picture.mode)


def read_reduced(path: str | Path, *, frame: int | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Read a picture for comparison with others; JPEG files, many times quicker, at an eighth of their size.

    Identical JPEG pixels come from identical coefficients, so the small ones tell the same files apart.

    Returns:
        The picture as `read_image` gives it, perhaps reduced, and its true (height, width).
    """
    path = Path(path)
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        array = read_image(path, frame=frame)
        return array, (int(array.shape[0]), int(array.shape[1]))
    with _readable(path), Image.open(path) as picture:
        width, height = picture.size
        picture.draft("RGB", (max(width // 8, 1), max(height // 8, 1)))
        return np.asarray(picture.convert("RGB")), (height, width)
    raise AssertionError


class _readable:  # noqa: N801  (reads as a statement: with _readable(path):)
    """Turns whatever a decoder throws into one sentence that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        if not self.path.exists():
            raise FileNotFoundError(f"no file at {self.path}")
        if self.path.is_dir():
            raise ValueError(f"{self.path} is a folder, expected an image file")
        if self.path.stat().st_size == 0:
            raise ValueError(f"cannot read {self.path}: the file is empty (0 bytes)")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception):
            return
        if isinstance(error, PermissionError):
            raise PermissionError(f"no permission to read {self.path}") from None
        if isinstance(error, UnidentifiedImageError):
            raise ValueError(f"cannot read {self.path}: it is not an image of a known format, or damaged") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot read {self.path}: {reason}") from None


def _decode(path: Path, frame: int | None, *, keep_palette: bool) -> np.ndarray:
    with _readable(path):
        if is_named_like_dicom(path):
            return read_dicom_picture(path, frame)[0]
        if path.suffix.lower() == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix.lower() in _TIFF:
            return _decode_tiff(path, frame)
        with Image.open(path) as picture:
            return _from_pillow(picture, keep_palette)


def _decode_tiff(path: Path, frame: int | None) -> np.ndarray:
    # tifffile first: Pillow refuses files whose tags say grey while the pixels are RGB (CVC-ClinicDB). Pillow second:
    # it carries the LZW and JPEG decoders that tifffile leaves to another package.
    import tifffile

    try:
        with tifffile.TiffFile(path) as stack:
            pages = len(stack.pages)
            if frame is None and pages > 1:
                raise _PageCountError(pages)
            if not 0 <= (frame or 0) < pages:
                raise _PageCountError(pages)
            page = stack.pages[frame or 0]
            array = page.asarray()
            if array.ndim == 3 and array.shape[0] in (3, 4) and array.shape[-1] not in (3, 4):
                array = np.moveaxis(array, 0, -1)
            if getattr(page, "photometric", None) == 0 and array.dtype == np.uint8:
                array = 255 - array  # photometric 0: white is zero
            return array
    except _PageCountError as error:
        wanted = "one was expected" if frame is None else f"page {frame} was asked for"
        raise ValueError(f"it holds {error.args[0]} pages, {wanted}") from None
    except Exception as first:
        try:
            with Image.open(path) as picture:
                picture.seek(frame or 0)
                return _from_pillow(picture, keep_palette=False)
        except Exception:
            raise first from None


class _PageCountError(Exception):
    """Carries a page count out of the TIFF reader, past its own error handling."""


def _from_pillow(picture: Image.Image, keep_palette: bool) -> np.ndarray:
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "1":
        # A bool array compared with 127 would be empty.
        return np.asarray(picture, dtype=np.uint8) * np.uint8(255)
    if picture.mode in ("P", "PA"):
        if keep_palette:
            return np.asarray(picture.getchannel(0) if picture.mode == "PA" else picture)
        return np.asarray(picture.convert("RGBA").convert("RGB"))
    if picture.mode == "LA":
        return np.asarray(picture.getchannel("L"))
    if picture.mode == "RGBA":
        return np.asarray(picture)[..., :3]
    if picture.mode in ("L", "RGB", "I", "F") or picture.mode.startswith("I;16"):
        return np.asarray(picture)
    return np.asarray(picture.convert("RGB"))


def _plain(path: Path, array: np.ndarray) -> np.ndarray:
    """Bring a decoded array to the promised shapes and types, or say why it cannot be."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    elif array.ndim == 3 and array.shape[-1] == 2:
        array = array[..., 0]  # grey + alpha
    elif array.ndim == 3 and array.shape[-1] == 4:
        array = array[..., :3]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3) or 0 in array.shape:
        raise ValueError(
            f"cannot read {path}: expected a grey (height, width) or color (height, width, 3) image, "
            f"got an array of shape {array.shape}"
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
    # 32-bit containers usually hold 16-bit pictures (Pillow's mode I).
    return np.ascontiguousarray(array, dtype=np.uint16 if low >= 0 and high <= 65535 else np.float32)
