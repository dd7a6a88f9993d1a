"""What a chapter is made from and what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from kanscan.metrics import IGNORED


@dataclass(frozen=True)
class Sample:
    """An image on the grid the network works on; of a volume the patch that the network takes.

    Attributes:
        id: Its name.
        image: `(h, w)`, `(h, w, 3)` or `(d, h, w)`, to be looked at.
        x: `(C, *s)`, what the network takes.
        label: `(*s)` class indices, some perhaps `kanscan.metrics.IGNORED`, or None.
        spacing_mm: Of a volume or a slice of one, along the axes `s`; None for a picture.
    """

    id: str
    image: NDArray[np.generic]
    x: Tensor
    label: Tensor | None = None
    spacing_mm: tuple[float, ...] | None = None

    @property
    def outline(self) -> NDArray[np.generic] | None:
        """The label as it is drawn: what is ignored is background."""
        return None if self.label is None else self.label.masked_fill(self.label == IGNORED, 0).numpy()

    @property
    def known(self) -> Tensor:
        """Places `(*s)` whose label is known and counts."""
        assert self.label is not None
        return self.label != IGNORED

    def is_class(self, index: int | None = None) -> Tensor:
        """Mark the places `(*s)` of a class, or of all foreground."""
        assert self.label is not None
        return (self.label > 0) & self.known if index is None else self.label == index


@dataclass(frozen=True)
class Chapter:
    """A part of an explanation.

    Attributes:
        key: Stem of its files.
        title: Heading.
        sentences: What was done, averaged over what.
        figures: Name, drawing, caption.
        tables: Columns, rows of text, indices of numeric columns.
        arrays: What the figures show, by name.
        texts: Text files by name.
    """

    key: str
    title: str
    sentences: Sequence[str]
    figures: Sequence[tuple[str, Figure, str]] = ()
    tables: Sequence[tuple[Sequence[str], Sequence[Sequence[str]], Sequence[int]]] = ()
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


def batches(samples: Sequence[Sample], device: torch.device, size: int = 4) -> Iterable[Tensor]:
    """Give the samples' inputs in batches; images of other sizes begin a new batch, patches of volumes go alone."""
    waiting: list[Tensor] = []
    size = 1 if samples and samples[0].x.ndim > 3 else size
    for sample in samples:
        if waiting and (len(waiting) == size or sample.x.shape != waiting[0].shape):
            yield torch.stack(waiting).to(device)
            waiting = []
        waiting.append(sample.x)
    if waiting:
        yield torch.stack(waiting).to(device)


def of_one_size(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples of the most frequent size."""
    shapes = [tuple(sample.x.shape) for sample in samples]
    most = max(shapes, key=shapes.count)
    return [sample for sample, shape in zip(samples, shapes, strict=True) if shape == most]
