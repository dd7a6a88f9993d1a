"""Whether probabilities mean what they say: reliability over pixels, expected calibration error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanscan.metrics.scores import IGNORED

#: Equal bins of the chosen class's probability.
RELIABILITY_BINS = 15


@dataclass(frozen=True)
class Reliability:
    """How sure and how right the pixels of all cases are, in equal bins of the chosen class's probability.

    Attributes:
        count: `(bins,)` pixels in each bin.
        confidence: `(bins,)` their mean probability, NaN where a bin is empty.
        accuracy: `(bins,)` share of them where the chosen class is right, NaN where a bin is empty.
        error: Expected calibration error: mean distance of the two weighted by `count`, 0 to 1.
    """

    count: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    error: float


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


def reliability(sums: NDArray[np.float64]) -> Reliability:
    """Turn sums, as `reliability_sums` gives them and added over cases, into what a diagram shows."""
    count, sure, right = sums
    there = np.where(count > 0, count, np.nan)
    return Reliability(count, sure / there, right / there, calibration_error(sums))


def reliability_of(cases: Iterable[tuple[NDArray, NDArray]], bins: int = RELIABILITY_BINS) -> Reliability:
    """Find the reliability over cases of probabilities `(K, *S)` and labels `(*S)`."""
    return reliability(sum((reliability_sums(p, label, bins) for p, label in cases), np.zeros((3, bins))))
