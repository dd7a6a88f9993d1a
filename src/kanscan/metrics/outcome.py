"""What a metric is computed from: one class of one case, counted and with its masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

from kanscan.metrics.boundaries import Mask, hd95, nsd

if TYPE_CHECKING:
    from torch import Tensor

#: What is counted or computed: of one case a number, of a batch a tensor.
Value = TypeVar("Value", float, "Tensor")


@dataclass(frozen=True)
class Counts(Generic[Value]):
    """Pixels of one class against all others: true and false positives, false and true negatives.

    Of a batch they are tensors, an entry an image and class; whatever is computed of them is one too.
    """

    tp: Value
    fp: Value
    fn: Value
    tn: Value

    @property
    def in_prediction(self) -> Value:
        """Pixels the prediction gives to the class."""
        return self.tp + self.fp

    @property
    def in_reference(self) -> Value:
        """Pixels the reference gives to the class."""
        return self.tp + self.fn


@dataclass(frozen=True)
class Outcome(Counts[float]):
    """One class of one case.

    Attributes:
        prediction: Mask of the class, cut to the box that holds it in both; empty where it is missing from both.
        reference: The same of the reference.
        spacing: Size of a pixel along each axis; ones where it is not known.
        size: Pixels of the whole image along each axis.
        tolerance: Of the NSD, in the unit of `spacing`.
    """

    prediction: Mask = field(repr=False, compare=False)
    reference: Mask = field(repr=False, compare=False)
    spacing: Sequence[float]
    size: Sequence[int]
    tolerance: float

    @cached_property
    def pixel(self) -> float:
        """Size of a pixel: area or volume."""
        return math.prod(self.spacing)

    @cached_property
    def diagonal(self) -> float:
        """Of the whole image."""
        return math.hypot(*(n * s for n, s in zip(self.size, self.spacing, strict=True)))

    @cached_property
    def hd95(self) -> float:
        """See `kanscan.metrics.boundaries.hd95`; the class has pixels in both."""
        return hd95(self.prediction, self.reference, self.spacing)

    @cached_property
    def nsd(self) -> float:
        """See `kanscan.metrics.boundaries.nsd`; the class has pixels in both."""
        return nsd(self.prediction, self.reference, self.spacing, self.tolerance)


def ratio(numerator: Value, denominator: Value) -> Value:
    """Divide numbers or tensors of them; 0/0 and the like are NaN, which is "not applicable"."""
    if isinstance(denominator, int | float) and not denominator:
        return math.nan
    return numerator / denominator
