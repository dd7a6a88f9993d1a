"""Pictures as items of a training: stored as prepared, changed by chance, normalized.

Every change depends on (seed, epoch, index) alone, so a resumed run repeats it in whatever process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from kanscan.data.case import Case
from kanscan.data.label_map import LabelMap
from kanscan.data.loading import CaseError
from kanscan.data.pictures.augmentation import AUGMENTATIONS, augment, derive_seed
from kanscan.data.pictures.files import read_image, read_size
from kanscan.data.pictures.labels import read_case_image, read_pair
from kanscan.data.pictures.resizing import resize_image, resize_label
from kanscan.data.pictures.transforms import Pixels, Preprocessing, cut_square

#: What a cache may take unless the caller says otherwise: this share of the memory that is free now.
_CACHE_SHARE = 0.5

#: Image `(C, h, w)` as the cache keeps it, and label `(h, w)`; None where labels are not asked for.
Stored = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class MemoryNeed:
    """What prepared pictures take of memory; as text, the sentence about it.

    Attributes:
        num_cases: Pictures.
        needed_mib: What they take.
        limit_mib: What they may take.
    """

    num_cases: int
    needed_mib: float
    limit_mib: float

    @property
    def fits(self) -> bool:
        """Whether they are kept in memory; otherwise files are read again each epoch."""
        return self.needed_mib <= self.limit_mib

    def __str__(self) -> str:
        if self.fits:
            return f"{self.num_cases} cases take {self.needed_mib:.0f} MiB of memory"
        return (
            f"{self.num_cases} cases would take {self.needed_mib:.0f} MiB, {self.limit_mib:.0f} MiB are allowed: "
            "files are read again each epoch"
        )


class StoredPictures:
    """Pictures and labels as read and prepared; kept in memory where they fit.

    Kept are uint8 arrays where the file is 8-bit and float32 otherwise, so a kept picture equals a freshly read one bit
    for bit.

    Args:
        cases: Which, in this order.
        read: Reads and prepares one case.
        memory: What they take; None, or more than is allowed: nothing is kept.

    Raises:
        ValueError: There is no case.
    """

    def __init__(self, cases: Sequence[Case], read: Callable[[Case], Stored], memory: MemoryNeed | None = None) -> None:
        if not cases:
            raise ValueError("there is no case to load; check the split")
        self.cases = tuple(cases)
        self.memory = memory
        self._read = read
        self._kept: dict[int, Stored] | None = {} if memory is not None and memory.fits else None

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Stored:
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        try:
            stored = self._read(self.cases[index])
        except (OSError, ValueError) as error:
            raise CaseError(str(error)) from None
        if self._kept is not None:
            self._kept[index] = stored
        return stored

    def fill(self) -> None:
        """Read all of them now, so that worker processes started later share the pages instead of reading again."""
        if self._kept is not None:
            # Decoding leaves Python's lock, so threads help.
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(self.__getitem__, range(len(self))))


#: A change by chance: image `(C, h, w)` as stored, label `(h, w)` and (seed, epoch, index) give both anew.
Change = Callable[[np.ndarray, np.ndarray, tuple[int, int, int]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class RandomCut:
    """Take the preprocessing's square at a place drawn anew each epoch, then resize."""

    preprocessing: Preprocessing

    def __call__(
        self, image: np.ndarray, label: np.ndarray, draw: tuple[int, int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut image and label at one place."""
        # Another stream than that of the augmentation.
        row, column = np.random.default_rng(derive_seed(*draw, 1)).random(2)
        image, label = (cut_square(array, self.preprocessing.crop, (row, column)) for array in (image, label))
        size = self.preprocessing.image_size
        if size is None or image.shape[1:] == size:
            return image, label
        return resize_image(image, size), resize_label(label, size)


class Augmentation:
    """Apply an entry of `AUGMENTATIONS`.

    Args:
        name: Its key.
        fixed_size: Bring turned pictures back to the size they had.
    """

    def __init__(self, name: str, *, fixed_size: bool) -> None:
        self._transform = AUGMENTATIONS[name]()
        self._fixed_size = fixed_size

    def __call__(
        self, image: np.ndarray, label: np.ndarray, draw: tuple[int, int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Change image and label alike."""
        if self._transform is None:
            return image, label
        size = (int(label.shape[0]), int(label.shape[1]))
        tensors = torch.from_numpy(image).float(), torch.from_numpy(label).long()
        image, label = (tensor.numpy() for tensor in augment(self._transform, *tensors, derive_seed(*draw)))
        if label.shape != size and self._fixed_size:
            # The papers turn before they resize; a turned picture is squeezed into the same frame.
            return resize_image(image, size), resize_label(label, size)
        return image, label


class PictureDataset(Dataset[dict[str, Any]]):
    """Stored pictures, changed and normalized.

    An item is `{"image": float32 (C, h, w), "label": int64 (h, w), "index": int, "id": str}`, without "label" where
    none was stored. Indexing with `(epoch, index)`, as `EpochSampler` does, fixes the changes; a plain index uses the
    epoch of `set_epoch`.

    Args:
        stored: The pictures.
        normalize: What is done last.
        changes: Changes by chance, in their order.
        seed: Of the changes.
    """

    def __init__(
        self,
        stored: StoredPictures,
        normalize: Callable[[Pixels], Pixels],
        changes: Sequence[Change] = (),
        *,
        seed: int = 0,
    ) -> None:
        self.stored = stored
        self.normalize = normalize
        self.changes = tuple(changes)
        self.seed = seed
        self.epoch = 0

    @property
    def memory(self) -> MemoryNeed | None:
        """What the pictures take of memory; None where they are not to be kept."""
        return self.stored.memory

    def __len__(self) -> int:
        return len(self.stored)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose changes a plain index gets."""
        self.epoch = epoch

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        image, label = self.stored[index]
        # A change moves picture and label together; without a label it gets an empty one.
        classes = np.zeros(image.shape[1:], np.uint8) if label is None else label
        for change in self.changes:
            image, classes = change(image, classes, (self.seed, epoch, index))
        item: dict[str, Any] = {"index": index, "id": self.stored.cases[index].id}
        if label is not None:
            item["label"] = torch.from_numpy(classes).long()
        item["image"] = torch.from_numpy(self.normalize(image.astype(np.float32)))
        return item

    def fill_cache(self) -> None:
        """Read every picture now."""
        self.stored.fill()


def labelled_pictures(
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    label_map: LabelMap,
    *,
    augmentation: str = "none",
    crop_place: str = "center",
    seed: int = 0,
    cache: bool = True,
    cache_limit_mib: float | None = None,
) -> PictureDataset:
    """Serve labelled cases.

    Args:
        cases: Cases to serve, in this order.
        preprocessing: Channels, size, normalization.
        label_map: How stored label values become classes.
        augmentation: A key of `AUGMENTATIONS`.
        crop_place: Where `preprocessing.crop` is taken: "center", or "random" for a place drawn each epoch.
        seed: Seed of everything drawn.
        cache: Keep prepared pictures in memory where they fit.
        cache_limit_mib: Memory they may take; None: half of what is free now.

    Raises:
        ValueError: There is no case, or a case has no label.
    """
    without = [case.id for case in cases if not case.labels]
    if without:
        raise ValueError(f"{len(without)} of {len(cases)} cases have no label file, first {without[0]!r}")
    kept, changes = _kept_and_changed(preprocessing, augmentation, crop_place)

    def read(case: Case) -> Stored:
        image, label = read_pair(case, label_map)
        return kept.prepare(image), kept.prepare_label(label)

    memory = _memory_need(cases, kept, cache_limit_mib) if cache and cases else None
    return PictureDataset(StoredPictures(cases, read, memory), preprocessing.normalize, changes, seed=seed)


def bare_pictures(
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    *,
    augmentation: str = "none",
    crop_place: str = "center",
    seed: int = 0,
    cache: bool = True,
    cache_limit_mib: float | None = None,
) -> PictureDataset:
    """Serve the images of cases, without their labels; arguments as in `labelled_pictures`.

    Raises:
        ValueError: There is no case.
    """
    kept, changes = _kept_and_changed(preprocessing, augmentation, crop_place)

    def read(case: Case) -> Stored:
        return kept.prepare(read_case_image(case)), None

    memory = _memory_need(cases, kept, cache_limit_mib) if cache and cases else None
    return PictureDataset(StoredPictures(cases, read, memory), preprocessing.normalize, changes, seed=seed)


def _kept_and_changed(
    preprocessing: Preprocessing, augmentation: str, crop_place: str
) -> tuple[Preprocessing, list[Change]]:
    turned = Augmentation(augmentation, fixed_size=preprocessing.image_size is not None)
    if crop_place != "random":
        return preprocessing, [turned]
    # A place drawn each epoch needs the whole picture.
    return replace(preprocessing, crop=None, image_size=None), [RandomCut(preprocessing), turned]


class ConcatenatedDataset(Dataset[dict[str, Any]]):
    """Data sets in a row, served as one; the items are those of the parts, their "index" counted through.

    Args:
        parts: The data sets; each has its own way to read labels.
    """

    def __init__(self, *parts: PictureDataset) -> None:
        self.parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    @property
    def memory(self) -> MemoryNeed | None:
        """What the parts say of their memory; one that does not fit speaks first."""
        needs = [part.memory for part in self.parts if part.memory is not None]
        return min(needs, key=lambda need: need.fits, default=None)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index = key[1] if isinstance(key, tuple) else key
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        within = index - int(self._starts[which])
        item = self.parts[which][(key[0], within) if isinstance(key, tuple) else within]
        return item | {"index": index}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose changes a plain index gets."""
        for part in self.parts:
            part.set_epoch(epoch)

    def fill_cache(self) -> None:
        """Read every picture of every part now."""
        for part in self.parts:
            part.fill_cache()


def _memory_need(cases: Sequence[Case], preprocessing: Preprocessing, limit_mib: float | None) -> MemoryNeed:
    limit = limit_mib if limit_mib is not None else _free_memory_mib() * _CACHE_SHARE
    return MemoryNeed(len(cases), estimate_cache_mib(cases, preprocessing), limit)


def estimate_cache_mib(cases: Sequence[Case], preprocessing: Preprocessing) -> float:
    """Estimate from file headers how much memory the prepared cases take.

    The first file's bit depth is taken for all; sizes are read only where `image_size` leaves them open.
    """
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
