"""A volume on its way to the network: cropped, normalized, resampled as the plan says; and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    if len(found.image) != plan.channels:
        raise ValueError(
            f"{volume.path} has {len(found.image)} channel{'s' * (len(found.image) != 1)}, the network takes "
            f"{plan.channels}"
        )
    box = content_box(found.image)
    image = normalize_volume(found.image[(slice(None), *box)], plan)
    wanted = _wanted_spacing(found.spacing_mm, plan)
    shape = resampled_shape(image.shape[1:], found.spacing_mm, wanted)
    coarse = coarse_axis(found.spacing_mm, wanted)
    return Prepared(
        resample_image(image, shape, coarse=coarse),
        box,
        tuple(found.image.shape[1:]),
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


def normalize_volume(image: np.ndarray, plan: VolumePlan) -> np.ndarray:
    """Normalize each channel `(C, D, H, W)` as the plan says; a constant channel becomes 0."""
    out = np.empty(image.shape, np.float32)
    inside = (image != 0).any(axis=0) if plan.nonzero_only else None
    for channel, scheme in enumerate(plan.normalization):
        values = image[channel].astype(np.float32)
        if scheme == "ct":
            known = plan.intensities[channel]
            clipped = np.clip(values, known["percentile_00_5"], known["percentile_99_5"])
            out[channel] = (clipped - known["mean"]) / max(known["std"], 1e-8)
        elif scheme == "zscore":
            drawn = values if inside is None else values[inside]
            mean, std = float(drawn.mean(dtype=np.float64)), float(drawn.std(dtype=np.float64))
            out[channel] = (values - mean) / max(std, 1e-8)
            if inside is not None:
                out[channel][~inside] = 0
        elif scheme == "minmax":
            low, high = float(values.min()), float(values.max())
            out[channel] = (values - low) / max(high - low, 1e-8)
        else:
            out[channel] = values
    return out


def restore_label(label: np.ndarray, prepared: Prepared) -> np.ndarray:
    """Put class indices `(d, h, w)` of the box's own size back into the file's grid `(I, J, K)`; outside is 0."""
    full = np.zeros(prepared.full_size, label.dtype)
    full[prepared.box] = label
    return np.ascontiguousarray(prepared.arrangement.backward(full))
