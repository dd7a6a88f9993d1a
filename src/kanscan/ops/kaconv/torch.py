"""KAonv without unfolding, exact: a convolution of SiLU(x), and a box filter over sums of bases.

All inputs of an output share its spline, so the spline part of output i at window p is

    sum_k v_ik S_k(p),      S_k(p) = sum over the taps of the window and the channels of the group of B_k(x).

S_k is the box filter (the window with stride, padding and dilation) of a map that holds, for each pixel, the sum of
B_k over the channels: `bases` maps where unfolding has `channels x taps x bases`. A group with fewer outputs than bases
(depth-wise layers) takes the two linear steps in the other order: first v, then the box filter. Weights on the inputs
(lambda) turn the box filter into a convolution of each basis.

The input is gone through in blocks, so that the bases stay in cache; the backward pass forms them again. Only the input
and, where they are few, the sums S are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from kanscan.ops.bspline import reference as recursion
from kanscan.ops.bspline import torch as bspline
from kanscan.ops.bspline.grid import Grid
from kanscan.ops.dispatch import Differentiable, Tensors, result_dtype, wide_dtype, without_autocast
from kanscan.ops.kaconv import reference
from kanscan.ops.kaconv.setting import Setting

#: Inputs whose bases are formed at a time: the handful of buffers of a block stay in the second-level cache.
BLOCK_INPUTS = 2**15


def ka_linear(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    input_weight: Tensor | None,
    grid: Grid,
    spline_gradient: bool,
) -> Tensor:
    """See `kanscan.ops.kaconv.ka_linear`."""
    if not x.numel():
        return reference.ka_linear(x, base_weight, spline_weight, input_weight, grid, spline_gradient)
    base = F.linear(_silu(x, base_weight), base_weight)
    rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    weight = None if input_weight is None else input_weight[:, None, None]
    spline = _spline(rows, spline_weight, weight, _point(grid), spline_gradient)
    return base + spline.permute(0, 2, 3, 1).reshape(base.shape).to(base.dtype)


def _silu(x: Tensor, weight: Tensor) -> Tensor:
    """Return SiLU(x), rounded once, in the dtype of the product with `weight`."""
    dtype = result_dtype(x, weight)
    return F.silu(x if x.dtype == dtype else recursion.widened(x)).to(dtype)


def _point(grid: Grid) -> Setting:
    return Setting((1, 1), (1, 1), (0, 0), (1, 1), 1, True, grid)


def ka_conv(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    input_weight: Tensor | None,
    setting: Setting,
    spline_gradient: bool,
) -> Tensor:
    """See `kanscan.ops.kaconv.ka_conv`."""
    # SiLU(0) = 0: zeros around the map are exact here.
    silu = _silu(x, base_weight)
    base = F.conv2d(silu, base_weight, None, setting.stride, setting.padding, setting.dilation, setting.groups)
    return base + _spline(x, spline_weight, input_weight, setting, spline_gradient).to(base.dtype)


def _spline(x: Tensor, v: Tensor, weight: Tensor | None, setting: Setting, spline_gradient: bool) -> Tensor:
    """Return the spline part, in float32 at least."""
    wide = wide_dtype(x)
    x = (x if spline_gradient else x.detach()).to(wide)
    with without_autocast(x):
        (y,) = _SPLINE(x, v.to(wide), None if weight is None else weight.to(wide), setting)
    return y


def _plain_spline(x: Tensor, v: Tensor, weight: Tensor | None, setting: Setting) -> tuple[Tensor]:
    """Return the spline part with every basis of every pixel kept, by convolutions."""
    x, padding = _weighted_input(x, setting)
    bases = bspline.basis(x, *setting.grid).movedim(-1, 1)
    groups, batch = setting.groups, bases.shape[:2]
    if weight is None:
        bases, kernel = bases.unflatten(2, (groups, -1)).sum(3), x.new_ones(groups, 1, *setting.kernel)
    else:
        kernel = weight.reshape(groups, -1, *setting.kernel)
    sums = F.conv2d(bases.flatten(0, 1), kernel, None, setting.stride, padding, setting.dilation, groups)
    return (_product(sums.unflatten(0, batch).transpose(1, 2), v),)


def plain(
    x: Tensor, base_weight: Tensor, spline_weight: Tensor, setting: Setting, spline_gradient: bool
) -> tuple[Tensor]:
    """Return `ka_conv` in float32, by operations that can be differentiated again."""
    x, u, v = (t.float() for t in (x, base_weight, spline_weight))
    with without_autocast(x):
        base = F.conv2d(F.silu(x), u, None, setting.stride, setting.padding, setting.dilation, setting.groups)
        return (base + _plain_spline(x if spline_gradient else x.detach(), v, None, setting)[0],)


def plain_linear(
    x: Tensor, base_weight: Tensor, spline_weight: Tensor, grid: Grid, spline_gradient: bool
) -> tuple[Tensor]:
    """Return `ka_linear` of rows in float32, by operations that can be differentiated again."""
    x, u, v = (t.float() for t in (x, base_weight, spline_weight))
    with without_autocast(x):
        sums = bspline.basis(x if spline_gradient else x.detach(), *grid).sum(1)
        return (F.silu(x) @ u.t() + sums @ v.t(),)


def _backward(grads: Sequence[Any], tensors: Sequence[Any], kept: Sequence[Any], rest: Any, needs: Any) -> Tensors:
    (x, v, weight), (sums,), (setting,) = tensors, kept, rest
    grad = grads[0].contiguous()
    if not grad.numel():
        return [None if t is None else torch.zeros_like(t) for t in tensors]
    if weight is not None:
        return _weighted_backward(grad, x, v, weight, setting, needs[0])
    backward = _sums_backward if sums is not None else _curves_backward
    return *backward(grad, x, v, sums, setting, needs[0]), None


def _forward(x: Tensor, v: Tensor, weight: Tensor | None, setting: Setting) -> tuple[Tensor, Tensor | None]:
    """Return the spline part and, for `_sums_backward`, the box-filtered sums."""
    if weight is not None:
        return _product(_weighted_sums(x, weight, setting), v), None
    outputs = v.shape[0] // setting.groups
    if outputs >= v.shape[1]:
        sums = _box(_padded(x, None, setting), setting)
        return _product(sums, v), sums
    return _box(_padded(x, v, setting), setting).flatten(1, 2), None


def _product(sums: Tensor, v: Tensor) -> Tensor:
    """Multiply (batch, groups, bases, height, width) by v: (batch, outputs, height, width)."""
    batch, groups, bases, *size = sums.shape
    y = v.reshape(groups, -1, bases) @ sums.flatten(3)
    return y.reshape(batch, len(v), *size)


def _blocks(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut a map into slices of samples and of rows that hold `BLOCK_INPUTS` numbers or a little less."""
    batch, channels, height, width = x.shape
    rows = max(min(BLOCK_INPUTS // max(channels * width, 1), height), 1)
    samples = max(BLOCK_INPUTS // max(channels * width * height, 1), 1)
    for b in range(0, batch, samples):
        for r in range(0, height, rows):
            yield slice(b, b + samples), slice(r, r + rows)


def _bases(x: Tensor, grid: Grid) -> Tensor:
    """Return all bases of `x`, the bases along a new first axis."""
    if x.dtype == torch.float64:
        return recursion.bspline_basis(x, *grid).movedim(-1, 0)
    return bspline._bump(_offsets(x, grid), grid[1])


def _slopes(x: Tensor, grid: Grid) -> Tensor:
    """Return the derivatives of `_bases`."""
    if x.dtype == torch.float64:
        return recursion.basis_derivative(x, *grid).movedim(-1, 0)
    return bspline._bump_slope(_offsets(x, grid), grid[1]).mul_(grid[0] / (grid[2][1] - grid[2][0]))


def _offsets(x: Tensor, grid: Grid) -> Tensor:
    """Return the distances of `x` to the middles of the bumps, in intervals, signed."""
    size, order, (low, high) = grid
    middles = torch.arange(size + order, dtype=x.dtype, device=x.device) + (1 - order) / 2
    return ((x - low) * (size / (high - low))).unsqueeze(0) - middles.view(-1, *[1] * x.ndim)


def _group_sums(x: Tensor, setting: Setting) -> Tensor:
    """Sum each basis over the channels of each group: (batch, groups, bases, height, width)."""
    bases = _bases(x, setting.grid).unflatten(2, (setting.groups, -1)).sum(3)
    return bases.permute(1, 2, 0, 3, 4)


def _padded(x: Tensor, v: Tensor | None, setting: Setting) -> Tensor:
    """Return sums of bases, or with `v` the curves they form, with what padding adds around them.

    Returns:
        (batch, groups, bases or outputs of a group, padded height, padded width).
    """
    (batch, _, height, width), groups = x.shape, setting.groups
    top, left = setting.padding
    border = _border(x, setting).expand(groups, -1)
    if v is not None:
        v = v.view(groups, -1, border.shape[1])
        border = (v @ border.unsqueeze(2)).squeeze(2)
    out = x.new_empty(batch, groups, border.shape[1], height + 2 * top, width + 2 * left)
    if top or left:
        out[:] = border[:, :, None, None]
    inner = out[..., top : top + height, left : left + width]
    for samples, rows in _blocks(x):
        sums = _group_sums(x[samples, :, rows], setting)
        inner[samples, :, :, rows] = sums if v is None else (v @ sums.flatten(3)).unflatten(3, sums.shape[3:])
    return out


def _border(x: Tensor, setting: Setting) -> Tensor:
    """Return what one padded place adds to the sum of each basis over the channels of a group."""
    zero = _bases(x.new_zeros(1), setting.grid).flatten()
    return zero * (x.shape[1] // setting.groups if setting.padding_contributes else 0)


def _box(x: Tensor, setting: Setting) -> Tensor:
    """Sum the taps of every window of an already padded map, along rows and then along columns."""
    for axis in (0, 1):
        taps = [x[index] for index in _taps(axis, x.shape[axis - 2], setting)]
        if len(taps) == 1:
            x = taps[0]
            continue
        total = taps[0] + taps[1]
        for tap in taps[2:]:
            total.add_(tap)
        x = total
    return x.contiguous()


def _box_adjoint(grad: Tensor, size: tuple[int, int], setting: Setting) -> Tensor:
    """Hand the gradient of every window to its taps on a padded map of `size`."""
    for axis in (1, 0):
        shape = list(grad.shape)
        shape[axis - 2] = size[axis]
        spread = grad.new_zeros(shape)
        for index in _taps(axis, size[axis], setting):
            spread[index].add_(grad)
        grad = spread
    return grad


def _taps(axis: int, length: int, setting: Setting) -> list[tuple[Any, ...]]:
    """Return, for each tap along an axis of `length`, the index of the places it reads."""
    kernel, stride, dilation = setting.kernel[axis], setting.stride[axis], setting.dilation[axis]
    reach = (length - dilation * (kernel - 1) - 1) // stride * stride + 1
    rest = (slice(None),) * (1 - axis)
    return [(..., slice(t * dilation, t * dilation + reach, stride), *rest) for t in range(kernel)]


def _padded_size(x: Tensor, setting: Setting) -> tuple[int, int]:
    return x.shape[2] + 2 * setting.padding[0], x.shape[3] + 2 * setting.padding[1]


def _inside(padded: Tensor, x: Tensor, setting: Setting) -> Tensor:
    top, left = setting.padding
    return padded[..., top : top + x.shape[2], left : left + x.shape[3]]


def _sums_backward(
    grad: Tensor, x: Tensor, v: Tensor, sums: Tensor, setting: Setting, needs_x: bool
) -> tuple[Tensor | None, Tensor]:
    groups, bases = setting.groups, v.shape[1]
    rows = grad.view(grad.shape[0], groups, -1, grad[0, 0].numel())
    grad_v = (rows @ sums.flatten(3).mT).sum(0).view_as(v)
    if not needs_x:
        return None, grad_v
    through = (v.view(groups, -1, bases).mT @ rows).unflatten(3, grad.shape[2:])
    through = _inside(_box_adjoint(through, _padded_size(x, setting), setting), x, setting)
    grad_x = torch.empty_like(x)
    for samples, lines in _blocks(x):
        grad_x[samples, :, lines] = _input_gradient(x[samples, :, lines], through[samples, :, :, lines], setting)
    return grad_x, grad_v


def _curves_backward(
    grad: Tensor, x: Tensor, v: Tensor, _: None, setting: Setting, needs_x: bool
) -> tuple[Tensor | None, Tensor]:
    groups, bases = setting.groups, v.shape[1]
    spread = _box_adjoint(grad.unflatten(1, (groups, -1)), _padded_size(x, setting), setting)
    inner = _inside(spread, x, setting)
    # Around the map every place reads the same sums of bases.
    outside = spread.sum((0, 3, 4)) - inner.sum((0, 3, 4))
    grad_v = outside.unsqueeze(2) * _border(x, setting)
    grad_x = torch.empty_like(x) if needs_x else None
    v = v.view(groups, -1, bases)
    for samples, lines in _blocks(x):
        block, part = x[samples, :, lines], inner[samples, :, :, lines].flatten(3)
        sums = _group_sums(block, setting)
        grad_v += (part @ sums.flatten(3).mT).sum(0)
        if grad_x is not None:
            through = (v.mT @ part).view(sums.shape)
            grad_x[samples, :, lines] = _input_gradient(block, through, setting)
    return grad_x, grad_v.view(-1, bases)


def _input_gradient(x: Tensor, through: Tensor, setting: Setting) -> Tensor:
    """Multiply the gradient of the sums (batch, groups, bases, height, width) by the slopes of the bases."""
    slopes = _slopes(x, setting.grid).unflatten(2, (setting.groups, -1))
    return (slopes * through.permute(2, 0, 1, 3, 4).unsqueeze(3)).sum(0).flatten(1, 2)


def _weighted_input(x: Tensor, setting: Setting) -> tuple[Tensor, tuple[int, int]]:
    """Pad before the bases are formed, where padding contributes; else leave it to the convolution."""
    if not setting.padding_contributes:
        return x, setting.padding
    top, left = setting.padding
    return F.pad(x, (left, left, top, top)), (0, 0)


def _each_basis(x: Tensor, grid: Grid, *, slope: bool = False) -> Iterator[Tensor]:
    """Yield the bases of `x`, or their derivatives, one map at a time."""
    if x.dtype == torch.float64:
        yield from (_slopes if slope else _bases)(x, grid).unbind(0)
        return
    size, order, (low, high) = grid
    scale = size / (high - low)
    place = (x - low) * scale
    for k in range(size + order):
        offset = place - (k + (1 - order) / 2)
        yield bspline._bump_slope(offset, order).mul_(scale) if slope else bspline._bump(offset, order)


def _weighted_sums(x: Tensor, weight: Tensor, setting: Setting) -> Tensor:
    """Return the sums of bases over each window, each input with its weight: (batch, groups, bases, height, width)."""
    x, padding = _weighted_input(x, setting)
    kernel = weight.view(setting.groups, -1, *weight.shape[1:])
    rest = (setting.stride, padding, setting.dilation, setting.groups)
    return torch.stack([F.conv2d(basis, kernel, None, *rest) for basis in _each_basis(x, setting.grid)], dim=2)


def _weighted_backward(
    grad: Tensor, x: Tensor, v: Tensor, weight: Tensor, setting: Setting, needs_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    groups, bases = setting.groups, v.shape[1]
    rows = grad.view(grad.shape[0], groups, -1, grad[0, 0].numel())
    grad_v = (rows @ _weighted_sums(x, weight, setting).flatten(3).mT).sum(0).view_as(v)
    through = (v.view(groups, -1, bases).mT @ rows).unflatten(3, grad.shape[2:])
    wide, padding = _weighted_input(x, setting)
    kernel = weight.view(groups, -1, *weight.shape[1:])
    rest = (setting.stride, padding, setting.dilation, groups)
    grad_weight = torch.zeros_like(kernel)
    for k, basis in enumerate(_each_basis(wide, setting.grid)):
        grad_weight += conv2d_weight(basis, kernel.shape, through[:, :, k].contiguous(), *rest)
    if not needs_x:
        return None, grad_v, grad_weight.view_as(weight)
    grad_wide = torch.zeros_like(wide)
    for k, slope in enumerate(_each_basis(wide, setting.grid, slope=True)):
        grad_wide += slope.mul_(conv2d_input(wide.shape, kernel, through[:, :, k].contiguous(), *rest))
    grad_x = _inside(grad_wide, x, setting) if setting.padding_contributes else grad_wide
    return grad_x, grad_v, grad_weight.view_as(weight)


_SPLINE = Differentiable(_forward, _backward, _plain_spline, num_tensors=3)
