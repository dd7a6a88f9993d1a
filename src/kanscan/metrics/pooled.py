"""Scores pooled over many cases as the papers' released code pools them: legacy columns of a report."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from kanscan.metrics.scores import Confusion, overlap_scores


def batch_pooled_scores(
    confusions: Iterable[Confusion], *, batch_size: int = 8, smooth: float = 1e-5
) -> dict[str, float]:
    """Score as the released code of U-KAN, KM-UNet and U-NeXt does.

    Intersection and union are pooled over all pixels, foreground classes and cases of a batch; F1 is
    computed from that batch's IoU; both are averaged over batches, weighted by their size. The figures
    therefore depend on the batch size and on the order of the cases, and F1 is not the F1 of the mean IoU.

    Args:
        confusions: One a case, at the size the network sees, in the order of evaluation.
        batch_size: Of that evaluation; the last batch may be smaller.
        smooth: Added to numerator and denominator of the IoU.

    Returns:
        "iou" and "f1"; NaN without cases.
    """
    cases = list(confusions)
    if not cases:
        return {"iou": math.nan, "f1": math.nan}
    iou_sum, f1_sum = 0.0, 0.0
    for start in range(0, len(cases), batch_size):
        batch = cases[start : start + batch_size]
        pooled = np.sum(batch, axis=0)
        intersection = np.trace(pooled[1:, 1:])
        union = pooled[1:].sum() + pooled[:, 1:].sum() - intersection
        iou = float((intersection + smooth) / (union + smooth))
        iou_sum += iou * len(batch)
        f1_sum += 2 * iou / (1 + iou) * len(batch)
    return {"iou": iou_sum / len(cases), "f1": f1_sum / len(cases)}


def pixel_pooled_scores(confusions: Iterable[Confusion], index: int = 1) -> dict[str, float]:
    """Score as the released code of VM-UNet and VMKLA-UNet does: one confusion matrix over all pixels.

    Large lesions weigh more than small ones, and Dice is a function of IoU. A zero denominator gives 0.
    """
    cases = list(confusions)
    if not cases:
        return {name: math.nan for name in overlap_scores(np.zeros((2, 2), np.int64))}
    scores = overlap_scores(np.sum(cases, axis=0), index)
    return {name: 0.0 if math.isnan(value) else value for name, value in scores.items()}
