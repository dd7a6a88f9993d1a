"""The compiled KAonv and SaKAN against the definition in float64."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from kanscan.ops import native
from kanscan.ops.kaconv import ka_conv, ka_linear

pytestmark = pytest.mark.skipif(native.ABSENCE is not None, reason=f"compiled kernels: {native.ABSENCE}")

#: (batch, channels, height, width, outputs, groups, kernel)
MAPS = [
    (2, 4, 5, 6, 3, 1, 3),
    (1, 16, 17, 13, 16, 1, 3),
    (2, 35, 9, 11, 35, 35, 3),
    (1, 40, 7, 9, 21, 1, 1),
    (1, 36, 5, 8, 40, 2, 2),
    (2, 6, 1, 1, 6, 6, 3),
    (1, 5, 33, 19, 5, 5, 3),
    (1, 16, 40, 9, 1, 1, 1),
    (1, 8, 12, 20, 4, 2, 3),
    (1, 4, 12, 7, 8, 4, 3),
    (0, 4, 5, 5, 4, 1, 3),
    (1, 3, 2, 2, 9, 1, 1),
    (1, 2, 300, 3, 3, 1, 3),
]
#: stride, padding, dilation, whether padding contributes and splines pass gradients, grid
WINDOWS = [
    ((1, 1), (1, 1), (1, 1), True, False, (5, 3, (-1.0, 1.0))),
    ((2, 1), (1, 2), (1, 2), True, True, (5, 3, (-1.0, 1.0))),
    ((1, 2), (2, 3), (2, 1), False, True, (9, 2, (-2.0, 0.5))),
    ((3, 3), (1, 1), (1, 1), False, True, (4, 1, (-1.0, 1.0))),
]


def draw(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) * 1.2 for shape in shapes]


def both_ways(op, tensors: list[torch.Tensor], dtype: torch.dtype, **options: object) -> list[torch.Tensor]:
    # Clones keep the order of a tensor in memory.
    leaves = [t.to(dtype).clone().requires_grad_() for t in tensors]
    y = op(*leaves, **options)
    weights = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view_as(y).to(y.dtype)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)]


def agree(ours: list[torch.Tensor], exact: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    for one, other in zip(ours, exact, strict=True):
        assert one.shape == other.shape
        assert float((one.double() - other).norm()) <= tolerance * max(float(other.norm()), 1e-3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.usefixtures("isa", "unwritten_is_nan")
def test_values_and_gradients(shape: tuple[int, ...], window: tuple, layout: torch.memory_format) -> None:
    batch, channels, height, width, outputs, groups, kernel = shape
    stride, padding, dilation, contributes, gradient, (size, order, span) = window
    if (
        min(height + 2 * padding[0] - dilation[0] * (kernel - 1), width + 2 * padding[1] - dilation[1] * (kernel - 1))
        < 1
    ):
        pytest.skip("the window does not fit")
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    options |= {"padding_contributes": contributes, "spline_gradient": gradient}
    options |= {"grid_size": size, "spline_order": order, "grid_range": span}
    weights = ((outputs, channels // groups, kernel, kernel), (outputs, size + order))
    tensors = draw((batch, channels, height, width), *weights)
    exact = both_ways(ka_conv, tensors, torch.float64, backend="reference", **options)
    tensors[0] = tensors[0].to(memory_format=layout)
    ours = both_ways(ka_conv, tensors, torch.float32, backend="cpu", **options)
    agree(ours, exact)
    if batch and height * width > 1 and channels > 1:
        assert all(t.is_contiguous(memory_format=layout) for t in ours[:2])


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 3), (63, 7, 5), (100, 33, 16), (0, 4, 3), (37, 160, 40)])
@pytest.mark.usefixtures("isa", "unwritten_is_nan")
def test_linear_values_and_gradients(shape: tuple[int, int, int], gradient: bool) -> None:
    rows, inputs, outputs = shape
    for size, order in ((5, 3), (6, 1), (8, 2)):
        tensors = draw((rows, inputs), (outputs, inputs), (outputs, size + order))
        options = {"grid_size": size, "spline_order": order, "spline_gradient": gradient}
        exact = both_ways(ka_linear, tensors, torch.float64, backend="reference", **options)
        agree(both_ways(ka_linear, tensors, torch.float32, backend="cpu", **options), exact)


@pytest.mark.parametrize("groups", [1, 4])
def test_layouts(groups: int) -> None:
    x, u, v = draw((2, 4, 9, 7), (4, 4 // groups, 3, 3), (4, 8))
    expected = both_ways(ka_conv, [x, u, v], torch.float32, groups=groups, backend="cpu")
    strided = [x.to(memory_format=torch.channels_last), u, v.repeat_interleave(2, 0)[::2]]
    leaves = [t.requires_grad_() for t in strided]
    y = ka_conv(*leaves, groups=groups, backend="cpu")
    weights = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view_as(y).float()
    agree([y.detach(), *torch.autograd.grad(y, leaves, weights.expand_as(y))], [t.double() for t in expected], 1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.usefixtures("isa")
def test_not_a_number_and_infinity_come_out(groups: int, layout: torch.memory_format) -> None:
    x, u, v = draw((1, 2, 6, 6), (2, 2 // groups, 3, 3), (2, 8))
    for value in (float("nan"), float("inf"), 1e38, -1e38):
        x[0, 0, 2, 2] = value
        leaf = x.contiguous(memory_format=layout).clone().requires_grad_()
        y = ka_conv(leaf, u, v, groups=groups, padding=1, spline_gradient=True, backend="cpu")
        (grad,) = torch.autograd.grad(y[..., 4:].sum(), leaf)
        if value != -1e38:
            assert not torch.isfinite(y[0, 0, 1:4, 1:4]).any() or value == 1e38
        assert torch.isfinite(y[0, 0, 4:]).all()
        assert torch.isfinite(grad[..., 4:]).all()
    rows = torch.tensor([[float("nan"), 0.0], [0.0, 1.0]])
    y = ka_linear(rows, u[:, :, 0, 0].repeat(1, groups), v, backend="cpu")
    assert y[0].isnan().all()
    assert torch.isfinite(y[1]).all()


def test_only_what_needs_a_gradient_gets_one() -> None:
    for groups in (1, 4):
        tensors = draw((1, 4, 6, 5), (4, 4 // groups, 3, 3), (4, 8))
        expected = both_ways(ka_conv, tensors, torch.float32, groups=groups, backend="cpu")
        for which in range(3):
            leaves = [t.clone().requires_grad_(i == which) for i, t in enumerate(tensors)]
            y = ka_conv(*leaves, groups=groups, backend="cpu")
            weights = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view_as(y).float()
            (grad,) = torch.autograd.grad((y * weights).sum(), [leaves[which]])
            torch.testing.assert_close(grad, expected[1 + which])


def test_little_is_kept_for_backward() -> None:
    x, u, v = (t.requires_grad_() for t in draw((1, 32, 20, 20), (32, 32, 3, 3), (32, 8)))
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        ka_conv(x, u, v, padding=1, backend="cpu")
    assert sum(t.numel() for t in kept) <= x.numel() * 1.25 + u.numel() + v.numel()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    tensors = [t.to(dtype) for t in draw((1, 8, 9, 9), (6, 8, 3, 3), (6, 8))]
    ours = both_ways(ka_conv, tensors, dtype, padding=1, backend="cpu")
    assert all(t.dtype == dtype for t in ours)
    agree(ours, both_ways(ka_conv, tensors, torch.float64, padding=1, backend="reference"), 3e-2)


def test_autocast_gives_its_dtype_and_gradients() -> None:
    tensors = [t.requires_grad_() for t in draw((1, 8, 9, 9), (6, 8, 3, 3), (6, 8))]
    with torch.autocast("cpu", torch.bfloat16):
        y = ka_conv(*tensors, backend="cpu")
        z = ka_linear(tensors[0].permute(0, 2, 3, 1), tensors[1][:, :, 0, 0], tensors[2], backend="cpu")
    assert y.dtype == z.dtype == torch.bfloat16
    (y.float().sum() + z.float().sum()).backward()
    assert all(t.grad.dtype == torch.float32 for t in tensors)


def test_what_the_kernel_cannot_do_is_said() -> None:
    x, u, v, weight = draw((1, 2, 4, 4), (3, 2, 3, 3), (3, 8), (2, 3, 3))
    with pytest.raises(ValueError, match="float64"):
        ka_conv(x.double(), u.double(), v.double(), backend="cpu")
    with pytest.raises(ValueError, match="weights on the inputs"):
        ka_conv(x, u, v, weight, backend="cpu")
    with pytest.raises(ValueError, match="order 4"):
        ka_conv(x, u, torch.zeros(3, 9), spline_order=4, backend="cpu")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 4])
def test_opcheck(groups: int, layout: torch.memory_format) -> None:
    x, *weights = draw((1, 4, 6, 5), (4, 4 // groups, 3, 3), (4, 8))
    tensors = [t.requires_grad_() for t in (x.contiguous(memory_format=layout), *weights)]
    rest = ([1, 1], [1, 1], [1, 1], groups, True, True, 5, 3, -1.0, 1.0)
    torch.library.opcheck(torch.ops.kanscan.ka_conv.default, (*tensors, *rest))
    plain = [t.detach() for t in tensors]
    y, sums = torch.ops.kanscan.ka_conv(*plain, *rest)
    backward = (torch.randn_like(y), *plain, sums, *rest, [True, groups == 1, True])
    torch.library.opcheck(torch.ops.kanscan.ka_conv_backward.default, backward)


def test_opcheck_of_the_linear_layer() -> None:
    tensors = [t.requires_grad_() for t in draw((7, 4), (3, 4), (3, 8))]
    rest = (True, 5, 3, -1.0, 1.0)
    torch.library.opcheck(torch.ops.kanscan.ka_linear.default, (*tensors, *rest))
    plain = [t.detach() for t in tensors]
    y, sums = torch.ops.kanscan.ka_linear(*plain, *rest)
    backward = (torch.randn_like(y), *plain, sums, *rest, [True, False, False])
    torch.library.opcheck(torch.ops.kanscan.ka_linear_backward.default, backward)


@pytest.mark.export
def test_compiled_and_exported_graphs() -> None:
    # In a process of its own, since the checks of array shapes that run with the tests cannot be traced.
    code = """
import torch
from kanscan.ops.kaconv import ka_conv, ka_linear

class Layer(torch.nn.Module):
    def forward(self, x):
        y = ka_conv(x, u, v, padding=1)
        return y + ka_linear(x.permute(0, 2, 3, 1), u[:, :, 1, 1], v).permute(0, 3, 1, 2)

torch.manual_seed(0)
x, u, v = [torch.randn(*shape) for shape in ((2, 4, 7, 6), (9, 4, 3, 3), (9, 8))]
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
torch.testing.assert_close(program.module()(x), expected, rtol=1e-4, atol=1e-4)
print("same")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1800)
    assert run.stdout == "same\n", run.stderr
