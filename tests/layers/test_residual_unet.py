from __future__ import annotations

import pytest
import torch
from torch import nn

from kanscan.layers.residual import ConvNormAct
from kanscan.layers.residual_unet import (
    ResidualDecoder,
    ResidualEncoder,
    plan_stages,
    refuse_single_pixel,
    with_aliases,
    without_aliases,
)


def test_the_printed_plans_are_the_defaults() -> None:
    plane, volume = plan_stages(2, 32, None, None), plan_stages(3, 32, None, None)
    assert plane.is_printed and volume.is_printed
    assert plane.channels == (32, 64, 128, 256, 512, 512, 512)
    assert volume.channels == (32, 64, 128, 256, 320, 320)
    assert plane.total_stride() == (64, 64)
    assert volume.total_stride() == (8, 32, 32)
    assert volume.total_stride(1) == (1, 2, 2)
    assert volume.kernel_sizes[0] == (1, 3, 3) and set(volume.kernel_sizes[1:]) == {(3, 3, 3)}


def test_other_plans_halve_every_axis() -> None:
    plan = plan_stages(3, (8, 16, 24), None, None)
    assert plan.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    assert plan.kernel_sizes == ((3, 3, 3),) * 3
    assert not plan.is_printed
    assert plan_stages(2, 8, (1, 2, (2, 1)), 5).channels == (8, 16, 32)
    assert plan_stages(2, 600, (1, 2), None).channels == (600, 600)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((4, 8, None, None), "spatial_dims"),
        ((2, (8,), None, None), "channels"),
        ((2, (8, 0), None, None), "channels"),
        ((2, 8, (2, 2), None), "begin with 1"),
        ((2, (8, 16), (1, 2, 2), None), "strides"),
        ((2, (8, 16), (1, (2, 2, 2)), None), "strides"),
        ((2, (8, 16), None, (3, 2)), "odd"),
        ((2, (8, 16), None, None, 0), "encoder_depths"),
        ((2, (8, 16), None, None, 1, (1, 1)), "decoder_depths"),
    ],
)
def test_illegal_plans_are_named(arguments: tuple, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        plan_stages(*arguments)


def network(**options: bool) -> tuple[ResidualEncoder, ResidualDecoder]:
    plan = plan_stages(2, (4, 6, 8), None, None)
    stem = ConvNormAct(1, 4, (3, 3))
    encoder = ResidualEncoder(stem, plan, "resnet_d", [nn.Identity() for _ in plan.channels])
    return encoder, ResidualDecoder(plan, "resnet_d", "transpose", 2, **options)


def test_scales_come_finest_first() -> None:
    encoder, decoder = network()
    maps = encoder(torch.randn(1, 1, 16, 24))
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 16, 24), (6, 8, 12), (8, 4, 6)]
    logits = decoder(maps, all_scales=True)
    assert [tuple(y.shape[1:]) for y in logits] == [(2, 16, 24), (2, 8, 12)]
    assert torch.equal(decoder(maps)[0], logits[0])


def test_the_enlarged_map_comes_before_the_skip() -> None:
    encoder, decoder = network()
    maps = encoder(torch.randn(1, 1, 16, 24))
    seen: list[torch.Tensor] = []
    decoder.stages[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    decoder(maps)
    assert torch.equal(seen[0][:, :6], decoder.ups[0](maps[2]))
    assert torch.equal(seen[0][:, 6:], maps[1])


def test_without_deep_supervision_one_head_keeps_its_name() -> None:
    full, single = network()[1], network(deep_supervision=False)[1]
    heads = {name for name in full.state_dict() if name.startswith("heads")}
    kept = {name for name in single.state_dict() if name.startswith("heads")}
    assert kept == {name for name in heads if name.startswith("heads.1.")}


def test_the_finest_skip_can_be_left_out() -> None:
    encoder, decoder = network(finest_skip=False)
    maps = encoder(torch.randn(1, 1, 16, 24))
    first = decoder(maps)[0]
    assert torch.equal(first, decoder([torch.zeros_like(maps[0]), *maps[1:]])[0])


def test_aliases_are_added_and_removed() -> None:
    state = {
        "encoder.stages.0.blocks.0.conv1.conv.weight": torch.ones(1),
        "encoder.stages.0.blocks.0.skip.1.norm.bias": torch.zeros(1),
        "decoder.seg_layers.0.weight": torch.full((1,), 2.0),
    }
    full = with_aliases(state)
    assert "decoder.encoder.stages.0.blocks.0.conv1.all_modules.0.weight" in full
    assert "encoder.stages.0.blocks.0.skip.1.all_modules.1.bias" in full
    assert len(full) == 4 + 4 + 1
    assert without_aliases(full) == state
    only_alias = {"decoder.encoder.stages.0.blocks.0.conv1.all_modules.0.weight": torch.ones(1)}
    assert set(without_aliases(only_alias)) == {"encoder.stages.0.blocks.0.conv1.conv.weight"}


def test_a_single_pixel_is_refused_with_the_next_size() -> None:
    refuse_single_pixel("Net", torch.zeros(1, 1, 8, 16), (8, 8))
    with pytest.raises(ValueError, match="8 x 16"):
        refuse_single_pixel("Net", torch.zeros(1, 1, 8, 8), (8, 8))
