from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golden.checks_residual import check_keys, check_layer, check_network, count, renamed
from golden.figures import figures
from kanscan.complexity import complexity
from kanscan.layers.ssm import MAMBA_RELEASED_NAMES
from kanscan.models.u_mamba import MambaMixer, UMamba

PRESETS = {"v1": "release_v1", "v2": "release"}
PLACES = {"bot": "bottleneck", "enc": "encoder"}
LAYOUTS = {"2d": "5stage_base8_64x64", "3d": "4stage_base6_8x32x32"}
#: Parameters with one input channel and 14 classes.
PRINTED = {
    ("bot", "v2", "2d"): 47_533_012,
    ("bot", "v2", "3d"): 41_945_158,
    ("enc", "v2", "2d"): 47_015_538,
    ("enc", "v2", "3d"): 42_842_798,
    ("bot", "v1", "2d"): 63_344_180,
    ("bot", "v1", "3d"): 57_832_166,
    ("enc", "v1", "2d"): 67_333_428,
    ("enc", "v1", "3d"): 59_105_766,
}
#: 1e9 multiply-adds of convolutions and products, all heads on, for 320 x 320.
MACS = {("bot", "v2"): 41.052, ("enc", "v2"): 43.146, ("bot", "v1"): 45.381, ("enc", "v1"): 49.282}
each = pytest.mark.parametrize(("place", "version", "dims"), PRINTED)


def options(place: str, version: str, dims: str) -> dict:
    return {"mamba_at": PLACES[place], "spatial_dims": int(dims[0]), **UMamba.presets[PRESETS[version]]}


@each
def test_released_values(place: str, version: str, dims: str) -> None:
    golden = figures("lkm_unet", f"umamba_{place}_{version}_{dims}_{LAYOUTS[dims]}")
    chosen = options(place, version, dims)
    if place == "enc":
        chosen["image_size"] = tuple(golden.meta["shape"][2:])
    check_network("u_mamba", golden, **chosen)


@each
def test_printed_parameters(place: str, version: str, dims: str) -> None:
    chosen = options(place, version, dims)
    assert count("u_mamba", in_channels=1, out_channels=14, **chosen) == PRINTED[place, version, dims]


@each
def test_released_keys_are_complete(reference: Path, place: str, version: str, dims: str) -> None:
    chosen = options(place, version, dims)
    check_keys(
        "u_mamba", reference, f"UMamba{place.capitalize()}_{dims}_{version}", in_channels=1, out_channels=14, **chosen
    )


def test_parameters_of_other_layouts() -> None:
    widths = (32, 64, 128, 256, 512, 512, 512, 512)
    v1 = UMamba.presets["release_v1"]
    assert count("u_mamba", in_channels=3, out_channels=2, channels=widths, **v1) == 86_148_014
    assert count("u_mamba", in_channels=3, out_channels=1) == 47_514_022
    encoder = {"in_channels": 3, "out_channels": 1, "mamba_at": "encoder"}
    assert count("u_mamba", image_size=256, **encoder) == 46_386_662


@pytest.mark.parametrize("name", ["tokens", "channel"])
def test_released_mamba_layer(name: str) -> None:
    layer = MambaMixer(8) if name == "tokens" else MambaMixer(12, channel_tokens=True)
    check_layer(layer, figures("lkm_unet", f"umamba_mambalayer_{name}"), renamed(MAMBA_RELEASED_NAMES))


@pytest.mark.parametrize(("place", "version"), MACS)
def test_macs(place: str, version: str) -> None:
    with torch.device("meta"):
        model = UMamba(1, 14, **options(place, version, "2d"))
    counted = complexity(model, (1, 320, 320))
    coarse = list(model.decoder.heads)[:-1]
    heads = sum(head.weight.numel() * (320 // 2 ** (len(coarse) - level)) ** 2 for level, head in enumerate(coarse))
    assert (counted.macs - counted.scan_macs + heads) / 1e9 == pytest.approx(MACS[place, version], rel=1e-4)


def test_where_the_mamba_layers_are() -> None:
    with torch.device("meta"):
        second = UMamba(1, 14, mamba_at="encoder")
        first = UMamba(1, 14, mamba_at="encoder", **UMamba.presets["release_v1"])
        volume = UMamba(1, 14, mamba_at="encoder", spatial_dims=3)

    def layers(model: UMamba) -> list[tuple[int, int, bool]]:
        mixers = enumerate(model.encoder.mixers)
        return [(s, m.norm.normalized_shape[0], m.channel_tokens) for s, m in mixers if isinstance(m, MambaMixer)]

    assert layers(second) == [(0, 32, False), (2, 128, False), (4, 400, True), (6, 25, True)]
    assert [stage for stage, *_ in layers(first)] == list(range(7))
    assert [stage for stage, *_ in layers(volume)] == list(range(6))
    assert layers(volume)[-1] == (5, 210, True)


def test_depths_taper_as_released() -> None:
    with torch.device("meta"):
        plane, volume = UMamba(1, 14), UMamba(1, 14, spatial_dims=3)
    assert plane.plan.encoder_depths == (2, 2, 2, 2, 1, 1, 1)
    assert plane.plan.decoder_depths == (2, 2, 2, 2, 1, 1)
    assert volume.plan.encoder_depths == (2, 2, 2, 1, 1, 1)
    assert volume.plan.decoder_depths == (2, 2, 2, 1, 1)


def test_no_residual_around_the_mamba_layer() -> None:
    layer = MambaMixer(8)
    torch.nn.init.zeros_(layer.mamba.out_proj.weight)
    assert not layer(torch.randn(1, 8, 4, 4)).any()


def test_channel_tokens_tie_the_network_to_one_size() -> None:
    model = UMamba.tiny(mamba_at="encoder", channels=(8, 12, 16), image_size=(16, 8)).eval()
    assert model.image_size == (16, 8)
    assert model(torch.zeros(1, 3, 16, 8)).shape == (1, 1, 16, 8)
    with pytest.raises(ValueError, match=r"built for images of 16 x 8"):
        model(torch.zeros(1, 3, 16, 16))
    free = UMamba.tiny(mamba_at="encoder", channel_tokens=False).eval()
    assert free.image_size is None
    assert free(torch.zeros(1, 3, 16, 24)).isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"mamba_at": "decoder"}, "mamba_at"),
        ({"block": "plain"}, "block"),
        ({"upsampling": "bilinear"}, "upsampling"),
        ({"mamba_at": "encoder"}, "image_size"),
        ({"mamba_at": "encoder", "image_size": 30}, "image_size"),
        ({"mamba_at": "encoder", "channel_tokens": False, "mamba_interval": 0}, "mamba_interval"),
        ({"encoder_depths": (1, 2)}, "encoder_depths"),
    ],
)
def test_illegal_options_are_named(wrong: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        UMamba.tiny(**wrong)
