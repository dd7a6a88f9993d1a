"""Layers inside other people's training: penalties on gradients, checkpointing, torch.func, other default dtypes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from graphs import run_plainly
from kanscan import ops
from kanscan.layers.as_coded_spline import AsCodedKANLinear
from kanscan.layers.kan import KANLinear, TokenizedKANBlock
from kanscan.layers.kan_conv import GradientFreeKANLinear, KAConv, KANConv, SharedKANLinear
from kanscan.layers.ssm import SS2D, BidirectionalMamba, MambaBlock, SelectiveSSM, VSSBlock

#: Layer -> how it is built, and the shape of its input.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "KANLinear": (lambda: KANLinear(4, 3), (5, 4)),
    "AsCodedKANLinear": (lambda: AsCodedKANLinear(4, 3), (5, 4)),
    "GradientFreeKANLinear": (lambda: GradientFreeKANLinear(4, 3), (5, 4)),
    "SharedKANLinear": (lambda: SharedKANLinear(4, 3), (5, 4)),
    "SharedKANLinear, weighted": (lambda: SharedKANLinear(4, 3, input_weight=True, spline_gradient=True), (5, 4)),
    "KAConv": (lambda: KAConv(4, 6, 3, padding=1), (2, 4, 5, 6)),
    "KAConv, weighted": (lambda: KAConv(4, 6, 3, padding=1, input_weight=True, groups=2), (2, 4, 5, 6)),
    "KANConv": (lambda: KANConv(4, 6, 3, padding=1), (2, 4, 5, 6)),
    "SelectiveSSM": (lambda: SelectiveSSM(4, d_state=2), (2, 4, 9)),
    "MambaBlock": (lambda: MambaBlock(4, d_state=2), (2, 9, 4)),
    "BidirectionalMamba": (lambda: BidirectionalMamba(4, d_state=2), (2, 9, 4)),
    "SS2D": (lambda: SS2D(4, d_state=2), (2, 3, 5, 4)),
    "SS2D, re-weighted": (lambda: SS2D(4, d_state=2, merge="reweight"), (2, 3, 5, 4)),
    "VSSBlock": (lambda: VSSBlock(4, d_state=2), (2, 3, 5, 4)),
    "TokenizedKANBlock": (lambda: _Tokens(), (2, 6, 4)),
}
each = pytest.mark.parametrize("name", LAYERS)


class _Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = TokenizedKANBlock(4).eval()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.block(tokens, (2, 3))


def made(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    return build().to(dtype), torch.randn(shape).to(dtype)


def penalty(name: str, dtype: torch.dtype) -> list[Tensor]:
    layer, x = made(name, dtype)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(torch.sin(layer(x)).sum(), x, create_graph=True)
    (grad.flatten(1).norm(dim=1) - 1).square().mean().backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in layer.parameters()]


@each
def test_a_gradient_penalty_reaches_the_weights(name: str) -> None:
    """Of kernels by float32, of the definition by float64."""
    with ops.backend("reference"):
        exact = penalty(name, torch.float64)
    assert any(g.any() for g in exact)
    for one, two in zip(penalty(name, torch.float32), exact, strict=True):
        assert (one.double() - two).norm() <= 2e-3 * two.norm() + 1e-4


@each
def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    layer, x = made(name)
    x.requires_grad_()
    leaves = [x, *layer.parameters()]
    direct = torch.autograd.grad(layer(x).square().sum(), leaves, allow_unused=True)
    again = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).square().sum(), leaves, allow_unused=True)
    for one, two in zip(again, direct, strict=True):
        torch.testing.assert_close(one, two)


@each
def test_gradients_of_each_sample(name: str) -> None:
    layer, x = made(name)
    weights = {key: p.detach() for key, p in layer.named_parameters()}
    rest = dict(layer.named_buffers())

    def loss(weights: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(layer, weights | rest, (sample[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    for index, sample in enumerate(x):
        layer.zero_grad()
        layer(sample[None]).square().sum().backward()
        for key, p in layer.named_parameters():
            expected = torch.zeros_like(p) if p.grad is None else p.grad
            torch.testing.assert_close(found[key][index], expected, rtol=1e-3, atol=1e-4)


@each
def test_forward_mode_is_the_derivative_or_a_refusal(name: str) -> None:
    layer, x = made(name)
    layer.requires_grad_(False)
    along = torch.randn_like(x)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, along))).tangent
    layer, x = layer.double(), x.double()
    _, exact = torch.autograd.functional.jvp(layer, x, along.double())
    assert tangent is not None
    torch.testing.assert_close(tangent.double(), exact, rtol=1e-3, atol=1e-4)


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_are_built_in_the_default_dtype(name: str, dtype: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        layer, x = made(name, dtype)
        assert {p.dtype for p in layer.parameters()} == {dtype}
        y = layer(x)
    finally:
        torch.set_default_dtype(before)
    assert y.isfinite().all()
    narrow, _ = made(name)
    for ours, theirs in zip(layer.parameters(), narrow.parameters(), strict=True):
        assert ours.float().std() <= 1.5 * theirs.std() + 1e-3


@each
def test_a_batch_of_nothing_gives_nothing(name: str) -> None:
    layer, x = made(name)
    with torch.no_grad():
        expected = layer(x).shape[1:]
    y = layer(x[:0].requires_grad_())
    assert y.shape == (0, *expected)
    y.sum().backward()


def demand_a_graph_of_any_batch(name: str) -> None:
    layer, x = made(name)
    program = torch.export.export(layer.eval(), (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    for batch in (3, 4, 8):
        other = torch.randn(batch, *x.shape[1:])
        with torch.no_grad():
            torch.testing.assert_close(program.module()(other), layer(other), rtol=1e-4, atol=1e-5)


@pytest.mark.export
def test_a_graph_of_any_batch() -> None:
    """Also of one that is as large as some number of channels."""
    run_plainly(
        "from layers.test_derivatives import demand_a_graph_of_any_batch as demand",
        *(f"demand({name!r})" for name in ("KANLinear", "KAConv", "KANConv", "SelectiveSSM", "MambaBlock", "SS2D")),
    )
