"""The compiled KAN linear against the definition in float64."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from kanscan.ops import native
from kanscan.ops.bspline import kan_linear

pytestmark = pytest.mark.skipif(native.ABSENCE is not None, reason=f"compiled kernels: {native.ABSENCE}")

GRIDS = [(5, 3, (-1.0, 1.0)), (3, 2, (-2.0, 0.5)), (4, 1, (-1.0, 1.0)), (1, 3, (0.0, 1.0)), (12, 3, (-0.3, 0.1))]
#: (rows, inputs, outputs)
SIZES = [(1, 1, 3), (63, 7, 5), (1000, 3, 33), (129, 17, 16), (5, 40, 130), (260, 16, 64), (0, 4, 3)]


def layer(rows: int, inputs: int, outputs: int, bases: int, scaler: bool = True) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(rows + inputs + outputs)
    shapes = [(rows, inputs), (outputs, inputs), (outputs, inputs, bases), (outputs, inputs)]
    tensors = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    return tensors if scaler else [*tensors[:3], None]


def both_ways(tensors: list[torch.Tensor | None], backend: str, **grid: object) -> list[torch.Tensor]:
    y = kan_linear(*tensors, backend=backend, **grid)
    weights = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view_as(y).to(y.dtype)
    return [y, *torch.autograd.grad((y * weights).sum(), [t for t in tensors if t is not None])]


def relative(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.detach().double() - exact.detach()).norm() / exact.detach().norm().clamp(min=1e-3))


def wide(tensors: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    return [t if t is None else t.detach().double().requires_grad_() for t in tensors]


@pytest.mark.parametrize(("size", "order", "span"), GRIDS)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.usefixtures("isa", "unwritten_is_nan")
def test_values_and_gradients(shape: tuple[int, int, int], size: int, order: int, span: tuple[float, float]) -> None:
    grid = {"grid_size": size, "spline_order": order, "grid_range": span}
    tensors = layer(*shape, size + order, scaler=shape[0] % 2 == 1)
    results = both_ways(tensors, "cpu", **grid)
    for ours, exact in zip(results, both_ways(wide(tensors), "reference", **grid), strict=True):
        assert ours.shape == exact.shape
        # A first-order spline's slope jumps at the knots, where float32 may stand on the other side; none does here.
        assert relative(ours, exact) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    tensors = layer(63, 20, 10, 8)
    tensors[0] = tensors[0].detach().to(dtype).requires_grad_()
    results = both_ways(tensors, "cpu")
    exact = both_ways(wide(tensors), "reference")
    assert [r.dtype for r in results] == [torch.float32, dtype, *[torch.float32] * 3]
    for ours, expected in zip(results, exact, strict=True):
        assert relative(ours, expected) < (1e-5 if ours.dtype == torch.float32 else 1e-2)


def test_half_precision_weights_give_half_precision() -> None:
    tensors = [t.detach().bfloat16().requires_grad_() for t in layer(30, 6, 4, 8)]
    results = both_ways(tensors, "cpu")
    assert all(r.dtype == torch.bfloat16 for r in results)
    for ours, expected in zip(results, both_ways(wide(tensors), "reference"), strict=True):
        assert relative(ours, expected) < 1e-2


def test_autocast_gives_its_dtype_and_gradients() -> None:
    tensors = layer(40, 6, 3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = kan_linear(*tensors, backend="cpu")
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in tensors)


@pytest.mark.usefixtures("isa")
def test_layouts_and_leading_axes() -> None:
    _, *weights = layer(1, 6, 5, 8)
    tall = torch.randn(6, 9).t()
    expected = kan_linear(tall.contiguous(), *weights, backend="cpu")
    assert torch.equal(kan_linear(tall, *weights, backend="cpu"), expected)
    assert torch.equal(kan_linear(tall.unflatten(0, (3, 3)), *weights, backend="cpu").flatten(0, 1), expected)
    strided = [w.repeat_interleave(2, 0)[::2] for w in weights]
    assert torch.equal(kan_linear(tall, *strided, backend="cpu"), expected)


@pytest.mark.usefixtures("isa")
def test_not_a_number_and_infinity_come_out() -> None:
    tensors = layer(5, 2, 4, 8)
    x = torch.tensor([[float("nan"), 0], [float("inf"), 0], [-float("inf"), 0], [1e38, 0], [-1e38, 0]])
    x.requires_grad_()
    y, grad_x, *_ = both_ways([x, *tensors[1:]], "cpu")
    assert y[0].isnan().all()
    assert not y[1:3].isfinite().any()
    assert torch.isfinite(y[4]).all()
    assert grad_x[0, 0].isnan()
    assert torch.isfinite(grad_x[:, 1]).all()
    assert torch.isfinite(grad_x[3, 0])


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, base, spline, scaler = layer(30, 5, 4, 8)
    expected = both_ways([x, base, spline, scaler], "cpu")
    (alone,) = torch.autograd.grad(_weighted(x, base.detach(), spline.detach(), scaler.detach()), x)
    assert torch.equal(alone, expected[1])
    frozen = torch.autograd.grad(_weighted(x.detach(), base, spline, scaler), [base, scaler])
    assert torch.equal(frozen[0], expected[2])
    assert torch.equal(frozen[1], expected[4])


def _weighted(*tensors: torch.Tensor) -> torch.Tensor:
    y = kan_linear(*tensors, backend="cpu")
    return (y * torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view_as(y).float()).sum()


def test_only_the_input_is_kept_for_backward() -> None:
    tensors = layer(500, 16, 4, 8)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        kan_linear(*tensors, backend="cpu")
    assert {t.untyped_storage().data_ptr() for t in kept} == {t.untyped_storage().data_ptr() for t in tensors}


def test_float64_takes_the_torch_form() -> None:
    tensors = wide(layer(6, 3, 2, 8))
    assert torch.autograd.gradcheck(lambda *t: kan_linear(*t), tensors)
    with pytest.raises(ValueError, match="float64"):
        kan_linear(*tensors, backend="cpu")
    with pytest.raises(ValueError, match="order 5"):
        kan_linear(*layer(2, 3, 2, 10), spline_order=5, backend="cpu")
    with pytest.raises(ValueError, match="meta"):
        kan_linear(*[t.to("meta") for t in layer(2, 3, 2, 8)], backend="cpu")


@pytest.mark.parametrize("scaler", [True, False])
def test_opcheck(scaler: bool) -> None:
    tensors = layer(7, 4, 3, 8, scaler)
    torch.library.opcheck(torch.ops.kanscan.kan_linear.default, (*tensors, 5, 3, -1.0, 1.0))
    plain = [t if t is None else t.detach() for t in tensors]
    backward = (torch.randn(7, 3), *plain, 5, 3, -1.0, 1.0, [True, *[False] * 3])
    torch.library.opcheck(torch.ops.kanscan.kan_linear_backward.default, backward)


@pytest.mark.export
def test_compiled_and_exported_graphs() -> None:
    # In a process of its own, since the checks of array shapes that run with the tests cannot be traced.
    code = """
import torch
from kanscan.ops.bspline import kan_linear

class Layer(torch.nn.Module):
    def forward(self, x):
        return kan_linear(x, *weights) * 2

torch.manual_seed(0)
x, *weights = [torch.randn(*shape) for shape in ((20, 6), (4, 6), (4, 6, 8), (4, 6))]
expected = Layer()(x)
compiled = torch.compile(Layer(), fullgraph=True, backend="aot_eager")
torch.testing.assert_close(compiled(x), expected)
x.requires_grad_()
grads = [torch.autograd.grad(layer(x).sum(), x)[0] for layer in (compiled, Layer())]
torch.testing.assert_close(*grads)
x = x.detach()
program = torch.export.export(Layer(), (x,))
# An exported graph is to run where kanscan is not installed: no op of ours is in it, unless asked for by name.
assert not any("kanscan" in str(node.target) for node in program.graph.nodes)
torch.testing.assert_close(program.module()(x), expected)
print("same")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1800)
    assert run.stdout == "same\n", run.stderr
