"""The metrics: a record each, and all that is known of one stands in it.

Tables, headline, columns of `cases.csv`, validation scores, units and the sentence about empty masks come from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from math import nan
from typing import Literal

from kanscan.metrics.outcome import Counts, Outcome, ratio
from kanscan.registry import Registry


class EmptyRule(Enum):
    """What a metric is where a class has no pixel in the prediction, in the reference, or in both."""

    #: Not applicable where it is missing from both, 0 where it is missing from one.
    ZERO = "zero"
    #: Not applicable where it is missing from both, the image's diagonal where it is missing from one.
    DIAGONAL = "diagonal"
    #: Not applicable where it is missing from both, else what the function says.
    LEFT_OUT = "left out"
    #: Always what the function says.
    COMPUTED = "computed"


@dataclass(frozen=True)
class Metric:
    """What there is to know of a metric.

    Attributes:
        name: Key, and column of tables for machines.
        title: Heading.
        direction: Which way is better.
        unit: "" for a ratio, "length" (mm, or pixels where there is no spacing), "size" (length to the power of the
            number of dimensions).
        definition: One sentence.
        function: The value for one class of one case; NaN where it does not apply. One that is `needs="counts"` takes
            sums over cases too.
        empty_rule: What holds where the class is missing.
        needs: Whether the function reads counts alone or also masks, spacing and tolerance.
        headline: Stands at the top of a report and in a comparison.
        by_case: Stands in the table of all cases of a page.
        validation: Is computed each epoch on the validation cases, and can choose the epoch.
        other_names: What papers call it.
    """

    name: str
    title: str
    direction: Literal["higher", "lower", "zero"]
    unit: Literal["", "length", "size"]
    definition: str
    function: Callable[[Outcome], float]
    empty_rule: EmptyRule = EmptyRule.LEFT_OUT
    needs: Literal["counts", "masks"] = "counts"
    headline: bool = False
    by_case: bool = False
    validation: bool = False
    other_names: tuple[str, ...] = ()

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1, and 1 is best."""
        return self.unit == "" and self.direction == "higher"

    def score(self, outcome: Outcome) -> float:
        """Return the value of one class of one case, `empty_rule` applied; NaN: not applicable."""
        missing = (outcome.in_prediction == 0) + (outcome.in_reference == 0)
        if self.empty_rule is EmptyRule.COMPUTED or missing == 0:
            return float(self.function(outcome))
        if missing == 2:
            return nan
        if self.empty_rule is EmptyRule.LEFT_OUT:
            return float(self.function(outcome))
        return outcome.diagonal if self.empty_rule is EmptyRule.DIAGONAL else 0.0


def _dice(c: Counts[float]) -> float:
    return ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn)


def _relative_size_error(o: Counts[float]) -> float:
    return ratio(o.in_prediction - o.in_reference, o.in_reference)


_RECORDS = (
    Metric(
        "dice",
        "Dice",
        "higher",
        "",
        "2 TP / (2 TP + FP + FN); papers also say DSC or F1",
        _dice,
        EmptyRule.ZERO,
        headline=True,
        by_case=True,
        validation=True,
        other_names=("f1", "dsc"),
    ),
    Metric(
        "iou",
        "IoU",
        "higher",
        "",
        "TP / (TP + FP + FN), the Jaccard index",
        lambda c: ratio(c.tp, c.tp + c.fp + c.fn),
        EmptyRule.ZERO,
        headline=True,
        by_case=True,
        validation=True,
        other_names=("miou", "jaccard"),
    ),
    Metric(
        "sensitivity",
        "Sensitivity",
        "higher",
        "",
        "TP / (TP + FN), recall",
        lambda c: ratio(c.tp, c.tp + c.fn),
        by_case=True,
        other_names=("recall",),
    ),
    Metric(
        "specificity",
        "Specificity",
        "higher",
        "",
        "TN / (TN + FP)",
        lambda c: ratio(c.tn, c.tn + c.fp),
        EmptyRule.COMPUTED,
        by_case=True,
    ),
    Metric("precision", "Precision", "higher", "", "TP / (TP + FP)", lambda c: ratio(c.tp, c.tp + c.fp)),
    Metric(
        "accuracy",
        "Accuracy",
        "higher",
        "",
        "(TP + TN) / all",
        lambda c: ratio(c.tp + c.tn, c.tp + c.tn + c.fp + c.fn),
        EmptyRule.COMPUTED,
    ),
    Metric(
        "hd95",
        "HD95",
        "lower",
        "length",
        "the larger of the two directed 95th percentiles of boundary distances",
        lambda o: o.hd95,
        EmptyRule.DIAGONAL,
        needs="masks",
        headline=True,
        by_case=True,
    ),
    Metric(
        "nsd",
        "NSD",
        "higher",
        "",
        "share of both boundaries within the tolerance of the other (surface Dice)",
        lambda o: o.nsd,
        EmptyRule.ZERO,
        needs="masks",
        headline=True,
        by_case=True,
    ),
    Metric(
        "size_error",
        "Size error",
        "zero",
        "size",
        "predicted minus reference area (2D) or volume (3D)",
        lambda o: (o.in_prediction - o.in_reference) * o.pixel,
        EmptyRule.COMPUTED,
        needs="masks",
    ),
    Metric(
        "relative_size_error",
        "Rel. size error",
        "zero",
        "",
        "size error divided by the reference size",
        _relative_size_error,
        EmptyRule.COMPUTED,
        needs="masks",
    ),
)
#: Metrics by name. An outsider adds one by assignment: `METRICS["mine"] = Metric("mine", ...)`.
METRICS: Registry[Metric] = Registry("metric", {metric.name: metric for metric in _RECORDS})


def metric_named(name: str) -> Metric | None:
    """Return the metric that a paper calls so, whatever its case; None where there is none."""
    wanted = name.lower()
    found = METRICS.get(wanted)
    return found or next((metric for metric in METRICS.values() if wanted in metric.other_names), None)


def empty_rule_text(metrics: Mapping[str, Metric] = METRICS) -> str:
    """Say what happens where a class is missing; printed with every report."""

    def titles(*rules: EmptyRule) -> str:
        names = [metric.title for metric in metrics.values() if metric.empty_rule in rules]
        return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))

    return (
        "A class missing from both prediction and reference is not applicable: its "
        f"{titles(EmptyRule.ZERO, EmptyRule.DIAGONAL, EmptyRule.LEFT_OUT)} are left out of every mean and the case is "
        f"counted apart. Missing from one of the two: {titles(EmptyRule.ZERO)} are 0 and "
        f"{titles(EmptyRule.DIAGONAL)} is the image diagonal. Any other ratio with a zero denominator is left out."
    )
