"""KAonv by the compiled kernels on maps whose channels lie last, and SaKAN: its rows are such a map.

Libraries convolve this order fastest, and networks between maps and tokens move nothing in it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kanscan.ops import native
from kanscan.ops.kaconv.kernels.calls import KernelGrid, base_gradients, eights, spline_gradient, window, window_of

_LAST = torch.channels_last


def lies_last(x: Tensor) -> bool:
    """Tell whether the channels of a map lie last, and in no other order as well."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=_LAST)


def empty_map(x: Tensor, *shape: Any) -> Tensor:
    """Return an unwritten map of (batch, channels, height, width) in this order."""
    batch, channels, height, width = shape
    return x.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)


def is_depthwise(base_weight: Tensor, groups: int) -> bool:
    """Tell whether every channel has a window and an output of its own."""
    return base_weight.shape[1] == 1 and base_weight.shape[0] == groups


def _none(x: Tensor) -> Tensor:
    # One for each: what an op returns must not share memory.
    return x.new_empty(0)


def _silu(x: Tensor, groups: int, grid: KernelGrid, maps: Tensor | None) -> Tensor:
    """Return SiLU of a map in memory that the next call takes again, and write the sums of bases of its pixels."""
    batch, channels, height, width = x.shape
    silu = native.scratch((batch, height, width, channels))
    native.call("ka_sums_last", x, batch, groups, channels // groups, height * width, *grid, silu, maps)
    return silu.permute(0, 3, 1, 2)


def _is_product(u: Tensor, rest: tuple[Any, ...]) -> bool:
    """Tell whether the convolution is a product of pixels and weights."""
    stride, padding, _, groups = rest
    return groups == 1 and u.shape[2] == u.shape[3] == 1 and set(stride) == {1} and not any(padding)


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _map(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(like.shape[0], *like.shape[2:], -1).permute(0, 3, 1, 2)


def conv(
    x: Tensor, u: Tensor, v: Tensor, rest: tuple[Any, ...], contributes: bool, grid: KernelGrid
) -> tuple[Tensor, Tensor]:
    """Return the result, channels last, and the sums of bases (batch, groups, windows, bases) for backward.

    Args:
        x: Map, channels last, float32.
        u: Weights of SiLU.
        v: Coefficients of the splines.
        rest: Stride, padding, dilation and groups.
        contributes: Whether padding adds the bases of zero.
        grid: As the kernels take it.
    """
    groups = rest[3]
    where = window(x, u, *rest[:3])
    batch, channels, outputs = x.shape[0], u.shape[1], len(v) // groups
    height, width = where[5].tolist()
    if is_depthwise(u, groups):
        y = empty_map(x, batch, groups, height, width)
        native.call("ka_depthwise", x, batch, groups, where, contributes, *grid, u, v, y)
        return y, x.new_empty(0)
    each, product = eights(grid[0]), _is_product(u, rest)
    sums = x.new_empty((batch, groups, height * width, each))
    maps = None if product else native.scratch((batch, groups, x.shape[2] * x.shape[3], each), slot=1)
    silu = _silu(x, groups, grid, sums if maps is None else maps)
    if product:
        y = _map(_rows(silu) @ u.flatten(1).t(), x)
    else:
        y = F.conv2d(silu, u, None, *rest).contiguous(memory_format=_LAST)
    native.call("ka_windows_last", maps, batch, groups, channels, where, contributes, *grid, v, outputs, sums, y)
    return y, sums


def conv_backward(
    grad: Tensor,
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
    """Return the gradients of x, u and v; empty ones where none is needed."""
    grad = grad.to(torch.float32).contiguous(memory_format=_LAST)
    where = window(x, u, *rest[:3])
    if is_depthwise(u, rest[3]):
        return _depthwise_backward(grad, x, u, v, where, contributes, through_splines, grid, needs)
    batch, channels, outputs, groups = x.shape[0], u.shape[1], len(v) // rest[3], rest[3]
    grad_x, grad_u = _base_gradients(grad, x, u, rest, grid, needs)
    if needs[0]:
        through = _through(grad, v, sums, groups) if through_splines else None
        native.call("ka_input_gradient_last", x, batch, groups, channels, where, *grid, through, grad_x)
    grad_v = spline_gradient(sums, grad, grid[0], outputs, "_last") if needs[2] else _none(x)
    return grad_x, grad_u, grad_v


def _through(grad: Tensor, v: Tensor, sums: Tensor, groups: int) -> Tensor:
    """Return the gradient of the sums of bases."""
    weights = F.pad(v, (0, sums.shape[3] - v.shape[1])).view(groups, -1, sums.shape[3])
    rows = grad.permute(0, 2, 3, 1).reshape(grad.shape[0], sums.shape[2], groups, len(v) // groups)
    return (rows.transpose(1, 2) @ weights).contiguous()


def _base_gradients(
    grad: Tensor, x: Tensor, u: Tensor, rest: tuple[Any, ...], grid: KernelGrid, needs: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor]:
    """Return the gradients of SiLU(x) and of its weight."""
    if not any(needs[:2]):
        return _none(x), _none(x)
    silu = _silu(x, rest[3], grid, None) if needs[1] else x
    if _is_product(u, rest):
        rows = _rows(grad)
        grad_x = _map(rows @ u.flatten(1), x) if needs[0] else _none(x)
        return grad_x, (rows.t() @ _rows(silu)).view(u.shape) if needs[1] else _none(x)
    return base_gradients(grad, silu, u, rest, needs[:2], _LAST)


def _depthwise_backward(
    grad: Tensor,
    x: Tensor,
    u: Tensor,
    v: Tensor,
    where: Tensor,
    contributes: bool,
    through_splines: bool,
    grid: KernelGrid,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels = x.shape[:2]
    grad_x = torch.empty_like(x) if needs[0] else None
    grad_u, grad_v = x.new_empty((batch, *u.shape)), x.new_empty((batch, *v.shape))
    splines = (u, v, through_splines, grad_u, grad_v, grad_x)
    native.call("ka_depthwise_gradient", x, grad, batch, channels, where, contributes, *grid, *splines)
    return (
        _none(x) if grad_x is None else grad_x,
        grad_u.sum(0) if needs[1] else _none(x),
        grad_v.sum(0) if needs[2] else _none(x),
    )


# --- the linear layer: a map of one column ---


def _column(x: Tensor) -> Tensor:
    return window_of((1, 1), (1, 1), (0, 0), (1, 1), (x.shape[0], 1))


def linear(x: Tensor, u: Tensor, v: Tensor, grid: KernelGrid) -> tuple[Tensor, Tensor]:
    """Return the result for rows `x` and, for backward, the sums of bases (rows, bases)."""
    rows, inputs = x.shape
    sums, silu = x.new_empty((rows, eights(grid[0]))), native.scratch(x.shape)
    native.call("ka_sums_last", x, 1, 1, inputs, rows, *grid, silu, sums)
    y = silu @ u.t()
    native.call("ka_windows_last", None, 1, 1, inputs, _column(x), False, *grid, v, len(v), sums, y)
    return y, sums


def linear_backward(
    grad: Tensor,
    x: Tensor,
    u: Tensor,
    v: Tensor,
    sums: Tensor,
    through_splines: bool,
    grid: KernelGrid,
    need_x: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, u and v; empty ones where none is needed."""
    rows, inputs = x.shape
    grad_x, grad_u, grad_v = (_none(x) for _ in range(3))
    if need_weights:
        silu = native.scratch(x.shape)
        native.call("ka_sums_last", x, 1, 1, inputs, rows, *grid, silu, None)
        grad_u = grad.t() @ silu
        grad_v = spline_gradient(sums.view(1, 1, *sums.shape), grad, grid[0], len(v), "_last")
    if need_x:
        grad_x = grad @ u
        through = grad @ F.pad(v, (0, sums.shape[1] - v.shape[1])) if through_splines else None
        native.call("ka_input_gradient_last", x, 1, 1, inputs, _column(x), *grid, through, grad_x)
    return grad_x, grad_u, grad_v
