"""Scores of one case, class by class, and what happens where a class is missing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: What happens where a class is missing; printed with every report.
EMPTY_RULE = (
    "A class missing from both prediction and reference is not applicable: its Dice, IoU, sensitivity, "
    "precision, HD95 and NSD are left out of every mean and the case is counted apart. "
    "Missing from one of the two: Dice, IoU and NSD are 0 and HD95 is the image diagonal. "
    "Any other ratio with a zero denominator is left out."
)


@dataclass(frozen=True)
class Metric:
    """What a column of a report is.

    Attributes:
        title: Heading.
        better: Which way is better.
        unit: "" for a ratio, "length" (mm, or pixels where there is no spacing), "size" (length to the power
            of the number of dimensions).
        definition: One sentence.
    """

    title: str
    better: Literal["higher", "lower", "zero"]
    unit: Literal["", "length", "size"]
    definition: str


METRICS: dict[str, Metric] = {
    "dice": Metric("Dice", "higher", "", "2 TP / (2 TP + FP + FN); papers also say DSC or F1"),
    "iou": Metric("IoU", "higher", "", "TP / (TP + FP + FN), the Jaccard index"),
    "sensitivity": Metric("Sensitivity", "higher", "", "TP / (TP + FN), recall"),
    "specificity": Metric("Specificity", "higher", "", "TN / (TN + FP)"),
    "precision": Metric("Precision", "higher", "", "TP / (TP + FP)"),
    "accuracy": Metric("Accuracy", "higher", "", "(TP + TN) / all"),
    "hd95": Metric("HD95", "lower", "length", "the larger of the two directed 95th percentiles of boundary distances"),
    "nsd": Metric(
        "NSD",
        "higher",
        "",
        "share of both boundaries within the tolerance of the other (surface Dice)",
    ),
    "size_error": Metric("Size error", "zero", "size", "predicted minus reference area (2D) or volume (3D)"),
    "relative_size_error": Metric("Rel. size error", "zero", "", "size error divided by the reference size"),
}

#: Class index of pixels that nobody labelled: they count nowhere, whatever is predicted there. Not 255, which is the
#: foreground of many a mask.
IGNORED = 254

Confusion = NDArray[np.int64]


def confusion_matrix(prediction: ArrayLike, label: ArrayLike, num_classes: int = 2) -> Confusion:
    """Count pixels by class.

    Args:
        prediction: Integer or boolean map of any shape.
        label: Reference of the same shape; pixels that are `IGNORED` are not counted.
        num_classes: Background included.

    Returns:
        `(K, K)`: rows are reference classes, columns predicted ones.

    Raises:
        ValueError: The shapes differ, or a value is no class.

    Example:
        >>> confusion_matrix([0, 1, 1], [0, 1, 0])
        array([[1, 1],
               [0, 1]])
    """
    predicted, wanted = np.asarray(prediction), np.asarray(label)
    if predicted.shape != wanted.shape:
        raise ValueError(
            f"the prediction has shape {predicted.shape}, its reference {wanted.shape}; they must be equal"
        )
    if num_classes <= IGNORED and (ignored := wanted == IGNORED).any():
        predicted, wanted = predicted[~ignored], wanted[~ignored]
    for name, array in (("prediction", predicted), ("reference", wanted)):
        if array.size and not (array.min() >= 0 and array.max() < num_classes):
            raise ValueError(f"the {name} holds values {array.min()} to {array.max()}, expected 0 to {num_classes - 1}")
    codes = wanted.astype(np.int64).ravel() * num_classes + predicted.astype(np.int64).ravel()
    return np.bincount(codes, minlength=num_classes**2).reshape(num_classes, num_classes)


def overlap_scores(confusion: Confusion, index: int = 1) -> dict[str, float]:
    """Compute the ratios of one class against all others; 0/0 is NaN.

    Args:
        confusion: As `confusion_matrix` gives it, of one case or summed over many.
        index: The class.
    """
    tp = int(confusion[index, index])
    fn = int(confusion[index].sum()) - tp
    fp = int(confusion[:, index].sum()) - tp
    tn = int(confusion.sum()) - tp - fn - fp
    return {
        "dice": _ratio(2 * tp, 2 * tp + fp + fn),
        "iou": _ratio(tp, tp + fp + fn),
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "precision": _ratio(tp, tp + fp),
        "accuracy": _ratio(tp + tn, tp + tn + fp + fn),
    }


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def boundary_scores(
    prediction: NDArray[np.bool_],
    label: NDArray[np.bool_],
    *,
    spacing: Sequence[float] | None = None,
    tolerance: float = 2.0,
) -> dict[str, float]:
    """Compute HD95 and NSD of two masks, `EMPTY_RULE` applied.

    The boundary of HD95 is the pixels that an erosion removes. NSD weighs boundary elements by their length
    or area on the dual grid (marching squares and cubes).

    Args:
        prediction: `(H, W)` or `(D, H, W)`.
        label: Reference of the same shape.
        spacing: Size of a pixel along each axis; None: 1.
        tolerance: Of NSD, in the unit of `spacing`.
    """
    if not prediction.any() and not label.any():
        return {"hd95": math.nan, "nsd": math.nan}
    steps = tuple(float(s) for s in spacing) if spacing is not None else (1.0,) * label.ndim
    if not prediction.any() or not label.any():
        diagonal = math.sqrt(sum((n * s) ** 2 for n, s in zip(label.shape, steps, strict=True)))
        return {"hd95": diagonal, "nsd": 0.0}
    inside = _around(prediction | label)
    prediction, label = prediction[inside], label[inside]
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    masks = [torch.from_numpy(np.ascontiguousarray(m))[None, None] for m in (prediction, label)]
    # MONAI warns of its own deprecated calls.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=steps)
        nsd = compute_surface_dice(*masks, [tolerance], include_background=True, spacing=steps, use_subvoxels=True)
    return {"hd95": float(hd95), "nsd": float(nsd)}


def _around(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the box of a mask and one pixel around it: beyond lies no boundary, and large volumes are mostly empty."""
    box = []
    for axis in range(mask.ndim):
        places = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(int(places[0]) - 1, 0), int(places[-1]) + 2))
    return tuple(box)


