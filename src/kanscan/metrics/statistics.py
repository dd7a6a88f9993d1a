"""Means with intervals, and paired comparisons; whole groups are resampled where groups are known."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Key = TypeVar("Key")


@dataclass(frozen=True)
class Summary:
    """A mean and how sure it is.

    Attributes:
        mean: Over the cases, NaN left out.
        sd: Sample standard deviation over the cases; None for fewer than two.
        median: Over the cases.
        low: Lower end of the 95 % interval of the mean; None where there can be none.
        high: Upper end.
        num_cases: Cases counted.
        num_groups: Groups resampled; equal to `num_cases` where no groups are known.
        method: "BCa", "percentile" (where BCa is undefined), "constant" or "none".
    """

    mean: float
    sd: float | None
    median: float
    low: float | None
    high: float | None
    num_cases: int
    num_groups: int
    method: str


def summarize(
    values: ArrayLike, groups: Sequence[str | None] | None = None, *, samples: int = 2000, seed: int = 0
) -> Summary | None:
    """Give mean, spread and a 95 % bootstrap interval of the mean.

    Cases of one patient or video sequence resemble each other, so whole groups are drawn; without groups each
    case is its own.

    Args:
        values: One a case; NaN is left out.
        groups: One a case; None entries are groups of their own.
        samples: Bootstrap samples; 0: no interval.
        seed: Of the resampling.

    Returns:
        The summary, or None if no value is left.
    """
    array = np.asarray(values, dtype=np.float64)
    if groups is not None and len(groups) != array.size:
        raise ValueError(f"got {array.size} values and {len(groups)} groups; give one group a case")
    keep = ~np.isnan(array)
    if not keep.any():
        return None
    sums, counts = _group_sums(array, groups)
    array = array[keep]
    low, high, method = _interval(sums, counts, samples, seed)
    return Summary(
        mean=float(array.mean()),
        sd=float(array.std(ddof=1)) if array.size > 1 else None,
        median=float(np.median(array)),
        low=low,
        high=high,
        num_cases=array.size,
        num_groups=len(sums),
        method=method,
    )


def _group_sums(
    values: NDArray[np.float64], groups: Sequence[str | None] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum and number of the values of each group; NaN left out."""
    sums: dict[str | int, float] = {}
    counts: dict[str | int, int] = {}
    for index, (value, group) in enumerate(zip(values, groups or [None] * len(values), strict=True)):
        if not np.isnan(value):
            key = index if group is None else group
            sums[key] = sums.get(key, 0.0) + float(value)
            counts[key] = counts.get(key, 0) + 1
    return np.array(list(sums.values())), np.array(list(counts.values()), dtype=np.float64)


def _interval(
    sums: NDArray[np.float64], counts: NDArray[np.float64], samples: int, seed: int
) -> tuple[float | None, float | None, str]:
    if samples < 1 or len(sums) < 2:
        return None, None, "none"
    means = sums / counts
    if np.ptp(means) <= 1e-12 * max(1.0, float(np.abs(means).max())):
        return float(means[0]), float(means[0]), "constant"
    from scipy.stats import bootstrap

    def mean(s: NDArray[np.float64], c: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return s.sum(axis=axis) / c.sum(axis=axis)

    for method in ("BCa", "percentile"):
        # BCa divides by zero on skewed toy samples and says so; the percentiles then serve.
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            result = bootstrap(
                (sums, counts),
                mean,
                paired=True,
                vectorized=True,
                n_resamples=samples,
                batch=500,
                method=method,
                rng=np.random.default_rng(seed),
            )
        found = result.confidence_interval
        if np.isfinite(found.low) and np.isfinite(found.high):
            return float(found.low), float(found.high), method
    return None, None, "none"


@dataclass(frozen=True)
class PairedDifference:
    """Two lists of scores on the same cases.

    Attributes:
        difference: Mean of first minus second, with its interval.
        p_value: Wilcoxon's signed-rank test on the group means, two-sided; None below six groups, where it
            cannot come below 0.05.
        num_left_out: Cases where the score is not applicable to one of the two only.
    """

    difference: Summary
    p_value: float | None
    num_left_out: int


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    groups: Sequence[str | None] | None = None,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> PairedDifference | None:
    """Compare two lists of scores case by case.

    Returns:
        The comparison, or None if no case has both scores.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    difference = a - b
    summary = summarize(difference, groups, samples=samples, seed=seed)
    if summary is None:
        return None
    sums, counts = _group_sums(difference, groups)
    return PairedDifference(summary, _wilcoxon(sums / counts), int((np.isnan(a) ^ np.isnan(b)).sum()))


def _wilcoxon(differences: NDArray[np.float64]) -> float | None:
    if len(differences) < 6:
        return None
    # Rounding noise is no difference; scipy would rank it.
    cleaned = np.where(np.abs(differences) < 1e-12, 0.0, differences)
    if not cleaned.any():
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(cleaned, zero_method="pratt").pvalue)


def adjust_p_values(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Control the false discovery rate over several tests (Benjamini and Hochberg)."""
    from scipy.stats import false_discovery_control

    if not p_values:
        return {}
    adjusted = false_discovery_control(list(p_values.values()))
    return dict(zip(p_values, map(float, np.atleast_1d(adjusted)), strict=True))


def spread_by_cause(values: Mapping[Key, Sequence[float]]) -> tuple[float, float] | None:
    """Split the spread of repeated runs into that between splits and that between seeds of one split.

    Components of a one-way analysis of variance: the mean square within splits is the variance of the seeds; what the
    mean square between splits holds beyond it, divided by the seeds of a split, is that of the splits (0 if negative).

    Args:
        values: Split -> score of each seed.

    Returns:
        Standard deviations of split and seed, or None unless two splits have two seeds each.

    Example:
        >>> spread_by_cause({"a": [0.5, 0.5], "b": [0.7, 0.7]})
        (0.14142135623730948, 0.0)
    """
    groups = [np.asarray(found, dtype=np.float64) for found in values.values() if len(found)]
    if len([group for group in groups if group.size > 1]) < 2:
        return None
    total = sum(group.size for group in groups)
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / (total - len(groups))
    overall = np.concatenate(groups).mean()
    between = sum(group.size * float((group.mean() - overall) ** 2) for group in groups) / (len(groups) - 1)
    size = (total - sum(group.size**2 for group in groups) / total) / (len(groups) - 1)
    return float(np.sqrt(max(0.0, (between - within) / size))), float(np.sqrt(within))
