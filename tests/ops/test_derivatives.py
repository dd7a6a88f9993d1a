"""Derivatives of derivatives, forward-mode derivatives and transforms: right on every backend, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from kanscan.ops import gpu, native
from kanscan.ops.bspline import bspline_basis, kan_linear
from kanscan.ops.kaconv import ka_conv, ka_linear
from kanscan.ops.scan_order import CROSS, order_index
from kanscan.ops.selective_scan import directional_scan, selective_scan

ORDER = torch.stack([order_index(name, (2, 3)) for name in CROSS])


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, backend: str) -> Tensor:
    y, last = selective_scan(u, delta, A, B, C, D, z, delta_softplus=True, return_last_state=True, backend=backend)
    return y.sum(-1) + last.sum(-1)


#: Op -> how it is called, and shapes of its tensors.
OPS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "kan_linear": (kan_linear, [(5, 3), (2, 3), (2, 3, 8), (2, 3)]),
    "kan_linear, no scaler": (kan_linear, [(5, 3), (2, 3), (2, 3, 8)]),
    "ka_linear": (
        lambda *t, backend: ka_linear(*t, spline_gradient=True, backend=backend),
        [(5, 3), (2, 3), (2, 8)],
    ),
    "ka_conv": (
        lambda *t, backend: ka_conv(*t, padding=1, stride=2, spline_gradient=True, backend=backend),
        [(2, 4, 5, 6), (6, 4, 3, 3), (6, 8)],
    ),
    "ka_conv, depth-wise, padding adds nothing": (
        lambda *t, backend: ka_conv(
            *t, padding=1, groups=2, padding_contributes=False, spline_gradient=True, backend=backend
        ),
        [(1, 2, 4, 4), (2, 1, 3, 3), (2, 8)],
    ),
    "selective_scan": (
        lambda *t, backend: scan(*t, backend=backend),
        [(2, 3, 7), (2, 3, 7), (3, 2), (2, 2, 7), (2, 2, 7), (3,), (2, 3, 7)],
    ),
    "directional_scan": (
        lambda *t, backend: directional_scan(*t[:5], ORDER, *t[5:], add_directions=True, backend=backend),
        [(1, 1, 2, 6), (1, 4, 2, 6), (8, 2), (1, 4, 2, 6), (1, 4, 2, 6), (8,), (8,)],
    ),
}
each_op = pytest.mark.parametrize("op", OPS)
WEIGHTED = {
    "ka_linear": [(5, 3), (2, 3), (2, 8), (3,)],
    "ka_conv": [(1, 2, 4, 4), (2, 2, 3, 3), (2, 8), (2, 3, 3)],
}


def tensors(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    # Decay rates stay small enough for finite differences.
    drawn = (torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.7 for shape in shapes)
    return [t.to(dtype).requires_grad_() for t in drawn]


@each_op
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_second_derivatives_by_differences(op: str, backend: str) -> None:
    run, shapes = OPS[op]
    assert torch.autograd.gradgradcheck(lambda *t: run(*t, backend=backend), tensors(shapes))


@pytest.mark.parametrize("op", WEIGHTED)
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_second_derivatives_with_weights_on_the_inputs(op: str, backend: str) -> None:
    run, _ = OPS[op]
    assert torch.autograd.gradgradcheck(lambda *t: run(*t, backend=backend), tensors(WEIGHTED[op]))


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_second_derivatives_of_the_bases(order: int, backend: str) -> None:
    # Away from the knots, where lower orders have corners.
    x = torch.tensor([-0.93, -0.31, 0.17, 0.83], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: bspline_basis(x, 5, order, backend=backend), [x])
    narrow = x.detach().float().requires_grad_()
    weights = torch.randn(4, 5 + order, generator=torch.Generator().manual_seed(0))

    def slope(x: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(
            (bspline_basis(x, 5, order, backend=backend) * weights).sum(), x, create_graph=True
        )
        return torch.autograd.grad(grad.sum(), x)[0] if grad.requires_grad else torch.zeros_like(x)

    torch.testing.assert_close(slope(narrow).double(), slope(x), rtol=1e-4, atol=1e-3)


def penalty_gradients(run: Callable[..., Tensor], given: list[Tensor], backend: str) -> list[Tensor]:
    """Gradients of a gradient penalty, by every tensor."""
    y = run(*given, backend=backend)
    grads = torch.autograd.grad(torch.sin(y).sum(), given, create_graph=True)
    found = torch.autograd.grad(sum(g.square().sum() for g in grads), given, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, given, strict=True)]


@each_op
@pytest.mark.parametrize("backend", ["cpu", "torch", "auto"])
def test_a_gradient_penalty_is_that_of_the_reference(op: str, backend: str) -> None:
    if backend == "cpu" and native.ABSENCE is not None:
        pytest.skip(f"compiled kernels: {native.ABSENCE}")
    run, shapes = OPS[op]
    exact = penalty_gradients(run, tensors(shapes), "reference")
    ours = penalty_gradients(run, tensors(shapes, torch.float32), backend)
    assert any(g.any() for g in exact)
    for one, two in zip(ours, exact, strict=True):
        assert (one.double() - two).norm() <= 1e-3 * two.norm() + 1e-5


@pytest.mark.skipif(gpu.ABSENCE is not None or torch.cuda.is_available(), reason="Triton's interpreter is not here")
@pytest.mark.parametrize("op", ["kan_linear", "selective_scan"])
def test_a_gradient_penalty_by_interpreted_triton_kernels(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    run, shapes = OPS[op]
    exact = penalty_gradients(run, tensors(shapes), "reference")
    ours = penalty_gradients(run, tensors(shapes, torch.float32), "triton")
    for one, two in zip(ours, exact, strict=True):
        assert (one.double() - two).norm() <= 1e-3 * two.norm() + 1e-5


def test_a_tensor_passed_twice_has_both_its_gradients() -> None:
    def penalty(backend: str, dtype: torch.dtype) -> Tensor:
        u, A, B = (t.detach().to(dtype).requires_grad_() for t in tensors([(1, 2, 5), (2, 3), (1, 3, 5)]))
        (grad,) = torch.autograd.grad(selective_scan(u, u, A, B, B, backend=backend).sum(), u, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), B)[0].double()

    torch.testing.assert_close(
        penalty("auto", torch.float32), penalty("reference", torch.float64), rtol=1e-4, atol=1e-4
    )


@each_op
@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("needs_grad", [True, False])
def test_forward_mode_is_the_derivative(op: str, backend: str, needs_grad: bool) -> None:
    run, shapes = OPS[op]
    given = [t.requires_grad_(needs_grad) for t in tensors(shapes, torch.float32)]
    along = [torch.randn_like(t) for t in given]
    with forward_ad.dual_level():
        dual = [forward_ad.make_dual(t, v) for t, v in zip(given, along, strict=True)]
        tangent = forward_ad.unpack_dual(run(*dual, backend=backend)).tangent
    assert tangent is not None
    wide = [t.detach().double() for t in given]
    _, exact = torch.autograd.functional.jvp(
        lambda *t: run(*t, backend="reference"), tuple(wide), tuple(v.double() for v in along)
    )
    torch.testing.assert_close(tangent.double(), exact, rtol=1e-3, atol=1e-4)


@each_op
def test_a_kernel_asked_for_by_name_refuses_transforms(op: str) -> None:
    if native.ABSENCE is not None:
        pytest.skip(f"compiled kernels: {native.ABSENCE}")
    run, shapes = OPS[op]
    given = tuple(tensors(shapes, torch.float32))
    with pytest.raises(ValueError, match=r"'cpu' cannot be used: its kernels have no part in torch\.func"):
        torch.func.grad(lambda *t: run(*t, backend="cpu").sum())(*given)


@each_op
@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_gradients_of_each_sample(op: str, backend: str) -> None:
    """torch.func: vmap over the first tensor of grad with respect to the others."""
    run, shapes = OPS[op]
    first, *rest = (t.detach() for t in tensors(shapes, torch.float32))
    samples = torch.stack([first, first * 0.5, first - 0.3])

    def loss(weight: Tensor, x: Tensor) -> Tensor:
        return run(x, weight, *rest[1:], backend=backend).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(rest[0], samples)
    for got, x in zip(each, samples, strict=True):
        weight = rest[0].clone().requires_grad_()
        run(x, weight, *rest[1:], backend=backend).square().sum().backward()
        torch.testing.assert_close(got, weight.grad, rtol=1e-4, atol=1e-4)


@each_op
@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_checkpointing_gives_the_same(op: str, backend: str) -> None:
    run, shapes = OPS[op]
    given = tensors(shapes, torch.float32)
    direct = torch.autograd.grad(run(*given, backend=backend).square().sum(), given)
    again = checkpoint(lambda *t: run(*t, backend=backend).square().sum(), *given, use_reentrant=False)
    for one, two in zip(torch.autograd.grad(again, given), direct, strict=True):
        torch.testing.assert_close(one, two)
