from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golden.checks_baselines import check_eval, check_keys, check_training, count, from_reference
from golden.figures import figures
from kanscan import create_model
from kanscan.models.unext import ShiftedMLPBlock, shift


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_released_values(size: int, dtype: torch.dtype) -> None:
    check_eval("unext", figures("km_unet", f"unext_eval_{size}"), dtype)


@pytest.mark.parametrize("name", ["unext_train", "unext_train_tiny_input"])
def test_released_training_steps(name: str) -> None:
    check_training("unext", figures("km_unet", name), steps=3)


def test_every_full_vector(reference: Path) -> None:
    folder = reference / "golden" / "km_unet"
    for path in sorted(folder.glob("unext_s1*.npz")):
        check_eval("unext", from_reference(path), torch.float64)
    for path in sorted(folder.glob("train_unext_s1*.npz")):
        check_training("unext", from_reference(path), steps=3)


def test_released_keys_are_complete(reference: Path) -> None:
    check_keys("unext", reference, "unext")


@pytest.mark.parametrize(("preset", "parameters"), [(None, 1_471_921), ("base", 1_471_921), ("small", 253_561)])
def test_parameters(preset: str | None, parameters: int) -> None:
    assert count("unext", preset=preset) == parameters


@pytest.mark.parametrize("channels", [5, 12, 16, 7])
@pytest.mark.parametrize("axis", [2, 3])
def test_shift_moves_every_group_by_its_own_distance(channels: int, axis: int) -> None:
    x = torch.randn(2, channels, 6, 7)
    shifted = shift(x, axis)
    width = -(-channels // 5)
    for c in range(channels):
        distance = c // width - 2
        for place in range(x.shape[axis]):
            source = place - distance
            inside = 0 <= source < x.shape[axis]
            expected = x[:, c].select(axis - 1, source) if inside else 0 * x[:, c].select(axis - 1, 0)
            assert torch.equal(shifted[:, c].select(axis - 1, place), expected)


def test_shifted_block_against_its_formula() -> None:
    torch.manual_seed(0)
    block, size = ShiftedMLPBlock(10).double(), (4, 6)
    tokens = torch.randn(2, 24, 10, dtype=torch.float64)
    x = torch.nn.functional.layer_norm(tokens, (10,))
    x = shift(x.transpose(1, 2).reshape(2, 10, 4, 6), 2)
    x = torch.einsum("oc,bchw->bohw", block.linear1.weight, x) + block.linear1.bias[:, None, None]
    x = torch.nn.functional.conv2d(x, block.conv.weight, block.conv.bias, padding=1, groups=10)
    x = shift(x * 0.5 * (1 + torch.erf(x / 2**0.5)), 3)
    x = torch.einsum("oc,bchw->bohw", block.linear2.weight, x) + block.linear2.bias[:, None, None]
    torch.testing.assert_close(block(tokens, size), tokens + x.flatten(2).transpose(1, 2))


def test_wrong_widths_are_named() -> None:
    with pytest.raises(ValueError, match=r"channels of unext must be tuple.*got \(16, 32, 64\)"):
        create_model("unext", channels=(16, 32, 64))
