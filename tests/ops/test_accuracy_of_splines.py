"""KAN linear, KAonv and SaKAN in every way to compute them, every dtype and awkward sizes, against float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor

from kanscan.ops import native
from kanscan.ops.bspline import bspline_basis, kan_linear
from kanscan.ops.kaconv import ka_conv, ka_linear
from ops.accuracy import LAYOUTS, both_ways, demand_close, leaves

HALVES = (torch.bfloat16, torch.float16)
#: dtype of the input, dtype of the weights.
DTYPES = [
    (torch.float32, torch.float32),
    *((half, torch.float32) for half in HALVES),
    *((half, half) for half in HALVES),
]
#: rows, inputs, outputs
LAYERS = [(0, 4, 3), (1, 1, 1), (63, 7, 5), (1000, 3, 17), (2, 1000, 1), (3, 5, 63)]
GRIDS = [(5, 3, (-1.0, 1.0)), (4, 2, (-2.0, 0.5)), (9, 1, (-0.3, 1.1))]
#: batch, channels, height, width, outputs, kernel, and what else decides
MAPS = [
    (0, 4, 5, 5, 6, (3, 3), {"padding": 1}),
    (1, 1, 1, 1, 1, (1, 1), {}),
    (2, 3, 7, 9, 5, (3, 3), {"padding": 1, "spline_gradient": True}),
    (1, 2, 9, 7, 4, (3, 2), {"padding": (2, 3), "stride": (2, 1), "dilation": (1, 2), "padding_contributes": False}),
    (1, 6, 7, 9, 6, (3, 3), {"padding": 1, "groups": 6, "spline_gradient": True}),
    (2, 6, 9, 7, 12, (3, 3), {"padding": 2, "groups": 6, "stride": 2, "dilation": 2, "padding_contributes": False}),
    (1, 4, 5, 8, 8, (2, 3), {"groups": 2, "stride": (1, 3), "spline_gradient": True}),
    (1, 9, 1, 63, 2, (1, 3), {"padding": (0, 1)}),
    (1, 2, 25, 40, 3, (3, 3), {"padding": 1, "spline_gradient": True}),
    (1, 2, 25, 40, 2, (3, 3), {"padding": 1, "groups": 2, "spline_gradient": True}),
]
Op = Callable[..., Tensor]
no_triton = pytest.mark.parametrize("backend", ["reference", "torch", *native.LANES], indirect=True)


def draw(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return [torch.randn(shape, generator=generator) * 1.2 for shape in shapes]


def kan_case(rows: int, inputs: int, outputs: int, grid: int = 0, scaled: bool = True) -> tuple[Op, list[Tensor]]:
    size, order, span = GRIDS[grid]
    shapes = [(rows, inputs), (outputs, inputs), (outputs, inputs, size + order), (outputs, inputs)]
    op = partial(kan_linear, grid_size=size, spline_order=order, grid_range=span)
    return op, draw(*(shapes if scaled else shapes[:3]))


def linear_case(rows: int, inputs: int, outputs: int, grid: int = 0) -> tuple[Op, list[Tensor]]:
    size, order, span = GRIDS[grid]
    op = partial(ka_linear, grid_size=size, spline_order=order, grid_range=span, spline_gradient=grid == 0)
    return op, draw((rows, inputs), (outputs, inputs), (outputs, size + order))


def conv_case(
    batch: int,
    channels: int,
    height: int,
    width: int,
    outputs: int,
    kernel: tuple[int, int],
    rest: tuple,
    grid: int = 0,
) -> tuple[Op, list[Tensor]]:
    size, order, span = GRIDS[grid]
    options = dict(rest)
    op = partial(ka_conv, grid_size=size, spline_order=order, grid_range=span, **options)
    weights = ((outputs, channels // options.get("groups", 1), *kernel), (outputs, size + order))
    return op, draw((batch, channels, height, width), *weights)


@cache
def exact(
    case: Callable[..., tuple[Op, list[Tensor]]], dtypes: tuple[torch.dtype, ...], *sizes: object
) -> list[Tensor]:
    """The definition in float64, of numbers that have been rounded to the dtypes of the inputs."""
    op, tensors = case(*sizes)
    kinds = (dtypes[0], *[dtypes[1]] * (len(tensors) - 1))
    rounded = [t.to(kind) for t, kind in zip(tensors, kinds, strict=True)]
    return both_ways(partial(op, backend="reference"), leaves(rounded, [torch.float64] * len(tensors)))


def check(
    backend: str,
    dtypes: tuple[torch.dtype, ...],
    layout: str,
    case: Callable[..., tuple[Op, list[Tensor]]],
    *sizes: object,
) -> None:
    op, tensors = case(*sizes)
    if backend == "triton" and dtypes[1] == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16 as integers")
    kinds = (dtypes[0], *[dtypes[1]] * (len(tensors) - 1))
    ours = both_ways(partial(op, backend=backend), leaves(tensors, kinds, layout))
    assert [t.dtype for t in ours] == [dtypes[1], *kinds]
    demand_close(ours, exact(case, dtypes, *sizes), dtypes[1])


def frozen(shape: tuple) -> tuple:
    return (*shape[:-1], tuple(shape[-1].items()))


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("size", LAYERS)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_kan_linear(backend: str, size: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    check(backend, dtypes, "contiguous", kan_case, *size)


@pytest.mark.parametrize("grid", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_kan_linear_on_other_grids_and_layouts(backend: str, layout: str, grid: int) -> None:
    check(backend, DTYPES[0], layout, kan_case, 63, 7, 5, grid, grid == 1)


@no_triton
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("size", LAYERS)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_ka_linear(backend: str, size: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    check(backend, dtypes, "contiguous", linear_case, *size)


@no_triton
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_ka_conv(backend: str, shape: tuple, dtypes: tuple[torch.dtype, ...]) -> None:
    check(backend, dtypes, "contiguous", conv_case, *frozen(shape))


@no_triton
@pytest.mark.parametrize("grid", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_ka_on_other_grids_and_layouts(backend: str, layout: str, grid: int) -> None:
    check(backend, DTYPES[0], layout, linear_case, 63, 7, 5, grid)
    check(backend, DTYPES[0], layout, conv_case, *frozen(MAPS[2]), grid)
    check(backend, DTYPES[0], layout, conv_case, *frozen(MAPS[4]), grid)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("way", ["reference", "torch"])
def test_bases(way: str, dtype: torch.dtype) -> None:
    for size, order, span in GRIDS:
        for shape in ((0, 3), (1,), (9, 7), (1000,)):
            x = draw(shape)[0].to(dtype)
            ours = bspline_basis(x, size, order, span, backend=way)
            assert ours.dtype == dtype
            wide = bspline_basis(x.double(), size, order, span, backend="reference")
            # Each basis is at most one and is rounded once.
            assert ours.shape == wide.shape
            assert (ours.double() - wide).abs().max() < 2e-6 + torch.finfo(dtype).eps / 2 if wide.numel() else True


VALUES = (float("nan"), float("inf"), -float("inf"))


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("case", ["kan", "linear", "conv", "depthwise"])
def test_not_a_number_and_infinity_come_out_where_they_belong(backend: str, case: str, value: float) -> None:
    if backend == "triton" and case != "kan":
        pytest.skip("has no Triton kernel")
    picked = {"kan": (kan_case, (63, 7, 5)), "linear": (linear_case, (63, 7, 5))}
    picked |= {"conv": (conv_case, frozen(MAPS[2])), "depthwise": (conv_case, frozen((2, *MAPS[4][1:])))}
    build, sizes = picked[case]
    op, tensors = build(*sizes)
    clean = both_ways(partial(op, backend=backend), leaves(tensors, [torch.float32] * len(tensors)))
    for which in range(len(tensors)):
        spoiled = [t.clone() for t in tensors]
        spoiled[which].view(-1)[0] = value
        ours = both_ways(partial(op, backend=backend), leaves(spoiled, [torch.float32] * len(tensors)))
        wide = leaves(spoiled, [torch.float64] * len(tensors))
        exact = op(*wide, backend="reference")
        assert not ours[0].isfinite().all()
        # A coefficient only meets the inputs on which its basis is not zero; the definition multiplies by zero too.
        assert ours[0].isfinite()[exact.isfinite()].all()
        if which == 0:
            assert torch.equal(ours[0].isfinite(), exact.isfinite())
            # The other samples know nothing of it, neither their values nor their gradients.
            torch.testing.assert_close(ours[0][1:], clean[0][1:])
            torch.testing.assert_close(ours[1][1:], clean[1][1:])


@pytest.mark.parametrize("case", ["kan", "linear", "conv", "depthwise"])
def test_silu_of_a_huge_negative_number_is_zero(backend: str, case: str) -> None:
    if backend == "triton" and case != "kan":
        pytest.skip("has no Triton kernel")
    huge = -torch.tensor([1e38, 1e30, 1e20, 200.0, 88.0, 87.0] * 6)
    ones = torch.ones(1, 1)
    call = {
        "kan": lambda x: kan_linear(x[:, None], ones, torch.zeros(1, 1, 8), backend=backend),
        "linear": lambda x: ka_linear(x[:, None], ones, torch.zeros(1, 8), backend=backend),
        "conv": lambda x: ka_conv(
            x.view(1, 1, 6, 6), torch.ones(2, 1, 1, 1), torch.zeros(2, 8), spline_gradient=True, backend=backend
        ),
        "depthwise": lambda x: ka_conv(
            x.view(1, 1, 6, 6), ones[..., None, None], torch.zeros(1, 8), spline_gradient=True, backend=backend
        ),
    }[case]
    x = huge.requires_grad_()
    y = call(x)
    assert y.detach().abs().max() < 1e-35
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.abs().max() < 1e-35


@pytest.mark.parametrize("way", ["float64", "order 0", "order 4", "input weights"])
def test_what_a_kernel_refuses_is_computed_elsewhere(way: str) -> None:
    order = int(way[-1]) if way.startswith("order") else 3
    kind = torch.float64 if way == "float64" else torch.float32
    layer = draw((63, 7), (5, 7), (5, 7, 5 + order))
    shared = draw((63, 7), (5, 7), (5, 5 + order), (7,))
    maps = draw((2, 3, 7, 9), (5, 3, 3, 3), (5, 5 + order), (3, 3, 3))
    options = {"spline_order": order}
    cases = [(partial(kan_linear, **options), layer)] if way != "input weights" else []
    count = 4 if way == "input weights" else 3
    cases += [(partial(ka_linear, **options), shared[:count]), (partial(ka_conv, padding=1, **options), maps[:count])]
    for op, tensors in cases:
        exact = both_ways(partial(op, backend="reference"), leaves(tensors, [torch.float64] * len(tensors)))
        given = leaves(tensors, [kind] * len(tensors))
        if kind == torch.float32:
            demand_close(both_ways(op, given), exact)
        else:
            for one, other in zip(both_ways(op, given), exact, strict=True):
                assert (one - other).norm() <= 1e-9 * other.norm().clamp(min=1e-2)
        with pytest.raises(ValueError, match="cannot be used"):
            op(*given, backend="cpu")
