"""Patches of prepared volumes, drawn around foreground often enough; a draw depends on (seed, epoch, index) alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kanscan.data.pictures.augmentation import derive_seed
from kanscan.data.sides import SIDES
from kanscan.data.volumes.augmentation import VOLUME_AUGMENTATIONS, augment_patch
from kanscan.data.volumes.cache import CachedCase
from kanscan.data.volumes.plan import VolumePlan


class PatchDataset(Dataset[dict[str, Any]]):
    """Training patches: an epoch is `batches` batches of random places, of random cases.

    In every batch the last `batch_size - round(batch_size * (1 - foreground))` patches are centered on a voxel of a
    random class of their case, as nnU-Net does it.

    An item is `{"image": float32 (C, *S), "label": int64 (*S), "index": int, "id": str}`, S being the plan's patch
    without its slice axis.

    Args:
        cases: Prepared cases.
        plan: Patch and batch size.
        batches: Batches in an epoch.
        foreground: Share of patches that are centered on foreground.
        augmentation: A key of `VOLUME_AUGMENTATIONS`.
        seed: Seed of all draws.
        mirror_sides: Whether the right may be shown on the left; not where class names say left and right.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        plan: VolumePlan,
        *,
        batches: int,
        foreground: float = 1 / 3,
        augmentation: str = "nnunet",
        seed: int = 0,
        mirror_sides: bool = True,
    ) -> None:
        self.cases, self.plan = tuple(cases), plan
        axes = [axis for axis in range(3) if axis != plan.slice_axis]
        self.mirrored = [k for k, axis in enumerate(axes) if mirror_sides or axis != SIDES]
        self.batches, self.foreground, self.seed = batches, foreground, seed
        self.augmentation = VOLUME_AUGMENTATIONS[augmentation]
        self.epoch = 0

    def __len__(self) -> int:
        return self.batches * self.plan.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose draws a plain index gets."""
        self.epoch = epoch

    def fill_cache(self) -> None:
        """Do nothing: the cases are prepared already."""

    def is_centered(self, index: int) -> bool:
        """Tell whether the patch at this place of a batch is centered on foreground."""
        size = self.plan.batch_size
        return index % size >= round(size * (1 - self.foreground))

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        random = np.random.default_rng(derive_seed(self.seed, epoch, index))
        case = self.cases[int(random.integers(len(self.cases)))]
        how, size = self.augmentation, self.plan.patch_size
        axis = self.plan.slice_axis
        margin = how.margin if how is not None else 1.0
        larger = [n if a == axis else int(np.ceil(n * margin)) for a, n in enumerate(size)]
        center = draw_center(case, size, random, self.is_centered(index))
        image, label = cut(case, center, larger, axis)
        if how is not None:
            drawn = int(random.integers(2**32))
            image, label = augment_patch(how, image, label, self.plan.network_size, drawn, self.mirrored)
        image = as_seen(image, self.plan)
        return {"image": image, "label": label, "index": index, "id": case.id}


class WholeDataset(Dataset[dict[str, Any]]):
    """Validation: one patch a case, always the same, centered on the middle of its foreground.

    Args:
        cases: Prepared cases.
        plan: Patch size.
    """

    def __init__(self, cases: Sequence[CachedCase], plan: VolumePlan) -> None:
        self.cases, self.plan = tuple(cases), plan

    def fill_cache(self) -> None:
        """Do nothing: the cases are prepared already."""

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index = key[1] if isinstance(key, tuple) else key
        case = self.cases[index]
        image, label = cut(case, middle_of_foreground(case), self.plan.patch_size, self.plan.slice_axis)
        image = as_seen(image, self.plan)
        return {"image": image, "label": label, "index": index, "id": case.id}


def as_seen(image: Tensor, plan: VolumePlan) -> Tensor:
    """Repeat the lone channel of a patch `(1, *S)` for a network that takes color; others stay as they are."""
    return image if plan.copies == 1 else image.repeat(plan.copies, *[1] * (image.ndim - 1))


def draw_center(
    case: CachedCase, size: Sequence[int], random: np.random.Generator, centered: bool
) -> tuple[int, int, int]:
    """Draw the middle voxel of a patch: on foreground, or anywhere such that the patch stays inside where it can.

    Where voxels are ignored, "anywhere" is a voxel that somebody labelled: a patch without any teaches nothing.
    """
    if centered and case.places:
        index = sorted(case.places)[int(random.integers(len(case.places)))]
        found = case.places[index]
        return tuple(int(v) for v in found[int(random.integers(len(found)))])  # type: ignore[return-value]
    if case.labelled is not None and len(case.labelled):
        return tuple(int(v) for v in case.labelled[int(random.integers(len(case.labelled)))])  # type: ignore[return-value]
    center = []
    for have, want in zip(case.label.shape, size, strict=True):
        low, high = want // 2, have - (want - want // 2)
        center.append(int(random.integers(low, high + 1)) if high > low else have // 2)
    return tuple(center)  # type: ignore[return-value]


def middle_of_foreground(case: CachedCase) -> tuple[int, int, int]:
    """Return the foreground voxel nearest to the foreground's mean; the middle of a case without any."""
    if not case.places:
        return tuple(n // 2 for n in case.label.shape)
    places = np.concatenate(list(case.places.values()))
    nearest = ((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin()
    return tuple(int(v) for v in places[nearest])  # type: ignore[return-value]


def cut(
    case: CachedCase, center: Sequence[int], size: Sequence[int], slice_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """Cut a patch; beyond the volume lie zeros and background.

    A volume smaller than the patch lies in its middle.

    Args:
        case: Prepared case.
        center: Middle voxel; moved so that no more lies outside than must.
        size: Of the patch along D, H, W.
        slice_axis: Axis of size 1 that is dropped.

    Returns:
        `(C, *S)` float32 and `(*S)` int64.
    """
    inside, padding = [], []
    for have, want, middle in zip(case.label.shape, size, center, strict=True):
        if want >= have:
            start, before = 0, (want - have) // 2
            stop = have
        else:
            start = min(max(middle - want // 2, 0), have - want)
            stop, before = start + want, 0
        inside.append(slice(start, stop))
        padding.append((before, want - (stop - start) - before))
    image = np.pad(case.image[(slice(None), *inside)], [(0, 0), *padding])
    label = np.pad(case.label[tuple(inside)], padding)
    if slice_axis is not None:
        image, label = image.take(0, axis=slice_axis + 1), label.take(0, axis=slice_axis)
    return torch.from_numpy(np.ascontiguousarray(image)).float(), torch.from_numpy(label.astype(np.int64))
