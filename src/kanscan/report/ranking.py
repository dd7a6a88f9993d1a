"""Several networks on one data set or on several: every pair, mean ranks, and what that is evidence of, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from kanscan.drawing.tables import markdown_table, rich_notes, rich_table
from kanscan.drawing.words import markdown_text
from kanscan.metrics import METRICS
from kanscan.metrics.ranking import ALPHA, Ranks, compare_pairs, rank
from kanscan.report.numerals import NONE, number, span, title
from kanscan.report.schema import CaseScores, Report
from kanscan.report.wording import agreeing, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group

PAIR_COLUMNS = ("Data", "Difference", "Cases", "Mean", "95 % CI", "p (Holm)", "In words")


@dataclass(frozen=True)
class RankedPair:
    """Two networks on the cases of one data set; see `kanscan.metrics.ranking.Pair`."""

    data: str
    first: str
    second: str
    num_cases: int
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    verdict: str


@dataclass(frozen=True)
class Ranking:
    """What the comparison of several networks found.

    Attributes:
        metric: What is compared.
        blocks: What was ranked on: "data sets", "groups" or "cases".
        ranks: Mean ranks and their test; None for fewer than three networks, or where nothing could be ranked.
        pairs: Every two networks on every data set that both were judged on.
        notes: What does not agree between reports.
    """

    metric: str
    blocks: str
    ranks: Ranks | None
    pairs: tuple[RankedPair, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain values."""
        return asdict(self)

    @property
    def sentences(self) -> list[str]:
        """Say what the ranks are evidence of."""
        if self.ranks is None:
            return []
        found, count = self.ranks, len(self.ranks.mean_ranks)
        over = f"over {found.num_blocks} {self.blocks}"
        if found.p_value is None:
            return [f"Ranks {over} are too few to tell {count} networks apart."]
        test = f"(Friedman, p = {found.p_value:.2g} {over})"
        if found.p_value >= ALPHA:
            return [f"No evidence of a difference between the {count} networks {test}."]
        distance = f"mean ranks closer than {found.critical_difference:.2f} (Nemenyi)"
        alike = "; ".join(f"{', '.join(names[:-1])} and {names[-1]}" for names in found.alike)
        return [
            f"The {count} networks differ {test}; the best mean rank has {next(iter(found.mean_ranks))}.",
            f"No evidence of a difference, {distance}, between {alike}."
            if alike
            else f"All are told apart: no two have {distance}.",
        ]

    def cells(self) -> list[list[str]]:
        """Write the pairs as text, under `PAIR_COLUMNS`."""
        return [
            [
                pair.data,
                f"{pair.first} minus {pair.second}",
                f"{pair.num_cases:,}",
                number(pair.difference, self.metric),
                span(pair.low, pair.high, self.metric),
                NONE if pair.p_value is None else f"{pair.p_value:.3g}",
                pair.verdict,
            ]
            for pair in self.pairs
        ]

    def markdown(self) -> str:
        """Write everything as Markdown."""
        parts = [markdown_text(text) for text in self.sentences]
        if self.ranks is not None:
            rows = [[name, f"{mean:.2f}"] for name, mean in self.ranks.mean_ranks.items()]
            parts.append(markdown_table(("Network", f"Mean rank by {title(self.metric)}"), rows, {1}))
        parts.append(markdown_table(PAIR_COLUMNS, self.cells(), range(2, 6)))
        parts += [f"- {markdown_text(note)}" for note in self.notes]
        return "\n\n".join(parts) + "\n"

    def __rich__(self) -> Group:
        """Draw the pairs for a terminal, with the sentences below."""
        from rich.console import Group

        heading = f"Every pair by {title(self.metric)}"
        return Group(rich_table(heading, PAIR_COLUMNS, self.cells(), range(2, 6)), *rich_notes(self.sentences))

    def diagram(self) -> Figure | None:
        """Draw the critical-difference diagram; None where there are no ranks."""
        from kanscan.drawing.charts import rank_diagram

        if self.ranks is None:
            return None
        return rank_diagram(self.ranks.mean_ranks, self.ranks.critical_difference, self.ranks.alike)


