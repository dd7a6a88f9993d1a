"""A volume on its way to the network: cropped, normalized, resampled as the plan says; and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kanscan.data.limits import check_voxels
from kanscan.data.volume import Volume
from kanscan.data.volumes.grid import (
    Arrangement,
    Triple,
    canonical,
    coarse_axis,
    content_box,
    resample_image,
    resample_label,
    resampled_shape,
)
from kanscan.data.volumes.plan import VolumePlan


@dataclass(frozen=True)
class Prepared:
    """A volume as the network's patches are cut from it.

    Attributes:
        image: `(C, D, H, W)` float32, normalized, at the plan's spacing.
        box: Where it lay in the canonical volume, before resampling.
        full_size: Voxels of the canonical volume.
        arrangement: From the file's axes to the canonical ones.
        coarse: Axis along which it was resampled by nearest neighbors, if any.
    """

    image: np.ndarray
    box: tuple[slice, slice, slice]
    full_size: Triple
    arrangement: Arrangement
    coarse: int | None

    @property
    def box_size(self) -> Triple:
        """Voxels of the box."""
        return tuple(part.stop - part.start for part in self.box)


def prepare_volume(volume: Volume, plan: VolumePlan) -> Prepared:
    """Crop to what is not 0, normalize, resample.

    Args:
        volume: As read.
        plan: Says how.

    Raises:
        ValueError: The volume has another number of channels than the plan.
    """
    found = canonical(volume)
    full_size: Triple = tuple(found.image.shape[1:])
    if len(found.image) != plan.channels:
        raise ValueError(
            f"{volume.path} has {len(found.image)} channel{'s' * (len(found.image) != 1)}, the network takes "
            f"{plan.channels}"
        )
    box = content_box(found.image)
    cropped = found.image[(slice(None), *box)]
    # What was made for this alone is written over: a large volume is held once, not three times.
    image = normalize_volume(cropped, plan, None if np.may_share_memory(cropped, volume.array) else cropped)
    wanted = _wanted_spacing(found.spacing_mm, plan)
    shape = resampled_shape(image.shape[1:], found.spacing_mm, wanted)
    check_voxels(
        f"{volume.path}, resampled from {_text(found.spacing_mm)} to {_text(wanted)} mm,", (*shape, plan.channels)
    )
    coarse = coarse_axis(found.spacing_mm, wanted)
    return Prepared(
        resample_image(image, shape, coarse=coarse),
        box,
        full_size,
        found.arrangement,
        coarse,
    )


def prepare_label(label: np.ndarray, prepared: Prepared, num_classes: int) -> np.ndarray:
    """Bring a label map `(I, J, K)` of the file's grid to the grid of a prepared image: `(D, H, W)` uint8."""
    cropped = prepared.arrangement.forward(label)[prepared.box]
    shape: Triple = tuple(prepared.image.shape[1:])
    return np.ascontiguousarray(resample_label(cropped, shape, num_classes, coarse=prepared.coarse))


def _wanted_spacing(spacing_mm: tuple[float, float, float], plan: VolumePlan) -> tuple[float, float, float]:
    # Slices are never invented or dropped for a 2D network.
    pairs = enumerate(zip(spacing_mm, plan.spacing_mm, strict=True))
    return tuple(own if axis == plan.slice_axis else planned for axis, (own, planned) in pairs)  # type: ignore[return-value]


def _text(spacing_mm: tuple[float, float, float]) -> str:
    return " x ".join(f"{s:.3g}" for s in spacing_mm)


def normalize_volume(image: np.ndarray, plan: VolumePlan, out: np.ndarray | None = None) -> np.ndarray:
    """Normalize each channel `(C, D, H, W)` as the plan says; a constant channel becomes 0.

    Args:
        image: Any real type.
        plan: Says how.
        out: Where the result goes, float32 of the image's shape, the image itself allowed; None: a new array.
    """
    if out is None:
        out = np.empty(image.shape, np.float32)
    inside = (image != 0).any(axis=0) if plan.nonzero_only else None
    for channel, scheme in enumerate(plan.normalization):
        values = out[channel]
        values[...] = image[channel]
        if scheme == "ct":
            known = plan.intensities[channel]
            np.clip(values, known["percentile_00_5"], known["percentile_99_5"], out=values)
            values -= np.float32(known["mean"])
            values /= np.float32(max(known["std"], 1e-8))
        elif scheme == "zscore":
            mean, std = _mean_and_deviation(values, inside)
            values -= np.float32(mean)
            values /= np.float32(max(std, 1e-8))
            if inside is not None:
                values[~inside] = 0
        elif scheme == "minmax":
            low, high = float(values.min()), float(values.max())
            values -= np.float32(low)
            values /= np.float32(max(high - low, 1e-8))
    return out


def _mean_and_deviation(values: np.ndarray, inside: np.ndarray | None) -> tuple[float, float]:
    """Take mean and standard deviation in float64, slice after slice: a copy of all would be twice the volume."""

    def drawn() -> Iterator[np.ndarray]:
        for k, plane in enumerate(values):
            yield np.asarray(plane if inside is None else plane[inside[k]], dtype=np.float64)

    count = values.size if inside is None else int(inside.sum())
    mean = sum(float(part.sum()) for part in drawn()) / max(count, 1)
    return mean, float(np.sqrt(sum(float(((part - mean) ** 2).sum()) for part in drawn()) / max(count, 1)))


def restore_label(label: np.ndarray, prepared: Prepared) -> np.ndarray:
    """Put class indices `(d, h, w)` of the box's own size back into the file's grid `(I, J, K)`; outside is 0."""
    full = np.zeros(prepared.full_size, label.dtype)
    full[prepared.box] = label
    return np.ascontiguousarray(prepared.arrangement.backward(full))
