"""The scores of an epoch: what the records call `validation`, on logits as they come out of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from kanscan.metrics.catalogue import METRICS, Metric
from kanscan.metrics.logits import labels, num_classes
from kanscan.metrics.outcome import Counts
from kanscan.metrics.scores import IGNORED

if TYPE_CHECKING:
    from torch import Tensor


def validated() -> dict[str, Metric]:
    """Return the metrics of an epoch by the column of the curves they stand in."""
    return {f"val_{metric.name}": metric for metric in METRICS.values() if metric.validation}


def image_scores(logits: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Return the validation metrics of each image, averaged over its foreground classes, on the network's own grid.

    A class that neither the prediction nor the label holds is not applicable and left out of the mean; a class that
    only one of them holds scores 0. This is the rule of the evaluation.

    Args:
        logits: `(B, K, *S)`; one logit says foreground above 0, several are compared with one another.
        label: `(B, *S)` integer classes; ignored pixels are left out.

    Returns:
        Name -> `(B,)` float64; NaN for an image to which no foreground class applies.
    """
    import torch

    classes = torch.arange(1, num_classes(logits.shape[1]), device=logits.device).view(1, -1, 1)
    ignored = (label == IGNORED).flatten(1).unsqueeze(1) & (logits.shape[1] <= IGNORED)
    # Ignored pixels are of no class in both.
    ours, theirs = (one.flatten(1).unsqueeze(1).masked_fill(ignored, -1) == classes for one in (labels(logits), label))
    both, in_ours, in_theirs = (one.sum(2).double() for one in (ours & theirs, ours, theirs))
    others = (~ignored).sum(2) - (in_ours + in_theirs - both)
    counts = Counts(both, in_ours - both, in_theirs - both, others)
    scores = {}
    for metric in validated().values():
        # Such a function asks an outcome for nothing but its counts, and works on tensors as on numbers.
        of_counts = cast("Callable[[Counts[Tensor]], Tensor]", metric.function)
        scores[metric.name] = of_counts(counts).nanmean(1)
    return scores
