"""How well a prediction matches its reference: case by case, pooled as papers pool, and with intervals."""

from kanscan.metrics.calibration import Reliability, calibration_error, reliability, reliability_of, reliability_sums
from kanscan.metrics.catalogue import METRICS, EmptyRule, Metric, empty_rule_text, metric_named
from kanscan.metrics.outcome import Counts, Outcome, ratio
from kanscan.metrics.pooled import batch_pooled_scores, pixel_pooled_scores
from kanscan.metrics.scores import (
    IGNORED,
    Confusion,
    case_scores,
    confusion_matrix,
    counts_of,
    missing_from,
    outcomes,
    overlap_scores,
)
from kanscan.metrics.statistics import (
    PairedDifference,
    Summary,
    adjust_p_values,
    paired_difference,
    spread_by_cause,
    summarize,
)
from kanscan.metrics.tolerances import TOLERANCES_MM, check_tolerances, read_tolerances, tolerance_of

__all__ = [
    "IGNORED",
    "METRICS",
    "TOLERANCES_MM",
    "Confusion",
    "Counts",
    "EmptyRule",
    "Metric",
    "Outcome",
    "PairedDifference",
    "Reliability",
    "Summary",
    "adjust_p_values",
    "batch_pooled_scores",
    "calibration_error",
    "case_scores",
    "check_tolerances",
    "confusion_matrix",
    "counts_of",
    "empty_rule_text",
    "metric_named",
    "missing_from",
    "outcomes",
    "overlap_scores",
    "paired_difference",
    "pixel_pooled_scores",
    "ratio",
    "read_tolerances",
    "reliability",
    "reliability_of",
    "reliability_sums",
    "spread_by_cause",
    "summarize",
    "tolerance_of",
]
