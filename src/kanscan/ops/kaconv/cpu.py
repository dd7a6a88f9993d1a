"""KAonv and SaKAN by the compiled kernels: one pass over the input in front of an ordinary convolution or product.

What `kanscan.ops.kaconv.factorized` describes, in float32. Kept for backward are the input and the box-filtered sums of
bases, eight numbers for each window or row; a depth-wise convolution keeps the input alone. SiLU is formed again. A map
whose channels lie last gives one whose channels lie last, as a convolution of torch does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kanscan.ops import native
from kanscan.ops.bspline.cpu import ORDERS
from kanscan.ops.kaconv import channels_last
from kanscan.ops.kaconv.kernel_calls import (
    KernelGrid,
    base_gradients,
    eights,
    kernel_grid,
    plain,
    spline_gradient,
    window,
)
from kanscan.ops.kaconv.setting import Grid, Setting
from kanscan.ops.selective_scan import without_autocast

# Schemas are written out: torch would read them off annotations, which a type checker at run time may have wrapped.
_TENSORS = "Tensor x, Tensor base_weight, Tensor spline_weight"
_GRID = "bool spline_gradient, int grid_size, int spline_order, float low, float high"
_WINDOW = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, bool padding_contributes"


def refusal(x: Tensor, base_weight: Tensor, input_weight: Tensor | None, spline_order: int) -> str | None:
    """Return why the kernels cannot compute this call, or None if they can."""
    if native.ABSENCE is not None:
        return f"the compiled kernels are absent: {native.ABSENCE}"
    if x.device.type != "cpu":
        return f"the kernel computes on the processor, and the input is on {x.device.type}"
    if torch.float64 in (x.dtype, base_weight.dtype):
        return "the kernel computes in float32, and float64 was asked for"
    if input_weight is not None:
        return "the kernel has no weights on the inputs"
    if spline_order not in ORDERS:
        return f"the kernel has splines of order {', '.join(map(str, ORDERS))}, and order {spline_order} was asked for"
    return None


def ka_linear(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    input_weight: Tensor | None,
    grid: Grid,
    spline_gradient: bool,
) -> Tensor:
    """See `kanscan.ops.kaconv.ka_linear`; under autocast only the result has the autocast dtype."""
    assert input_weight is None
    rows = x.reshape(-1, x.shape[-1])
    inputs = (rows, base_weight, spline_weight, spline_gradient, *grid[:2], *map(float, grid[2]))
    y = _Linear.apply(*inputs) if native.outright(x, base_weight, spline_weight) else _linear(*inputs)[0]
    return y.to(_result_dtype(base_weight)).view(*x.shape[:-1], base_weight.shape[0])


def ka_conv(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    input_weight: Tensor | None,
    setting: Setting,
    spline_gradient: bool,
) -> Tensor:
    """See `kanscan.ops.kaconv.ka_conv`; under autocast only the result has the autocast dtype."""
    assert input_weight is None
    window = (setting.stride, setting.padding, setting.dilation, setting.groups, setting.padding_contributes)
    size, order, span = setting.grid
    inputs = (x, base_weight, spline_weight, *window, spline_gradient, size, order, *map(float, span))
    y = _Conv.apply(*inputs) if native.outright(x, base_weight, spline_weight) else _conv(*inputs)[0]
    return y.to(_result_dtype(base_weight))


def _result_dtype(weight: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype


def _in_order(x: Tensor) -> Tensor:
    # What lies in another order is copied once and kept instead, so that backward need not copy it again.
    return x if x.is_contiguous() or (x.ndim == 4 and channels_last.lies_last(x)) else x.contiguous()


# --- the linear layer ---


def _apply_linear(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    spline_gradient: bool,
    grid_size: int,
    spline_order: int,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor]:
    """Return the result and, for backward, the sums of bases (rows, bases)."""
    grid = kernel_grid(grid_size, spline_order, low, high)
    with without_autocast(x):
        return channels_last.linear(plain(x), plain(base_weight), plain(spline_weight), grid)


_linear = torch.library.custom_op(
    "kanscan::ka_linear",
    _apply_linear,
    mutates_args=(),
    device_types="cpu",
    schema=f"({_TENSORS}, {_GRID}) -> (Tensor, Tensor)",
)


@_linear.register_fake
def _(x: Tensor, base_weight: Tensor, spline_weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    widths = (base_weight.shape[0], eights(rest[1] + rest[2]))
    y, sums = (x.new_empty((x.shape[0], width), dtype=torch.float32) for width in widths)
    return y, sums


def _apply_linear_backward(
    grad_y: Tensor,
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    sums: Tensor,
    spline_gradient: bool,
    grid_size: int,
    spline_order: int,
    low: float,
    high: float,
    need_x: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the three tensors, float32; empty ones where none is needed."""
    grid = kernel_grid(grid_size, spline_order, low, high)
    u, v, options = plain(base_weight), plain(spline_weight), (spline_gradient, grid, need_x, need_weights)
    with without_autocast(x):
        return channels_last.linear_backward(plain(grad_y), plain(x), u, v, sums, *options)


