from __future__ import annotations

import itertools

import pytest
import torch

from kanscan import create_model, released_state_dict
from kanscan.complexity import num_parameters
from kanscan.models.nnformer import NNFormer, WindowAttention, WindowBlock

#: Names and shapes in the authors' published code for its Synapse network, one channel in and 14 classes out.
PUBLISHED = {
    "model_down.patch_embed.proj1.conv1.weight": (96, 1, 3, 3, 3),
    "model_down.patch_embed.proj1.norm2.weight": (96,),
    "model_down.patch_embed.proj2.conv2.weight": (192, 192, 3, 3, 3),
    "model_down.patch_embed.norm.weight": (192,),
    "model_down.layers.0.blocks.1.attn.qkv.weight": (576, 192),
    "model_down.layers.0.blocks.1.attn.relative_position_bias_table": (343, 6),
    "model_down.layers.2.blocks.0.attn.relative_position_bias_table": (3375, 24),
    "model_down.layers.2.blocks.0.attn.relative_position_index": (512, 512),
    "model_down.layers.1.downsample.reduction.weight": (768, 384, 3, 3, 3),
    "model_down.layers.1.downsample.norm.weight": (384,),
    "model_down.layers.3.blocks.1.mlp.fc1.weight": (6144, 1536),
    "model_down.norm3.weight": (1536,),
    "decoder.layers.0.blocks.0.attn.kv.weight": (384, 192),
    "decoder.layers.0.blocks.1.attn.qkv.weight": (576, 192),
    "decoder.layers.2.blocks.0.attn.proj.weight": (768, 768),
    "decoder.layers.2.Upsample.up.weight": (1536, 768, 2, 2, 2),
    "decoder.layers.2.Upsample.norm.weight": (1536,),
    "final.0.up.weight": (192, 14, 2, 4, 4),
    "final.2.up.weight": (768, 14, 2, 4, 4),
}


def synapse(**options: object) -> NNFormer:
    with torch.device("meta"):
        model = create_model("nnformer", preset="synapse", in_channels=1, out_channels=14, **options)
    assert isinstance(model, NNFormer)
    return model


def test_names_and_shapes_are_those_of_the_published_code() -> None:
    state = released_state_dict(synapse())
    assert {name: tuple(state[name].shape) for name in PUBLISHED} == PUBLISHED
    # Three norms of the embedding and the rest, counted there: 4 convolutions, 14 blocks, 3 + 3 resamplings, 3 heads.
    assert len(state) == 2 * (4 + 4) + 14 * 14 + 2 * 2 * 6 + 2 * 4 + 2 * 3


def test_parameters_are_those_that_others_count() -> None:
    """UNETR++ (arXiv 2212.04497) prints 150.5 M for nnFormer on Synapse."""
    count = num_parameters(synapse())
    assert count == 150_054_210
    assert count / 1e6 == pytest.approx(150.5, rel=0.005)
    without = num_parameters(synapse(deep_supervision=False))
    assert count - without == (384 + 768) * 14 * 2 * 4 * 4 + 2 * 14


