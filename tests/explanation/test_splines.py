from __future__ import annotations

import pytest
import torch
from torch import nn

from kanscan.explanation.formulas import fit_formula
from kanscan.explanation.pruning import node_importance, prune, prune_curve, relative_importance
from kanscan.explanation.splines import observe_splines
from kanscan.layers.kan import KANLinear


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
