from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden.checks_vmamba import check, fill
from golden.figures import Figures, figures
from golden.recipe_vmkla_unet import image, weights
from kanscan import create_model, load_released, released_state_dict
from kanscan.complexity import complexity
from kanscan.layers.as_coded_spline import AsCodedKANLinear
from kanscan.layers.attention import ChannelAttention, LinearAttention, SpatialAttention, rotate
from kanscan.layers.embedding import to_map, to_tokens
from kanscan.models.base import SegmentationModel
from kanscan.models.vmkla_unet import MKCSABlock, VMKLAUNet

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
SLIPS = {k: v for k, v in VMKLAUNet.presets["release"].items() if k != "conv_init"}
TINY: dict[str, Any] = {
    "channels": 8,
    "d_state": 4,
    "encoder_depths": (1, 1, 1, 1),
    "decoder_depths": (1, 1, 1, 1),
    "num_heads": (1, 1, 2, 2),
    "kan_channels": 8,
}


def block_name(name: str) -> str:
    """Give the released name of a parameter of a lone decoder block."""
    for pattern, replacement in VMKLAUNet.released_names:
        name = re.sub(pattern, replacement, name if name.startswith("layers_up.") else "layers_up.0.blocks.0." + name)
        if name.startswith("model."):
            break
    return name.removeprefix("model.").removeprefix("layers_up.0.blocks.0.")


def filled(golden: Figures) -> SegmentationModel:
    config = golden.meta["config"]
    options = {
        "channels": config.get("dims", 96),
        "encoder_depths": tuple(config["depths"]),
        "decoder_depths": tuple(config["decoder_depths"]),
        "num_heads": tuple(config.get("num_heads", (3, 6, 12, 24))),
        "out_channels": config["num_classes"],
        "preset": "release",
    }
    state = weights(released_state_dict("vmkla_unet", **options), golden.meta["weight_seed"])
    return load_released("vmkla_unet", state, **options)


@pytest.mark.parametrize("name", ["vmkla_d16_2222_2221", "vmkla_d32_cls4_b2"])
@DTYPES
def test_released_values_and_gradients(name: str, dtype: torch.dtype) -> None:
    golden = figures("vmkla_unet", name)
    model = filled(golden)
    check(model, golden, lambda n: model.released_name(n).removeprefix("model."), dtype)


def test_the_released_network_at_its_own_width() -> None:
    golden = figures("vmkla_unet", "vmkla_full_cls1_64")
    model = filled(golden).double()
    x = image(golden.meta["input_shape"], golden.meta["input_seed"]).double()
    with torch.no_grad():
        y = model(x)
    torch.testing.assert_close(y, golden["y"], rtol=0, atol=1e-6 * float(golden["y"].abs().max()))


@pytest.mark.parametrize("kind", ["mkcsa", "mkla"])
@DTYPES
def test_released_blocks(kind: str, dtype: torch.dtype) -> None:
    golden = figures("vmkla_unet", f"{kind}_block_c16_h2")
    check(fill(MKCSABlock(16, 2, kind, **SLIPS), golden, block_name), golden, block_name, dtype)