def test_maps_of_the_published_crop_are_attended_to_globally_at_the_lower_stages() -> None:
    model = synapse()
    sizes = [tuple(s // p // 2**level for s, p in zip((64, 128, 128), (2, 4, 4), strict=True)) for level in range(4)]
    windows = [stage[0].window for stage in model.encoder]
    assert [size == window for size, window in zip(sizes, windows, strict=True)] == [False, False, True, True]
    assert [tuple(y.shape[2:]) for y in model.side_outputs(torch.empty(1, 1, 64, 128, 128, device="meta"))] == [
        (64, 128, 128),
        (32, 64, 64),
        (16, 32, 32),
    ]


def literally(block: WindowBlock, x: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
    """Attention pixel by pixel: each looks at those of its own shifted window that are its neighbors in the map."""
    attention, (size, channels) = block.attention, (x.shape[1:-1], x.shape[-1])
    window = [min(w, s) for w, s in zip(block.window, size, strict=True)]
    shift = [w // 2 if block.shifted and s > w else 0 for w, s in zip(window, size, strict=True)]
    source = block.norm1(x if skip is None else skip)
    parts = attention.project_in(source).split(channels, dim=-1)
    query, key, value = parts if skip is None else (block.norm1(x), *parts)
    pixels = list(itertools.product(*map(range, size)))

    def place(p: tuple[int, ...]) -> list[tuple[int, bool, int]]:
        """Window, whether it was carried over the border, and the pixel's place inside, along each axis."""
        whole = [-(-s // w) * w for s, w in zip(size, window, strict=True)]
        at = [(n - s) % m for n, s, m in zip(p, shift, whole, strict=True)]
        return [(a // w, n < s, a % w) for a, w, n, s in zip(at, window, p, shift, strict=True)]

    out = torch.empty_like(x)
    depth = channels // attention.num_heads
    for p in pixels:
        here = place(p)
        near = [k for k in pixels if [n[:2] for n in place(k)] == [n[:2] for n in here]]
        rows = []
        for k in near:
            row = 0
            for (_, _, a), (_, _, b), w in zip(here, place(k), block.window, strict=True):
                row = row * (2 * w - 1) + a - b + w - 1
            rows.append(row)
        heads = []
        for head in range(attention.num_heads):
            part = slice(head * depth, (head + 1) * depth)
            keys = torch.stack([key[0][k][part] for k in near])
            scores = keys @ query[0][p][part] / depth**0.5 + attention.position_bias[rows, head]
            heads.append(scores.softmax(0) @ torch.stack([value[0][k][part] for k in near]))
        out[0][p] = attention.project_out(torch.cat(heads))
    x = x + out if skip is None else x + skip + out
    return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("skipped", [False, True])
@pytest.mark.parametrize("size", [(6, 9), (4, 8), (7, 3), (2, 3), (4, 3, 5)])
def test_a_block_attends_as_it_is_defined(size: tuple[int, ...], shifted: bool, skipped: bool) -> None:
    """Windows that divide the map, that do not, that are larger than it; in 2D and 3D."""
    torch.manual_seed(3)
    block = WindowBlock(8, (2, 3, 2)[: len(size)], 2, shifted=shifted, skip=skipped).double()
    torch.nn.init.normal_(block.attention.position_bias)
    x, skip = torch.randn(2, 1, *size, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = literally(block, x, skip if skipped else None)
        torch.testing.assert_close(block(x, skip if skipped else None), expected)


def test_padding_and_batch_change_nothing() -> None:
    torch.manual_seed(0)
    model = NNFormer.tiny(in_channels=1).eval()
    x = torch.randn(3, 1, 40, 56)
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.cat([model(one[None]) for one in x]), rtol=1e-4, atol=1e-5)


def test_the_published_index_lets_offsets_share_a_bias() -> None:
    window, size = (4, 4, 4), 7**3
    ours = WindowAttention(8, window, 2)._index(window).unique()
    theirs = WindowAttention(8, window, 2, position_index="released")._index(window).unique()
    assert len(ours) == size
    assert (len(theirs), int(theirs.max())) == (115, 6 * 11 + 6 * 7 + 6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": 10, "num_heads": 3}, "multiple of num_heads=3"),
        ({"patch_size": (3, 4)}, "1 or even"),
        ({"patch_size": (2, 4, 4)}, "2 of them"),
        ({"windows": (4, 4)}, "each of the 4 stages"),
        ({"depths": (2,)}, "two stages"),
        ({"spatial_dims": 4}, "2 or 3"),
        ({"position_index": "release"}, "released"),
        ({"position_index": "released"}, "no effect"),
    ],
)
def test_illegal_options_are_refused_in_a_sentence(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NNFormer(**options)
