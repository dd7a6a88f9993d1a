"""KAN linear in Triton against the definition in float64: values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kanscan.ops.bspline import kan_linear
from ops.interpreter import DEVICE, compiled, interpreted, needs_triton, relative  # noqa: F401

pytestmark = needs_triton

GRIDS = [(5, 3, (-1.0, 1.0)), (3, 2, (-2.0, 0.5)), (4, 1, (-1.0, 1.0)), (12, 3, (-0.3, 0.1))]
#: (rows, inputs, outputs)
SIZES = [(1, 1, 3), (63, 7, 5), (150, 40, 70), (0, 4, 3)]


def layer(rows: int, inputs: int, outputs: int, bases: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows + inputs + outputs)
    shapes = [(rows, inputs), (outputs, inputs), (outputs, inputs, bases), (outputs, inputs)]
    return [torch.randn(shape, generator=generator).to(DEVICE).requires_grad_() for shape in shapes]


def both_ways(tensors: list[Tensor], backend: str, **grid: object) -> list[Tensor]:
    y = kan_linear(*tensors, backend=backend, **grid)
    weights = torch.cos(torch.arange(y.numel()).double()).view_as(y).to(y)
    return [y, *torch.autograd.grad((y * weights).sum(), tensors)]


def exact(tensors: list[Tensor], **grid: object) -> list[Tensor]:
    return both_ways([t.detach().cpu().double().requires_grad_() for t in tensors], "reference", **grid)


@pytest.mark.parametrize(("size", "order", "span"), GRIDS)
@pytest.mark.parametrize("shape", SIZES)
def test_values_and_gradients(shape: tuple[int, ...], size: int, order: int, span: tuple[float, float]) -> None:
    tensors = layer(*shape, size + order)
    grid = {"grid_size": size, "spline_order": order, "grid_range": span}
    for ours, expected in zip(both_ways(tensors, "triton", **grid), exact(tensors, **grid), strict=True):
        assert ours.shape == expected.shape
        assert relative(ours, expected) < 1e-5


def test_without_scaler() -> None:
    tensors = layer(20, 6, 4, 8)[:3]
    for ours, expected in zip(both_ways(tensors, "triton"), exact(tensors), strict=True):
        assert relative(ours, expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    tensors = layer(63, 20, 10, 8)
    tensors[0] = tensors[0].detach().to(dtype).requires_grad_()
    results = both_ways(tensors, "triton")
    assert [r.dtype for r in results] == [torch.float32, dtype, *[torch.float32] * 3]
    for ours, expected in zip(results, exact(tensors), strict=True):
        assert relative(ours, expected) < (1e-5 if ours.dtype == torch.float32 else 1e-2)


def test_half_precision_weights_give_half_precision() -> None:
    tensors = [t.detach().half().requires_grad_() for t in layer(30, 6, 4, 8)]
    results = both_ways(tensors, "triton")
    assert all(r.dtype == torch.float16 for r in results)
    for ours, expected in zip(results, exact(tensors), strict=True):
        assert relative(ours, expected) < 5e-3


def test_layouts_and_leading_axes() -> None:
    _, *weights = layer(1, 6, 5, 8)
    tall = torch.randn(6, 9).to(DEVICE).t()
    expected = kan_linear(tall.contiguous(), *weights, backend="triton")
    assert torch.equal(kan_linear(tall, *weights, backend="triton"), expected)
    assert torch.equal(kan_linear(tall.unflatten(0, (3, 3)), *weights, backend="triton").flatten(0, 1), expected)
    strided = [w.repeat_interleave(2, 0)[::2] for w in weights]
    assert torch.equal(kan_linear(tall, *strided, backend="triton"), expected)


def test_not_a_number_and_infinity_come_out() -> None:
    weights = layer(5, 2, 4, 8)[1:]
    x = torch.tensor([[float("nan"), 0], [float("inf"), 0], [-float("inf"), 0], [1e38, 0], [-1e38, 0]]).to(DEVICE)
    y, grad_x, *_ = both_ways([x.requires_grad_(), *weights], "triton")
    assert y[0].isnan().all()
    assert not y[1:3].isfinite().any()
    assert torch.isfinite(y[4]).all()
    assert grad_x[0, 0].isnan()
    assert torch.isfinite(grad_x[:, 1]).all()
    assert torch.isfinite(grad_x[3, 0])


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, base, spline, scaler = layer(30, 5, 4, 8)
    expected = both_ways([x, base, spline, scaler], "triton")
    rest = [t.detach() for t in (base, spline, scaler)]
    assert torch.equal(torch.autograd.grad(_weighted(x, *rest), x)[0], expected[1])
    frozen = torch.autograd.grad(_weighted(x.detach(), base, spline, scaler), [base, scaler])
    assert torch.equal(frozen[0], expected[2])
    assert torch.equal(frozen[1], expected[4])


def _weighted(*tensors: Tensor) -> Tensor:
    y = kan_linear(*tensors, backend="triton")
    return (y * torch.cos(torch.arange(y.numel()).double()).view_as(y).to(y)).sum()


def test_only_the_input_is_kept_for_backward() -> None:
    tensors = layer(50, 16, 4, 8)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        kan_linear(*tensors, backend="triton")
    assert {t.untyped_storage().data_ptr() for t in kept} == {t.untyped_storage().data_ptr() for t in tensors}


@pytest.mark.parametrize("scaler", [True, False])
def test_opcheck(scaler: bool) -> None:
    tensors = [t if scaler or place < 3 else None for place, t in enumerate(layer(7, 4, 3, 8))]
    setting = (5, 3, -1.0, 1.0, torch.float32)
    torch.library.opcheck(torch.ops.kanscan.kan_linear_triton.default, (*tensors, *setting))
    plain = [None if t is None else t.detach() for t in tensors]
    backward = (torch.randn(7, 3).to(DEVICE), *plain, *setting, [True, *[False] * 3])
    torch.library.opcheck(torch.ops.kanscan.kan_linear_triton_backward.default, backward)


def test_what_the_kernel_cannot_do() -> None:
    tensors = layer(2, 3, 2, 8)
    with pytest.raises(ValueError, match="float64"):
        kan_linear(*[t.double() for t in tensors], backend="triton")
    with pytest.raises(ValueError, match="order 5"):
        kan_linear(*layer(2, 3, 2, 10), spline_order=5, backend="triton")


@pytest.mark.skipif(DEVICE == "cuda", reason="kernels are compiled here")
def test_products_that_the_interpreter_gets_wrong_are_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        kan_linear(*[t.bfloat16() for t in layer(2, 3, 2, 8)], backend="triton")
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="bfloat16"):
        kan_linear(*layer(2, 3, 2, 8), backend="triton")


@pytest.mark.slow
def test_the_kernels_compile_for_a_device() -> None:
    code = """
from kanscan.ops.bspline.kernels import triton as kernels

sizes = ("rows", "inputs", "outputs", "columns", "share_rows", "x_row", "x_input", "grad_row", "grad_output")
tile = dict(order=3, precision="ieee", BLOCK_ROWS=64, BLOCK_INPUTS=64, BLOCK_OUTPUTS=64)
for kernel in (kernels.kan_forward, kernels.kan_input_gradient, kernels.kan_weight_gradient):
    for half in ((), ("weight", "y", "grad_y")):
        ptx = build(kernel, half=half, integers=sizes, numbers=("low", "scale"), **tile)
        # Products of halves go to the tensor cores.
        print("wgmma" in ptx, end=" ")
"""
    assert compiled(code).split() == ["False", "True"] * 3