class ReleasedAttention(torch.nn.Module):
    """The released attention unit: channel-first maps in and out, read in memory order on the way in."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        kan = torch.nn.Sequential(AsCodedKANLinear(16, 64), AsCodedKANLinear(64, 32))
        self.attention = LinearAttention(16, 2, torch.nn.Linear(16, 32) if linear else kan, rotary="columns")
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        if self.linear:
            return self.attention(x, (8, 8))
        return to_map(self.attention(x.reshape(x.shape[0], -1, 16), (8, 8)), (8, 8))


@pytest.mark.parametrize("name", ["kanattn_c16_h2", "linattn_mlla_c16_h2"])
@DTYPES
def test_released_attention(name: str, dtype: torch.dtype) -> None:
    golden = figures("vmkla_unet", name)
    module = fill(ReleasedAttention("linattn" in name), golden, lambda n: block_name(n).removeprefix("attn."))
    check(module, golden, lambda n: block_name(n).removeprefix("attn."), dtype)


@DTYPES
def test_released_gates_and_rotation(dtype: torch.dtype) -> None:
    golden = figures("vmkla_unet", "channel_attention_c64")
    names = {"reduce.weight": "fc1.weight", "expand.weight": "fc2.weight", "conv.weight": "conv1.weight"}
    check(fill(ChannelAttention(64, pooling="average_twice"), golden, names.get), golden, names.get, dtype)
    golden = figures("vmkla_unet", "spatial_attention")
    check(fill(SpatialAttention(), golden, names.get), golden, names.get, dtype)
    golden = figures("vmkla_unet", "rope")
    x = image(golden.meta["input_shape"], golden.meta["input_seed"]).to(dtype)
    turned = rotate(x.flatten(1, 2), (6, 6), "columns").view_as(x)
    torch.testing.assert_close(turned.double(), golden["y"], rtol=0, atol=1e-5)


def attention_by_loops(module: LinearAttention, tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """KAN linear attention token by token: phi = ELU + 1, rotated by rows and columns, values unprojected."""
    length, channels = tokens.shape
    width, heads = channels // module.num_heads, module.num_heads
    features = module.queries_keys(tokens)
    phi = torch.where(features > 0, features + 1, features.exp())
    queries, keys = phi[:, :channels], phi[:, channels:]

    def turned(row: Tensor, n: int) -> Tensor:
        place = (n // size[1], n % size[1])
        out = row.clone()
        for m in range(channels // 2):
            # The first half of the pairs counts rows, the second columns.
            axis, rank = divmod(m, channels // 4)
            angle = place[axis] * 10000 ** (-rank / (channels // 4))
            a, b = row[2 * m], row[2 * m + 1]
            out[2 * m] = a * math.cos(angle) - b * math.sin(angle)
            out[2 * m + 1] = a * math.sin(angle) + b * math.cos(angle)
        return out

    turned_queries = torch.stack([turned(queries[n], n) for n in range(length)])
    turned_keys = torch.stack([turned(keys[n], n) for n in range(length)])
    result = torch.zeros_like(tokens)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for n in range(length):
            below = sum(queries[n, part] @ keys[other, part] for other in range(length)) / length + 1e-6
            for other in range(length):
                weight = turned_queries[n, part] @ turned_keys[other, part] / length / below
                result[n, part] += weight * tokens[other, part]
    kernel, bias = module.position.weight, module.position.bias
    for n in range(length):
        i, j = divmod(n, size[1])
        near = bias.clone()
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                if 0 <= i + di < size[0] and 0 <= j + dj < size[1]:
                    near += kernel[:, 0, di + 1, dj + 1] * tokens[(i + di) * size[1] + j + dj]
        result[n] += near
    return result


@torch.no_grad()
def test_attention_as_described_by_literal_loops() -> None:
    torch.manual_seed(0)
    block = MKCSABlock(8, 2, kan_channels=5).double()
    tokens = torch.randn(1, 6, 8, dtype=torch.float64)
    expected = attention_by_loops(block.attention, tokens[0], (2, 3))
    torch.testing.assert_close(block.attention(tokens, (2, 3))[0], expected)


@torch.no_grad()
def test_block_as_described_step_by_step() -> None:
    """Every place keeps its channels: the steps of Fig. 2 to 4 written out on a rectangle."""
    torch.manual_seed(1)
    block = MKCSABlock(16, 2, kan_channels=6).double()
    x = torch.randn(2, 3, 5, 16, dtype=torch.float64)
    x1 = x + block.position1(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    u = torch.nn.functional.layer_norm(x1, (16,), block.norm1.weight, block.norm1.bias)
    first = u.permute(0, 3, 1, 2)
    squeezed = torch.stack([first.mean((2, 3)), first.amax((2, 3))])[..., None, None]
    hidden = [block.csa.channel.expand(torch.relu(block.csa.channel.reduce(pooled))) for pooled in squeezed]
    gate = torch.sigmoid(hidden[0] + hidden[1])
    weighed = gate * first
    pooled = torch.stack([weighed.mean(1), weighed.max(1).values], dim=1)
    side = weighed * torch.sigmoid(block.csa.spatial.conv(pooled))
    mixed = torch.nn.functional.silu(block.conv(block.proj_in(u).permute(0, 3, 1, 2)))
    mixed = block.attention(to_tokens(mixed), (3, 5)).view(2, 3, 5, 16)
    x2 = x1 + block.proj_out(block.norm_out(mixed) * side.permute(0, 2, 3, 1))
    x3 = x2 + block.position2(x2.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    y = x3 + block.mlp(torch.nn.functional.layer_norm(x3, (16,), block.norm2.weight, block.norm2.bias))
    torch.testing.assert_close(block(x), y)


@torch.no_grad()
def test_memory_order_slips_by_index() -> None:
    """Number f of a map's memory is taken for channel f // N at place f % N, or for token f // C, feature f % C."""
    torch.manual_seed(2)
    size, c = (2, 3), 8
    n = size[0] * size[1]
    slips = {"reread_side": True, "reread_attention_input": True, "reread_attention_output": True}
    block = MKCSABlock(c, 2, kan_channels=5, **slips).double()
    u = torch.randn(1, *size, c, dtype=torch.float64)
    flat = u.flatten().tolist()
    shuffled = torch.tensor([[flat[channel * n + place] for place in range(n)] for channel in range(c)])
    weighed = block.csa(shuffled.double().view(1, c, *size)).flatten()
    torch.testing.assert_close(block._side(u).flatten(), weighed)
    image = torch.nn.functional.silu(block.conv(block.proj_in(u).permute(0, 3, 1, 2)))
    memory = image.contiguous().flatten().tolist()
    tokens = torch.tensor([[memory[token * c + feature] for feature in range(c)] for token in range(n)]).double()
    mixed = block.attention(tokens[None], size)[0]
    out = mixed.t().contiguous().flatten()
    torch.testing.assert_close(block._attend(u).flatten(), out)


