"""Sliding windows: a volume larger than the patch is seen in overlapping parts whose middles count most.

Source: F. Isensee et al., nnU-Net, Nature Methods 18, 203 (2021), online methods, inference.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kanscan.inference.network import finite

#: Told how many windows of how many are done.
Progress = Callable[[int, int], None]

#: Slices handed out together.
_SLICES = 8


def window_starts(size: int, window: int, overlap: float = 0.5) -> list[int]:
    """Place windows along an axis: as few as cover it with at most the wanted step, evenly spread.

    Args:
        size: Of the axis, at least `window`.
        window: Of the window.
        overlap: Share of a window that the next one covers too, 0 to 0.9.

    Example:
        >>> window_starts(130, 48)
        [0, 20, 41, 62, 82]
    """
    if window == 1:
        return list(range(size))  # slices do not overlap
    step = window * (1 - overlap)
    count = math.ceil((size - window) / step) + 1
    return [round(k * (size - window) / (count - 1)) for k in range(count)] if count > 1 else [0]


@lru_cache(4)
def window_weights(window: tuple[int, ...]) -> NDArray[np.float32]:
    """Weigh the voxels of a window by a Gaussian about its middle, of an eighth of its side, at most 10, never 0."""
    from scipy.ndimage import gaussian_filter

    impulse = np.zeros(window)
    impulse[tuple(n // 2 for n in window)] = 1
    weights = gaussian_filter(impulse, [n / 8 for n in window], mode="constant", cval=0)
    weights = (weights / weights.max() * 10).astype(np.float32)
    weights[weights == 0] = weights[weights > 0].min()
    return weights


def sliding_slabs(
    image: np.ndarray,
    window: tuple[int, int, int],
    network: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    *,
    overlap: float = 0.5,
    batch_size: int = 1,
    progress: Progress | None = None,
) -> Iterator[np.ndarray]:
    """Run a network over a volume, window by window, and hand out the slices that no window will change any more.

    A volume smaller than the window lies in the middle of zeros. Only the slices that windows still cover are held, so
    the memory does not grow with the depth of the volume.

    Args:
        image: `(C, D, H, W)` float32.
        window: Of the network, along D, H, W.
        network: Maps `(B, C, *window)` to logits `(B, K, *window)`.
        overlap: See `window_starts`.
        batch_size: Windows that go through the network together.
        progress: Told how many windows of how many are done, after each batch; what it raises stops the work.

    Yields:
        Logits `(K, n, H, W)` float32 of the next slices along D; all of them make `(K, D, H, W)`.
    """
    size = image.shape[1:]
    padding = [(max(w - n, 0) // 2, max(w - n, 0) - max(w - n, 0) // 2) for n, w in zip(size, window, strict=True)]
    padded = np.pad(image, [(0, 0), *padding]) if any(map(any, padding)) else image
    axes = [window_starts(n, w, overlap) for n, w in zip(padded.shape[1:], window, strict=True)]
    places = list(itertools.product(*axes))
    batches = [places[start : start + batch_size] for start in range(0, len(places), batch_size)]
    weights = window_weights(tuple(window))
    held = window[0] + max(batch[-1][0] - batch[0][0] for batch in batches)
    inside = tuple(slice(low, low + n) for (low, _), n in zip(padding[1:], size[1:], strict=True))
    first, last = padding[0][0], padding[0][0] + size[0]
    base, total = 0, np.zeros((held, *padded.shape[2:]), np.float32)
    sums: np.ndarray = np.zeros((0, *total.shape), np.float32)
    seen = 0
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        logits = finite(network(_cut(padded, batch, window)))
        seen += len(batch)
        if progress is not None:
            progress(seen, len(places))
        if not sums.size:
            sums = np.zeros((logits.shape[1], *total.shape), np.float32)
        for place, one in zip(batch, logits, strict=True):
            covered = tuple(slice(s - b, s - b + w) for s, b, w in zip(place, (base, 0, 0), window, strict=True))
            sums[(slice(None), *covered)] += one * weights
            total[covered] += weights
        done = padded.shape[1] if following is None else following[0][0]
        if done > base:
            low, high = max(first - base, 0), min(last, done) - base
            for k in range(low, high, _SLICES):
                part = slice(k, min(k + _SLICES, high))
                yield (sums[:, part] / total[part])[(slice(None), slice(None), *inside)]
            # The slices that are still covered move to the front.
            kept = held - (done - base)
            for channel in (total, *sums):
                channel[:kept] = channel[done - base :].copy()
                channel[kept:] = 0
            base = done


def _cut(
    padded: NDArray[np.float32], places: Sequence[tuple[int, ...]], window: tuple[int, int, int]
) -> NDArray[np.float32]:
    parts = [tuple(slice(s, s + w) for s, w in zip(place, window, strict=True)) for place in places]
    return np.stack([padded[(slice(None), *part)] for part in parts])
