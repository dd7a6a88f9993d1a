"""KAN linear by Triton kernels on a CUDA device: bases formed in front of the products, only the input kept.

Bases and sums are float32; the products run in the dtype of the weights, or in that of autocast. The kernels are in
`kernels.triton`, which is imported with the first call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanscan.ops import gpu
from kanscan.ops.bspline.grid import Grid, order_refusal
from kanscan.ops.bspline.torch import plain
from kanscan.ops.dispatch import Differentiable, Schema, Tensors, result_dtype

absence = gpu.absence

#: Programs that keep a large device busy.
PROGRAMS = 512


def refusal(x: Tensor, base_weight: Tensor, spline_order: int, *, asked: bool) -> str | None:
    """Return why the kernel cannot compute this call, or None if it can; `asked` if it was asked for by name."""
    reason = gpu.refusal(x, base_weight, asked=asked)
    if reason is None and x.device.type == "cpu" and result_dtype(x, base_weight) == torch.bfloat16:
        return "Triton's interpreter multiplies the bits of bfloat16 as integers; float16 or float32 can be interpreted"
    return reason or order_refusal(spline_order)


def kan_linear(
    x: Tensor, base_weight: Tensor, spline_weight: Tensor, spline_scaler: Tensor | None, grid: Grid
) -> Tensor:
    """See `kanscan.ops.bspline.kan_linear`."""
    size, order, (low, high) = grid
    tensors = (x.reshape(-1, x.shape[-1]), base_weight, spline_weight, spline_scaler)
    (y,) = _LAYER(*tensors, size, order, float(low), float(high), result_dtype(x, base_weight))
    return y.view(*x.shape[:-1], base_weight.shape[0])


def _joint_weight(
    base_weight: Tensor, spline_weight: Tensor, spline_scaler: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return the weights as the kernels read them: (1 + bases, inputs, outputs), that of SiLU first."""
    spline = spline_weight if spline_scaler is None else spline_weight * spline_scaler.unsqueeze(-1)
    return torch.cat([base_weight.t().unsqueeze(0), spline.permute(2, 1, 0)]).to(dtype).contiguous()


def _tile(dtype: torch.dtype) -> dict[str, Any]:
    """Return how large the tiles are, and whether products of float32 may be rounded: as torch is told to."""
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    side = 64 if dtype == torch.float32 else 128
    return {
        "precision": precision, "BLOCK_ROWS": side, "BLOCK_INPUTS": 32, "BLOCK_OUTPUTS": 64, "num_warps": 4
    }  # fmt: skip


