"""KAonv and SaKAN by the compiled kernels: one pass over the input in front of an ordinary convolution or product.

What `kanscan.ops.kaconv.torch` describes, in float32. Kept for backward are the input and the box-filtered sums of
bases, eight numbers for each window or row; a depth-wise convolution keeps the input alone. SiLU is formed again. A map
whose channels lie last gives one whose channels lie last, as a convolution of torch does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kanscan.ops import native
from kanscan.ops.bspline.grid import Grid, order_refusal
from kanscan.ops.dispatch import Differentiable, Schema, Tensors, result_dtype, without_autocast
from kanscan.ops.kaconv import torch as torch_form
from kanscan.ops.kaconv.kernels import channels_last
from kanscan.ops.kaconv.kernels.calls import (
    KernelGrid,
    base_gradients,
    eights,
    kernel_grid,
    plain,
    spline_gradient,
    window,
)
from kanscan.ops.kaconv.setting import Setting

absence = native.absence


def refusal(
    x: Tensor, base_weight: Tensor, input_weight: Tensor | None, spline_order: int, *, asked: bool
) -> str | None:
    """Return why the kernels cannot compute this call, or None if they can."""
    if input_weight is not None:
        return "the kernel has no weights on the inputs"
    return native.refusal(x, base_weight) or order_refusal(spline_order)


def ka_linear(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    input_weight: Tensor | None,
    grid: Grid,
    spline_gradient: bool,
) -> Tensor:
    """See `kanscan.ops.kaconv.ka_linear`; under autocast only the result has the autocast dtype."""
    rows = _in_order(x.reshape(-1, x.shape[-1]))
    (y,) = _LINEAR(rows, base_weight, spline_weight, spline_gradient, *_flat(grid))
    return y.to(result_dtype(x, base_weight)).view(*x.shape[:-1], base_weight.shape[0])


def ka_conv(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    input_weight: Tensor | None,
    setting: Setting,
    spline_gradient: bool,
) -> Tensor:
    """See `kanscan.ops.kaconv.ka_conv`; under autocast only the result has the autocast dtype."""
    _, *window, grid = setting
    (y,) = _CONV(_in_order(x), base_weight, spline_weight, *window, spline_gradient, *_flat(grid))
    return y.to(result_dtype(x, base_weight))


def _flat(grid: Grid) -> tuple[int, int, float, float]:
    size, order, (low, high) = grid
    return size, order, float(low), float(high)


def _in_order(x: Tensor) -> Tensor:
    # What lies in another order is copied once and kept instead, so that backward need not copy it again.
    return x if x.is_contiguous() or (x.ndim == 4 and channels_last.lies_last(x)) else x.contiguous()


# --- the linear layer ---


def _linear(
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


def _linear_backward(
    grads: Sequence[Tensor], tensors: Sequence[Tensor], kept: Sequence[Tensor], setting: Any, needs: Sequence[bool]
) -> Tensors:
    """Return the gradients of the three tensors, float32."""
    x, u, v = map(plain, tensors)
    with without_autocast(x):
        need_x, need_weights = needs[0], any(needs[1:])
        where = (kept[0], setting[0], kernel_grid(*setting[1:]))
        return channels_last.linear_backward(plain(grads[0]), x, u, v, *where, need_x, need_weights)


def _linear_shapes(x: Tensor, base_weight: Tensor, _: Tensor, *setting: Any) -> tuple[Tensor, Tensor]:
    widths = (base_weight.shape[0], eights(setting[1] + setting[2]))
    y, sums = (x.new_empty((x.shape[0], width), dtype=torch.float32) for width in widths)
    return y, sums


def _plain_linear(x: Tensor, u: Tensor, v: Tensor, through: bool, size: int, order: int, *span: float) -> Tensors:
    return torch_form.plain_linear(x, u, v, Grid(size, order, (span[0], span[1])), through)


_TENSORS = "Tensor x, Tensor base_weight, Tensor spline_weight"
_GRID = "bool spline_gradient, int grid_size, int spline_order, float low, float high"
_LINEAR = Differentiable(
    _linear,
    _linear_backward,
    _plain_linear,
    num_tensors=3,
    schema=Schema("ka_linear", _TENSORS, _GRID, fake=_linear_shapes, kept=1, device="cpu"),
)


# --- the convolution ---


def _sums_first(base_weight: Tensor, groups: int) -> bool:
    """Whether bases are summed over channels before the splines; else the splines come first, an output each."""
    outputs, channels = base_weight.shape[0] // groups, base_weight.shape[1]
    return bool(channels > 1 and (outputs > 1 or channels >= 8))


def _sums_shape(y: Tensor, base_weight: Tensor, groups: int, bases: int) -> tuple[Any, ...]:
    if not _sums_first(base_weight, groups):
        return (0,)
    return (y.shape[0], groups, y.shape[2] * y.shape[3], eights(bases))


def _conv(
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


def _conv_shapes(x: Tensor, base_weight: Tensor, _: Tensor, *setting: Any) -> tuple[Tensor, Tensor]:
    # Sizes may be symbols here: the convolution works them out.
    y = F.conv2d(x.float(), base_weight.float(), None, *setting[:4])
    y = channels_last.empty_map(y, *y.shape) if channels_last.lies_last(x) else y.new_empty(y.shape)
    return y, y.new_empty(_sums_shape(y, base_weight, setting[3], setting[6] + setting[7]))


def _conv_backward(
    grads: Sequence[Tensor], tensors: Sequence[Tensor], kept: Sequence[Tensor], setting: Any, needs: Sequence[bool]
) -> Tensors:
    """Return the gradients of the three tensors, float32."""
    (grad_y,), (x, base_weight, spline_weight), (sums,) = grads, tensors, kept
    *rest, contributes, through_splines, size, order, low, high = setting
    grid, u, v = kernel_grid(size, order, low, high), plain(base_weight), plain(spline_weight)
    last = channels_last.lies_last(x)
    options: Any = (tuple(rest), contributes, through_splines, grid, tuple(needs))
    if last and not _in_planes(u, rest[3]):
        with without_autocast(x):
            return channels_last.conv_backward(grad_y, x.to(torch.float32), u, v, sums, *options)
    grad_x, *others = _backward_in_planes(grad_y, x, u, v, sums, *options)
    return grad_x.contiguous(memory_format=torch.channels_last) if last and needs[0] else grad_x, *others


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


def _conv_gradient_shapes(_: Any, tensors: Sequence[Tensor], *rest: Any) -> Tensors:
    x, u, v = (t.new_empty(t.shape, dtype=torch.float32) for t in tensors)
    return channels_last.empty_map(x, *x.shape) if channels_last.lies_last(tensors[0]) else x, u, v


def _plain_conv(x: Tensor, u: Tensor, v: Tensor, *setting: Any) -> Tensors:
    stride, padding, dilation, groups, contributes, through_splines, size, order, low, high = setting
    grid, kernel = Grid(size, order, (low, high)), (u.shape[2], u.shape[3])
    # Through the dispatcher pairs come as lists.
    window = Setting(kernel, tuple(stride), tuple(padding), tuple(dilation), groups, contributes, grid)
    return torch_form.plain(x, u, v, window, through_splines)


_WINDOW = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, bool padding_contributes"
_CONV = Differentiable(
    _conv,
    _conv_backward,
    _plain_conv,
    num_tensors=3,
    schema=Schema(
        "ka_conv",
        _TENSORS,
        f"{_WINDOW}, {_GRID}",
        fake=_conv_shapes,
        fake_backward=_conv_gradient_shapes,
        kept=1,
        device="cpu",
    ),
)
