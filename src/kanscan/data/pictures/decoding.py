"""Picture files become arrays: what a viewer would show, and beside it what only a mask needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from kanscan.data.dicom.picture import read_dicom_picture, read_picture_header
from kanscan.data.dicom.series import is_named_like_dicom
from kanscan.data.pictures.limits import TooLargeError, check_pixels, open_pillow
from kanscan.data.readable import readable

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
#: Baseline TIFF, tag 262: how pixels are to be understood.
_WHITE_IS_ZERO, _RGB, _PALETTE = 0, 2, 3
#: CMYK, YCbCr, CIELab, ICCLab, ITULab: Pillow turns these into RGB.
_OTHER_COLORS = (5, 6, 8, 9, 10)
_ORIENTATION = 274


@dataclass(frozen=True)
class Decoded:
    """A decoded file.

    Attributes:
        array: `(H, W)` or `(H, W, C)` as a viewer shows it, alpha apart; the file's own numbers otherwise.
        indices: `(H, W)` palette indices, where the file has a palette.
        gray_palette: Every entry of that palette is a gray.
        alpha: `(H, W)`, where the file has it.
        inverted: The file says that 0 is white, which `array` respects.
        orientation: What EXIF or TIFF say of the camera's turn, 1..8; `array` is turned already.
    """

    array: np.ndarray
    indices: np.ndarray | None = None
    gray_palette: bool = False
    alpha: np.ndarray | None = None
    inverted: bool = False
    orientation: int = 1


def decode(path: Path, frame: int | None = None) -> Decoded:
    """Decode a picture file.

    Args:
        path: Of any known format.
        frame: Page of a multi-page TIFF, counted from 0.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is larger than the limit, unreadable or damaged; the sentence names it.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file at {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected an image file")
    with readable(path):
        try:
            if is_named_like_dicom(path):
                head = read_picture_header(path)
                check_pixels(path, (head.rows, head.columns))
                return Decoded(read_dicom_picture(path, frame)[0])
            if path.suffix.lower() == ".npy":
                array = _read_npy(path, frame)
                has_alpha = frame is None and array.ndim == 3 and array.shape[-1] in (2, 4)
                return Decoded(array[..., :-1], alpha=array[..., -1]) if has_alpha else Decoded(array)
            if path.suffix.lower() == ".mat":
                return Decoded(_read_mat(path))
            if path.suffix.lower() in TIFF_SUFFIXES:
                return _decode_tiff(path, frame)
            with open_pillow(path) as picture:
                return _from_pillow(picture)
        except UnidentifiedImageError:
            raise ValueError("it is not an image of a known format, or damaged") from None


def _read_npy(path: Path, frame: int | None) -> np.ndarray:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, _ = header(file)
    if frame is None:
        check_pixels(path, shape[:2])
        return np.load(path, allow_pickle=False)
    if len(shape) < 3 or not 0 <= frame < shape[0]:
        raise ValueError(f"it holds an array of shape {shape}, picture {frame} was asked for")
    check_pixels(path, shape[1:3])
    return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[frame])


def _read_mat(path: Path) -> np.ndarray:
    """Read the one map of a MATLAB file: "inst_map", "type_map" and the like, or the only array of two axes."""
    from scipy.io import loadmat, whosmat

    found = [(name, shape) for name, shape, _ in whosmat(path) if len(shape) == 2 and min(shape) > 1]
    named = [one for one in found if one[0].lower() in _MAT_NAMES] or found
    if len(named) != 1:
        raise ValueError(
            f"it holds {len(found)} maps ({', '.join(name for name, _ in found) or 'none'}), expected one, or one "
            f"named {' or '.join(_MAT_NAMES)}"
        )
    check_pixels(path, named[0][1])
    return np.asarray(loadmat(path, variable_names=[named[0][0]])[named[0][0]])


_MAT_NAMES = ("inst_map", "mask", "label", "labels", "gt", "segmentation")


def turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo a camera's turn: bring `(H, W, ...)` upright as EXIF orientation 1..8 asks."""
    changes: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a[::-1].swapaxes(0, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a[:, ::-1].swapaxes(0, 1),
    }
    return changes[orientation](array) if orientation in changes else array


class EndlessPagesError(ValueError):
    """The pages of a damaged TIFF lead back to one another; reading them would never end."""


def full_pages(stack: TiffFile) -> list[TiffPage]:
    """List the pages of an open TIFF that are pictures of their own, not reduced copies of one (a pyramid)."""
    pages = chained_pages(stack)
    return [page for page in pages if not page.is_reduced] or pages


def chained_pages(stack: TiffFile) -> list[TiffPage]:
    """List all pages of an open TIFF.

    Raises:
        EndlessPagesError: One leads back to another.
    """
    pages: list[TiffPage] = []
    places: set[int] = set()
    for page in stack.pages:
        if page.offset in places:
            raise EndlessPagesError("its pages lead back to one another")
        places.add(page.offset)
        pages.append(page)
    return pages


def channel_pages(stack: TiffFile) -> int:
    """Tell how many pages are the channels of one picture, as OME and ImageJ write them; 0 if they are not."""
    if not (stack.is_ome or stack.is_imagej) or len(stack.series) != 1:
        return 0
    series = stack.series[0]
    axes = dict(zip(series.axes, series.shape, strict=True))
    others = math.prod(size for axis, size in axes.items() if axis not in "CYX")
    return axes.get("C", 0) if others == 1 and axes.get("C", 1) > 1 else 0


