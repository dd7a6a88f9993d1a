"""What a chapter is made from and what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """An image on the grid the network works on.

    Attributes:
        id: Its name.
        image: `(h, w)` or `(h, w, C)`, to be looked at.
        x: `(C, h, w)`, what the network takes.
        label: `(h, w)` class indices, or None.
    """

    id: str
    image: NDArray[Any]
    x: Tensor
    label: Tensor | None = None


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
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


def batches(samples: Sequence[Sample], device: torch.device, size: int = 4) -> Iterable[Tensor]:
    """Give the samples' inputs in batches; images of other sizes begin a new batch."""
    waiting: list[Tensor] = []
    for sample in samples:
        if waiting and (len(waiting) == size or sample.x.shape != waiting[0].shape):
            yield torch.stack(waiting).to(device)
            waiting = []
        waiting.append(sample.x)
    if waiting:
        yield torch.stack(waiting).to(device)
