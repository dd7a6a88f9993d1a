"""Scores of one case, class by class, and what happens where a class is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kanscan.metrics.catalogue import METRICS
from kanscan.metrics.outcome import Counts, Outcome

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


def counts_of(confusion: Confusion, index: int = 1) -> Counts[float]:
    """Count one class against all others.

    Args:
        confusion: As `confusion_matrix` gives it, of one case or summed over many.
        index: The class.
    """
    tp = int(confusion[index, index])
    fn, fp = int(confusion[index].sum()) - tp, int(confusion[:, index].sum()) - tp
    return Counts(tp, fp, fn, int(confusion.sum()) - tp - fn - fp)


def overlap_scores(confusion: Confusion, index: int = 1) -> dict[str, float]:
    """Compute the metrics that need counts alone, of one class against all others; 0/0 is NaN. As `counts_of`."""
    counts = counts_of(confusion, index)
    # Such a function asks an outcome for nothing but its counts.
    return {m.name: m.function(counts) for m in METRICS.values() if m.needs == "counts"}  # type: ignore[arg-type]


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
        Class index -> every key of `METRICS`; NaN where its rule for empty masks says not applicable.

    Raises:
        ValueError: Shapes or values do not fit.

    Example:
        >>> scores = case_scores([[0, 1], [0, 1]], [[0, 1], [1, 1]])
        >>> round(scores[1]["dice"], 3)
        0.8
    """
    found = outcomes(prediction, label, num_classes, spacing_mm=spacing_mm, tolerance=tolerance)
    return {index: {name: metric.score(one) for name, metric in METRICS.items()} for index, one in found.items()}


def outcomes(
    prediction: ArrayLike,
    label: ArrayLike,
    num_classes: int = 2,
    *,
    spacing_mm: Sequence[float] | None = None,
    tolerance: float | Mapping[int, float] = 2.0,
    confusion: Confusion | None = None,
) -> dict[int, Outcome]:
    """Gather what the metrics of each class are computed from; arguments as of `case_scores`.

    Args:
        prediction: See there.
        label: See there.
        num_classes: See there.
        spacing_mm: See there.
        tolerance: See there.
        confusion: Of the two maps, where it is known already.
    """
    predicted, wanted = np.asarray(prediction), np.asarray(label)
    confusion = confusion_matrix(predicted, wanted, num_classes) if confusion is None else confusion
    if wanted.ndim not in (2, 3):
        raise ValueError(f"a case has two or three axes, got shape {wanted.shape}")
    if spacing_mm is not None and len(spacing_mm) != wanted.ndim:
        raise ValueError(f"the spacing {tuple(spacing_mm)} does not fit the {wanted.ndim} axes of the reference")
    spacing = tuple(float(s) for s in spacing_mm) if spacing_mm is not None else (1.0,) * wanted.ndim
    if num_classes <= IGNORED and (ignored := wanted == IGNORED).any():
        predicted, wanted = (np.where(ignored, 0, one) for one in (predicted, wanted))
    boxes = _boxes(predicted, wanted, num_classes)
    return {
        index: Outcome(
            **vars(counts_of(confusion, index)),
            prediction=predicted[boxes[index]] == index,
            reference=wanted[boxes[index]] == index,
            spacing=spacing,
            size=wanted.shape,
            tolerance=tolerance[index] if isinstance(tolerance, Mapping) else tolerance,
        )
        for index in range(1, num_classes)
    }


def _boxes(prediction: NDArray, label: NDArray, num_classes: int) -> dict[int, tuple[slice, ...]]:
    """Find the box that holds each class in both maps, in one pass over each; an empty one where there is none."""
    from scipy.ndimage import find_objects

    nothing = (slice(0, 0),) * label.ndim
    pairs = zip(*(find_objects(_plain(one), num_classes - 1) for one in (prediction, label)), strict=True)
    boxes = {}
    for index, pair in enumerate(pairs, start=1):
        found = [box for box in pair if box is not None]
        joined = (slice(min(s.start for s in along), max(s.stop for s in along)) for along in zip(*found, strict=True))
        boxes[index] = tuple(joined) if found else nothing
    return boxes


def _plain(label: NDArray) -> NDArray[np.integer]:
    """Bring a label map to a type that scipy takes."""
    return label if np.issubdtype(label.dtype, np.integer) and label.dtype.isnative else label.astype(np.int64)


def missing_from(confusion: Confusion, index: int) -> Literal["", "both", "prediction", "reference"]:
    """Tell where class `index` has no pixel."""
    in_reference, in_prediction = bool(confusion[index].any()), bool(confusion[:, index].any())
    if in_reference and in_prediction:
        return ""
    if not in_reference and not in_prediction:
        return "both"
    return "reference" if in_prediction else "prediction"
