"""What the light-weight baselines must show against their released code: values, losses, gradients, names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from golden.figures import Figures, assert_close
from golden.recipe_km_unet import image, label, weights
from kanscan import create_model, load_released, released_state_dict
from kanscan.models.base import SegmentationModel

_RENAMED = {"y_train0": "y_train", "y_eval": "y_after", "f64_losses": "losses", "f64_grad_norm": "grad_norm"}


def from_reference(path: Path) -> Figures:
    """Read a full vector in the layout of the compact ones beside this file."""
    golden = Figures(path)
    for old, new in _RENAMED.items():
        if old in golden:
            golden[new] = golden.pop(old)
    golden.meta |= {"shape": list(golden["x"].shape), "lattice": 1}
    return golden


def filled(name: str, golden: Figures, dtype: torch.dtype, **options: Any) -> SegmentationModel:
    options = {"out_channels": golden.meta.get("num_classes", 1), **options}
    with torch.device("meta"):
        empty = released_state_dict(name, **options)
    counters = {k: torch.zeros((), dtype=torch.long) for k in empty if k.endswith("num_batches_tracked")}
    return load_released(name, weights(empty | counters, golden.meta["seed"]), **options).to(dtype)


def compare(ours: torch.Tensor, golden: Figures, key: str, relative: float) -> None:
    step = golden.meta["lattice"]
    if f"{key}_norm" in golden:
        assert float(ours.double().norm()) == pytest.approx(float(golden[f"{key}_norm"]), rel=relative)
    scale = float(golden[key].abs().max())
    assert_close(ours.detach()[..., ::step, ::step], golden[key], relative * scale)


def check_eval(name: str, golden: Figures, dtype: torch.dtype, **options: Any) -> None:
    x = image(golden.meta["shape"], golden.meta["input_seed"]).to(dtype)
    with torch.no_grad():
        y = filled(name, golden, dtype, **options)(x)
    compare(y, golden, "y", 1e-6 if dtype == torch.float64 else 5e-5)


def printed_loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """0.5 BCE + soft Dice, written out as the released scripts compute it."""
    p, t = torch.sigmoid(logits).flatten(1), label.flatten(1)
    dice = (2 * (p * t).sum(1) + 1e-5) / (p.sum(1) + t.sum(1) + 1e-5)
    return 0.5 * F.binary_cross_entropy_with_logits(logits, label) + 1 - dice.mean()


def check_training(name: str, golden: Figures, *, steps: int, **options: Any) -> None:
    """Compare losses and the first gradients in float64; with all three Adam steps also the logits after them."""
    shape = golden.meta["shape"]
    x = image(shape, golden.meta["input_seed"], golden.meta.get("input_scale", 2.0)).double()
    t = label((shape[0], 1, *shape[2:]), golden.meta["seed"]).double()
    model = filled(name, golden, torch.float64, **options).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-4)
    for step in range(steps):
        optimizer.zero_grad()
        logits = model(x)
        loss = printed_loss(logits, t)
        loss.backward()
        assert loss.item() == pytest.approx(float(golden["losses"][step]), abs=1e-8)
        if step == 0:
            compare(logits, golden, "y_train", 1e-6)
            check_gradients(model, golden)
        optimizer.step()
    if steps == len(golden["losses"]):
        with torch.no_grad():
            compare(model.eval()(x), golden, "y_after", 1e-5)


def check_gradients(model: SegmentationModel, golden: Figures) -> None:
    norms = {
        model.released_name(name): -1.0 if p.grad is None else float(p.grad.norm())
        for name, p in model.named_parameters()
    }
    expected = dict(zip(golden.meta["grad_keys"], golden["grad_norm"].tolist(), strict=True))
    assert norms.keys() == expected.keys()
    largest = max(expected.values())
    for name, norm in expected.items():
        # A bias in front of a batch norm has no gradient in theory; only rounding is left of it.
        assert norms[name] == pytest.approx(norm, rel=1e-6, abs=1e-9 * largest), name


def count(name: str, **options: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name, **options).parameters())


def check_keys(name: str, reference: Path, keys: str, **options: Any) -> None:
    """Demand that our released state dict and the stored list of keys and shapes are the same."""
    shapes = json.loads((reference / "keys" / f"keys_{keys}.json").read_text())["shapes"]
    with torch.device("meta"):
        state = released_state_dict(name, **options)
    assert {key: list(tensor.shape) for key, tensor in state.items()} == shapes
