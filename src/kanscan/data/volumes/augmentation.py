"""Random changes of training patches, nnU-Net's on MONAI's transforms; each draw depends on its seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kanscan.registry import Registry

_KEYS = ["image", "label"]
#: A patch this many times longer along one axis than along the others is turned in its plane only.
_FLAT = 3.0


@dataclass(frozen=True)
class VolumeAugmentation:
    """How patches are changed; nnU-Net's values (Nature Methods 18, 203, supplementary note 4) unless noted.

    Attributes:
        turn: Probability of a rotation.
        zoom: Probability of a change of scale by 0.7 to 1.4.
        intensity: Factor on the probabilities of all changes of gray values; 0: none.
        flips: Mirror each axis half of the time.
        degrees: Largest angle about each axis (3D) or in the plane (2D and flat patches).
        quarters: Probability of 0 to 3 quarter turns in the plane and a mirroring along one of its axes, in place of
            everything else.
    """

    turn: float = 0.2
    zoom: float = 0.2
    intensity: float = 1.0
    flips: bool = True
    degrees: tuple[float, float] = (30.0, 180.0)
    quarters: float = 0.0

    @property
    def margin(self) -> float:
        """By how much a patch must be cut larger before it is turned or zoomed."""
        return 1.4 if self.turn or self.zoom else 1.0


#: "nnunet" as published; "moderate" turns by 15 degrees at most, mirrors left and right never and changes gray values
#: half as often: for organs that are never upside down, and for short trainings. "quarter_turns" is what VM-UNet's and
#: VMKLA-UNet's code does to slices of Synapse: half of the time quarter turns and a mirroring, else half of the time
#: a rotation by 20 degrees at most.
VOLUME_AUGMENTATIONS: Registry[VolumeAugmentation | None] = Registry(
    "volume augmentation",
    {
        "none": None,
        "nnunet": VolumeAugmentation(),
        "moderate": VolumeAugmentation(intensity=0.5, flips=False, degrees=(15.0, 15.0)),
        "quarter_turns": VolumeAugmentation(
            turn=0.5, zoom=0, intensity=0, flips=False, degrees=(20.0, 20.0), quarters=0.5
        ),
    },
)


def augment_patch(
    how: VolumeAugmentation,
    image: Tensor,
    label: Tensor,
    size: Sequence[int],
    seed: int,
    mirrored: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Turn, zoom, cut to size, change gray values, mirror.

    Args:
        how: What is done.
        image: `(C, *S)` float32, cut larger than `size` by `how.margin`.
        label: `(*S)` integers.
        size: Wanted patch, one number an axis (2 or 3).
        seed: Same seed, same result.
        mirrored: Axes of `size` along which left and right may be exchanged; None: all of them.
    """
    random = np.random.default_rng(seed)
    allowed = range(len(size)) if mirrored is None else mirrored
    item: dict[str, Any] = {"image": image, "label": label[None].float()}
    if how.quarters and random.random() < how.quarters:
        image, classes = _quarter_turned([_center(value, size) for value in item.values()], random, allowed)
        return image, classes[0].to(label.dtype)
    item = _place(how, item, tuple(size), random)
    for probability, build in _intensity_changes(len(size)):
        if random.random() < how.intensity * probability:
            change = build()
            change.set_random_state(seed=int(random.integers(2**32)))
            item = change(item)
    if how.flips:
        for axis in range(len(size)):
            if random.random() < 0.5 and axis in allowed:
                item = {key: _plain(value).flip(axis + 1) for key, value in item.items()}
    return _plain(item["image"]).float(), _plain(item["label"])[0].round().to(label.dtype)


def _quarter_turned(tensors: Sequence[Tensor], random: np.random.Generator, allowed: Sequence[int]) -> list[Tensor]:
    square = tensors[0].shape[-1] == tensors[0].shape[-2]
    turns, axis = int(random.integers(4)), int(random.integers(2))
    # Two quarter turns keep the shape of any rectangle.
    turns = turns if square else 2 * (turns % 2)
    turned = [t.rot90(turns, (-2, -1)) for t in tensors]
    dims = tensors[0].ndim - 1
    # Behind a quarter turn either mirroring exchanges left and right for some turn.
    if {dims - 1, dims - 2} <= set(allowed):
        turned = [t.flip(-1 - axis) for t in turned]
    return [t.contiguous() for t in turned]


def _place(
    how: VolumeAugmentation, item: dict[str, Any], size: tuple[int, ...], random: np.random.Generator
) -> dict[str, Any]:
    turned, zoomed = random.random() < how.turn, random.random() < how.zoom
    if not turned and not zoomed:
        return {key: _center(_plain(value), size) for key, value in item.items()}
    from monai.transforms import Affined

    change = Affined(
        _KEYS,
        rotate_params=_angles(how, size, random) if turned else None,
        # MONAI's scale is of the sampling grid: 0.7 enlarges what is seen.
        scale_params=(float(random.uniform(0.7, 1.4)),) * len(size) if zoomed else None,
        spatial_size=size,
        mode=["bilinear", "nearest"],
        padding_mode=["border", "zeros"],
    )
    return dict(change(item))


def _angles(how: VolumeAugmentation, size: Sequence[int], random: np.random.Generator) -> float | tuple[float, ...]:
    def draw(degrees: float) -> float:
        return float(np.deg2rad(random.uniform(-degrees, degrees)))

    if len(size) == 2:
        return draw(how.degrees[1])
    if max(size) / size[0] > _FLAT:
        return (draw(how.degrees[1]), 0.0, 0.0)
    return tuple(draw(how.degrees[0]) for _ in range(3))


def _intensity_changes(dims: int) -> list[tuple[float, Any]]:
    """List (probability, builder) in nnU-Net's order; gray values are normalized, about 0 with deviation 1."""
    from monai.transforms import (
        RandAdjustContrastd,
        RandGaussianNoised,
        RandGaussianSmoothd,
        RandScaleIntensityd,
        RandScaleIntensityFixedMeand,
        RandSimulateLowResolutiond,
    )

    image = ["image"]
    sigma = {f"sigma_{axis}": (0.5, 1.0) for axis in "xyz"}
    return [
        (0.1, lambda: RandGaussianNoised(image, prob=1, std=0.316)),  # nnU-Net: variance up to 0.1
        (0.2, lambda: RandGaussianSmoothd(image, prob=1, **sigma)),
        (0.15, lambda: RandScaleIntensityd(image, prob=1, factors=0.25)),
        (0.15, lambda: RandScaleIntensityFixedMeand(image, prob=1, factors=0.25, preserve_range=True)),
        (
            0.25,
            lambda: RandSimulateLowResolutiond(
                image, prob=1, zoom_range=(0.5, 1.0), upsample_mode="trilinear" if dims == 3 else "bilinear"
            ),
        ),
        (0.1, lambda: RandAdjustContrastd(image, prob=1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True)),
        (0.3, lambda: RandAdjustContrastd(image, prob=1, gamma=(0.7, 1.5), retain_stats=True)),
    ]


def _center(tensor: Tensor, size: Sequence[int]) -> Tensor:
    """Cut the middle out of `(C, *S)`."""
    starts = [(have - want) // 2 for have, want in zip(tensor.shape[1:], size, strict=True)]
    return tensor[(slice(None), *(slice(s, s + n) for s, n in zip(starts, size, strict=True)))]


def _plain(tensor: Tensor | np.ndarray) -> Tensor:
    # MONAI returns tensors that carry their history; that would travel through every later operation.
    return torch.as_tensor(tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor).contiguous()
