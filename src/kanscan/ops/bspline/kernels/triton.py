"""KAN linear as Triton kernels; imported only where Triton is.

The layer is one matrix product whose left factor, 1 + M columns for each input, is a fixed function of the input: SiLU
and M bases. It is never stored: a tile of one column for a block of inputs is formed in registers in front of each
product of tiles. Weights are (1 + M, inputs, outputs), the weight of SiLU first. Bases are bumps measured from their
middles, as in `torch.py`: on a uniform grid the only number they depend on is the distance.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _power(x, exponent: tl.constexpr):
    # Zero to the power of zero is the step that the slope of a first-order bump needs.
    if exponent == 0:
        result = tl.where(x > 0.0, 1.0, 0.0)
    elif exponent == 1:
        result = tl.maximum(x, 0.0)
    elif exponent == 2:
        result = tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    else:
        result = tl.maximum(x, 0.0) * tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    return result


@triton.jit
@no_type_check
def _bump(offset, order: tl.constexpr):
    distance = tl.abs(offset)
    if order == 1:
        value = _power(1.0 - distance, 1)
    elif order == 2:
        value = 0.5 * (_power(1.5 - distance, 2) - 3.0 * _power(0.5 - distance, 2))
    else:
        value = (_power(2.0 - distance, 3) - 4.0 * _power(1.0 - distance, 3)) * (1.0 / 6.0)
    return value


@triton.jit
@no_type_check
def _bump_slope(offset, order: tl.constexpr):
    distance = tl.abs(offset)
    if order == 1:
        value = -_power(1.0 - distance, 0)
    elif order == 2:
        value = 3.0 * _power(0.5 - distance, 1) - _power(1.5 - distance, 1)
    else:
        value = 2.0 * _power(1.0 - distance, 2) - 0.5 * _power(2.0 - distance, 2)
    return tl.where(offset > 0.0, value, tl.where(offset < 0.0, -value, 0.0))


@triton.jit
@no_type_check
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
@no_type_check
def _offset(x, column, low, scale, order: tl.constexpr):
    """Distance from the middle of the bump that column `column` holds, in intervals of the grid."""
    return (x - low) * scale - (column - (1.0 + order) * 0.5)


@triton.jit
@no_type_check
def _column(x, column, low, scale, order: tl.constexpr):
    # Both are cheap beside the product of tiles, and a loop without a branch can be pipelined.
    return tl.where(column == 0, x * _sigmoid(x), _bump(_offset(x, column, low, scale, order), order))


@triton.jit
@no_type_check
def _column_slope(x, column, low, scale, order: tl.constexpr):
    s = _sigmoid(x)
    # SiLU is flat far below zero, where the product would be -inf x 0.
    silu = tl.where(x < -100.0, 0.0, s * (1.0 + x * (1.0 - s)))
    silu = tl.where(x > 100.0, 1.0, silu)
    return tl.where(column == 0, silu, scale * _bump_slope(_offset(x, column, low, scale, order), order))


@triton.jit
@no_type_check
def _matrix(base, row, column, row_stride, column_stride, rows, columns):
    """A tile of a matrix, zero outside of it."""
    at = row.to(tl.int64)[:, None] * row_stride + column.to(tl.int64)[None, :] * column_stride
    return tl.load(base + at, mask=(row < rows)[:, None] & (column < columns)[None, :], other=0.0)


@triton.jit
@no_type_check
def _multiply(left, right, total, precision: tl.constexpr):
    return tl.dot(left.to(right.dtype), right, total, input_precision=precision)


@triton.jit
@no_type_check
def kan_forward(
    x,
    weight,
    y,
    rows,
    inputs,
    outputs,
    columns,
    x_row,
    x_input,
    low,
    scale,
    order: tl.constexpr,
    precision: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
):
    """Compute a tile (rows, outputs) of `y`."""
    program, tiles = tl.program_id(0), tl.cdiv(outputs, BLOCK_OUTPUTS)
    row = program // tiles * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    out = program % tiles * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    total = tl.zeros((BLOCK_ROWS, BLOCK_OUTPUTS), tl.float32)
    for first in range(0, inputs, BLOCK_INPUTS):
        i = first + tl.arange(0, BLOCK_INPUTS)
        v = _matrix(x, row, i, x_row, x_input, rows, inputs).to(tl.float32)
        for column in range(columns):
            w = _matrix(weight + column * inputs * outputs, i, out, outputs, 1, inputs, outputs)
            total = _multiply(_column(v, column, low, scale, order), w, total, precision)
    at = row.to(tl.int64)[:, None] * outputs + out[None, :]
    tl.store(y + at, total.to(y.dtype.element_ty), mask=(row < rows)[:, None] & (out < outputs)[None, :])


@triton.jit
@no_type_check
def kan_input_gradient(
    x,
    weight,
    grad_y,
    grad_x,
    rows,
    inputs,
    outputs,
    columns,
    x_row,
    x_input,
    grad_row,
    grad_output,
    low,
    scale,
    order: tl.constexpr,
    precision: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
):
    """Compute a tile (rows, inputs) of the gradient of `x`."""
    program, tiles = tl.program_id(0), tl.cdiv(inputs, BLOCK_INPUTS)
    row = program // tiles * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    i = program % tiles * BLOCK_INPUTS + tl.arange(0, BLOCK_INPUTS)
    v = _matrix(x, row, i, x_row, x_input, rows, inputs).to(tl.float32)
    total = tl.zeros((BLOCK_ROWS, BLOCK_INPUTS), tl.float32)
    for column in range(columns):
        through = tl.zeros((BLOCK_ROWS, BLOCK_INPUTS), tl.float32)
        for first in range(0, outputs, BLOCK_OUTPUTS):
            out = first + tl.arange(0, BLOCK_OUTPUTS)
            g = _matrix(grad_y, row, out, grad_row, grad_output, rows, outputs)
            w = _matrix(weight + column * inputs * outputs, out, i, 1, outputs, outputs, inputs)
            through = _multiply(g, w, through, precision)
        total += through * _column_slope(v, column, low, scale, order)
    at = row.to(tl.int64)[:, None] * inputs + i[None, :]
    tl.store(grad_x + at, total.to(grad_x.dtype.element_ty), mask=(row < rows)[:, None] & (i < inputs)[None, :])


@triton.jit
@no_type_check
def kan_weight_gradient(
    x,
    grad_y,
    grad_weight,
    rows,
    inputs,
    outputs,
    columns,
    share_rows,
    x_row,
    x_input,
    grad_row,
    grad_output,
    low,
    scale,
    order: tl.constexpr,
    precision: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
):
    """Compute a tile (inputs, outputs) of one column's weight gradient, summed over one share of the rows."""
    program = tl.program_id(0)
    input_tiles, output_tiles = tl.cdiv(inputs, BLOCK_INPUTS), tl.cdiv(outputs, BLOCK_OUTPUTS)
    out = program % output_tiles * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    i = program // output_tiles % input_tiles * BLOCK_INPUTS + tl.arange(0, BLOCK_INPUTS)
    column = program // output_tiles // input_tiles % columns
    share = program // output_tiles // input_tiles // columns
    total = tl.zeros((BLOCK_INPUTS, BLOCK_OUTPUTS), tl.float32)
    for first in range(share * share_rows, tl.minimum((share + 1) * share_rows, rows), BLOCK_ROWS):
        row = first + tl.arange(0, BLOCK_ROWS)
        v = _matrix(x, i, row, x_input, x_row, inputs, rows).to(tl.float32)
        # Rows beyond the end have the gradient zero, so what their columns hold is of no account.
        g = _matrix(grad_y, row, out, grad_row, grad_output, rows, outputs)
        total = _multiply(_column(v, column, low, scale, order), g, total, precision)
    at = (share * columns + column).to(tl.int64) * inputs * outputs + i[:, None] * outputs + out[None, :]
    tl.store(grad_weight + at, total, mask=(i < inputs)[:, None] & (out < outputs)[None, :])
