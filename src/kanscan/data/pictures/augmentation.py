"""Random changes of training pictures, on MONAI's transforms; each draw depends on (seed, epoch, index) alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kanscan.registry import Registry

#: A MONAI dictionary transform of {"image": (C, h, w) on the 0..255 scale, "label": (1, h, w)}, both float32.
Augmentation = Any

_KEYS = ["image", "label"]


def _nothing() -> Augmentation | None:
    return None


def _flip_horizontal() -> Augmentation:
    from monai.transforms import Compose, RandFlipd

    return Compose([RandFlipd(_KEYS, prob=0.5, spatial_axis=1)])


def _flips() -> Augmentation:
    from monai.transforms import Compose, RandFlipd

    return Compose([RandFlipd(_KEYS, prob=0.5, spatial_axis=axis) for axis in (0, 1)])


def _flip_rotate() -> Augmentation:
    from monai.transforms import Compose, Flipd, Identityd, OneOf, RandRotate90d

    flips = [Flipd(_KEYS, spatial_axis=axis) for axis in (0, 1, (0, 1))]
    return Compose(
        [
            # Half of the time 0, 1, 2 or 3 quarter turns, all equally likely: a real turn has probability 3/8.
            RandRotate90d(_KEYS, prob=0.375, max_k=3),
            # Half of the time vertical, horizontal or both.
            OneOf([Identityd(_KEYS), *flips], weights=[3, 1, 1, 1]),
        ]
    )


def _default() -> Augmentation:
    from monai.transforms import Compose, RandAdjustContrastd, RandAffined, RandGaussianNoised, RandScaleIntensityd

    fifteen_degrees = np.deg2rad(15)
    return Compose(
        [
            _flip_rotate(),
            RandAffined(
                _KEYS,
                prob=0.5,
                rotate_range=fifteen_degrees,
                scale_range=(0.15, 0.15),
                mode=["bilinear", "nearest"],
                # A mirrored border shows no black wedges for the network to learn.
                padding_mode="reflection",
            ),
            RandAdjustContrastd(["image"], prob=0.3, gamma=(0.7, 1.5)),
            RandScaleIntensityd(["image"], prob=0.3, factors=0.15),
            RandGaussianNoised(["image"], prob=0.15, std=5.0),
        ]
    )


#: Builders by name. "flip_rotate" is what the U-KAN and KM-UNet papers and their code do, "flip_horizontal" what
#: KM-UNet's code does on ISIC; "default" adds mild rotation, zoom, contrast, brightness and noise.
AUGMENTATIONS: Registry[Callable[[], Augmentation | None]] = Registry(
    "augmentation",
    {
        "none": _nothing,
        "flip_horizontal": _flip_horizontal,
        "flips": _flips,
        "flip_rotate": _flip_rotate,
        "default": _default,
    },
)


def derive_seed(*numbers: int) -> int:
    """Mix integers such as (seed, epoch, index) into one 32-bit seed; neighbors give unrelated streams."""
    return int(np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1)[0])


def augment(augmentation: Augmentation, image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Apply an augmentation with its own random stream.

    Args:
        augmentation: What a builder of `AUGMENTATIONS` returned.
        image: Float32 `(C, h, w)` on the 0..255 scale.
        label: Integer `(h, w)`.
        seed: Same seed, same result, whatever ran before and in whichever process.

    Returns:
        Image within 0..255 and label; quarter turns of an image that is not square exchange its sides.
    """
    augmentation.set_random_state(seed=seed)
    out = augmentation({"image": image, "label": label[None].float()})
    changed, classes = _plain(out["image"]), _plain(out["label"])
    return changed.clamp(0, 255), classes[0].round().to(label.dtype)


def _plain(tensor: Tensor) -> Tensor:
    # MONAI returns tensors that carry their history; that would travel through every later operation.
    return torch.as_tensor(tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor).contiguous()
