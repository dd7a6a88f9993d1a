"""Whether probabilities mean what they say: reliability over pixels, expected calibration error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kanscan.metrics.scores import IGNORED

#: Equal bins of the chosen class's probability.
RELIABILITY_BINS = 15


def reliability_sums(probabilities: NDArray, label: NDArray, bins: int = RELIABILITY_BINS) -> NDArray[np.float64]:
    """Sum up how sure and how right the pixels of a case are; sums of cases may be added.

    Args:
        probabilities: `(K, *S)`, background first.
        label: `(*S)` class indices; pixels that are `IGNORED` are left out.
        bins: Equal bins of the chosen class's probability.

    Returns:
        `(3, bins)`: pixels, sum of their probabilities, pixels that are right.

    Example:
        >>> sums = reliability_sums(np.array([[0.2, 0.4], [0.8, 0.6]]), np.array([1, 0]), bins=5)
        >>> sums[:, 4].tolist(), sums[:, 3].tolist()
        ([1.0, 0.8, 1.0], [1.0, 0.6, 0.0])
    """
    chosen, sure = probabilities.argmax(0).ravel(), probabilities.max(0).ravel().astype(np.float64)
    known = np.asarray(label).ravel()
    if len(probabilities) <= IGNORED:
        counted = known != IGNORED
        chosen, sure, known = chosen[counted], sure[counted], known[counted]
    place = np.minimum((sure * bins).astype(int), bins - 1)
    weights = (None, sure, (chosen == known).astype(np.float64))
    return np.stack([np.bincount(place, one, bins).astype(np.float64) for one in weights])


def calibration_error(sums: NDArray[np.float64]) -> float:
    """Return the expected calibration error: the mean distance of sure and right over bins, weighted by pixels; 0..1.

    Args:
        sums: As `reliability_sums` gives them, added over cases.
    """
    count, sure, right = sums
    return float(np.abs(sure - right).sum() / max(count.sum(), 1))