@torch.no_grad()
def test_every_slip_changes_the_result() -> None:
    torch.manual_seed(3)
    described = MKCSABlock(16, 2).double()
    x = torch.randn(1, 4, 4, 16, dtype=torch.float64)
    for slip, value in SLIPS.items():
        other = MKCSABlock(16, 2, **{slip: value}).double()
        other.load_state_dict(described.state_dict())
        difference = (other(x) - described(x)).abs().max()
        assert difference > 1e-6, slip


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 44_972_727),
        ({"preset": "encoder_2222"}, 36_602_295),
        ({"preset": "encoder_2292"}, 44_972_727),
        ({"preset": "encoder_22272"}, 66_496_695),
        ({"preset": "release"}, 44_972_727),
        ({"preset": "release_synapse", "out_channels": 9}, 66_496_895),
        ({"encoder_depths": (2, 2, 2, 2), "decoder_depths": (2, 2, 2, 2)}, 36_885_113),
        ({"preset": "baseline"}, 35_797_993),
    ],
)
def test_parameters(options: dict, parameters: int) -> None:
    with torch.device("meta"):
        model = create_model("vmkla_unet", **options)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("preset", "products"),
    [
        ("encoder_2222", 7_763_629_568),
        pytest.param("encoder_2292", 9_801_864_704, marks=pytest.mark.slow),
        pytest.param("encoder_22272", 15_043_040_768, marks=pytest.mark.slow),
        pytest.param("baseline", 7_326_597_120, marks=pytest.mark.slow),
    ],
)
def test_products(preset: str, products: int) -> None:
    with torch.device("meta"):
        cost = complexity(create_model("vmkla_unet", preset=preset), (3, 256, 256))
    assert cost.macs - cost.scan_macs == products


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("mkcsa", (282_818, 752_162, 2_250_722, 7_487_330)), ("mkla", (290_880, 784_512, 2_380_032, 8_004_096))],
)
def test_parameters_of_blocks(kind: str, parameters: tuple[int, ...]) -> None:
    with torch.device("meta"):
        blocks = [MKCSABlock(96 * 2**i, 3 * 2**i, kind) for i in range(4)]
    assert tuple(sum(p.numel() for p in block.parameters()) for block in blocks) == parameters


