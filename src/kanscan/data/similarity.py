"""Which pictures are equal, and which look the same: a split must not put one of them on either side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from kanscan.data.case import Case
from kanscan.data.pictures.files import read_reduced
from kanscan.data.volumes.formats import read_case_volume

_SIDE = 24
#: Correlation of thumbnails above which two pictures are taken for the same scene. Measured: in CVC-ClinicDB all 63
#: such pairs of its 612 frames lie inside a video sequence; BUSI has 103 among 647 images, repeated scans of a lesion.
NEAR = 0.99
#: Beyond this many pictures the table of all pairs would take more than 300 MiB.
_MOST_COMPARED = 8000


@dataclass(frozen=True)
class Signature:
    """What tells a picture from others.

    Attributes:
        digest: Equal for equal pictures, in whatever container or mode.
        thumbnail: 24 x 24 grey values with zero mean and unit norm; all zero for a picture of one value.
    """

    digest: str
    thumbnail: np.ndarray


def sign(image: np.ndarray, size: tuple[int, int]) -> Signature:
    """Make the signature of a picture.

    Args:
        image: `(H, W)` or `(H, W, C)`, perhaps reduced.
        size: Its true (height, width).

    Example:
        >>> import numpy as np
        >>> grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
        >>> sign(grey, (3, 4)).digest == sign(np.dstack([grey] * 3), (3, 4)).digest
        True
    """
    is_grey = image.ndim == 3 and all((image[..., 0] == image[..., k]).all() for k in range(1, image.shape[-1]))
    content = np.ascontiguousarray(image[..., 0] if is_grey else image)
    head = repr((size, content.shape, content.dtype.str)).encode()
    digest = hashlib.blake2b(head + content.tobytes(), digest_size=16).hexdigest()
    grey = (content if content.ndim == 2 else content.mean(axis=-1, dtype=np.float32)).astype(np.float32)
    small = np.asarray(Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float32).ravel()
    small = small - small.mean()
    norm = float(np.linalg.norm(small))
    return Signature(digest, small / norm if norm > 1e-6 else np.zeros_like(small))


def read_signature(path: str | Path, *, frame: int | None = None) -> Signature:
    """Read a picture's signature.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is unreadable.
    """
    return sign(*read_reduced(path, frame=frame))


def case_signature(case: Case) -> Signature:
    """Read the signature of a case's first image; of volumes only equal ones are told, organs look alike anyway."""
    if not case.is_volume:
        return read_signature(case.images[0], frame=case.frame)
    # A lone channel tells as much as all of them.
    one = case if case.stacked or case.series else replace(case, images=case.images[:1])
    return volume_signature(read_case_volume(one).array)


def volume_signature(array: np.ndarray) -> Signature:
    """Make the signature of a volume `(I, J, K)` or `(I, J, K, C)`; its thumbnail is empty."""
    head = repr((array.shape, array.dtype.str)).encode()
    digest = hashlib.blake2b(head + np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()
    return Signature(digest, np.zeros(_SIDE * _SIDE, dtype=np.float32))


def near_pairs(signatures: Sequence[Signature], threshold: float = NEAR) -> list[tuple[int, int]]:
    """List the positions (i < j) of pictures that look the same; nothing is compared beyond 8,000 pictures.

    Args:
        signatures: Of all pictures.
        threshold: Least correlation of two thumbnails.
    """
    if not 2 <= len(signatures) <= _MOST_COMPARED:
        return []
    table = np.stack([one.thumbnail for one in signatures])
    rows, columns = np.nonzero(np.triu(table @ table.T, 1) > threshold)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))
