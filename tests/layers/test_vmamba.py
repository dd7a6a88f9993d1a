from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from golden.checks_vmamba import check, fill
from golden.figures import figures
from kanscan.layers.ssm import VSSBlock
from kanscan.layers.vmamba import (
    MirrorDecoder,
    VMambaEncoder,
    drop_path_rates,
    load_imagenet,
    stage_channels,
)
from kanscan.models.vm_unet import VMUNet
from kanscan.models.vmkla_unet import VMKLAUNet

SMALL = {"channels": 8, "d_state": 4}
_IN_FRONT = "vmunet.layers.0.blocks.0."


def block_name(name: str) -> str:
    """Give the released name of a parameter of a lone VSS block."""
    model = VMUNet.tiny()
    return model.released_name(f"encoder.stages.0.0.{name}").removeprefix(_IN_FRONT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_released_vss_block(dtype: torch.dtype) -> None:
    golden = figures("vmkla_unet", "vssblock_c16")
    check(fill(VSSBlock(16), golden, block_name), golden, block_name, dtype)


def test_encoder_hands_over_the_inputs_of_its_stages() -> None:
    torch.manual_seed(0)
    encoder = VMambaEncoder(2, 8, (1, 2, 1, 1), d_state=4).eval()
    x = torch.randn(1, 2, 64, 32)
    deepest, inputs = encoder(x)
    assert [tuple(i.shape) for i in inputs] == [(1, 16, 8, 8), (1, 8, 4, 16), (1, 4, 2, 32), (1, 2, 1, 64)]
    assert deepest.shape == (1, 2, 1, 64)
    assert torch.equal(inputs[0], encoder.patch_embed(x))
    second = encoder.merges[0](encoder.stages[0](inputs[0]))
    torch.testing.assert_close(inputs[1], second)
    torch.testing.assert_close(deepest, encoder.stages[3](inputs[3]))


@pytest.mark.parametrize("skip_at_quarter", [False, True])
def test_decoder_adds_skips_before_it_expands(skip_at_quarter: bool) -> None:
    """Blocks that add one show the order: every level doubles its size after its skip has come in."""

    class AddOne(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    torch.manual_seed(0)
    widths = stage_channels(8)
    decoder = MirrorDecoder(widths, (1, 2, 1, 1), lambda *_: AddOne(), skip_at_quarter=skip_at_quarter).double()
    skips = [torch.randn(1, 8 // 2**i, 16 // 2**i, width).double() for i, width in enumerate(widths)]
    x = torch.randn(1, 1, 2, 64).double()
    y = x + 1
    y = decoder.expands[0](y + skips[3]) + 2
    y = decoder.expands[1](y + skips[2]) + 1
    y = decoder.expands[2](y + skips[1]) + 1
    y = decoder.final(y + skips[0] if skip_at_quarter else y)
    torch.testing.assert_close(decoder(x, skips), y.permute(0, 3, 1, 2))


def test_drop_path_rises_to_the_bottom_and_falls_after_it() -> None:
    assert [len(stage) for stage in drop_path_rates(0.3, (1, 2, 1))] == [1, 2, 1]
    for falling, middle in ((False, [0.1, 0.2]), (True, [0.2, 0.1])):
        assert drop_path_rates(0.3, (1, 2, 1), falling=falling)[1] == pytest.approx(middle)
    assert drop_path_rates(0.3, (1,)) == [[0.0]]
    model = VMUNet.tiny(drop_path=0.2, encoder_depths=(1, 1, 2, 1), decoder_depths=(1, 2, 1, 1))
    halves = (model.encoder, model.decoder)
    rates = [[block.drop_path.rate for stage in half.stages for block in stage] for half in halves]
    assert rates[0] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert rates[1] == pytest.approx([0.2, 0.15, 0.1, 0.05, 0.0])


def test_widths_double() -> None:
    assert stage_channels(96) == stage_channels((96, 192, 384, 768)) == (96, 192, 384, 768)
    for wrong in ((96, 192, 384, 500), (96, 192), (), 0, -4, 6):
        with pytest.raises(ValueError, match="channels"):
            stage_channels(wrong)


@pytest.mark.parametrize("depths", [(1, 1, 1), (1, 0, 1, 1)])
def test_depths_are_four(depths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="encoder_depths"):
        VMUNet(encoder_depths=depths, **SMALL)
    with pytest.raises(ValueError, match="decoder_depths"):
        VMUNet(decoder_depths=depths, **SMALL)


def classifier(depths: tuple[int, ...], later: bool, channels: int = 8, d_state: int = 4) -> dict[str, Tensor]:
    """A VMamba classifier's state dict in one of its two namings, filled with random numbers."""
    encoder = VMambaEncoder(3, channels, depths, d_state=d_state)
    state = {"head.weight": torch.zeros(10, 8 * channels), "norm.weight": torch.zeros(8 * channels)}
    for name, p in encoder.named_parameters():
        key = VMUNet.tiny().released_name(f"encoder.{name}").removeprefix("vmunet.")
        state[key] = torch.randn(p.shape)
    if later:
        renamed = {}
        for key, value in state.items():
            for old, new in (
                ("patch_embed.proj.", "patch_embed.0."),
                ("patch_embed.norm.", "patch_embed.2."),
                (".ln_1.", ".norm."),
                (".self_attention.", ".op."),
            ):
                key = key.replace(old, new)
            renamed["classifier." + key if key.startswith(("head", "norm")) else key] = value
        state = renamed
    return state


@pytest.mark.parametrize("later", [False, True])
def test_imagenet_weights_fill_encoder_and_decoder(later: bool) -> None:
    state = classifier((1, 2, 3, 1), later)
    model = VMUNet(encoder_depths=(1, 2, 1, 1), decoder_depths=(1, 1, 2, 1), drop_path=0.0, **SMALL)
    result = model.load_pretrained(state)
    # 13 tensors a block, 3 a merging, 4 of the patch embedding.
    assert (result.encoder_tensors, result.decoder_tensors) == (5 * 13 + 9 + 4, 5 * 13)
    assert len(result.unused) == 2 * 13 + 2
    assert "78 tensors of the encoder and 65 of the decoder" in str(result)
    key = f"layers.2.blocks.0.{'op' if later else 'self_attention'}.in_proj.weight"
    assert torch.equal(model.encoder.stages[2][0].ss2d.in_proj.weight, state[key])
    assert torch.equal(model.decoder.stages[1][0].ss2d.in_proj.weight, state[key])
    norm = f"layers.0.blocks.0.{'norm' if later else 'ln_1'}.weight"
    assert torch.equal(model.decoder.stages[3][0].norm.weight, state[norm])
    assert result.num_parameters == sum(
        p.numel() for n, p in model.named_parameters() if n.startswith(("encoder", "decoder.stages"))
    )


def test_imagenet_weights_for_the_encoder_alone() -> None:
    model = VMUNet(encoder_depths=(1, 1, 1, 1), decoder_depths=(1, 1, 1, 1), **SMALL)
    before = model.decoder.stages[0][0].ss2d.in_proj.weight.clone()
    result = model.load_pretrained({"model": classifier((1, 1, 1, 1), False), "epoch": 238}, decoder=False)
    assert result.decoder_tensors == 0
    assert torch.equal(model.decoder.stages[0][0].ss2d.in_proj.weight, before)


def test_checkpoints_that_do_not_fit_change_nothing() -> None:
    model = VMUNet(encoder_depths=(1, 1, 1, 1), decoder_depths=(1, 1, 1, 1), **SMALL)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=r"no block of the encoder.*conv\.weight"):
        model.load_pretrained({"conv.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="no block"):
        # Newer VMamba networks share the patch embedding's key but have other blocks.
        model.load_pretrained(
            {"patch_embed.0.weight": torch.ones(8, 3, 4, 4), "layers.0.blocks.0.mlp.fc1.bias": torch.ones(2)}
        )
    with pytest.raises(ValueError, match=r"shape \(16, 3, 4, 4\).*needs \(8, 3, 4, 4\)"):
        model.load_pretrained(classifier((1, 1, 1, 1), False, channels=16))
    with pytest.raises(ValueError, match="the decoder has no VSS blocks"):
        VMKLAUNet.tiny().load_pretrained(classifier((1, 1, 1, 1), False), decoder=True)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


DEPTHS = {
    "2222": (2, 2, 2, 2),
    "2292": (2, 2, 9, 2),
    "22272": (2, 2, 27, 2),
    "2221": (2, 2, 2, 1),
    "2922": (2, 9, 2, 2),
}
NETWORKS = {"vmunet": VMUNet, "vmkla": VMKLAUNet}


@pytest.mark.parametrize("naming", ["v0_ckpt", "v0_newnaming"])
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_released_classifiers_fill_the_counted_tensors(reference: Path, size: str, naming: str) -> None:
    """Tensors and numbers taken, as counted with the released loader (which reads the first naming only)."""
    keys = json.loads((reference / "keys" / f"keys_vmamba_{size}_{naming}.json").read_text())
    state = {key: torch.empty(shape, device="meta") for key, shape in keys.items() if key != "_meta"}
    counts = json.loads((reference / "counts" / "vmkla_unet.json").read_text())["checkpoint_loading"]
    seen = 0
    for case, row in counts.items():
        network, depths, *decoder_file, _, checkpoint = case.split(" ")
        if checkpoint != f"vmamba_{size}" or decoder_file:
            continue
        down, up = (DEPTHS[digits] for digits in depths.split("/"))
        with torch.device("meta"):
            model = NETWORKS[network](encoder_depths=down, decoder_depths=up)
        result = load_imagenet(model, state, decoder=network == "vmunet")
        assert result.encoder_tensors == row["encoder_keys_loaded"], case
        assert result.decoder_tensors == row["decoder_keys_loaded"], case
        assert result.num_parameters == row["params_loaded"], case
        assert len(result.unused) == row["ckpt_keys_unused"], case
        seen += 1
    assert seen == 5
