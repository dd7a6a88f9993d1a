"""Several networks at once: every pair with its interval and test, and ranks over data sets or cases.

Source: J. Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006): Friedman's test of the
ranks, and Nemenyi's critical difference of mean ranks. Tests of pairs are adjusted by Holm's step-down procedure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from kanscan.metrics.statistics import Key, PairedDifference, paired_difference

#: A difference is called one below this probability of chance.
ALPHA = 0.05


@dataclass(frozen=True)
class Pair:
    """Two networks on the same cases.

    Attributes:
        first: One of them.
        second: The other.
        found: First minus second, with interval and test; None where no case has both scores.
        p_value: Of the test, adjusted for all pairs; None where there was none.
    """

    first: str
    second: str
    found: PairedDifference | None
    p_value: float | None


@dataclass(frozen=True)
class Ranks:
    """How networks rank over several data sets, or over several cases of one.

    Attributes:
        mean_ranks: Network -> its mean rank, 1 is best, equals share; best first.
        num_blocks: Data sets or cases that all networks were ranked on.
        statistic: Friedman's.
        p_value: Of the statistic by its chi-squared approximation; None where even full agreement could not come
            below `ALPHA`.
        critical_difference: Mean ranks closer than this are no evidence of a difference (Nemenyi).
        alike: The largest sets of networks whose mean ranks are that close, best first.
    """

    mean_ranks: dict[str, float]
    num_blocks: int
    statistic: float
    p_value: float | None
    critical_difference: float
    alike: tuple[tuple[str, ...], ...]


def compare_pairs(scores: Mapping[str, ArrayLike], groups: Sequence[str | None] | None = None) -> list[Pair]:
    """Compare every two of several networks case by case.

    Args:
        scores: Network -> a value a case, NaN where it does not apply; equally many.
        groups: One a case; whole groups are resampled, and tests are on group means.
    """
    found = {pair: paired_difference(scores[pair[0]], scores[pair[1]], groups) for pair in combinations(scores, 2)}
    adjusted = adjust_by_holm({p: d.p_value for p, d in found.items() if d is not None and d.p_value is not None})
    return [Pair(*pair, difference, adjusted.get(pair)) for pair, difference in found.items()]


def adjust_by_holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Adjust p-values so that the chance of any false difference is held (Holm 1979).

    Example:
        >>> adjust_by_holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    adjusted: dict[Key, float] = {}
    largest = 0.0
    for place, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[key]))
        adjusted[key] = largest
    return adjusted


def rank(scores: Mapping[str, ArrayLike], *, higher_is_better: bool = True) -> Ranks | None:
    """Rank networks on each data set or case, and test whether their ranks differ.

    Args:
        scores: Network -> a value a data set or case, in one order; where any is NaN none is ranked.
        higher_is_better: Of the score.

    Returns:
        The ranks; None for fewer than three networks, or where nothing can be ranked.

    Raises:
        ValueError: Networks have different numbers of values.
    """
    if len({np.size(values) for values in scores.values()}) > 1:
        raise ValueError("networks must be scored on the same data sets or cases to be ranked")
    table = np.array([np.asarray(values, float) for values in scores.values()])
    table = table[:, ~np.isnan(table).any(0)] if table.size else table
    if len(scores) < 3 or not table.size:
        return None
    from scipy.stats import chi2, friedmanchisquare, rankdata, studentized_range

    num_networks, num_blocks = table.shape
    means = rankdata(-table if higher_is_better else table, axis=0).mean(1)
    order = np.argsort(means, kind="stable")
    names = [list(scores)[place] for place in order]
    # Equal everywhere: there is nothing to rank, and the statistic is 0/0.
    statistic = 0.0 if (table == table[0]).all() else float(friedmanchisquare(*table).statistic)
    freedom = num_networks - 1
    p_value = None if chi2.sf(num_blocks * freedom, freedom) >= ALPHA else float(chi2.sf(statistic, freedom))
    quantile = float(studentized_range.ppf(1 - ALPHA, num_networks, np.inf)) / math.sqrt(2)
    apart = quantile * math.sqrt(num_networks * (num_networks + 1) / (6 * num_blocks))
    ranked = means[order]
    return Ranks(
        mean_ranks=dict(zip(names, map(float, ranked), strict=True)),
        num_blocks=num_blocks,
        statistic=statistic,
        p_value=p_value,
        critical_difference=apart,
        alike=_alike(names, ranked.tolist(), apart),
    )


def _alike(names: Sequence[str], ranks: Sequence[float], apart: float) -> tuple[tuple[str, ...], ...]:
    """Find the longest runs of sorted ranks that span less than the critical difference; none lies inside another."""
    found: list[tuple[str, ...]] = []
    reached = 0
    for start, low in enumerate(ranks):
        end = max(place for place, high in enumerate(ranks) if high - low < apart) + 1
        if end - start > 1 and end > reached:
            found.append(tuple(names[start:end]))
            reached = end
    return tuple(found)
