"""Sliding windows: a volume larger than the patch is seen in overlapping parts whose middles count most.

Source: F. Isensee et al., nnU-Net, Nature Methods 18, 203 (2021), online methods, inference.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

#: Logits beyond this many bytes are summed up in a file.
MEMORY_LIMIT = 2 * 2**30


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
def window_weights(window: tuple[int, ...]) -> Tensor:
    """Weigh the voxels of a window by a Gaussian about its middle, of an eighth of its side, at most 10, never 0."""
    from scipy.ndimage import gaussian_filter

    impulse = np.zeros(window)
    impulse[tuple(n // 2 for n in window)] = 1
    weights = gaussian_filter(impulse, [n / 8 for n in window], mode="constant", cval=0)
    weights = (weights / weights.max() * 10).astype(np.float32)
    weights[weights == 0] = weights[weights > 0].min()
    return torch.from_numpy(weights)


def sliding_logits(
    image: np.ndarray,
    window: tuple[int, int, int],
    network: Callable[[Tensor], Tensor],
    *,
    overlap: float = 0.5,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    memory_limit: int = MEMORY_LIMIT,
) -> np.ndarray:
    """Run a network over a volume, window by window.

    A volume smaller than the window lies in the middle of zeros. Sums that would exceed the limit are kept in a
    temporary file, so many classes on a large volume need no memory for all of them.

    Args:
        image: `(C, D, H, W)` float32.
        window: Of the network, along D, H, W.
        network: Maps `(B, C, *window)` to logits `(B, K, *window)`.
        overlap: See `window_starts`.
        batch_size: Windows that go through the network together.
        device: Where the network is.
        memory_limit: Bytes of logits that may be held in memory.

    Returns:
        Logits `(K, D, H, W)` float32; a mapped temporary file beyond the limit.
    """
    size = image.shape[1:]
    padding = [(max(w - n, 0) // 2, max(w - n, 0) - max(w - n, 0) // 2) for n, w in zip(size, window, strict=True)]
    padded = np.pad(image, [(0, 0), *padding]) if any(map(any, padding)) else image
    axes = [window_starts(n, w, overlap) for n, w in zip(padded.shape[1:], window, strict=True)]
    places = list(itertools.product(*axes))
    weights = window_weights(tuple(window))
    total = np.zeros(padded.shape[1:], np.float32)
    sums: np.ndarray | None = None
    for start in range(0, len(places), batch_size):
        chosen = places[start : start + batch_size]
        parts = [tuple(slice(s, s + w) for s, w in zip(place, window, strict=True)) for place in chosen]
        batch = torch.from_numpy(np.stack([padded[(slice(None), *part)] for part in parts])).to(device)
        logits = network(batch).float().cpu()
        if not torch.isfinite(logits).all():
            raise ValueError(
                "the network answered with NaN; its weights are damaged or the normalization is not the one of training"
            )
        if sums is None:
            sums = _zeros((logits.shape[1], *padded.shape[1:]), memory_limit)
        for part, one in zip(parts, logits, strict=True):
            sums[(slice(None), *part)] += (one * weights).numpy()
            total[part] += weights.numpy()
    assert sums is not None
    for channel in sums:
        channel /= total
    return sums[(slice(None), *(slice(low, low + n) for (low, _), n in zip(padding, size, strict=True)))]


def _zeros(shape: Sequence[int], memory_limit: int) -> np.ndarray:
    if 4 * math.prod(shape) <= memory_limit:
        return np.zeros(shape, np.float32)
    # The file has no name: it is gone when the array is.
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * math.prod(shape))
        return np.memmap(file, np.float32, "r+", shape=tuple(shape))