_linear_backward = torch.library.custom_op(
    "kanscan::ka_linear_backward",
    _apply_linear_backward,
    mutates_args=(),
    device_types="cpu",
    schema=(
        f"(Tensor grad_y, {_TENSORS}, Tensor sums, {_GRID}, bool need_x, bool need_weights) -> (Tensor, Tensor, Tensor)"
    ),
)


@_linear_backward.register_fake
def _(
    grad_y: Tensor, x: Tensor, base_weight: Tensor, spline_weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_gradients((x, base_weight, spline_weight), (rest[-2], rest[-1], rest[-1]))


def _fake_gradients(tensors: tuple[Tensor, ...], needs: tuple[bool, ...]) -> tuple[Tensor, Tensor, Tensor]:
    x, u, v = (
        t.new_empty(t.shape if need else (0,), dtype=torch.float32) for t, need in zip(tensors, needs, strict=True)
    )
    return x, u, v


def _linear_gradients(ctx: Any, grad_y: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * (3 + len(ctx.rest))
    *tensors, sums = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grads = _linear_backward(grad_y, *tensors, sums, *ctx.rest, needs[0], any(needs[1:3]))
    return (*_asked_for(grads, tuple(tensors), needs), *[None] * len(ctx.rest))


def _asked_for(grads: tuple[Tensor, ...], tensors: tuple[Tensor, ...], needs: tuple[bool, ...]) -> list[Tensor | None]:
    return [g.to(t.dtype) if need else None for g, t, need in zip(grads, tensors, needs, strict=False)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], output[1])
    ctx.rest = inputs[3:]
    ctx.set_materialize_grads(False)


_linear.register_autograd(_linear_gradients, setup_context=_keep)


class _Linear(torch.autograd.Function):
    """The same without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *inputs: Any) -> Tensor:
        inputs = (_in_order(x), *inputs)
        y, sums = _apply_linear(*inputs)
        ctx.save_for_backward(*inputs[:3], sums)
        ctx.rest = inputs[3:]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, u, v, sums = ctx.saved_tensors
        needs = ctx.needs_input_grad
        rest = (sums, *ctx.rest, needs[0], any(needs[1:3]))
        found = _apply_linear_backward(grads[0], x, u, v, *rest)
        return (*_asked_for(found, (x, u, v), needs), *[None] * len(ctx.rest))


# --- the convolution ---


def _sums_first(base_weight: Tensor, groups: int) -> bool:
    """Whether bases are summed over channels before the splines; else the splines come first, an output each."""
    outputs, channels = base_weight.shape[0] // groups, base_weight.shape[1]
    return bool(channels > 1 and (outputs > 1 or channels >= 8))


def _sums_shape(y: Tensor, base_weight: Tensor, groups: int, bases: int) -> tuple[Any, ...]:
    if not _sums_first(base_weight, groups):
        return (0,)
    return (y.shape[0], groups, y.shape[2] * y.shape[3], eights(bases))


def _apply_conv(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_contributes: bool,
    spline_gradient: bool,
    grid_size: int,
    spline_order: int,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor]:
    """Return the result and, for backward, the box-filtered sums of bases (batch, groups, windows, bases)."""
    grid = kernel_grid(grid_size, spline_order, low, high)
    u, v = plain(base_weight), plain(spline_weight)
    rest = (stride, padding, dilation, groups)
    if not channels_last.lies_last(x):
        return _conv_in_planes(plain(x), u, v, rest, padding_contributes, grid)
    if _in_planes(u, groups):
        y, sums = _conv_in_planes(plain(x), u, v, rest, padding_contributes, grid)
        return y.contiguous(memory_format=torch.channels_last), sums
    with without_autocast(x):
        return channels_last.conv(x.to(torch.float32), u, v, rest, padding_contributes, grid)


def _in_planes(base_weight: Tensor, groups: int) -> bool:
    """Tell whether a map whose channels lie last is put into planes first: few channels in many groups."""
    return not (_sums_first(base_weight, groups) or channels_last.is_depthwise(base_weight, groups))


def _conv_in_planes(
    x: Tensor, u: Tensor, v: Tensor, rest: tuple[Any, ...], contributes: bool, grid: KernelGrid
) -> tuple[Tensor, Tensor]:
    *where, groups = rest
    batch, channels, size = x.shape[0], u.shape[1], (x.shape[2], x.shape[3])
    num_maps = batch * groups * size[0] * size[1] * eights(grid[0]) if _sums_first(u, groups) else 0
    silu, maps = native.scratch(x.shape), native.scratch((num_maps,), slot=1) if num_maps else None
    native.call("ka_sums", x, batch * groups, channels, size[0] * size[1], *grid, silu, maps)
    with without_autocast(x):
        # SiLU(0) = 0: zeros around the map are exact here.
        y = F.conv2d(silu, u, None, *rest).contiguous()
    sums = x.new_empty(_sums_shape(y, u, groups, grid[0]))
    arguments = (batch, groups, channels, window(x, u, *where), contributes, *grid, v, len(v) // groups)
    if sums.ndim > 1:
        native.call("ka_window", maps, *arguments, sums, y)
    else:
        native.call("ka_curves", x, *arguments, y)
    return y, sums


_conv = torch.library.custom_op(
    "kanscan::ka_conv",
    _apply_conv,
    mutates_args=(),
    device_types="cpu",
    schema=f"({_TENSORS}, {_WINDOW}, {_GRID}) -> (Tensor, Tensor)",
)


@_conv.register_fake
def _(x: Tensor, base_weight: Tensor, spline_weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    # Sizes may be symbols here: the convolution works them out.
    y = F.conv2d(x.float(), base_weight.float(), None, *rest[:4])
    y = channels_last.empty_map(y, *y.shape) if channels_last.lies_last(x) else y.new_empty(y.shape)
    return y, y.new_empty(_sums_shape(y, base_weight, rest[3], rest[6] + rest[7]))


def _apply_conv_backward(
    grad_y: Tensor,
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    sums: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_contributes: bool,
    spline_gradient: bool,
    grid_size: int,
    spline_order: int,
    low: float,
    high: float,
    need_x: bool,
    need_base: bool,
    need_spline: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the three tensors, float32; empty ones where none is needed."""
    grid = kernel_grid(grid_size, spline_order, low, high)
    u, v = plain(base_weight), plain(spline_weight)
    rest, needs = (stride, padding, dilation, groups), (need_x, need_base, need_spline)
    if not channels_last.lies_last(x):
        return _backward_in_planes(grad_y, x, u, v, sums, rest, padding_contributes, spline_gradient, grid, needs)
    if _in_planes(u, groups):
        found = _backward_in_planes(grad_y, x, u, v, sums, rest, padding_contributes, spline_gradient, grid, needs)
        return found[0].contiguous(memory_format=torch.channels_last) if need_x else found[0], *found[1:]
    with without_autocast(x):
        options = (rest, padding_contributes, spline_gradient, grid, needs)
        return channels_last.conv_backward(grad_y, x.to(torch.float32), u, v, sums, *options)


def _backward_in_planes(
    grad_y: Tensor,
    x: Tensor,
    u: Tensor,
    v: Tensor,
    sums: Tensor,
    rest: tuple[Any, ...],
    contributes: bool,
    through_splines: bool,
    grid: KernelGrid,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    (need_x, need_base, need_spline), groups = needs, rest[3]
    grad, x = plain(grad_y), plain(x)
    batch, channels = x.shape[0], u.shape[1]
    where = window(x, u, *rest[:3])
    grad_v = through = None
    with without_autocast(x):
        grad_x, grad_u = _base_gradients(grad, x, u, rest, grid, need_x, need_base)
        if sums.ndim > 1 and need_spline:
            grad_v = spline_gradient(sums, grad, grid[0], len(u) // groups)
        if sums.ndim > 1 and through_splines and need_x:
            wide = F.pad(v, (0, sums.shape[3] - grid[0])).view(groups, len(u) // groups, sums.shape[3])
            through = grad.view(batch, groups, len(u) // groups, sums.shape[2]).mT @ wide
    if need_x:
        native.call("ka_input_gradient", x, batch * groups, channels, where, *grid, through, grad_x)
    if sums.ndim == 1 and (need_spline or (through_splines and need_x)):
        grad_v = x.new_empty((batch, *v.shape))
        onto = grad_x if through_splines and need_x else None
        at = (batch, groups, channels, where, contributes, *grid, v, len(v) // groups)
        native.call("ka_curves_gradient", x, grad, *at, grad_v, onto)
        grad_v = grad_v.sum(0)
    found = x.new_empty(0) if grad_v is None or not need_spline else grad_v.reshape(v.shape).contiguous()
    return grad_x, grad_u, found


def _base_gradients(
    grad: Tensor,
    x: Tensor,
    u: Tensor,
    rest: tuple[Any, ...],
    grid: KernelGrid,
    need_x: bool,
    need_base: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of SiLU(x) and of its weight, by the library's convolution."""
    if not (need_x or need_base):
        return x.new_empty(0), x.new_empty(0)
    silu = x
    if need_base:
        silu = native.scratch(x.shape)
        native.call("ka_sums", x, x.shape[0], x.shape[1], x.shape[2] * x.shape[3], *grid, silu, None)
    return base_gradients(grad, silu, u, rest, (need_x, need_base))


_conv_backward = torch.library.custom_op(
    "kanscan::ka_conv_backward",
    _apply_conv_backward,
    mutates_args=(),
    device_types="cpu",
    schema=(
        f"(Tensor grad_y, {_TENSORS}, Tensor sums, {_WINDOW}, {_GRID}, bool need_x, bool need_base, bool need_spline)"
        " -> (Tensor, Tensor, Tensor)"
    ),
)


@_conv_backward.register_fake
def _(
    grad_y: Tensor, x: Tensor, base_weight: Tensor, spline_weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    found = _fake_gradients((x, base_weight, spline_weight), rest[-3:])
    last = rest[-3] and channels_last.lies_last(x)
    return channels_last.empty_map(found[0], *x.shape) if last else found[0], *found[1:]


def _conv_gradients(ctx: Any, grad_y: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * (3 + len(ctx.rest))
    *tensors, sums = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grads = _conv_backward(grad_y, *tensors, sums, *ctx.rest, *needs[:3])
    return (*_asked_for(grads, tuple(tensors), needs), *[None] * len(ctx.rest))


_conv.register_autograd(_conv_gradients, setup_context=_keep)


class _Conv(torch.autograd.Function):
    """The same without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *inputs: Any) -> Tensor:
        inputs = (_in_order(x), *inputs)
        y, sums = _apply_conv(*inputs)
        ctx.save_for_backward(*inputs[:3], sums)
        ctx.rest = inputs[3:]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, sums = ctx.saved_tensors
        needs = ctx.needs_input_grad
        rest = (sums, *ctx.rest, *needs[:3])
        found = _apply_conv_backward(grads[0], *tensors, *rest)
        return (*_asked_for(found, tuple(tensors), needs), *[None] * len(ctx.rest))