def rank_networks(reports: Mapping[str, Mapping[str, Report]], metric: str = "dice") -> Ranking:
    """Compare several networks on several data sets.

    Over several data sets the means are ranked; on a single one its groups, or its cases where no groups are known.

    Args:
        reports: Network -> data set -> its report.
        metric: A key of `METRICS`; of the only class, or the mean over the classes. It has a better and a worse.

    Raises:
        ValueError: The metric has no better and worse.
    """
    direction = METRICS[metric].direction
    if direction == "zero":
        raise ValueError(f"{metric} is best at zero and ranks nothing; rank by dice or hd95")
    pairs: list[RankedPair] = []
    notes: list[str] = []
    by_data = {data: None for found in reports.values() for data in found}
    common: dict[str, list[CaseScores]] = {}
    for data in by_data:
        judged = {name: found[data] for name, found in reports.items() if data in found}
        cases, told = _common_cases(judged)
        notes += [f"{data}: {text}" for text in told]
        pairs += _pairs_on(data, cases, metric)
        common = cases
    shared = [data for data in by_data if all(data in found for found in reports.values())]
    if len(by_data) > 1:
        means = {name: [found[data].mean(metric) for data in shared] for name, found in reports.items()}
        ranks = rank(means, higher_is_better=direction == "higher") if shared else None
        return Ranking(metric, "data sets", ranks, tuple(pairs), tuple(notes))
    values, blocks = _by_group(common, metric)
    ranks = rank(values, higher_is_better=direction == "higher")
    return Ranking(metric, blocks, ranks, tuple(pairs), tuple(notes))


def _common_cases(judged: Mapping[str, Report]) -> tuple[dict[str, list[CaseScores]], list[str]]:
    """Return the cases that all reports have with equal references, in one order; and what does not agree."""
    notes = []
    names: set[str] | None = None
    for one, other in combinations(judged, 2):
        why, both = agreeing(judged[one], judged[other])
        notes += [f"{other} and {one}: {why}"] if why else []
        same = {case.id for case, _ in both}
        names = same if names is None else names & same
    kept = names or set()
    return {
        name: sorted((case for case in report.cases if case.id in kept), key=lambda case: case.id)
        for name, report in judged.items()
    }, notes


def _pairs_on(data: str, cases: Mapping[str, Sequence[CaseScores]], metric: str) -> list[RankedPair]:
    first = next(iter(cases.values()), [])
    if len(cases) < 2 or not first:
        return []
    scores = {name: [case.value(metric) for case in found] for name, found in cases.items()}
    compared = []
    for pair in compare_pairs(scores, [case.group for case in first]):
        if pair.found is None:
            words = "the score applies to no case"
            compared.append(RankedPair(data, pair.first, pair.second, 0, None, None, None, None, words))
            continue
        s = pair.found.difference
        words = verdict(s, pair.p_value, metric)
        compared.append(
            RankedPair(data, pair.first, pair.second, s.num_cases, s.mean, s.low, s.high, pair.p_value, words)
        )
    return compared


def _by_group(cases: Mapping[str, Sequence[CaseScores]], metric: str) -> tuple[dict[str, list[float]], str]:
    """Average the cases of each group: those of one patient are no independent blocks."""
    import numpy as np

    first = next(iter(cases.values()), [])
    is_grouped = any(case.group for case in first)
    members: dict[str, list[int]] = {}
    for place, case in enumerate(first):
        members.setdefault(f"group {case.group}" if case.group else f"case {case.id}", []).append(place)
    values = {
        name: [float(np.mean([found[place].value(metric) for place in places])) for places in members.values()]
        for name, found in cases.items()
    }
    return values, "groups" if is_grouped else "cases"