def _tiles(size: int, block: int) -> int:
    return -(-size // block)


def _forward(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor | None,
    grid_size: int,
    spline_order: int,
    low: float,
    high: float,
    dtype: torch.dtype,
) -> tuple[Tensor]:
    (rows, inputs), outputs = x.shape, base_weight.shape[0]
    y = x.new_empty((rows, outputs), dtype=dtype)
    if x.numel() == 0 or outputs == 0:
        return (y.zero_(),)
    from kanscan.ops.bspline.kernels.triton import kan_forward

    weight, tile = _joint_weight(base_weight, spline_weight, spline_scaler, dtype), _tile(dtype)
    programs = _tiles(rows, tile["BLOCK_ROWS"]) * _tiles(outputs, tile["BLOCK_OUTPUTS"])
    grid = (low, grid_size / (high - low), spline_order)
    with torch.cuda.device_of(x):
        kan_forward[(programs,)](x, weight, y, rows, inputs, outputs, weight.shape[0], *x.stride(), *grid, **tile)
    return (y,)


def _backward(
    grads: Sequence[Tensor], tensors: Sequence[Any], _: Any, setting: Sequence[Any], needs: Sequence[bool]
) -> Tensors:
    (grad_y,), (x, base_weight, spline_weight, spline_scaler) = grads, tensors
    grid_size, spline_order, low, high, dtype = setting
    need_x, need_weights = needs[0], any(needs[1:])
    grad_x, grad_weight = _results(x, spline_weight, need_x, need_weights)
    (rows, inputs), outputs = x.shape, base_weight.shape[0]
    if x.numel() == 0 or outputs == 0:
        return _of_tensors(grad_x.zero_(), grad_weight.zero_(), tensors, need_weights)
    from kanscan.ops.bspline.kernels.triton import kan_input_gradient, kan_weight_gradient

    tile, columns = _tile(dtype), 1 + grid_size + spline_order
    grad_y = grad_y.to(dtype)
    sizes, strides = (rows, inputs, outputs, columns), (*x.stride(), *grad_y.stride())
    grid = (low, grid_size / (high - low), spline_order)
    with torch.cuda.device_of(x):
        if need_x:
            weight = _joint_weight(base_weight, spline_weight, spline_scaler, dtype)
            programs = _tiles(rows, tile["BLOCK_ROWS"]) * _tiles(inputs, tile["BLOCK_INPUTS"])
            kan_input_gradient[(programs,)](x, weight, grad_y, grad_x, *sizes, *strides, *grid, **tile)
        if need_weights:
            tile["BLOCK_ROWS"], tile["BLOCK_INPUTS"] = 32, 64
            tiles = columns * _tiles(inputs, tile["BLOCK_INPUTS"]) * _tiles(outputs, tile["BLOCK_OUTPUTS"])
            # Shares of the rows are summed afterwards, in an order that does not depend on chance.
            wanted = min(_tiles(PROGRAMS, tiles), _tiles(rows, 4 * tile["BLOCK_ROWS"]))
            share_rows = _tiles(rows, wanted * tile["BLOCK_ROWS"]) * tile["BLOCK_ROWS"]
            shares = _tiles(rows, share_rows)
            parts = x.new_empty((shares, *grad_weight.shape), dtype=torch.float32)
            kan_weight_gradient[(tiles * shares,)](x, grad_y, parts, *sizes, share_rows, *strides, *grid, **tile)
            torch.sum(parts, 0, out=grad_weight)
    return _of_tensors(grad_x, grad_weight, tensors, need_weights)


def _results(x: Tensor, spline_weight: Tensor, need_x: bool, need_weights: bool) -> tuple[Tensor, Tensor]:
    outputs, inputs, bases = spline_weight.shape
    joint = (1 + bases, inputs, outputs) if need_weights else (0,)
    return x.new_empty(x.shape if need_x else (0,)), x.new_empty(joint, dtype=torch.float32)


def _of_tensors(grad_x: Tensor, joint: Tensor, tensors: Sequence[Any], need_weights: bool) -> Tensors:
    """Part the gradient of the joint weight into those of the weights it was made of."""
    if not need_weights:
        return grad_x, None, None, None
    *_, spline_weight, spline_scaler = tensors
    base, raw = (t.clone(memory_format=torch.contiguous_format) for t in (joint[0].t(), joint[1:].permute(2, 1, 0)))
    if spline_scaler is None:
        return grad_x, base, raw, None
    return grad_x, base, raw * spline_scaler.unsqueeze(-1), (raw * spline_weight).sum(-1)


def _shapes(x: Tensor, base_weight: Tensor, *rest: Any) -> tuple[Tensor]:
    return (x.new_empty((x.shape[0], base_weight.shape[0]), dtype=rest[-1]),)


def _gradient_shapes(_: Any, tensors: Sequence[Any], __: Any, ___: Any, needs: Sequence[bool]) -> Tensors:
    # That of x has its dtype, the others are float32.
    x, *weights = tensors
    return [x.new_empty(x.shape), *(None if w is None else w.new_empty(w.shape, dtype=torch.float32) for w in weights)]


_LAYER = Differentiable(
    _forward,
    _backward,
    plain,
    num_tensors=4,
    schema=Schema(
        "kan_linear_triton",
        "Tensor x, Tensor base_weight, Tensor spline_weight, Tensor? spline_scaler",
        "int grid_size, int spline_order, float low, float high, ScalarType dtype",
        fake=_shapes,
        fake_backward=_gradient_shapes,
    ),
)
