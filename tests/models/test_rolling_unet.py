from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golden.checks_baselines import check_eval, check_keys, check_training, count, from_reference
from golden.figures import figures
from kanscan import create_model
from kanscan.models.rolling_unet import RollingMLP, roll


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_released_values(size: int, dtype: torch.dtype) -> None:
    check_eval("rolling_unet", figures("km_unet", f"rolling_eval_{size}"), dtype)


def test_released_training_steps() -> None:
    # The figures were computed without dropout.
    check_training("rolling_unet", figures("km_unet", "rolling_train"), steps=3, dropout=0.0)


def test_every_full_vector(reference: Path) -> None:
    folder = reference / "golden" / "km_unet"
    for path in sorted(folder.glob("rolling_unet_s_s1*.npz")):
        check_eval("rolling_unet", from_reference(path), torch.float64)
    for path in sorted(folder.glob("train_rolling_unet_s*.npz")):
        check_training("rolling_unet", from_reference(path), steps=3, dropout=0.0)


def test_released_keys_are_complete(reference: Path) -> None:
    check_keys("rolling_unet", reference, "rolling_unet_s")


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 1_783_185),
        ({"preset": "small"}, 1_783_185),
        ({"preset": "medium"}, 7_098_401),
        ({"preset": "large"}, 28_324_929),
        ({"preset": "small", "unused_weights": False}, 1_783_185 - 1_024),
    ],
)
def test_parameters(options: dict, parameters: int) -> None:
    assert count("rolling_unet", **options) == parameters


def test_dropping_unused_weights_changes_no_value() -> None:
    torch.manual_seed(0)
    options = {"channels": (4, 6, 8, 10, 12)}
    full = create_model("rolling_unet", **options).eval()
    lean = create_model("rolling_unet", **options, unused_weights=False).eval()
    lean.load_state_dict({k: v for k, v in full.state_dict().items() if "unused" not in k})
    x = torch.randn(1, 3, 32, 48)
    assert torch.equal(full(x), lean(x))


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("axis", [1, 2])
def test_roll_moves_channel_j_by_j(axis: int, direction: int) -> None:
    x = torch.randn(2, 3, 5, 11)
    rolled = roll(x, axis, direction)
    for j in range(11):
        assert torch.equal(rolled[..., j], torch.roll(x[..., j], direction * j, dims=axis))


def test_block_against_its_formula_on_a_map_that_is_not_square() -> None:
    torch.manual_seed(0)
    h, w, c = 3, 5, 7
    block = RollingMLP(c).double().eval()
    tokens = torch.randn(2, h * w, c, dtype=torch.float64)
    x = tokens.reshape(2, h, w, c)

    def rolled(y: torch.Tensor, dim: int, sign: int) -> torch.Tensor:
        return torch.stack([torch.roll(y[..., j], sign * j, dims=dim) for j in range(c)], dim=-1)

    gelu, linear = torch.nn.functional.gelu, block.linears
    a = linear[1](rolled(gelu(linear[0](rolled(x, 1, 1))), 2, 1)) + x
    b = linear[3](rolled(gelu(linear[2](rolled(x, 2, -1))), 1, 1)) + x
    p = block.long_linear(block.long_norm(torch.cat([a, b], -1))) + x
    q = block.local_norm(torch.relu(block.pointwise(block.depthwise(x.permute(0, 3, 1, 2)))))
    y = block.fuse(torch.cat([p, q.permute(0, 2, 3, 1)], -1)).reshape(2, h * w, c)
    torch.testing.assert_close(block(tokens, (h, w)), y)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"channels": (16, 32)}, r"channels of rolling_unet must be tuple"), ({"dropout": 1.0}, "dropout must be in")],
)
def test_wrong_options_are_named(options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        create_model("rolling_unet", **options)
