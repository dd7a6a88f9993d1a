from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from golden.checks_vmamba import check
from golden.figures import Figures, figures
from golden.recipe_vmkla_unet import image, weights
from kanscan import create_model, load_released, released_state_dict
from kanscan.complexity import complexity
from kanscan.models.base import SegmentationModel

LARGE = {"encoder_depths": (2, 2, 9, 2), "decoder_depths": (2, 9, 2, 2)}


def bare(model: SegmentationModel) -> object:
    return lambda name: model.released_name(name).removeprefix("vmunet.")


def filled(golden: Figures) -> SegmentationModel:
    config = golden.meta["config"]
    options = {
        "channels": tuple(config.get("dims", (96, 192, 384, 768))),
        "encoder_depths": tuple(config["depths"]),
        "decoder_depths": tuple(config["depths_decoder"]),
        "out_channels": config["num_classes"],
    }
    state = weights(released_state_dict("vm_unet", **options), golden.meta["weight_seed"])
    return load_released("vm_unet", state, **options)


@pytest.mark.parametrize("name", ["vmunet_d16_2222_2221", "vmunet_d16_cls4_b2"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_released_values_and_gradients(name: str, dtype: torch.dtype) -> None:
    golden = figures("vmkla_unet", name)
    model = filled(golden)
    check(model, golden, bare(model), dtype)


def test_the_released_network_at_its_own_width() -> None:
    """The wrapper around the released network applies a sigmoid where there is one class."""
    golden = figures("vmkla_unet", "vmunet_full_cls1_64")
    model = filled(golden).double()
    x = image(golden.meta["input_shape"], golden.meta["input_seed"]).double()
    with torch.no_grad():
        torch.testing.assert_close(torch.sigmoid(model(x)), golden["y"], rtol=0, atol=1e-6)


def test_every_full_vector(reference: Path) -> None:
    for name in ("vmunet_d16_2222_2221", "vmunet_d16_cls4_b2"):
        golden = Figures(reference / "golden" / "vmkla_unet" / f"{name}.npz")
        model = filled(golden).double()
        x = golden["input"]
        with torch.no_grad():
            latent, inputs = model.encoder(x)
            tolerance = {"rtol": 1e-5, "atol": 1e-5}
            torch.testing.assert_close(latent, golden["latent"], **tolerance)
            for i in range(4):
                torch.testing.assert_close(inputs[i], golden[f"enc_stage_in_{i}"], **tolerance)
            up = latent
            for i, stage in enumerate(model.decoder.stages):
                up = stage(up if i == 0 else model.decoder.expands[i - 1](up + inputs[4 - i]))
                torch.testing.assert_close(up, golden[f"dec_stage_out_{i}"], **tolerance)
            limit = 1e-6 * float(golden["output"].abs().max())
            torch.testing.assert_close(model(x), golden["output"], rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 27_427_561),
        ({"preset": "release"}, 27_427_561),
        ({"preset": "class_default"}, 44_273_833),
        ({"out_channels": 9}, 27_427_761),
        ({"encoder_depths": (2, 2, 27, 2), "decoder_depths": (2, 27, 2, 2)}, 87_321_769),
    ],
)
def test_parameters(options: dict, parameters: int) -> None:
    with torch.device("meta"):
        model = create_model("vm_unet", **options)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("options", "products"),
    [
        ({}, 5_288_361_984),
        pytest.param(LARGE, 9_736_814_592, marks=pytest.mark.slow),
        pytest.param({"out_channels": 9}, 5_300_944_896, marks=pytest.mark.slow),
    ],
)
def test_products_and_scans(options: dict, products: int) -> None:
    with torch.device("meta"):
        model = create_model("vm_unet", **options)
    cost = complexity(model, (3, 256, 256))
    assert cost.macs - cost.scan_macs == products
    # For every token of every scan four multiply-adds a state and two a channel.
    tokens = [64 * 64, 32 * 32, 16 * 16, 8 * 8]
    stages = zip([*model.encoder.stages, *model.decoder.stages], [*tokens, *reversed(tokens)], strict=True)
    expected = sum(len(stage) * 4 * stage[0].ss2d.ssm.d_inner * length * (4 * 16 + 2) for stage, length in stages)
    assert cost.scan_macs == expected


@pytest.mark.parametrize("name", ["cls1_2222_2221", "cls9_2222_2221", "cls1_2292_2922_classdefault"])
def test_released_keys_are_complete(reference: Path, name: str) -> None:
    keys = json.loads((reference / "keys" / f"keys_vmunet_{name}.json").read_text())
    options = LARGE if "2922" in name else {}
    with torch.device("meta"):
        state = released_state_dict("vm_unet", out_channels=keys.pop("_meta")["num_classes"], **options)
    assert {key: list(tensor.shape) for key, tensor in state.items()} == keys


@pytest.mark.parametrize("prefix", ["", "vmunet.", "module.vmunet."])
def test_checkpoints_load_with_and_without_the_wrapper(prefix: str) -> None:
    torch.manual_seed(0)
    options = {"channels": 8, "d_state": 4, "encoder_depths": (1, 1, 1, 1), "decoder_depths": (1, 1, 1, 1)}
    one = create_model("vm_unet", **options).eval()
    state = {prefix + key.removeprefix("vmunet."): value for key, value in released_state_dict(one).items()}
    state[f"{prefix}layers.0.blocks.0.total_ops"] = torch.zeros(1)
    other = load_released("vm_unet", {"model_state_dict": state}, **options)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(one(x), other(x))


def test_fresh_weights() -> None:
    torch.manual_seed(0)
    model = create_model("vm_unet", channels=16, encoder_depths=(1, 1, 1, 1), decoder_depths=(1, 1, 1, 1))
    ss2d = model.encoder.stages[2][0].ss2d
    assert 0.015 < float(ss2d.in_proj.weight.detach().std()) < 0.022
    assert float(ss2d.ssm.D.detach().min()) == 1.0
    torch.testing.assert_close(ss2d.ssm.A_log.detach()[5].exp(), torch.arange(1.0, 17.0))
    step = torch.nn.functional.softplus(ss2d.ssm.dt_proj_bias.detach())
    assert float(step.min()) > 0.0009 and float(step.max()) < 0.11


def test_the_fourth_skip_and_exact_hold_are_options() -> None:
    torch.manual_seed(0)
    small = {"channels": 8, "d_state": 4, "encoder_depths": (1, 1, 1, 1), "decoder_depths": (1, 1, 1, 1)}
    released = create_model("vm_unet", **small).eval()
    x = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        for options in ({"skip_at_quarter": True}, {"discretization": "zoh"}):
            other = create_model("vm_unet", **small, **options).eval()
            other.load_state_dict(released.state_dict())
            assert not torch.allclose(other(x), released(x), atol=1e-6)
