from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golden.figures import Figures, assert_close, figures
from golden.recipe_u_kan import weights
from kanscan import create_model, load_released, released_state_dict
from kanscan.models.ukan_diffusion import TokenBlock, UKANDiffusion

MIDDLE = {"UKan_Hybrid": "kan", "UMLP": "mlp", "UNet": "attention", "UNet_Baseline": "identity"}


def check(golden: Figures, dtype: torch.dtype) -> None:
    options = {"middle": MIDDLE[golden.meta["cls"]]}
    state = weights(released_state_dict("ukan_diffusion", **options), golden.meta["weight_seed"])
    model = load_released("ukan_diffusion", state, **options).to(dtype)
    exact = dtype == torch.float64
    t = golden["t"]
    # The released table of sines is float32 and stays so in every precision. Its last bits are the processor's: one
    # in a frequency moves the angle of step 999 by 6e-5.
    assert_close(model.time_embedding(t), golden["temb"], 5e-5 if exact else 1e-4)
    noise = model(golden["x"].to(dtype), t)
    assert_close(noise, golden["out"], 2e-5 if exact else 1e-4)
    if "grad_keys" not in golden:
        return
    ((noise - golden["eps"].to(dtype)).square().sum() / 1000).backward()
    norms = {
        model.released_name(name): -1.0 if p.grad is None else float(p.grad.double().norm())
        for name, p in model.named_parameters()
    }
    assert set(norms) == set(golden["grad_keys"])
    for name, expected in zip(golden["grad_keys"], golden["grad_norm"].tolist(), strict=True):
        relative, absolute = (2e-5, 1e-9) if exact else (0.02, 1e-4)
        assert norms[name] == pytest.approx(expected, rel=relative, abs=absolute), name


def test_released_values_and_gradients() -> None:
    check(figures("u_kan", "diff_ukan_32"), torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diff_umlp_32", "diff_unet_32", "diff_unetbase_32"])
def test_released_values_of_the_comparators(name: str) -> None:
    check(figures("u_kan", name), torch.float64)


@pytest.mark.slow
def test_every_full_vector(reference: Path) -> None:
    found = sorted((reference / "golden" / "u_kan").glob("diff_*.npz"))
    assert found
    for path in found:
        check(Figures(path), torch.float32)


@pytest.mark.parametrize(
    ("middle", "parameters"),
    [("kan", 26_871_811), ("attention", 20_825_923), ("identity", 18_068_291), ("mlp", 23_139_075)],
)
def test_parameters(middle: str, parameters: int) -> None:
    with torch.device("meta"):
        model = create_model("ukan_diffusion", middle=middle)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_a_fresh_network_predicts_almost_no_noise() -> None:
    torch.manual_seed(0)
    model = UKANDiffusion.tiny().eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 32, 32), torch.tensor([3])).abs().max() < 1e-3


def test_width_depth_and_size_are_free() -> None:
    for options, size in (
        ({"channels": 32, "multipliers": (1, 2), "middle_channels": (64, 96)}, (24, 40)),
        ({"channels": 32, "multipliers": (1,), "num_res_blocks": 1, "middle_channels": (32, 32)}, (4, 12)),
        ({"channels": 32, "multipliers": (1, 2), "middle": "attention", "attention_levels": (0, 1)}, (6, 10)),
    ):
        model = create_model("ukan_diffusion", in_channels=2, num_steps=10, **options).eval()
        with torch.no_grad():
            assert model(torch.zeros(1, 2, *size), torch.tensor([9])).shape == (1, 2, *size)


def test_equation_11_normalizes_after_the_layer_and_adds_plain_time() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 8, dtype=torch.float64)
    block = TokenBlock(8, 16, layer, "paper").double()
    z, time = torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 16, dtype=torch.float64)
    for b in range(2):
        for token in range(5):
            out = layer(z[b, token])
            normed = (out - out.mean()) / (out.var(unbiased=False) + 1e-5).sqrt()
            expected = normed + block.time.weight @ time[b] + block.time.bias
            torch.testing.assert_close(block(z, time)[b, token], expected)


def test_time_only_in_the_tokens_leaves_no_time_elsewhere() -> None:
    model = create_model("ukan_diffusion", preset="paper")
    timed = [name for name, _ in model.named_parameters() if ".time." in name]
    assert timed
    assert all(name.startswith("middle.tokens.") for name in timed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"middle": "kann"}, "middle must be 'kan'"),
        ({"channels": 48}, "multiples of 32"),
        ({"time_in": "nowhere"}, "time_in"),
        ({"num_res_blocks": 0}, "at least one"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        create_model("ukan_diffusion", **options)


def test_steps_must_belong_to_the_images() -> None:
    model = UKANDiffusion.tiny()
    with pytest.raises(ValueError, match="one step from 0 to 9 for each of the 2 images"):
        model(torch.zeros(2, 3, 32, 32), torch.tensor([1]))
