from __future__ import annotations

import pytest
import torch

from golden.checks_vmamba import check, fill
from golden.figures import assert_close, figures
from kanscan.layers import as_coded_spline
from kanscan.layers.as_coded_spline import AsCodedKANLinear, as_coded_basis, as_coded_knots
from kanscan.layers.kan import KANLinear
from kanscan.ops.bspline import bspline_basis

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def basis_by_recursion(x: float, i: int, degree: int, t: list[float]) -> float:
    """The recursion as the released code computes it, one number at a time."""
    if degree == 0:
        return 1.0 if t[i] <= x < t[i + 1] else 0.0
    first = (x - t[i]) / t[i + degree] - t[i] * basis_by_recursion(x, i, degree - 1, t)
    share = (t[i + degree + 1] - x) / (t[i + degree + 1] - t[i + 1])
    return first + share * basis_by_recursion(x, i + 1, degree - 1, t)


@pytest.mark.parametrize(("grid_size", "order"), [(5, 3), (3, 2), (1, 1), (5, 0)])
def test_recursion_number_by_number(grid_size: int, order: int) -> None:
    x = torch.linspace(-3, 3, 41, dtype=torch.float64) + 0.0137
    knots = as_coded_knots(grid_size, order, (-1.0, 1.0)).double().tolist()
    expected = [[basis_by_recursion(v, i, order, knots) for i in range(grid_size + order)] for v in x.tolist()]
    torch.testing.assert_close(as_coded_basis(x, grid_size, order), torch.tensor(expected, dtype=torch.float64))


def test_released_bases_and_textbook_ones() -> None:
    golden = figures("vmkla_unet", "bspline_bases")
    assert_close(as_coded_basis(golden["x"]), golden["as_coded"], 1e-4)
    assert_close(bspline_basis(golden["x"]), golden["textbook"], 1e-6)


def test_these_are_no_splines() -> None:
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    basis = as_coded_basis(x)
    assert basis.max() > 190 and basis.min() < -150
    assert (basis.sum(-1) - 1).abs().max() > 1
    near = as_coded_basis(torch.tensor([0.2 - 1e-6, 0.2 + 1e-6], dtype=torch.float64))
    assert (near[0] - near[1]).abs().max() > 0.2


@DTYPES
def test_released_layers(dtype: torch.dtype) -> None:
    golden = figures("vmkla_unet", "kanlinear_8_12_as_coded")
    check(fill(AsCodedKANLinear(8, 12), golden, str), golden, str, dtype)
    golden = figures("vmkla_unet", "kan_8_64_16_as_coded")
    two = torch.nn.Sequential(AsCodedKANLinear(8, 64), AsCodedKANLinear(64, 16))
    check(fill(two, golden, "layers.{}".format), golden, "layers.{}".format, dtype)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = AsCodedKANLinear(4, 3).double()
    x = torch.randn(2, 50, 4, dtype=torch.float64)
    whole = layer(x)
    monkeypatch.setattr(as_coded_spline, "BLOCK_NUMBERS", 1)
    torch.testing.assert_close(layer(x), whole)


def test_fresh_functions_pass_through_the_noise() -> None:
    """At the knots inside the grid the fresh functions stay within the amplitude of the noise they were fitted to."""
    torch.manual_seed(0)
    layer = AsCodedKANLinear(6, 5, noise_scale=0.1)
    basis = as_coded_basis(layer.knots()[3:9])
    curves = torch.einsum("pm,oim->poi", basis, layer.spline_weight)
    assert 0.005 < curves.abs().max() <= 0.01 + 1e-4
    assert layer.base_weight.abs().max() <= 6**-0.5
    assert {n: p.shape for n, p in layer.named_parameters()} == {
        n: p.shape for n, p in KANLinear(6, 5).named_parameters()
    }


def test_autocast_keeps_full_precision() -> None:
    torch.manual_seed(0)
    layer, x = AsCodedKANLinear(8, 4), torch.randn(16, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = layer(x)
    torch.testing.assert_close(rough.float(), layer(x))


def test_a_knot_at_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="odd grid_size"):
        AsCodedKANLinear(2, 2, grid_size=4)