def _decode_tiff(path: Path, frame: int | None) -> Decoded:
    # tifffile first: Pillow refuses files whose tags say gray while the pixels are RGB (CVC-ClinicDB). Pillow second:
    # it carries the LZW and JPEG decoders that tifffile leaves to another package, and knows other color spaces.
    import tifffile

    refused: Exception | None = None
    try:
        with tifffile.TiffFile(path) as stack:
            pages = full_pages(stack)
            check_pixels(path, pages[0].shape[:2] if pages[0].samplesperpixel == 1 else _page_size(pages[0]))
            if frame is None and len(pages) > 1 and channel_pages(stack) == len(pages):
                return Decoded(np.stack([page.asarray() for page in pages], axis=-1))
            if (frame is None and len(pages) > 1) or not 0 <= (frame or 0) < len(pages):
                wanted = "one was expected" if frame is None else f"page {frame} was asked for"
                refused = ValueError(f"it holds {len(pages)} pages, {wanted}")
                raise refused
            page = pages[frame or 0]
            check_pixels(path, _page_size(page))
            if page.photometric not in _OTHER_COLORS:
                return _from_page(page)
    except Exception as first:
        if refused is not None or isinstance(first, TooLargeError | EndlessPagesError):
            raise
        return _tiff_by_pillow(path, frame or 0, first)
    return _tiff_by_pillow(path, frame or 0, None)


def _page_size(page: TiffPage) -> tuple[int, int]:
    return int(page.imagelength), int(page.imagewidth)


def _tiff_by_pillow(path: Path, frame: int, first: Exception | None) -> Decoded:
    try:
        with open_pillow(path) as picture:
            picture.seek(frame)
            return _from_pillow(picture)
    except Exception as second:
        raise (first or second) from None


def _from_page(page: TiffPage) -> Decoded:
    array = page.asarray()
    if array.ndim == 3 and array.shape[:2] != _page_size(page) and array.shape[1:] == _page_size(page):
        array = np.moveaxis(array, 0, -1)  # channels stored one after the other
    orientation = int(page.tags.valueof(_ORIENTATION) or 1)
    array = turn(array, orientation)
    if page.photometric == _PALETTE and page.colormap is not None:
        palette = (np.asarray(page.colormap) >> 8).astype(np.uint8).T
        return Decoded(palette[array], array, _is_gray(palette), orientation=orientation)
    inverted = page.photometric == _WHITE_IS_ZERO and array.dtype.kind in "bu"
    if inverted:
        array = ~array if array.dtype == np.bool_ else (2 ** min(page.bitspersample, 8 * array.itemsize) - 1) - array
    alpha = None
    # Extra samples 1 and 2 are alpha; a fourth one beside RGB is, whatever it is called.
    kinds, samples = tuple(page.extrasamples or ()), array.shape[-1] if array.ndim == 3 else 1
    if (samples in (2, 4) and kinds and int(kinds[-1]) in (1, 2)) or (samples == 4 and page.photometric == _RGB):
        alpha, array = array[..., -1], array[..., :-1]
    return Decoded(array, alpha=alpha, inverted=inverted, orientation=orientation)


def _is_gray(palette: np.ndarray) -> bool:
    return bool((palette[:, 0] == palette[:, 1]).all() and (palette[:, 0] == palette[:, 2]).all())


def orientation_of(picture: Image.Image) -> int:
    """Read the EXIF orientation 1..8 of a picture; before a PNG is loaded, what stands before its pixels."""
    # Pillow would decode the whole PNG to look for EXIF behind the pixels.
    if picture.format == "PNG" and "exif" not in picture.info:
        return 1
    return int(picture.getexif().get(_ORIENTATION, 1))


def _from_pillow(picture: Image.Image) -> Decoded:
    picture.load()
    orientation = orientation_of(picture)
    # Pillow turns TIFF files itself.
    orientation_left = 1 if picture.format == "TIFF" else orientation

    def plain(image: Image.Image) -> np.ndarray:
        return turn(np.asarray(image), orientation_left)

    mode = picture.mode
    if mode in ("P", "PA"):
        palette = np.array(picture.getpalette("RGB") or [], np.uint8)
        return Decoded(
            plain(picture.convert("RGBA").convert("RGB")),
            plain(picture.getchannel(0) if mode == "PA" else picture),
            _is_gray(palette.reshape(-1, 3)),
            orientation=orientation,
        )
    if mode == "1":
        # A bool array compared with 127 would be empty.
        return Decoded(plain(picture.convert("L")), orientation=orientation)
    if mode in ("LA", "RGBA"):
        array = plain(picture)
        colors = array[..., 0] if mode == "LA" else array[..., :3]
        return Decoded(colors, alpha=array[..., -1], orientation=orientation)
    if mode in ("L", "RGB", "I", "F") or mode.startswith("I;16"):
        return Decoded(plain(picture), orientation=orientation)
    return Decoded(plain(_lab_to_rgb(picture) if mode == "LAB" else picture.convert("RGB")), orientation=orientation)


def _lab_to_rgb(picture: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(picture, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
    assert converted is not None
    return converted
