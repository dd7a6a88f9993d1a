from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from golden.checks_residual import check_layer, renamed
from golden.figures import figures
from kanscan.layers.residual import (
    SLOPE,
    ConvNormAct,
    EntryBlock,
    InterpolateUp,
    ResidualBlock,
    init_residual,
    residual_stage,
    transposed_up,
)


def test_released_entry_block() -> None:
    block = EntryBlock(4, 6, (3, 3), stride=(2, 2))
    check_layer(block, figures("lkm_unet", "umamba_basicresblock_s2"), renamed([(r"^shortcut\.", "conv3.")]))


@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), (2, 2)), ((1, 3, 3), (1, 2, 2)), ((5, 3), (1, 1))])
def test_residual_block_against_its_formula(kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    dims = len(kernel)
    conv, pool = (F.conv2d, F.avg_pool2d) if dims == 2 else (F.conv3d, F.avg_pool3d)
    block = ResidualBlock(3, 5, kernel, stride=stride).double()
    x = torch.randn(2, 3, *(8,) * dims, dtype=torch.float64)

    def branch(x: torch.Tensor, layer: ConvNormAct, stride: tuple[int, ...]) -> torch.Tensor:
        kernel = layer.conv.kernel_size
        y = conv(x, layer.conv.weight, layer.conv.bias, stride, [k // 2 for k in kernel])
        return F.instance_norm(y, weight=layer.norm.weight, bias=layer.norm.bias)

    one = (1,) * dims
    shortcut = branch(pool(x, stride) if max(stride) > 1 else x, block.shortcut[-1], one)
    assert block.shortcut[-1].conv.bias is None
    y = branch(F.leaky_relu(branch(x, block.conv1, stride), SLOPE), block.conv2, one) + shortcut
    torch.testing.assert_close(block(x), F.leaky_relu(y, SLOPE))


def test_equal_widths_leave_the_shortcut_alone() -> None:
    assert len(ResidualBlock(4, 4, (3, 3)).shortcut) == 0
    assert len(ResidualBlock(4, 4, (3, 3), stride=(2, 2)).shortcut) == 1


@pytest.mark.parametrize("enlarge", [InterpolateUp, transposed_up])
@pytest.mark.parametrize("stride", [(2, 2), (1, 2, 2)])
def test_enlarging_multiplies_the_size(enlarge: type, stride: tuple[int, ...]) -> None:
    size = (3, 4, 5)[: len(stride)]
    y = enlarge(6, 4, stride)(torch.zeros(2, 6, *size))
    assert y.shape == (2, 4, *(s * m for s, m in zip(size, stride, strict=True)))


def test_interpolation_copies_pixels() -> None:
    layer = InterpolateUp(2, 3, (2, 3))
    x = torch.randn(1, 2, 2, 2)
    expected = layer.conv(x).repeat_interleave(2, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("kind", "first"), [("resnet_d", ResidualBlock), ("entry", EntryBlock)])
def test_a_stage_opens_with_its_kind(kind: str, first: type) -> None:
    stage = residual_stage(kind, 3, 6, (3, 3), stride=(2, 2), depth=3)
    assert [type(block) for block in stage] == [first, ResidualBlock, ResidualBlock]
    assert stage(torch.zeros(1, 3, 8, 12)).shape == (1, 6, 4, 6)


def test_initialization() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(ResidualBlock(64, 64, (3, 3)), transposed_up(64, 64, (2, 2)), torch.nn.Linear(8, 8))
    linear = network[2].weight.clone()
    init_residual(network, zero_init=True)
    block = network[0]
    gain = math.sqrt(2 / (1 + SLOPE**2))
    assert block.conv1.conv.weight.std().item() == pytest.approx(gain / math.sqrt(64 * 9), rel=0.02)
    assert network[1].weight.std().item() == pytest.approx(gain / math.sqrt(64 * 4), rel=0.02)
    assert not block.conv1.conv.bias.any()
    assert block.conv1.norm.weight.eq(1).all()
    assert not block.conv2.norm.weight.any()
    assert torch.equal(network[2].weight, linear)
    init_residual(ResidualBlock(4, 4, (3, 3)), zero_init=False)
    assert ResidualBlock(4, 4, (3, 3)).conv2.norm.weight.eq(1).all()
