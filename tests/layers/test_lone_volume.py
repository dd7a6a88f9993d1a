"""Convolutions of a lone volume: the same numbers by oneDNN, and only where torch would be slow."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from kanscan.layers import lone_volume
from kanscan.layers.lone_volume import quicken_lone_volumes


@pytest.fixture
def asked(monkeypatch):
    """Count the calls of oneDNN."""
    calls = []
    plain = torch.mkldnn_convolution

    def counted(*arguments):
        calls.append(arguments[0].shape)
        return plain(*arguments)

    monkeypatch.setattr(lone_volume.torch, "mkldnn_convolution", counted)
    return calls


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"kernel_size": 3, "padding": 1}, (8, 12, 10)),
        ({"kernel_size": (1, 3, 3), "padding": (0, 1, 1)}, (5, 9, 7)),
        ({"kernel_size": 3, "stride": 2, "padding": 1, "bias": False}, (7, 8, 9)),
        ({"kernel_size": 3, "dilation": 2, "padding": 2}, (9, 9, 9)),
        ({"kernel_size": 3, "groups": 4, "padding": 1}, (6, 6, 6)),
        ({"kernel_size": 1}, (4, 5, 6)),
        ({"kernel_size": 3, "padding": 0}, (3, 3, 3)),
    ],
)
def test_the_same_numbers(options, size, asked):
    torch.manual_seed(0)
    layer = nn.Conv3d(4, 8, **options)
    x = torch.randn(1, 4, *size)
    with torch.inference_mode():
        expected = layer(x)
        found = quicken_lone_volumes(nn.Sequential(deepcopy(layer)))(x)
    assert len(asked) == 1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_everything_else_stays_with_torch(asked):
    layer = quicken_lone_volumes(nn.Conv3d(4, 4, 3, padding=1))
    wide = quicken_lone_volumes(nn.Conv3d(4, 4, 5, padding=2))
    around = quicken_lone_volumes(nn.Conv3d(4, 4, 3, padding=1, padding_mode="circular"))
    same = quicken_lone_volumes(nn.Conv3d(4, 4, 3, padding="same"))
    with torch.inference_mode():
        layer(torch.randn(2, 4, 4, 4, 4))
        layer(torch.randn(1, 4, 81, 64, 2))
        for other in (wide, around, same):
            other(torch.randn(1, 4, 6, 6, 6))
        layer.double()(torch.randn(1, 4, 4, 4, 4, dtype=torch.float64))
    layer.float()
    x = torch.randn(1, 4, 4, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    assert not asked and x.grad is not None


def test_names_weights_copies_and_graphs_stay(asked):
    model = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.ConvTranspose3d(2, 1, 2, stride=2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quick = deepcopy(quicken_lone_volumes(model))
    assert list(quick.state_dict()) == list(before)
    nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.ConvTranspose3d(2, 1, 2, stride=2)).load_state_dict(
        quick.state_dict()
    )
    with torch.no_grad():
        program = torch.export.export(quick, (torch.randn(1, 1, 4, 4, 4),))
    assert any("conv3d" in str(node.target) for node in program.graph.nodes)
    assert not asked
