"""Cases become batches, in an order and with changes that depend on (seed, epoch, index) alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from kanscan.data.case import Case, LabelMap
from kanscan.data.pictures.augmentation import AUGMENTATIONS, augment, derive_seed
from kanscan.data.pictures.files import read_size
from kanscan.data.pictures.labels import read_case_image, read_pair
from kanscan.data.pictures.transforms import Preprocessing, cut_square, resize_image, resize_label

#: What a cache may take unless the caller says otherwise: this share of the memory that is free now.
_CACHE_SHARE = 0.5


class CaseError(ValueError):
    """A case could not be read. Raised in a worker process it reaches the user as the same one sentence."""

    def __init__(self, message: str) -> None:
        # torch rebuilds a worker's exception from the whole printed traceback; the sentence is its end.
        super().__init__(message.rsplit("CaseError: ", 1)[-1].strip())


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Labelled cases as tensors.

    An item is `{"image": float32 (C, h, w), "label": int64 (h, w), "index": int, "id": str}`. Indexing with
    `(epoch, index)`, as `EpochSampler` does, fixes the augmentation; a plain index uses the epoch of `set_epoch`.

    The cache keeps resized pictures before augmentation, as uint8 where the file is 8-bit and as float32 otherwise, so
    a cached item equals a freshly read one bit for bit. Its size is estimated first; beyond the limit nothing is kept
    and files are read again each epoch (`cache_note` says so).

    Args:
        cases: Cases to serve, in this order.
        preprocessing: Channels, size, normalization.
        label_map: How stored label values become classes.
        augmentation: A key of `AUGMENTATIONS`.
        seed: Seed of the augmentation.
        cache: Keep preprocessed pictures in memory.
        cache_limit_mib: Memory the cache may take; None: half of what is free now.
        labelled: False serves images alone (no "label"), for cases without label files.
        cut_anywhere: Take `preprocessing.crop` at a place drawn from (seed, epoch, index) instead of the middle.

    Raises:
        ValueError: There is no case, or a case has no label.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        preprocessing: Preprocessing,
        label_map: LabelMap,
        *,
        augmentation: str = "none",
        seed: int = 0,
        cache: bool = True,
        cache_limit_mib: float | None = None,
        labelled: bool = True,
        cut_anywhere: bool = False,
    ) -> None:
        if not cases:
            raise ValueError("there is no case to load; check the split")
        without = [case.id for case in cases if not case.labels]
        if labelled and without:
            raise ValueError(f"{len(without)} of {len(cases)} cases have no label file, first {without[0]!r}")
        self.cases = tuple(cases)
        self.preprocessing = preprocessing
        # A place drawn each epoch needs the whole picture.
        self._stored = replace(preprocessing, crop=None, image_size=None) if cut_anywhere else preprocessing
        self.label_map = label_map
        self.labelled = labelled
        self.seed = seed
        self.epoch = 0
        self.augmentation_name = augmentation
        self._augmentation = AUGMENTATIONS[augmentation]()
        self.cache_note = ""
        self._cache: dict[int, tuple[np.ndarray, np.ndarray | None]] | None = None
        if cache:
            self._open_cache(cache_limit_mib)

    def _open_cache(self, limit_mib: float | None) -> None:
        limit = limit_mib if limit_mib is not None else _free_memory_mib() * _CACHE_SHARE
        needed = estimate_cache_mib(self.cases, self._stored)
        if needed > limit:
            self.cache_note = (
                f"{len(self.cases)} cases would take {needed:.0f} MiB, {limit:.0f} MiB are allowed: "
                "files are read again each epoch"
            )
        else:
            self.cache_note = f"{len(self.cases)} cases take {needed:.0f} MiB of memory"
            self._cache = {}

    def __len__(self) -> int:
        return len(self.cases)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation a plain index gets."""
        self.epoch = epoch

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        case = self.cases[index]
        pixels, label = self._prepared(index)
        if self._stored is not self.preprocessing:
            pixels, label = self._cut(pixels, label, derive_seed(self.seed, epoch, index, 1))
        image = torch.from_numpy(pixels).float()
        item: dict[str, Any] = {"index": index, "id": case.id}
        # An augmentation turns picture and label together; without a label it gets an empty one.
        classes = torch.zeros(image.shape[1:]).long() if label is None else torch.from_numpy(label).long()
        if self._augmentation is not None:
            image, classes = self._augment(image, classes, derive_seed(self.seed, epoch, index))
        if label is not None:
            item["label"] = classes
        item["image"] = self.preprocessing.normalize(image)
        return item

    def _cut(self, pixels: np.ndarray, label: np.ndarray | None, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        row, column = np.random.default_rng(seed).random(2)
        size, side = self.preprocessing.image_size, self.preprocessing.crop
        pixels = cut_square(pixels, side, (row, column))
        label = None if label is None else cut_square(label, side, (row, column))
        if size is None or pixels.shape[1:] == size:
            return pixels, label
        return resize_image(pixels, size), None if label is None else resize_label(label, size)

    def _augment(self, image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        size = (int(label.shape[0]), int(label.shape[1]))
        image, label = augment(self._augmentation, image, label, seed)
        if tuple(label.shape) != size and self.preprocessing.image_size is not None:
            # The papers turn before they resize; a turned picture is squeezed into the same frame.
            image = torch.from_numpy(resize_image(image.numpy(), size))
            label = torch.from_numpy(resize_label(label.numpy(), size))
        return image, label

    def _prepared(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        prepared = self._read(self.cases[index])
        if self._cache is not None:
            self._cache[index] = prepared
        return prepared

    def _read(self, case: Case) -> tuple[np.ndarray, np.ndarray | None]:
        try:
            if not self.labelled:
                return self._stored.prepare(read_case_image(case)), None
            image, label = read_pair(case, self.label_map)
            return self._stored.prepare(image), self._stored.prepare_label(label)
        except (OSError, ValueError) as error:
            raise CaseError(str(error)) from None

    def fill_cache(self) -> None:
        """Read every case now, so that worker processes started later share the pages instead of reading again."""
        if self._cache is not None:
            for index in range(len(self)):
                self._prepared(index)


class Joined(Dataset[dict[str, Any]]):
    """Data sets in a row, served as one; the items are those of the parts, their "index" counted through.

    Args:
        parts: The data sets; each has its own way to read labels.
    """

    def __init__(self, *parts: SegmentationDataset) -> None:
        self.parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    @property
    def cache_note(self) -> str:
        """What the parts say about their caches; one that does not fit speaks first."""
        return next((p.cache_note for p in self.parts if p.cache_note.endswith("each epoch")), self.parts[0].cache_note)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index = key[1] if isinstance(key, tuple) else key
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        inside = index - int(self._starts[place])
        item = self.parts[place][(key[0], inside) if isinstance(key, tuple) else inside]
        return {**item, "index": index}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation a plain index gets."""
        for part in self.parts:
            part.set_epoch(epoch)

    def fill_cache(self) -> None:
        """Read every case of every part now."""
        for part in self.parts:
            part.fill_cache()


def estimate_cache_mib(cases: Sequence[Case], preprocessing: Preprocessing) -> float:
    """Estimate from file headers how much memory the preprocessed cases take.

    The first file's bit depth is taken for all; sizes are read only where `image_size` leaves them open.
    """
    from kanscan.data.pictures.files import read_image

    bytes_per_value = 1 if read_image(cases[0].images[0], frame=cases[0].frame).dtype == np.uint8 else 4
    if preprocessing.image_size is not None:
        pixels = len(cases) * preprocessing.image_size[0] * preprocessing.image_size[1]
    else:
        pixels = sum(int(np.prod(read_size(case.images[0]))) for case in cases)
    return pixels * (preprocessing.channels * bytes_per_value + 1) / 2**20


def _free_memory_mib() -> float:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (AttributeError, ValueError, OSError):
        return 4096.0  # this system does not say; assume a small laptop


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
