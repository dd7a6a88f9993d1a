"""Which pictures are equal, and which look the same: a split must not put one of them on either side."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from kanscan.data.case import Case
from kanscan.data.pictures.files import read_reduced
from kanscan.data.remembered import Packing
from kanscan.data.volumes.formats import read_case_volume

_SIDE = 24
#: Correlation of thumbnails above which two pictures are taken for the same scene. Measured: in CVC-ClinicDB all 63
#: such pairs of its 612 frames lie inside a video sequence; BUSI has 103 among 647 images, repeated scans of a lesion.
NEAR = 0.99
#: Pictures compared at once with as many others: 4 MiB of distances.
_BLOCK = 1024
#: Share of a block's pairs above which all of them are compared in full.
_DENSE = 0.01
#: Numbers of a thumbnail that are compared first.
_SHORT = 40


@dataclass(frozen=True)
class Signature:
    """What tells a picture from others.

    Attributes:
        digest: Equal for equal pictures, in whatever container or mode.
        thumbnail: 24 x 24 gray values with zero mean and unit norm; all zero for a picture of one value.
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


def near_blocks(signatures: Sequence[Signature], threshold: float = NEAR) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Find the pictures that look the same, block by block, in memory that does not grow with the number of pairs.

    Two thumbnails of unit length correlate above c where their distance is below sqrt(2 - 2 c), and a projection only
    shortens it. So few numbers, along which the pictures differ most, leave few pairs to be compared in full; sorted by
    the first of them, a picture meets only its neighbors.

    Args:
        signatures: Of all pictures.
        threshold: Least correlation of two thumbnails.

    Yields:
        Positions of both pictures of some pairs, each pair once.
    """
    known = np.array([k for k, one in enumerate(signatures) if one.thumbnail.any()], dtype=np.intp)
    if len(known) < 2:
        return
    short = _shortened([signatures[k].thumbnail for k in known])
    order = np.argsort(short[:, 0], kind="stable")
    known, short = known[order], short[order]

    def full(places: np.ndarray | slice) -> np.ndarray:
        return np.stack([signatures[k].thumbnail for k in known[places]])

    reach = math.sqrt(2 - 2 * threshold) + 1e-3
    norms = (short.astype(np.float32) ** 2).sum(axis=1)
    for begin in range(0, len(known), _BLOCK):
        rows = slice(begin, begin + _BLOCK)
        last = np.searchsorted(short[:, 0], short[rows][-1, 0] + reach, side="right")
        for first in range(begin, int(last), _BLOCK):
            columns = slice(first, min(first + _BLOCK, int(last)))
            squared = norms[rows, None] + norms[None, columns] - 2 * (short[rows] @ short[columns].T)
            near = squared < reach**2
            if first == begin:
                near = np.triu(near, 1)
            if near.mean() > _DENSE:
                # So many (frames of one video) are compared quicker all with all.
                near &= full(rows) @ full(columns).T > threshold
            i, j = np.nonzero(near)
            if near.mean() <= _DENSE and len(i):
                alike = np.einsum("nk,nk->n", full(i + begin), full(j + first)) > threshold
                i, j = i[alike], j[alike]
            if len(i):
                yield known[i + begin], known[j + first]


def _shortened(thumbnails: Sequence[np.ndarray]) -> np.ndarray:
    """Project thumbnails on the directions along which they differ most, the strongest first."""
    sample = np.stack(thumbnails[:: max(len(thumbnails) // 5000, 1)])
    centered = sample - sample.mean(axis=0)
    _, vectors = np.linalg.eigh(centered.T @ centered)
    directions = np.ascontiguousarray(vectors[:, ::-1][:, :_SHORT])
    blocks = range(0, len(thumbnails), _BLOCK)
    return np.concatenate([np.stack(thumbnails[k : k + _BLOCK]) @ directions for k in blocks]).astype(np.float32)


def near_pairs(signatures: Sequence[Signature], threshold: float = NEAR) -> list[tuple[int, int]]:
    """List the positions (i < j) of pictures that look the same, in ascending order; for sets with few of them.

    Args:
        signatures: Of all pictures.
        threshold: Least correlation of two thumbnails.
    """
    blocks = near_blocks(signatures, threshold)
    return sorted(
        (min(i, j), max(i, j)) for one, other in blocks for i, j in zip(one.tolist(), other.tolist(), strict=True)
    )


class Joining:
    """Numbers that are put together, pair by pair, into groups.

    Args:
        count: How many numbers, from 0.
    """

    def __init__(self, count: int) -> None:
        self.labels = np.arange(count)

    def join(self, one: np.ndarray, other: np.ndarray) -> None:
        """Put together each number of `one` with that of `other`."""
        apart = self.labels[one] != self.labels[other]
        if not apart.any():
            return
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        rows, columns = self.labels[one[apart]], self.labels[other[apart]]
        size = len(self.labels)
        edges = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(size, size))
        _, merged = connected_components(edges, directed=False)
        self.labels = merged[self.labels]


def _unpack(content: bytes) -> Signature:
    digest, thumbnail = content[:32], content[32:]
    if len(thumbnail) != 4 * _SIDE * _SIDE:
        raise ValueError("no signature")
    return Signature(digest.decode("ascii"), np.frombuffer(thumbnail, np.float32))


#: How a signature is kept between starts.
SIGNATURES: Packing[Signature] = Packing(
    lambda one: one.digest.encode("ascii") + np.asarray(one.thumbnail, np.float32).tobytes(), _unpack
)
