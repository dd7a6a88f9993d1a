from __future__ import annotations

import pytest
import torch
from torch import nn

from kanscan.explanation import moments
from kanscan.explanation.formulas import fit_formula
from kanscan.explanation.pruning import node_importance, prune, prune_curve, relative_importance
from kanscan.explanation.splines import observe_splines
from kanscan.layers.as_coded_spline import AsCodedKANLinear
from kanscan.layers.kan import KANLinear
from kanscan.layers.kan_conv import KAConv, KANConv, SharedKANLinear
from kanscan.models import MODELS


def layer(width: int = 3, outputs: int = 2) -> KANLinear:
    torch.manual_seed(0)
    return KANLinear(width, outputs, noise_scale=2.0)


def test_importance_is_the_deviation_of_the_edge_over_the_data() -> None:
    kan = layer()
    x = torch.randn(2, 50, 3) * 0.7
    (seen,) = observe_splines(nn.Sequential(kan), x.split(1))
    flat = x.reshape(-1, 3).double()
    for o in range(2):
        for i in range(3):
            y = seen.curve(o, i, flat[:, i])
            assert float(seen.importance[o, i]) == pytest.approx(float(y.std(unbiased=False)), rel=1e-6)
            line = torch.stack([flat[:, i], torch.ones(len(flat), dtype=torch.float64)], 1)
            rest = y - line @ torch.linalg.lstsq(line, y[:, None]).solution[:, 0]
            bent = float(rest.square().mean() / y.var(unbiased=False))
            assert float(seen.nonlinearity[o, i]) == pytest.approx(bent, abs=1e-6)


def test_the_curves_of_an_output_add_up_to_it() -> None:
    kan = layer()
    x = torch.linspace(-1.5, 1.5, 3)[None]
    (seen,) = observe_splines(kan, [x])
    total = sum(seen.curve(1, i, x[0, i]) for i in range(3))
    assert float(total) == pytest.approx(float(kan(x).detach()[0, 1]), abs=1e-5)


def test_inputs_outside_the_grid_are_counted() -> None:
    x = torch.tensor([[0.0, 1.5, 9.0], [0.5, -0.2, -9.0]])
    (seen,) = observe_splines(layer(), [x])
    assert seen.share_outside.tolist() == [0.0, 0.5, 1.0]
    assert seen.share_beyond.tolist() == [0.0, 0.0, 1.0]
    assert seen.histogram.sum(1).tolist() == [2.0, 2.0, 2.0]
    assert seen.num_inputs == 2


def test_a_straight_layer_has_no_nonlinearity() -> None:
    kan = layer(1, 1)
    x = torch.linspace(-0.9, 0.9, 200)[:, None]
    with torch.no_grad():
        kan.base_weight.zero_()
        kan.spline_scaler.fill_(1)
        kan.spline_weight.copy_(kan.fit(x[:, 0], (2 * x)[..., None]))
    (seen,) = observe_splines(kan, [x])
    assert seen.edge_nonlinearity < 1e-6
    formula = fit_formula(seen, 0, 0)
    assert formula.shape == "line"
    assert formula.a == pytest.approx(2, abs=1e-3)
    assert formula.r_squared > 0.9999


@pytest.mark.parametrize(
    ("shape", "function", "text", "latex"),
    [
        ("tanh", lambda x: torch.tanh(3 * x), "tanh(3*x)", r"\tanh\left(3\,x\right)"),
        ("square", lambda x: (x - 0.2) ** 2, "(x - 0.2)^2", r"\left(x - 0.2\right)^2"),
        ("sin", lambda x: torch.sin(4 * x), "sin(4*x)", r"\sin\left(4\,x\right)"),
    ],
)
def test_a_known_function_is_found(shape: str, function: object, text: str, latex: str) -> None:
    torch.manual_seed(0)
    kan = KANLinear(1, 1, grid_size=24, spline_scaler=False)
    points = torch.linspace(-0.99, 0.99, 200)
    with torch.no_grad():
        kan.base_weight.zero_()
        kan.spline_weight.copy_(kan.fit(points, function(points)[:, None, None]))
    (seen,) = observe_splines(kan, [points[:, None]])
    formula = fit_formula(seen, 0, 0)
    assert formula.shape == shape
    assert formula.r_squared > 0.995
    x = torch.tensor([-0.5, 0.0, 0.7], dtype=torch.float64)
    torch.testing.assert_close(formula(x), function(x), atol=0.03, rtol=0.03)
    assert formula.text == text
    assert formula.latex == latex


