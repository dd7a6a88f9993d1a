from __future__ import annotations

import pytest
import torch
from torch import nn

from golden.checks_vmamba import check, fill
from golden.figures import figures
from kanscan.layers.patch import PatchEmbedding, PatchExpanding, PatchMerging


def normalized(row: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    """LayerNorm of one vector, term by term."""
    mean = sum(row) / len(row)
    variance = sum((value - mean) ** 2 for value in row) / len(row)
    return torch.stack(
        [(v - mean) / (variance + 1e-5) ** 0.5 * w + b for v, w, b in zip(row, norm.weight, norm.bias, strict=True)]
    )


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("patchmerging_8x6", lambda: PatchMerging(8)),
        ("patchmerging_5x7", lambda: PatchMerging(8)),
        ("patchexpand", lambda: PatchExpanding(16, 8)),
        ("finalexpand", lambda: PatchExpanding(16, 4, 4)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_released_figures(name: str, layer: object, dtype: torch.dtype) -> None:
    golden = figures("vmkla_unet", name)
    check(fill(layer(), golden, str), golden, str, dtype)


def test_embedding_is_one_product_a_patch() -> None:
    torch.manual_seed(0)
    layer = PatchEmbedding(2, 5).double()
    x = torch.randn(1, 2, 8, 12, dtype=torch.float64)
    y = layer(x)
    assert y.shape == (1, 2, 3, 5)
    for i in range(2):
        for j in range(3):
            patch = x[0, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            row = torch.stack([(patch * w).sum() for w in layer.proj.weight]) + layer.proj.bias
            torch.testing.assert_close(y[0, i, j], normalized(row, layer.norm))


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_merging_joins_four_pixels(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    layer = PatchMerging(3).double()
    x = torch.randn(1, *size, 3, dtype=torch.float64)
    y = layer(x)
    assert y.shape == (1, size[0] // 2, size[1] // 2, 6)
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            four = [x[0, 2 * i + di, 2 * j + dj] for dj in (0, 1) for di in (0, 1)]
            torch.testing.assert_close(y[0, i, j], layer.reduction.weight @ normalized(torch.cat(four), layer.norm))


@pytest.mark.parametrize("factor", [2, 4])
def test_expanding_makes_squares(factor: int) -> None:
    torch.manual_seed(2)
    layer = PatchExpanding(6, 3, factor).double()
    x = torch.randn(1, 2, 3, 6, dtype=torch.float64)
    y = layer(x)
    assert y.shape == (1, 2 * factor, 3 * factor, 3)
    for i in range(2 * factor):
        for j in range(3 * factor):
            wide = layer.expand.weight @ x[0, i // factor, j // factor]
            first = ((i % factor) * factor + j % factor) * 3
            torch.testing.assert_close(y[0, i, j], normalized(wide[first : first + 3], layer.norm))
