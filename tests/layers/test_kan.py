from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golden.figures import Figures, assert_close, figures, gradient_norms
from golden.recipe_u_kan import weights
from kanscan.layers.kan import KANLinear, TokenizedKANBlock
from kanscan.ops.bspline import bspline_basis

GOLDEN = {
    "kanlinear_default_7x5": {},
    "kanlinear_g3k2_5x3": {"grid_size": 3, "spline_order": 2, "grid_range": (-2.0, 2.0)},
    "kanlinear_noscaler_4x6": {"spline_scaler": False},
}


def golden_layer(golden: Figures, options: dict, dtype: torch.dtype) -> KANLinear:
    layer = KANLinear(golden["x"].shape[1], golden["y"].shape[1], **options)
    state = layer.state_dict()
    layer.load_state_dict(weights(state, golden.meta["weight_seed"]))
    return layer.to(dtype)


def check_layer(golden: Figures, options: dict, dtype: torch.dtype, tolerance: float) -> None:
    layer = golden_layer(golden, options, dtype)
    x = golden["x"].to(dtype).requires_grad_()
    y = layer(x)
    (y * golden["r"].to(dtype)).sum().backward()
    assert_close(y, golden["y"], tolerance)
    assert_close(x.grad, golden["gx"], tolerance * 10)
    assert_close(layer.base_weight.grad, golden["g_base"], tolerance * 10)
    assert_close(layer.spline_weight.grad, golden["g_spline"], tolerance * 10)
    if layer.spline_scaler is not None:
        assert_close(layer.spline_scaler.grad, golden["g_scaler"], tolerance * 10)
    basis = bspline_basis(golden["x"].to(dtype), *layer.grid)
    assert_close(basis, golden["basis"], tolerance)
    assert_close(layer.released_buffers()["grid"], golden["grid"], 1e-6)
    assert_close(layer.regularization_loss(), golden["reg_loss"], 1e-5)
    assert_close(layer.regularization_loss(2.0, 0.5), golden["reg_loss_a2_e05"], 1e-5)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_released_values_and_gradients(name: str, dtype: torch.dtype, tolerance: float) -> None:
    check_layer(figures("u_kan", name), GOLDEN[name], dtype, tolerance)


def test_every_full_vector(reference: Path) -> None:
    for path in sorted((reference / "golden" / "u_kan").glob("kanlinear_*.npz")):
        check_layer(Figures(path), GOLDEN.get(path.stem, {}), torch.float64, 1e-6)


def test_initialization() -> None:
    torch.manual_seed(3)
    layer = KANLinear(160, 160)
    bound = 160**-0.5
    for tensor in (layer.base_weight, layer.spline_scaler):
        assert tensor.abs().max() <= bound
        assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
        assert tensor.mean().item() == pytest.approx(0, abs=0.001)
    assert layer.spline_weight.std().item() == pytest.approx(0.0088, rel=0.03)
    assert 0.02 < layer.spline_weight.abs().max() < 0.035
    # The fresh splines pass through the noise at the inner knots exactly: there are fewer points than coefficients.
    points = layer.knots()[3:9]
    drawn = torch.einsum("pm,oim->pio", bspline_basis(points), layer.spline_weight)
    assert drawn.abs().max() <= 0.01 + 1e-5


def test_linear_twin_is_linear_and_has_other_parameters() -> None:
    kan = TokenizedKANBlock(8, ("kan", "linear", "kan"))
    assert isinstance(kan.layers[1], torch.nn.Linear)
    assert sum(p.numel() for p in kan.layers[0].parameters()) == 10 * 64
    assert sum(p.numel() for p in kan.layers[1].parameters()) == 72
    x = torch.randn(2, 12, 8)
    assert kan(x, (3, 4)).shape == x.shape


def test_block_is_the_written_formula() -> None:
    torch.manual_seed(0)
    block = TokenizedKANBlock(4, ("kan", "linear")).double().eval()
    x = torch.randn(1, 6, 4, dtype=torch.float64)
    z = torch.nn.functional.layer_norm(x, (4,), block.norm.weight, block.norm.bias)
    for layer, conv in zip(block.layers, block.convs, strict=True):
        z = layer(z)
        image = z.reshape(1, 2, 3, 4).permute(0, 3, 1, 2)
        image = torch.relu(conv.norm(conv.conv(image)))
        z = image.permute(0, 2, 3, 1).reshape(1, 6, 4)
    assert_close(block(x, (2, 3)), x + z, 1e-12)


def test_drop_path_acts_only_in_training() -> None:
    block = TokenizedKANBlock(4, ("linear",), drop_path=0.5)
    x = torch.randn(64, 6, 4)
    block.train()
    kept = (block(x, (2, 3)) != x).flatten(1).any(1)
    assert 10 < kept.sum() < 54
    block.eval()
    assert ((block(x, (2, 3)) - x).abs().amax((1, 2)) > 0).sum() > 60


@pytest.mark.parametrize("kinds", [(), ("kan", "mlp"), "kan"])
def test_wrong_layer_kinds_are_named(kinds: object) -> None:
    with pytest.raises(ValueError, match="layer_kinds"):
        TokenizedKANBlock(4, kinds)


def test_every_parameter_gets_a_gradient() -> None:
    block = TokenizedKANBlock(6)
    block(torch.randn(2, 4, 6), (2, 2)).square().sum().backward()
    assert all(norm > 0 for name, norm in gradient_norms(block).items() if not name.endswith("conv.bias"))
