"""Heat maps of linear attention: rows that give the layer's own output, and a scan of the same size beside them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kanscan.explanation.linear_attention import attention_layers, attention_map, attention_rows, has_kan, scan_map
from kanscan.layers.attention import LinearAttention
from kanscan.layers.embedding import to_map, to_tokens
from kanscan.models import MODELS


@pytest.mark.parametrize(("rotary", "rotate_normalizer"), [("2d", False), ("columns", True), ("none", False)])
def test_the_rows_are_what_the_layer_multiplies_its_values_with(rotary: str, rotate_normalizer: bool) -> None:
    torch.manual_seed(0)
    attention = LinearAttention(8, 2, nn.Linear(8, 16), rotary=rotary, rotate_normalizer=rotate_normalizer)
    tokens, size = torch.randn(1, 15, 8), (3, 5)
    whole = attention(tokens, size)
    near = to_tokens(attention.position(to_map(tokens, size)))
    for query in (0, 7, 14):
        weights, values = attention_rows(attention, tokens, size, query)
        mixed = (weights[..., None] * values).sum(1).flatten()
        torch.testing.assert_close(mixed, (whole - near)[0, query], atol=1e-5, rtol=1e-4)


def network(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return MODELS["vmkla_unet"].tiny(**options).eval()


def test_attention_and_scan_are_looked_at_on_maps_of_one_size() -> None:
    model, x = network(), torch.rand(1, 3, 64, 96)
    found = attention_map(model, x, (0.3, 0.7))
    assert (found.layer, found.size, found.query) == ("decoder.stages.3.0.attention", (16, 24), (4, 16))
    assert has_kan(attention_layers(model)[found.layer])
    scan = scan_map(model, x, (0.3, 0.7), found.size)
    assert (scan.layer, scan.query) == ("encoder.stages.0.0.ss2d", (4, 16))
    for mixer in (found, scan):
        assert mixer.activity.shape == mixer.received.shape == (16, 24)
        assert float(mixer.received.sum()) == pytest.approx(1, abs=1e-4)
        assert 0 < mixer.distance < 1
    other = scan_map(MODELS["vm_unet"].tiny().eval(), x, (0.3, 0.7), found.size)
    assert other.layer == "decoder.stages.3.0.ss2d"
    with pytest.raises(ValueError, match="no 2D scan on a map of 3 x 3"):
        scan_map(model, x, (0.3, 0.7), (3, 3))


def test_what_has_no_heat_map_says_so() -> None:
    x = torch.rand(1, 3, 64, 64)
    with pytest.raises(ValueError, match="no linear attention"):
        attention_map(network(block="vss"), x, (0.5, 0.5))
    with pytest.raises(ValueError, match="mix places and channels"):
        attention_map(network(reread_attention_input=True), x, (0.5, 0.5))
    assert not has_kan(next(iter(attention_layers(network(block="mlcsa")).values())))
