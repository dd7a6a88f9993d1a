"""The catalogue: one paper, one file; every name here can be built, trained and exported by the same commands."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kanscan.models.all_ukan import AllUKAN
from kanscan.models.base import Network
from kanscan.models.baselines import UNETR, DynUNet, SegResNet, SwinUNETR
from kanscan.models.catalogue import Catalogue
from kanscan.models.fitting import check_option_type
from kanscan.models.km_unet import KMUNet
from kanscan.models.lkm_unet import LKMUNet
from kanscan.models.nnformer import NNFormer
from kanscan.models.released import load_into
from kanscan.models.rolling_unet import RollingUNet
from kanscan.models.u_mamba import UMamba
from kanscan.models.ukan import UKAN
from kanscan.models.ukan_diffusion import UKANDiffusion
from kanscan.models.unet import AttentionUNet, UNet, UNetPlusPlus
from kanscan.models.unext import UNeXt
from kanscan.models.vm_unet import VMUNet
from kanscan.models.vmkla_unet import VMKLAUNet
from kanscan.registry import unknown

MODELS = Catalogue(
    "model",
    {
        "ukan": UKAN,
        "ukan_diffusion": UKANDiffusion,
        "all_ukan": AllUKAN,
        "km_unet": KMUNet,
        "vmkla_unet": VMKLAUNet,
        "vm_unet": VMUNet,
        "lkm_unet": LKMUNet,
        "u_mamba": UMamba,
        "unext": UNeXt,
        "rolling_unet": RollingUNet,
        "unet": UNet,
        "attention_unet": AttentionUNet,
        "unet_plus_plus": UNetPlusPlus,
        "segresnet": SegResNet,
        "unetr": UNETR,
        "swin_unetr": SwinUNETR,
        "dynunet": DynUNet,
        "nnformer": NNFormer,
    },
)


def model_options(name: str, preset: str | None = None, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Join a preset with explicit options and check every key against the constructor.

    Args:
        name: A key of `MODELS`.
        preset: A key of the model's `presets`.
        options: Constructor arguments; they win over the preset.

    Returns:
        The keyword arguments for the constructor.

    Raises:
        ValueError: The model, the preset or an option is unknown, or the option is of another kind.
    """
    cls = MODELS[name]
    chosen: dict[str, Any] = {}
    if preset is not None:
        if preset not in cls.presets:
            raise ValueError(unknown(f"preset of model {name}", preset, cls.presets))
        chosen.update(cls.presets[preset])
    known = [p for p in inspect.signature(cls).parameters if p != "self"]
    for key, value in (options or {}).items():
        if key not in known:
            raise ValueError(unknown(f"option of model {name}", key, known))
        # YAML has lists only; constructors take tuples so that a configuration can be compared and hashed.
        chosen[key] = _as_tuple(value)
        check_option_type(name, cls, key, chosen[key])
    return chosen


def _as_tuple(value: object) -> object:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def create_model(name: str, *, preset: str | None = None, **options: object) -> Network:
    """Build a network by name.

    Args:
        name: A key of `MODELS`, such as "ukan".
        preset: A named set of options of that model, such as "small".
        **options: Constructor arguments (`in_channels`, `out_channels`, ...); they win over the preset.

    Returns:
        The network with fresh weights.

    Raises:
        ValueError: The name, the preset or an option is unknown, or a value is not legal.

    Example:
        >>> model = create_model("ukan", preset="small", in_channels=1, out_channels=3)
    """
    return MODELS[name](**model_options(name, preset, options))


def load_released(
    name: str, weights: Mapping[str, Any] | str | Path, *, preset: str | None = None, **options: object
) -> Network:
    """Build a network and fill it with weights under the released key names.

    Args:
        name: A key of `MODELS`.
        weights: A checkpoint file (read safely: tensors and plain values only) or a state dict.
        preset: As in `create_model`.
        **options: As in `create_model`; they must describe the network that was trained.

    Returns:
        The network in evaluation mode.

    Raises:
        ValueError: The weights do not belong to this network; the sentence says what was found and expected.
    """
    return load_into(create_model(name, preset=preset, **options), weights).eval()


def released_state_dict(model: Network | str, *, preset: str | None = None, **options: object) -> dict[str, Tensor]:
    """Give a model's weights under the released key names, ready for the authors' own code.

    Args:
        model: A network, or the name of one to be built with `preset` and `options` first.
        preset: Only with a name: as in `create_model`.
        **options: Only with a name: as in `create_model`.

    Returns:
        Key -> tensor, sharing memory with the model; everything the released code stores is there.
    """
    if isinstance(model, str):
        model = create_model(model, preset=preset, **options)
    elif preset is not None or options:
        raise ValueError("options describe a model given by name; this model is already built")
    return model.to_released(model.state_dict())
