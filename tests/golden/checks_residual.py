"""What U-Mamba and LKM-UNet, and their layers, must show against their released code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from golden.figures import Figures, assert_close
from golden.recipe_lkm_unet import cotangent, image, is_alias, weights
from kanscan import create_model, load_released, released_state_dict
from kanscan.models.base import SegmentationModel


def lattice(x: Tensor, step: int) -> Tensor:
    """Every `step`-th place of the spatial axes, or of the one axis of tokens (batch, tokens, channels)."""
    axes = range(2, x.ndim) if x.ndim > 3 else [1]
    return x[tuple(slice(None, None, step if axis in axes else 1) for axis in range(x.ndim))]


def renamed(patterns: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    """Return what applies ordered (pattern, replacement) pairs to a name."""

    def rename(name: str) -> str:
        for pattern, replacement in patterns:
            name = re.sub(pattern, replacement, name)
        return name

    return rename


def check_layer(layer: nn.Module, golden: Figures, rename: Callable[[str], str]) -> None:
    """Compare value and all gradients of a layer in float64."""
    released = {rename(name): parameter for name, parameter in layer.double().named_parameters()}
    assert sorted(released) == sorted(golden.meta["names"])
    assert sum(p.numel() for p in released.values()) == golden.meta["parameters"]
    drawn = weights({name: p.shape for name, p in released.items()}, golden.meta["seed"])
    with torch.no_grad():
        for name, parameter in released.items():
            parameter.copy_(drawn[name])
    x = image(golden.meta["shape"], golden.meta["seed"]).double().requires_grad_()
    y = layer(x)
    (y * cotangent(y.shape, golden.meta["seed"]).double()).sum().backward()
    assert x.grad is not None
    for ours, key in ((y.detach(), "output"), (x.grad, "grad_input")):
        assert float(ours.norm()) == pytest.approx(float(golden[f"{key}_norm"]), rel=1e-6)
        assert_close(lattice(ours, golden.meta["lattice"]), golden[key], 1e-6 * float(golden[key].abs().max()))
    for name, norm in zip(golden.meta["names"], golden["grad_norm"].tolist(), strict=True):
        gradient = released[name].grad
        assert gradient is not None, name
        assert float(gradient.norm()) == pytest.approx(norm, rel=1e-6, abs=1e-12), name


def network_options(golden: Figures) -> dict[str, Any]:
    """Turn what a file says of its network into our options."""
    meta = golden.meta
    options: dict[str, Any] = {
        "in_channels": meta["shape"][1],
        "out_channels": meta["out_channels"],
        "spatial_dims": len(meta["shape"]) - 2,
        "channels": tuple(min(meta["base"] * 2**stage, meta["widest"]) for stage in range(meta["stages"])),
    }
    for name in ("strides", "kernel_sizes"):
        if name in meta:
            options[name] = tuple(tuple(stage) for stage in meta[name])
    return options


def filled(name: str, golden: Figures, **options: Any) -> SegmentationModel:
    """Build a network in float64 and fill it with the weights of the figures, through the released key names."""
    options = network_options(golden) | options
    with torch.device("meta"):
        shapes = {key: t.shape for key, t in released_state_dict(name, **options).items() if not is_alias(key)}
    assert len(shapes) == golden.meta["names_count"]
    assert sum(shape.numel() for shape in shapes.values()) == golden.meta["parameters"]
    model = load_released(name, weights(shapes, golden.meta["seed"]), **options)
    # Loading rounds to the model's float32; the figures were made with the float64 values themselves.
    model.double().load_state_dict(model.from_released(weights(shapes, golden.meta["seed"])))
    return model


def check_network(name: str, golden: Figures, *, dtype: torch.dtype = torch.float64, **options: Any) -> None:
    """Compare the logits of every scale."""
    model = filled(name, golden, **options).to(dtype)
    x = image(golden.meta["shape"], golden.meta["seed"]).to(dtype)
    with torch.no_grad():
        outputs = model.side_outputs(x)
        assert torch.equal(model(x), outputs[0])
    assert len(outputs) == len(golden.meta["lattice"])
    relative = 1e-6 if dtype == torch.float64 else 5e-4
    for level, (ours, step) in enumerate(zip(outputs, golden.meta["lattice"], strict=True)):
        expected = golden[f"output_{level}"]
        assert float(ours.double().norm()) == pytest.approx(float(golden[f"norm_{level}"]), rel=relative)
        assert_close(lattice(ours, step), expected, relative * float(expected.abs().max()))


def count(name: str, **options: Any) -> int:
    """Count the parameters without making them."""
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name, **options).parameters())


def check_keys(name: str, reference: Path, keys: str, **options: Any) -> None:
    """Demand that our released state dict, aliases included, and the stored list of keys and shapes are the same."""
    content = json.loads((reference / "keys" / f"keys_{keys}.json").read_text())
    stored = content["state_dict"]
    with torch.device("meta"):
        state = released_state_dict(name, **options)
    expected = {key: _shape(value) for key, value in (stored.items() if isinstance(stored, dict) else stored)}
    assert {key: list(tensor.shape) for key, tensor in state.items()} == expected


def _shape(value: Any) -> list[int]:
    return value["shape"] if isinstance(value, dict) else list(value)
