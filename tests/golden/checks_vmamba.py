"""Comparing a network or a layer with the VM-UNet and VMKLA-UNet figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from golden.figures import Figures, assert_close
from golden.recipe_vmkla_unet import image, weights


def fill(module: nn.Module, golden: Figures, released_name: Callable[[str], str]) -> nn.Module:
    """Give a layer the weights of the figures; `released_name` maps its names to those the figures use."""
    names = {released_name(name): name for name in module.state_dict()}
    state = {released: module.state_dict()[name] for released, name in names.items()}
    drawn = weights(state, golden.meta["weight_seed"])
    module.load_state_dict({names[released]: tensor for released, tensor in drawn.items()})
    return module.eval()


def check(
    module: nn.Module, golden: Figures, released_name: Callable[[str], str], dtype: torch.dtype = torch.float64
) -> None:
    """Demand the output, the gradient of the input and the norm of every parameter's gradient.

    Large maps are stored on a lattice only, whose step follows from the shapes.
    """
    meta = golden.meta
    module = module.to(dtype)
    x = image(meta["input_shape"], meta["input_seed"], meta["input_scale"]).to(dtype).requires_grad_()
    y = module(x)
    exact = dtype == torch.float64
    tolerance = 1e-6 if exact else max(1e-5, 20 * meta["float32_error"])
    stored = _lattice(y.detach(), golden["y"])
    assert_close(stored, golden["y"], tolerance * float(golden["y"].abs().max()))
    if "y_norm" in meta:
        assert float(y.detach().double().norm()) == pytest.approx(meta["y_norm"], rel=tolerance)
    if "gx" not in golden:
        return
    (y * image(tuple(y.shape), meta["weight_seed"] + 20000).to(dtype)).mean().backward()
    assert x.grad is not None
    assert_close(
        _lattice(x.grad, golden["gx"]), golden["gx"], (1e-5 if exact else 1e-2) * float(golden["gx"].abs().max())
    )
    norms = {
        released_name(n): float(p.grad.double().norm()) for n, p in module.named_parameters() if p.grad is not None
    }
    assert set(norms) == set(meta["grad_norms"])
    for name, expected in meta["grad_norms"].items():
        relative, absolute = (1e-6, 1e-10) if exact else (0.02, 1e-5)
        assert norms[name] == pytest.approx(expected, rel=relative, abs=absolute), name


def _lattice(full: Tensor, stored: Tensor) -> Tensor:
    if full.shape == stored.shape:
        return full
    rows, columns = (full.shape[axis] // stored.shape[axis] for axis in (-2, -1))
    return full[..., ::rows, ::columns]
