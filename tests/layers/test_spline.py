"""One list of spline layers: what the explanation observes trains at the rate of KAN layers, in every network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kanscan.explanation.splines import observe_splines
from kanscan.layers.as_coded_spline import AsCodedKANLinear
from kanscan.layers.kan import KANLinear
from kanscan.layers.kan_conv import KAConv, KANConv, SharedKANLinear
from kanscan.layers.spline import SplineLayer, spline_layers
from kanscan.models import MODELS, create_model
from kanscan.training.optim import parameter_groups

PRESETS = [(name, preset) for name, cls in MODELS.items() for preset in (None, *cls.presets)]
#: Spline layers of the networks that have some; all others have none.
COUNTS = {("all_ukan", None): 43, ("vmkla_unet", "release"): 14, ("ukan", "base"): 12}

LAYERS = {
    "linear": (lambda: KANLinear(4, 6), (5, 4)),
    "as coded": (lambda: AsCodedKANLinear(4, 6), (5, 4)),
    "edges": (lambda: KANConv(4, 6, (2, 3), groups=2), (2, 4, 5, 6)),
    "shared": (lambda: SharedKANLinear(4, 6), (5, 4)),
    "shared window": (lambda: KAConv(4, 6, (2, 3), groups=2), (2, 4, 5, 6)),
}


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_what_is_observed_is_in_the_group_of_kan_layers(name: str, preset: str | None) -> None:
    with torch.device("meta"):
        model = create_model(name, preset=preset)
    layers = spline_layers(model)
    assert len(layers) == COUNTS.get((name, preset), len(layers))
    groups = parameter_groups(model, lr=1e-4, kan_lr=1e-2)
    kan = {id(p) for group in groups if group["name"] == "kan" for p in group["params"]}
    assert kan == {id(p) for layer in layers.values() for p in layer.parameters()}
    # A layer with coefficients of splines that does not say so would be trained and explained as an ordinary one.
    holders = [m for m in model.modules() if "spline_weight" in dict(m.named_parameters(recurse=False))]
    assert all(isinstance(holder, SplineLayer) for holder in holders)
    assert len(holders) == len(layers)


@pytest.mark.parametrize("kind", LAYERS)
def test_functions_give_the_layer_and_can_be_taken_out(kind: str) -> None:
    """The coefficients and bases that a layer names are those it computes with."""
    build, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer, x = build().double(), torch.randn(shape, dtype=torch.float64)
    (seen,) = observe_splines(layer, [x])
    assert torch.equal(seen.coefficients, layer.coefficients().detach().flatten(1, 2))
    assert seen.num_inputs == layer.sources(x).shape[0]
    kept = torch.ones(seen.importance.shape, dtype=torch.bool)
    before = layer(x)
    layer.keep(kept)
    assert torch.equal(layer(x), before)
    kept[1] = False
    layer.keep(kept)
    after = layer(x)
    axis = 1 if layer.taps else -1
    rest = torch.arange(6) != 1
    assert torch.equal(after.movedim(axis, 0)[rest], before.movedim(axis, 0)[rest])
    if isinstance(layer, KAConv | SharedKANLinear):
        return
    assert not after.movedim(axis, 0)[1].any()


@pytest.mark.parametrize("kind", ["shared", "shared window"])
def test_sums_over_windows_and_base_give_the_layer(kind: str) -> None:
    build, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer, x = build().double(), torch.randn(shape, dtype=torch.float64)
    sums, base = layer.window_sums(x)
    weights = layer.spline_weight.unflatten(0, (layer.groups, -1))
    y = base + torch.einsum("ngm,gom->ngo", sums, weights).flatten(1)
    whole = layer(x)
    expected = whole.movedim(1, -1).flatten(0, -2) if layer.taps else whole
    torch.testing.assert_close(y, expected)


def test_a_layer_of_a_newcomer_is_found_by_its_base() -> None:
    class Mine(KANLinear):
        pass

    model = nn.Sequential(nn.Linear(3, 3), Mine(3, 2))
    assert list(spline_layers(model)) == ["1"]
    assert [g["name"] for g in parameter_groups(model, lr=1e-4, kan_lr=1e-2)] == ["other", "kan"]


SPLINES = [kind for kind in LAYERS if kind != "as coded"]


@pytest.mark.parametrize("kind", SPLINES)
def test_a_refined_layer_is_the_same_function_inside_the_range(kind: str) -> None:
    build, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer = build().double()
    with torch.no_grad():
        layer.spline_weight.normal_()
    x = torch.rand(shape, dtype=torch.float64) * 1.98 - 0.99
    y = layer(x)

    def error(grid_size: int) -> float:
        other = layer.refined(grid_size)
        assert other.grid.grid_size == grid_size
        assert other.spline_weight.shape[-1] == grid_size + 3
        return float((other(x) - y).norm() / y.norm())

    # Knots are rounded to float32.
    assert error(10) < 1e-5
    assert error(40) < 1e-5
    assert error(7) < 0.3
    assert error(48) < error(24) < error(12)
    assert layer.grid.grid_size == 5
    fewer = layer.refined(2)
    assert all(p.isfinite().all() for p in fewer.parameters())


@pytest.mark.parametrize("kind", SPLINES)
def test_a_grid_moves_to_the_inputs(kind: str) -> None:
    build, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer = build().double()
    x = torch.rand(shape, dtype=torch.float64) * 0.5 + 0.2
    moved = layer.updated_grid(x, grid_size=20)
    assert moved.grid.grid_range == (float(x.min()), float(x.max()))
    # What is padded with zeros lies outside the new range, so windows that overhang are left out by having none.
    torch.testing.assert_close(moved(x), layer(x), rtol=1e-3, atol=1e-3)
    moved(x).sum().backward()
    assert all(p.grad is not None for p in moved.parameters())
    with pytest.raises(ValueError, match="finite and differ, got inputs from 1 to 1"):
        layer.updated_grid(torch.ones(shape))
    with pytest.raises(ValueError, match="nan"):
        layer.updated_grid(torch.full(shape, float("nan")))


def test_functions_that_are_no_splines_have_no_other_grid() -> None:
    with pytest.raises(ValueError, match="AsCodedKANLinear learns no B-splines"):
        AsCodedKANLinear(3, 2).refined(7)
    with pytest.raises(ValueError, match="grid_size must be at least 1"):
        KANLinear(3, 2).refined(0)


@pytest.mark.parametrize("kind", LAYERS)
def test_regularization_is_finite_and_falls_with_the_functions(kind: str) -> None:
    layer = LAYERS[kind][0]()
    with torch.no_grad():
        layer.spline_weight.normal_()
    full = layer.regularization_loss()
    kept = torch.zeros(layer.coefficients().flatten(1, 2).shape[:2], dtype=torch.bool)
    kept[0] = True
    layer.keep(kept)
    assert layer.regularization_loss() < full
    layer.keep(torch.zeros_like(kept))
    nothing = layer.regularization_loss()
    nothing.backward()
    assert nothing == 0
    assert layer.spline_weight.grad.isfinite().all()
