from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.figures import assert_close
from kanscan.layers.kan import KANLinear
from kanscan.layers.kan_conv import GradientFreeKANLinear, KAConv, KANConv, SharedKANLinear
from kanscan.ops.bspline import bspline_basis, kan_linear


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (lambda: SharedKANLinear(6, 5), 30 + 5 * 8),
        (lambda: SharedKANLinear(6, 5, input_weight=True), 30 + 5 * 8 + 6),
        (lambda: SharedKANLinear(6, 5, grid_size=3, spline_order=2), 30 + 5 * 5),
        (lambda: KAConv(4, 6, 3), 4 * 6 * 9 + 6 * 8),
        (lambda: KAConv(6, 6, 3, groups=6), 6 * 9 + 6 * 8),
        (lambda: KAConv(6, 12, (3, 1), groups=2, input_weight=True), 12 * 3 * 3 + 12 * 8 + 6 * 3),
        (lambda: KANConv(4, 6, 3), 4 * 6 * 9 * 10),
        (lambda: KANConv(6, 6, 3, groups=3), 6 * 2 * 9 * 10),
        (lambda: GradientFreeKANLinear(4, 3), 120),
    ],
)
def test_parameters(build: type, parameters: int) -> None:
    assert sum(p.numel() for p in build().parameters()) == parameters


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"padding": (0, 2), "groups": 2, "dilation": 2}])
@pytest.mark.parametrize("contributes", [True, False])
def test_convolution_is_the_linear_layer_on_every_window(options: dict, contributes: bool) -> None:
    torch.manual_seed(0)
    layer = KAConv(4, 6, 3, input_weight=True, padding_contributes=contributes, **options).double()
    nn.init.normal_(layer.input_weight)
    linear = SharedKANLinear(9 * layer.base_weight.shape[1], 6 // options.get("groups", 1), input_weight=True).double()
    x = torch.randn(2, 4, 8, 9, dtype=torch.float64)
    y = layer(x)
    groups = options.pop("groups", 1)
    windows = F.unfold(x, 3, **options).unflatten(1, (groups, -1)).mT
    inside = F.unfold(torch.ones_like(x), 3, **options).unflatten(1, (groups, -1)).mT
    for g in range(groups):
        rows = slice(g * 6 // groups, (g + 1) * 6 // groups)
        linear.load_state_dict(
            {
                "base_weight": layer.base_weight[rows].flatten(1),
                "spline_weight": layer.spline_weight[rows],
                "input_weight": layer.input_weight.unflatten(0, (groups, -1))[g].flatten(),
            }
        )
        expected = linear(windows[:, g])
        if not contributes:
            # What the linear layer adds for a zero is taken back where the zero is padding.
            zero = bspline_basis(torch.zeros(1, dtype=torch.float64))[0]
            outside = (1 - inside[:, g]) @ linear.input_weight
            expected = expected - outside.unsqueeze(-1) * (linear.spline_weight @ zero)
        assert_close(y[:, rows].flatten(2).mT.detach(), expected.detach(), 1e-11)


@pytest.mark.parametrize("contributes", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_convolution_of_edges_is_a_kan_on_every_window(contributes: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = KANConv(4, 6, 3, stride=2, padding=1, groups=2, padding_contributes=contributes).to(dtype)
    x = torch.randn(2, 4, 7, 6, dtype=dtype).requires_grad_()
    y = layer(x)
    windows = F.unfold(x, 3, stride=2, padding=1).unflatten(1, (2, -1)).mT
    inside = F.unfold(torch.ones_like(x), 3, stride=2, padding=1).unflatten(1, (2, -1)).mT
    parts = []
    for g in range(2):
        rows = slice(3 * g, 3 * g + 3)
        weights = [p[rows].flatten(1, 3) for p in (layer.base_weight, layer.spline_weight, layer.spline_scaler)]
        if not contributes:
            whole = kan_linear(windows[:, g], *weights, backend="reference")
            nothing = torch.zeros_like(weights[0])
            zeros = kan_linear(torch.zeros_like(windows[:, g]), nothing, *weights[1:], backend="reference")
            partial = bspline_basis(torch.zeros_like(inside[:, g])) * inside[:, g].unsqueeze(-1)
            kept = torch.einsum("bljm,ojm->blo", partial, weights[1] * weights[2].unsqueeze(-1))
            parts.append(whole - zeros + kept)
        else:
            parts.append(kan_linear(windows[:, g], *weights, backend="reference"))
    expected = torch.cat(parts, dim=2).mT.view_as(y)
    tolerance = 1e-11 if dtype == torch.float64 else 1e-5
    assert_close(y.detach(), expected.detach(), tolerance)
    leaves = [x, *layer.parameters()]
    ours, other = (torch.autograd.grad(z.square().sum(), leaves, retain_graph=True) for z in (y, expected))
    for one, two in zip(ours, other, strict=True):
        assert_close(one, two, tolerance * 100)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (SharedKANLinear(5, 4), torch.randn(7, 5)),
        (KAConv(5, 4, 3, padding=1), torch.randn(2, 5, 4, 4)),
        (KANConv(5, 4, 3, padding=1, spline_gradient=False), torch.randn(2, 5, 4, 4)),
        (GradientFreeKANLinear(5, 4), torch.randn(7, 5)),
    ],
    ids=["linear", "conv", "edges", "kan"],
)
def test_gradient_free_splines_pass_only_the_base_on(layer: nn.Module, x: Tensor) -> None:
    x.requires_grad_()
    (grad,) = torch.autograd.grad(layer(x).sum(), x, retain_graph=True)
    weight = layer.kan.base_weight if isinstance(layer, GradientFreeKANLinear) else layer.base_weight
    base = F.linear(F.silu(x), weight) if x.ndim == 2 else F.conv2d(F.silu(x), weight, padding=1)
    assert_close(grad, torch.autograd.grad(base.sum(), x)[0], 1e-6)
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


def test_gradient_free_kan_has_the_values_and_weight_gradients_of_a_kan() -> None:
    torch.manual_seed(0)
    free, kan = GradientFreeKANLinear(5, 4), KANLinear(5, 4)
    kan.load_state_dict(free.kan.state_dict())
    x = torch.randn(7, 5)
    y, z = free(x), kan(x)
    assert torch.equal(y, z)
    for ours, expected in zip(
        torch.autograd.grad(y.square().sum(), list(free.parameters())),
        torch.autograd.grad(z.square().sum(), list(kan.parameters())),
        strict=True,
    ):
        assert_close(ours, expected, 1e-5)


def test_fresh_splines_are_small_beside_the_base() -> None:
    """All inputs of an output read one spline: the sum grows with their number unless the noise shrinks."""
    torch.manual_seed(0)
    for inputs in (16, 2304):
        layer = SharedKANLinear(inputs, 200)
        x = torch.randn(50, inputs)
        base = F.linear(F.silu(x), layer.base_weight)
        assert layer.base_weight.abs().max() <= inputs**-0.5
        assert 0.01 < (layer(x) - base).std() / base.std() < 2
    conv = KAConv(256, 200, 3)
    assert conv.spline_weight.std().item() == pytest.approx(layer.spline_weight.std().item(), rel=0.1)


@pytest.mark.parametrize("build", [KAConv, KANConv])
def test_groups_that_do_not_divide_are_refused(build: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="groups must divide 4 and 6"):
        build(4, 6, 3, groups=4)
    with pytest.raises(ValueError, match="grid_size"):
        build(4, 6, 3, grid_size=0)


def test_layers_show_what_they_are() -> None:
    assert "4, 2, grid_size=5" in repr(SharedKANLinear(4, 2))
    assert "4, 2, (3, 3), stride=2, padding=1" in repr(KAConv(4, 2, 3, stride=2, padding=1, groups=2))