def test_no_kan_layers_and_no_images_are_named() -> None:
    with pytest.raises(ValueError, match="no KAN layers"):
        observe_splines(nn.Linear(2, 2), [torch.zeros(1, 2)])
    with pytest.raises(ValueError, match="no images"):
        observe_splines(layer(), [])


def test_pruning_removes_the_least_important_edges_first_and_copies() -> None:
    model = nn.Sequential(layer(4, 4), layer(4, 3))
    x = torch.randn(100, 4)
    seen = observe_splines(model, [x])
    before = model(x)
    half = prune(model, seen, 0.5)
    assert torch.equal(model(x), before)
    removed = sum(int((m.base_weight == 0).sum()) for m in half)
    assert removed == 14
    kept = torch.cat([relative_importance(s)[m.base_weight != 0] for s, m in zip(seen, half, strict=True)])
    gone = torch.cat([relative_importance(s)[m.base_weight == 0] for s, m in zip(seen, half, strict=True)])
    assert kept.min() >= gone.max()
    assert torch.equal(prune(model, seen, 0.0)(x), before)
    assert prune(model, seen, 1.0)(x).abs().max() == 0
    with pytest.raises(ValueError, match="between 0 and 1"):
        prune(model, seen, 1.2)


def test_prune_curve_counts_edges() -> None:
    model = layer(4, 4)
    seen = observe_splines(model, [torch.randn(50, 4)])
    curve = prune_curve(model, seen, (0.0, 0.25, 1.0), lambda m: float((m.base_weight != 0).sum()))
    assert [(p.num_edges, p.score) for p in curve] == [(16, 16.0), (12, 12.0), (0, 0.0)]
    assert node_importance(seen)[""].shape == (4,)


def seen_by_hand(kan: nn.Module, values: torch.Tensor, output: int, place: int) -> tuple[float, float]:
    """Deviation of a function over values, and the share of its variance that is not straight."""
    (seen,) = observe_splines(kan, [values])
    source = int(seen.sources[output, place])
    rows = values.transpose(0, 1).flatten(1).double()[source]
    y = seen.curve(output, place, rows)
    line = torch.stack([rows, torch.ones_like(rows)], 1)
    rest = y - line @ torch.linalg.lstsq(line, y[:, None]).solution[:, 0]
    return float(y.std(unbiased=False)), float(rest.square().mean() / y.var(unbiased=False))


def test_edges_of_a_convolution_belong_to_a_channel_and_a_tap() -> None:
    torch.manual_seed(0)
    conv = KANConv(4, 6, (2, 3), groups=2, noise_scale=2.0)
    x = torch.randn(3, 4, 7, 9)
    (seen,) = observe_splines(conv, [x])
    assert seen.importance.shape == (6, 2 * 6)
    assert seen.sources[0].tolist() == [0] * 6 + [1] * 6
    assert seen.sources[3].tolist() == [2] * 6 + [3] * 6
    assert seen.reads(4, 7) == "3 (0, 1)"
    for output, place in ((0, 0), (4, 7), (5, 11)):
        deviation, bent = seen_by_hand(conv, x, output, place)
        assert float(seen.importance[output, place]) == pytest.approx(deviation, rel=1e-6)
        assert float(seen.nonlinearity[output, place]) == pytest.approx(bent, abs=1e-6)
    # The edges of an output, each at its own tap, add up to it.
    windows = torch.nn.functional.unfold(x[:1, 2:], (2, 3))[0]
    total = sum(seen.curve(4, i, windows[i]) for i in range(12))
    torch.testing.assert_close(total.float(), conv(x[:1])[0, 4].detach().flatten(), atol=1e-4, rtol=1e-4)