@pytest.mark.parametrize("name", ["cls1_2222_2221", "cls1_2292_2221", "cls9_22272_2221"])
def test_released_keys_are_complete(reference: Path, name: str) -> None:
    keys = json.loads((reference / "keys" / f"keys_vmkla_{name}.json").read_text())
    meta = keys.pop("_meta")
    with torch.device("meta"):
        model = create_model(
            "vmkla_unet",
            preset="release",
            out_channels=meta["num_classes"],
            encoder_depths=tuple(meta["depths"]),
            decoder_depths=tuple(meta["depths_decoder"]),
        )
    assert {key: list(tensor.shape) for key, tensor in released_state_dict(model).items()} == keys


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_checkpoints_load_with_and_without_the_wrapper(prefix: str) -> None:
    torch.manual_seed(0)
    one = create_model("vmkla_unet", preset="release", **TINY).eval()
    state = {prefix + key.removeprefix("model."): value for key, value in released_state_dict(one).items()}
    state[f"{prefix}layers.0.total_params"] = torch.zeros(1)
    other = load_released("vmkla_unet", state, preset="release", **TINY)
    x = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(one(x), other(x))


@pytest.mark.parametrize("preset", VMKLAUNet.presets)
def test_presets_run_on_rectangles_and_learn(preset: str) -> None:
    torch.manual_seed(0)
    depths = {k: v for k, v in TINY.items() if k not in VMKLAUNet.presets[preset]}
    depths |= {"encoder_depths": (1, 1, 1, 1), "drop_path": 0.0}
    model = create_model("vmkla_unet", preset=preset, **depths)
    x = torch.randn(2, 3, 32, 64)
    y = model(x)
    assert y.shape == (2, 1, 32, 64)
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_fresh_convolutions_and_linear_layers() -> None:
    torch.manual_seed(0)
    bounds = {}
    for preset in ("paper", "release"):
        block = create_model("vmkla_unet", preset=preset, **TINY).decoder.stages[0][0]
        bounds[preset] = float(block.conv.weight.detach().abs().max())
        assert 0.018 < float(block.proj_in.weight.detach().std()) < 0.022
        assert float(block.proj_in.bias.detach().abs().max()) == 0
    # A third is 1 / sqrt(9); the truncated normal rarely leaves three deviations.
    assert 0.3 < bounds["paper"] <= 1 / 3
    assert bounds["release"] < 0.1


def test_ablations_exchange_the_half_they_name() -> None:
    blocks = {}
    for preset in ("paper", "mkla", "mlla", "mlcsa"):
        block = create_model("vmkla_unet", preset=preset, **TINY).decoder.stages[1][0]
        blocks[preset] = (isinstance(block.attention.queries_keys, torch.nn.Linear), block.csa is not None)
    assert blocks == {"paper": (False, True), "mkla": (False, False), "mlla": (True, False), "mlcsa": (True, True)}
    scanned = create_model("vmkla_unet", preset="only_csa", **TINY).decoder.stages[1][0]
    assert hasattr(scanned, "ss2d") and hasattr(scanned, "csa")


@torch.no_grad()
def test_only_csa_refines_the_scan() -> None:
    torch.manual_seed(0)
    block = create_model("vmkla_unet", preset="only_csa", **TINY).eval().decoder.stages[1][0]
    x = torch.randn(1, 3, 4, 32)
    refined = block.csa(block.ss2d(block.norm(x)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(block(x), x + refined)


def test_each_has_its_own_kan_where_asked() -> None:
    separate = create_model("vmkla_unet", shared_kan=False, **TINY).decoder.stages[0][0].attention.queries_keys
    assert len(separate.parts) == 2
    x = torch.randn(1, 4, 64)
    torch.testing.assert_close(separate(x), torch.cat([separate.parts[0](x), separate.parts[1](x)], dim=-1))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"block": "mkca"}, "mkcsa"),
        ({"spline_basis": "coded"}, "as_coded"),
        ({"num_heads": (3, 6, 12)}, "four"),
        ({"num_heads": (5, 6, 12, 24)}, "num_heads"),
        ({"rotary": "rows"}, "rotary"),
        ({"channel_pooling": "max"}, "pooling"),
        ({"spline_basis": "as_coded", "grid_size": 4}, "odd grid_size"),
        ({"conv_init": "normal"}, "truncated_normal"),
        ({"discretization": "exact"}, "discretization"),
        ({"channels": 90}, "multiple of 4"),
    ],
)
def test_wrong_options_are_named(options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word), torch.device("meta"):
        create_model("vmkla_unet", **options)
