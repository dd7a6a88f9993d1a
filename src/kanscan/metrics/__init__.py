"""How well a prediction matches its reference: case by case, pooled as papers pool, and with intervals."""

from kanscan.metrics.calibration import calibration_error, reliability_sums
from kanscan.metrics.pooled import batch_pooled_scores, pixel_pooled_scores
from kanscan.metrics.scores import (
    EMPTY_RULE,
    IGNORED,
    METRICS,
    Confusion,
    Metric,
    boundary_scores,
    case_scores,
    confusion_matrix,
    missing_from,
    overlap_scores,
)
from kanscan.metrics.statistics import (
    PairedDifference,
    Summary,
    adjust_p_values,
    paired_difference,
    summarize,
)
from kanscan.metrics.tolerances import TOLERANCES_MM, check_tolerances, read_tolerances, tolerance_of

__all__ = [
    "EMPTY_RULE",
    "IGNORED",
    "METRICS",
    "TOLERANCES_MM",
    "Confusion",
    "Metric",
    "PairedDifference",
    "Summary",
    "adjust_p_values",
    "batch_pooled_scores",
    "boundary_scores",
    "calibration_error",
    "case_scores",
    "check_tolerances",
    "confusion_matrix",
    "missing_from",
    "overlap_scores",
    "paired_difference",
    "pixel_pooled_scores",
    "read_tolerances",
    "reliability_sums",
    "summarize",
    "tolerance_of",
]