def shared_layer(kind: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if kind == "linear":
        return SharedKANLinear(5, 3, input_weight=True, noise_scale=9.0), torch.randn(4, 20, 5) * 0.7
    groups = {"conv": 1, "groups": 2, "depthwise": 4}[kind]
    layer = KAConv(4, 4, 3, padding=1, stride=2, groups=groups, input_weight=True, noise_scale=9.0)
    return layer, torch.randn(4, 4, 8, 10) * 0.7


@pytest.mark.parametrize("kind", ["linear", "conv", "groups", "depthwise"])
def test_a_shared_spline_is_as_large_as_what_it_adds_to_its_output(kind: str) -> None:
    layer, x = shared_layer(kind)
    with torch.no_grad():
        layer.input_weight.uniform_(0.5, 1.5)
    (seen,) = observe_splines(nn.Sequential(layer), x.split(2))
    assert seen.shared
    assert seen.importance.shape == (layer.spline_weight.shape[0], 1)
    whole = layer(x).detach()
    with torch.no_grad():
        layer.spline_weight.zero_()
    silu = layer(x).detach()
    axes = (0, 1) if kind == "linear" else (0, 2, 3)
    torch.testing.assert_close(
        seen.importance[:, 0].float(), (whole - silu).std(axes, unbiased=False), rtol=1e-3, atol=1e-6
    )
    torch.testing.assert_close(seen.other_variance.float(), silu.var(axes, unbiased=False), rtol=1e-3, atol=1e-6)
    expected = seen.importance.square() / (seen.importance.square() + seen.other_variance[:, None])
    torch.testing.assert_close(relative_importance(seen), expected)


def test_a_shared_spline_meets_the_inputs_of_its_group() -> None:
    layer, x = shared_layer("groups")
    (seen,) = observe_splines(layer, [x])
    assert seen.sources[:, 0].tolist() == [0, 0, 1, 1]
    outside = [float((x[:, part].abs() > 1).double().mean()) for part in (slice(0, 2), slice(2, 4))]
    assert seen.share_outside.tolist() == pytest.approx(outside)
    assert seen.reads(3, 0) == "group 1"
    # Without SiLU: at 3 every spline is zero, and so is the function.
    assert float(seen.curve(0, 0, torch.tensor(3.0))) == 0
    assert fit_formula(seen, 2, 0).edge == (2, 0)


def test_functions_as_coded_are_evaluated_as_coded_and_never_end() -> None:
    torch.manual_seed(0)
    kan = AsCodedKANLinear(3, 2)
    x = torch.tensor([[0.3, -0.7, 5.0]])
    (seen,) = observe_splines(kan, [x])
    assert seen.share_outside.tolist() == [0, 0, 1]
    assert seen.share_beyond.tolist() == [0, 0, 0]
    total = sum(seen.curve(1, i, x[0, i]) for i in range(3))
    assert float(total) == pytest.approx(float(kan(x).detach()[0, 1]), rel=1e-4)


def test_pruning_takes_shared_splines_as_a_whole_and_leaves_silu() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(KAConv(3, 4, 3, padding=1, noise_scale=9.0), KANConv(4, 2, 1, noise_scale=9.0))
    x = torch.randn(2, 3, 8, 8)
    seen = observe_splines(model, [x])
    assert sum(layer.importance.numel() for layer in seen) == 4 + 8
    bare = prune(model, seen, 1.0)
    assert bare[0].spline_weight.abs().max() == 0
    assert torch.equal(bare[0].base_weight, model[0].base_weight)
    assert bare[1].base_weight.abs().max() == 0
    half = prune(model, seen, 0.5)
    gone = int((half[0].spline_weight == 0).all(1).sum()) + int((half[1].base_weight == 0).sum())
    assert gone == 6


def test_many_values_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "MOST_VALUES", 100)
    x = torch.rand(5, 100, 3)
    (seen,) = observe_splines(layer(), [x])
    assert seen.num_inputs == 34
    assert seen.histogram.sum(1).tolist() == [34.0] * 3


@pytest.mark.parametrize(
    ("name", "options", "layers"),
    [
        ("all_ukan", {}, 43),
        ("all_ukan", {"token_layers": "kan", "convolutions": "kan", "spline_gradient": True}, 43),
        ("all_ukan", {"token_layers": "kan", "convolutions": "plain"}, 12),
        ("km_unet", {}, 12),
        ("vmkla_unet", {"spline_basis": "as_coded"}, 8),
        ("vmkla_unet", {}, 8),
    ],
)
def test_every_spline_layer_of_every_network_is_found_and_judged(name: str, options: dict, layers: int) -> None:
    torch.manual_seed(0)
    model = MODELS[name].tiny(**options).eval()
    seen = observe_splines(model, [torch.rand(1, 3, 64, 96)])
    assert len(seen) == layers
    assert all(bool(torch.isfinite(s.importance).all()) for s in seen)
    assert all(float(s.importance.max()) > 0 for s in seen)
