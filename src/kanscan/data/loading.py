"""Items become batches, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate


class CaseError(ValueError):
    """A case could not be read. Raised in a worker process it reaches the user as the same one sentence."""

    def __init__(self, message: str) -> None:
        # torch rebuilds a worker's exception from the whole printed traceback; the sentence is its end.
        super().__init__(message.rsplit("CaseError: ", 1)[-1].strip())


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields `(epoch, index)`; the order of an epoch depends on (seed, epoch) alone, so a resumed run repeats it.

    Lightning calls `set_epoch` at the start of each epoch. With several processes each takes every `world_size`-th
    index, the first ones repeated so that all take equally many.
    """

    def __init__(self, size: int, *, seed: int = 0, shuffle: bool = True, rank: int = 0, world_size: int = 1) -> None:
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.size)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        order = np.resize(order, len(self) * self.world_size)
        for index in order[self.rank :: self.world_size]:
            yield self.epoch, int(index)


class Cached(Protocol):
    """What is asked of a data set: its length, and that it reads ahead what worker processes shall share."""

    def __len__(self) -> int: ...
    def fill_cache(self) -> None: ...  # noqa: D102


def make_loader(
    dataset: Cached,
    *,
    batch_size: int = 8,
    shuffle: bool = False,
    seed: int = 0,
    num_workers: int = 0,
    drop_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[dict[str, Any]]:
    """Build the loader whose batches are the same after a resume and for any number of workers.

    Args:
        dataset: Where the items come from.
        batch_size: Items a batch.
        shuffle: Draw a new order each epoch (training).
        seed: Seed of the order.
        num_workers: Reading processes; the cache is filled first so that they share it.
        drop_last: Leave out an incomplete last batch.
        rank: Number of this process among several that train together.
        world_size: How many processes train together.

    Returns:
        A DataLoader of dicts: "image" `(B, C, h, w)`, "label" `(B, h, w)`, "index" `(B,)`, "id" list of B names.
    """
    if num_workers > 0:
        dataset.fill_cache()
    return DataLoader(
        cast(Dataset[dict[str, Any]], dataset),
        batch_size=batch_size,
        sampler=EpochSampler(len(dataset), seed=seed, shuffle=shuffle, rank=rank, world_size=world_size),
        num_workers=num_workers,
        drop_last=drop_last,
        collate_fn=collate,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        # Without its own generator an iterator draws from the global stream, at another moment after a resume.
        generator=torch.Generator().manual_seed(seed),
    )


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack items to a batch.

    Raises:
        ValueError: The sizes differ; the sentence says what to set.
    """
    shapes = {tuple(item["image"].shape[1:]) for item in items}
    if len(shapes) > 1:
        shown = ", ".join(f"{h} x {w} ({item_id})" for (h, w), item_id in _first_of_each(items))
        raise CaseError(
            f"images of one batch differ in size (height x width): {shown}; "
            "set data.image_size, or trainer.batch_size=1"
        )
    return default_collate(items)


def _first_of_each(items: list[dict[str, Any]]) -> list[tuple[tuple[int, int], str]]:
    seen: dict[tuple[int, int], str] = {}
    for item in items:
        seen.setdefault((int(item["image"].shape[1]), int(item["image"].shape[2])), item["id"])
    return list(seen.items())
