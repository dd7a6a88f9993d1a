"""Prepared volumes on disk: made once, found again by what they were made from, read patch by patch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kanscan.data.case import Case, LabelMap
from kanscan.data.volumes.formats import read_volume_pair
from kanscan.data.volumes.plan import VolumePlan
from kanscan.data.volumes.preparation import prepare_label, prepare_volume
from kanscan.files import atomic, cache_folder
from kanscan.metrics import IGNORED

#: Raised when preparation computes something else, so that older files are made anew.
_VERSION = 2
#: Places kept of each class of a case, to draw patches around.
_MOST_PLACES = 10_000


@dataclass(frozen=True)
class CachedCase:
    """A prepared case; arrays are mapped from disk, so a patch is read without the rest.

    Attributes:
        id: The case.
        image: `(C, D, H, W)` float32.
        label: `(D, H, W)` uint8.
        places: Foreground class -> `(N, 3)` voxels of it.
        labelled: `(N, 3)` voxels that somebody labelled, where others are ignored; None where all of them are.
    """

    id: str
    image: np.ndarray
    label: np.ndarray
    places: dict[int, np.ndarray]
    labelled: np.ndarray | None = None


def default_folder() -> Path:
    """Return where prepared volumes go: KANSCAN_CACHE, else the user's folder for caches."""
    return cache_folder() if os.environ.get("KANSCAN_CACHE") else cache_folder() / "volumes"


def cache_cases(
    cases: Sequence[Case],
    plan: VolumePlan,
    label_map: LabelMap,
    folder: Path,
    watch: Callable[[Sequence[Case]], Iterable[Case]] = iter,
) -> list[CachedCase]:
    """Prepare labelled cases, or find them prepared.

    Args:
        cases: Labelled volumes.
        plan: Says how they are prepared.
        label_map: How stored values become classes.
        folder: Of the prepared files; they are named after content, plan and labels and may serve many runs.
        watch: Wraps the cases to show progress.

    Raises:
        ValueError: A case cannot be read; the sentence names its file.
        PermissionError: The folder cannot be written to.
    """
    return [_cached(case, plan, label_map, folder) for case in watch(cases)]


def _cached(case: Case, plan: VolumePlan, label_map: LabelMap, folder: Path) -> CachedCase:
    stem = folder / _key(case, plan, label_map)
    paths = [stem.with_suffix(ending) for ending in (".image.npy", ".label.npy", ".places.npy")]
    if not all(path.is_file() for path in paths):
        image, label = read_volume_pair(case, label_map)
        prepared = prepare_volume(image, plan)
        classes = prepare_label(label, prepared, label_map.num_classes)
        try:
            for path, array in zip(paths, (prepared.image, classes, _places(classes)), strict=True):
                with atomic(path) as temporary:
                    np.save(temporary, array)
        except OSError as error:
            raise PermissionError(
                f"cannot write prepared volumes to {folder} ({error.strerror}); name another place with volume.cache"
            ) from None
    image_map, label_map_ = (np.load(path, mmap_mode="r") for path in paths[:2])
    places = np.load(paths[2])
    by_class = {int(k): places[places[:, 0] == k][:, 1:].astype(np.int64) for k in np.unique(places[:, 0])}
    labelled = by_class.pop(0, None)
    return CachedCase(case.id, image_map, label_map_, by_class, labelled)


def _places(label: np.ndarray) -> np.ndarray:
    """List voxels of each foreground class as rows (class, d, h, w), at most `_MOST_PLACES` a class.

    Where voxels are ignored, those that are not are listed as class 0.
    """
    random = np.random.RandomState(1234)
    ignored = label == IGNORED
    masks = {int(index): label == index for index in np.unique(label[(label > 0) & ~ignored])}
    if ignored.any():
        masks[0] = ~ignored
    rows = []
    for index, mask in masks.items():
        found = np.argwhere(mask)
        if len(found) > _MOST_PLACES:
            found = found[np.sort(random.choice(len(found), _MOST_PLACES, replace=False))]
        rows.append(np.insert(found, 0, index, axis=1))
    return np.concatenate(rows).astype(np.int32) if rows else np.zeros((0, 4), np.int32)


def _key(case: Case, plan: VolumePlan, label_map: LabelMap) -> str:
    """Name a prepared case after everything that decides what it holds."""
    digest = hashlib.blake2b(digest_size=16)
    decisive = {
        "version": _VERSION,
        "spacing": plan.spacing_mm,
        "normalization": plan.normalization,
        "intensities": plan.intensities if "ct" in plan.normalization else (),
        "nonzero_only": plan.nonzero_only,
        "slice_axis": plan.slice_axis,
        "labels": [label_map.rule, sorted(label_map.values.items()), label_map.snap, label_map.num_classes],
        "merge": case.merge,
    }
    digest.update(json.dumps(decisive, sort_keys=True).encode())
    images = case.images if case.series is None else case.series.files
    for path in (*images, *case.labels):
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(hashlib.blake2b(file.read_bytes()).digest())
    return f"{case.id[:60]}-{digest.hexdigest()}".replace("/", "_").replace(".", "_")
