"""Closed form on the uniform grid in plain torch, with a backward that keeps nothing but the input.

A uniform B-spline of order k is one bump, shifted: with s = (x - low) / h and the distance d to the bump's middle,

    B(d) = 1/k! * sum_j (-1)^j binom(k+1, j) * max((k+1)/2 - j - d, 0)^k,      0 <= j < (k+1)/2.

Measuring from the middle leaves two terms for a cubic and no cancellation worth mentioning in float32. Rows are worked
through in blocks small enough that the bases stay in cache and the allocator can reuse their memory.

Float64 inputs take the recursion instead: whoever asks for float64 compares digits, and the knots of the released
networks, rounded to float32, are not exactly uniform.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, factorial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kanscan.ops.bspline import reference
from kanscan.ops.bspline.grid import Grid, Range
from kanscan.ops.dispatch import Differentiable, Tensors, result_dtype

#: Numbers a block of bases may hold (8 MiB in float32): larger temporaries are returned to the system after each use
#: by common allocators, and faulting them in again costs more than the arithmetic.
BLOCK_NUMBERS = 2**21


def basis(x: Tensor, grid_size: int, spline_order: int, grid_range: Range) -> Tensor:
    """Return the bases `(*x.shape, grid_size + spline_order)` of `x`, in the dtype of `x`."""
    if x.dtype == torch.float64:
        return reference.bspline_basis(x, grid_size, spline_order, grid_range)
    wide = reference.widened(x)
    return _bump(_offsets(wide, grid_size, spline_order, grid_range), spline_order).to(x.dtype)


def basis_derivative(x: Tensor, grid_size: int, spline_order: int, grid_range: Range) -> Tensor:
    """Return d basis / d x, same shape as `basis`."""
    if x.dtype == torch.float64:
        return reference.basis_derivative(x, grid_size, spline_order, grid_range)
    offset = _offsets(x, grid_size, spline_order, grid_range)
    step = (grid_range[1] - grid_range[0]) / grid_size
    return _bump_slope(offset, spline_order) / step


def _offsets(x: Tensor, grid_size: int, spline_order: int, grid_range: Range) -> Tensor:
    low, high = grid_range
    middles = torch.arange(grid_size + spline_order, dtype=x.dtype, device=x.device) + (1 - spline_order) / 2
    return ((x - low) * (grid_size / (high - low))).unsqueeze(-1) - middles


def _terms(order: int) -> list[tuple[float, float]]:
    half = (order + 1) / 2
    return [(float((-1) ** j * comb(order + 1, j)), half - j) for j in range(order + 1) if half - j > 0]


def _bump(offset: Tensor, order: int) -> Tensor:
    if order == 0:
        return ((offset >= -0.5) & (offset < 0.5)).to(offset.dtype)
    distance = offset.abs()
    total: Tensor | None = None
    for factor, reach in _terms(order):
        term = _power((reach - distance).clamp_(min=0), order).mul_(factor / factorial(order))
        total = term if total is None else total.add_(term)
    assert total is not None
    return total


def _bump_slope(offset: Tensor, order: int) -> Tensor:
    if order == 0:
        return torch.zeros_like(offset)
    distance = offset.abs()
    total: Tensor | None = None
    for factor, reach in _terms(order):
        gap = reach - distance
        # The slope of a first-order bump is a step, which max(., 0)^0 would not give.
        rise = (gap > 0).to(offset.dtype) if order == 1 else _power(gap.clamp_(min=0), order - 1)
        term = rise.mul_(-factor / factorial(order - 1))
        total = term if total is None else total.add_(term)
    assert total is not None
    return total.mul_(torch.sign(offset))


def _power(x: Tensor, exponent: int) -> Tensor:
    # torch.pow is several times slower than a handful of products.
    if exponent == 1:
        return x
    if exponent == 2:
        return x * x
    if exponent == 3:
        return (x * x).mul_(x)
    half = _power(x, exponent // 2)
    return half * half * x if exponent % 2 else half * half


def columns(x: Tensor, grid_size: int, spline_order: int, grid_range: Range) -> Tensor:
    """Return `[SiLU(x) | bases of x]` for rows `x`: what one matrix product turns into the layer's output."""
    return torch.cat([F.silu(x), basis(x, grid_size, spline_order, grid_range).flatten(1)], dim=1)


def joint_weight(base_weight: Tensor, spline_weight: Tensor, spline_scaler: Tensor | None) -> Tensor:
    """Return the matrix `(outputs, inputs * (1 + bases))` that belongs to `columns`."""
    if spline_scaler is not None:
        spline_weight = spline_weight * spline_scaler.unsqueeze(-1)
    return torch.cat([base_weight, spline_weight.flatten(1)], dim=1)