def case_scores(
    prediction: ArrayLike,
    label: ArrayLike,
    num_classes: int = 2,
    *,
    spacing_mm: Sequence[float] | None = None,
    tolerance: float | Mapping[int, float] = 2.0,
) -> dict[int, dict[str, float]]:
    """Score one case, class by class, the background left out.

    Args:
        prediction: Integer map `(H, W)` or `(D, H, W)`.
        label: Reference of the same shape. Pixels that are `IGNORED` are left out; for boundaries they are background
            in both maps.
        num_classes: Background included.
        spacing_mm: Size of a pixel along each array axis; None: distances and sizes are in pixels.
        tolerance: Of NSD: mm where `spacing_mm` is given, else pixels; one number, or one for each class index.

    Returns:
        Class index -> every key of `METRICS`; NaN where `EMPTY_RULE` says not applicable.

    Raises:
        ValueError: Shapes or values do not fit.

    Example:
        >>> scores = case_scores([[0, 1], [0, 1]], [[0, 1], [1, 1]])
        >>> round(scores[1]["dice"], 3)
        0.8
    """
    prediction, label = np.asarray(prediction), np.asarray(label)
    confusion = confusion_matrix(prediction, label, num_classes)
    if label.ndim not in (2, 3):
        raise ValueError(f"a case has two or three axes, got shape {label.shape}")
    if spacing_mm is not None and len(spacing_mm) != label.ndim:
        raise ValueError(f"the spacing {tuple(spacing_mm)} does not fit the {label.ndim} axes of the reference")
    pixel = math.prod(spacing_mm) if spacing_mm is not None else 1.0
    if num_classes <= IGNORED and (label == IGNORED).any():
        prediction, label = (np.where(label == IGNORED, 0, one) for one in (prediction, label))
    scores: dict[int, dict[str, float]] = {}
    for index in range(1, num_classes):
        size, reference_size = int(confusion[:, index].sum()), int(confusion[index].sum())
        allowed = tolerance[index] if isinstance(tolerance, Mapping) else tolerance
        boundary = boundary_scores(prediction == index, label == index, spacing=spacing_mm, tolerance=allowed)
        scores[index] = overlap_scores(confusion, index) | boundary
        scores[index]["size_error"] = (size - reference_size) * pixel
        scores[index]["relative_size_error"] = _ratio(size - reference_size, reference_size)
    return scores


def missing_from(confusion: Confusion, index: int) -> Literal["", "both", "prediction", "reference"]:
    """Tell where class `index` has no pixel."""
    in_reference, in_prediction = bool(confusion[index].any()), bool(confusion[:, index].any())
    if in_reference and in_prediction:
        return ""
    if not in_reference and not in_prediction:
        return "both"
    return "reference" if in_prediction else "prediction"