def plain(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor | None,
    grid_size: int,
    spline_order: int,
    low: float,
    high: float,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor]:
    """Return the layer for rows `x` as one product in `dtype`, which keeps all columns."""
    weight = joint_weight(base_weight, spline_weight, spline_scaler).to(dtype)
    return (F.linear(columns(reference.widened(x), grid_size, spline_order, (low, high)).to(dtype), weight),)


def _block_rows(num_inputs: int, num_bases: int) -> int:
    return max(BLOCK_NUMBERS // (num_inputs * (num_bases + 1)), 16)


def _forward(x: Tensor, base_weight: Tensor, spline_weight: Tensor, spline_scaler: Tensor | None, *setting: Any) -> Any:
    """Return `plain`, block by block of rows."""
    size, order, low, high, dtype = setting
    rows = _block_rows(x.shape[1], size + order)
    if x.shape[0] <= rows:
        return plain(x, base_weight, spline_weight, spline_scaler, *setting)
    x, weight = reference.widened(x), joint_weight(base_weight, spline_weight, spline_scaler).to(dtype)
    y = x.new_empty((x.shape[0], weight.shape[0]), dtype=dtype)
    for i in range(0, x.shape[0], rows):
        torch.mm(columns(x[i : i + rows], size, order, (low, high)).to(dtype), weight.t(), out=y[i : i + rows])
    return (y,)


def _backward(grads: Sequence[Any], tensors: Sequence[Any], _: Any, setting: Sequence[Any], needs: Any) -> Tensors:
    """Form the same columns again instead of keeping nine numbers for each input."""
    (grad_y,), (x, base_weight, spline_weight, spline_scaler) = grads, tensors
    size, order, low, high, dtype = setting
    grid = (size, order, (low, high))
    weight = joint_weight(base_weight, spline_weight, spline_scaler).to(dtype)
    wide = reference.widened(x)
    grad_x = torch.empty_like(wide) if needs[0] else None
    # Sums over many rows are kept in float32 whatever the products use.
    grad_weight = torch.zeros_like(weight, dtype=wide.dtype) if any(needs[1:]) else None
    rows = _block_rows(x.shape[1], size + order)
    for i in range(0, x.shape[0], rows):
        block, grad = wide[i : i + rows], grad_y[i : i + rows].to(dtype)
        if grad_weight is not None:
            grad_weight += (grad.t() @ columns(block, *grid).to(dtype)).to(wide.dtype)
        if grad_x is not None:
            grad_x[i : i + rows] = _input_gradient(block, (grad @ weight).to(wide.dtype), grid)
    return grad_x, *_weight_gradients(grad_weight, spline_weight, spline_scaler)


def _input_gradient(x: Tensor, grad_columns: Tensor, grid: tuple[int, int, Range]) -> Tensor:
    num_inputs = x.shape[1]
    sigmoid = torch.sigmoid(x)
    silu_slope = sigmoid * (1 + x * (1 - sigmoid))
    through_bases = grad_columns[:, num_inputs:].view(*x.shape, -1).mul_(basis_derivative(x, *grid)).sum(-1)
    return grad_columns[:, :num_inputs] * silu_slope + through_bases


def _weight_gradients(
    grad_weight: Tensor | None, spline_weight: Tensor, spline_scaler: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if grad_weight is None:
        return None, None, None
    num_inputs = spline_weight.shape[1]
    grad_base = grad_weight[:, :num_inputs]
    grad_spline = grad_weight[:, num_inputs:].view(spline_weight.shape)
    if spline_scaler is None:
        return grad_base, grad_spline, None
    return grad_base, grad_spline * spline_scaler.unsqueeze(-1), (grad_spline * spline_weight).sum(-1)


_LAYER = Differentiable(_forward, _backward, plain, num_tensors=4)


def kan_linear(
    x: Tensor, base_weight: Tensor, spline_weight: Tensor, spline_scaler: Tensor | None, grid: Grid
) -> Tensor:
    """See `kanscan.ops.bspline.kan_linear`."""
    rows = x.reshape(-1, x.shape[-1])
    dtype = result_dtype(x, base_weight)
    size, order, (low, high) = grid
    (y,) = _LAYER(rows, base_weight, spline_weight, spline_scaler, size, order, low, high, dtype)
    return y.view(*x.shape[:-1], base_weight.shape[0])
