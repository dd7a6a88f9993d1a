"""KAN linear by Triton kernels on a CUDA device: bases formed in front of the products, only the input kept.

Bases and sums are float32; the products run in the dtype of the weights, or in that of autocast. The kernels are in
`triton_kernels`, which is imported with the first call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kanscan.ops import gpu

Range = tuple[float, float]

#: Degrees of splines that the kernels have.
ORDERS = (1, 2, 3)
#: Programs that keep a large device busy.
PROGRAMS = 512

# Schemas are written out: torch would read them off annotations, which a type checker at run time may have wrapped.
_TENSORS = "Tensor x, Tensor base_weight, Tensor spline_weight, Tensor? spline_scaler"
_SETTING = "int grid_size, int spline_order, float low, float high, ScalarType dtype"


def refusal(x: Tensor, base_weight: Tensor, spline_order: int, *, asked: bool) -> str | None:
    """Return why the kernel cannot compute this call, or None if it can; `asked` if it was asked for by name."""
    reason = gpu.refusal(x, asked=asked)
    if reason is not None:
        return reason
    if torch.float64 in (x.dtype, base_weight.dtype):
        return "the kernel computes in float32, and float64 was asked for"
    if x.device.type == "cpu" and _product_dtype(x, base_weight) == torch.bfloat16:
        return "Triton's interpreter multiplies the bits of bfloat16 as integers; float16 or float32 can be interpreted"
    if spline_order not in ORDERS:
        return f"the kernel has splines of order {', '.join(map(str, ORDERS))}, and order {spline_order} was asked for"
    return None


def kan_linear(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor | None = None,
    *,
    grid_size: int = 5,
    spline_order: int = 3,
    grid_range: Range = (-1.0, 1.0),
) -> Tensor:
    """See `kanscan.ops.bspline.kan_linear`."""
    dtype = _product_dtype(x, base_weight)
    tensors = (x.reshape(-1, x.shape[-1]), base_weight, spline_weight, spline_scaler)
    y = _forward(*tensors, grid_size, spline_order, *map(float, grid_range), dtype)
    return y.view(*x.shape[:-1], base_weight.shape[0])


def _product_dtype(x: Tensor, base_weight: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else base_weight.dtype


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


@torch.library.custom_op("kanscan::kan_linear_triton", mutates_args=(), schema=f"({_TENSORS}, {_SETTING}) -> Tensor")
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
) -> Tensor:
    (rows, inputs), outputs = x.shape, base_weight.shape[0]
    y = x.new_empty((rows, outputs), dtype=dtype)
    if x.numel() == 0 or outputs == 0:
        return y.zero_()
    from kanscan.ops.bspline.triton_kernels import kan_forward

    weight, tile = _joint_weight(base_weight, spline_weight, spline_scaler, dtype), _tile(dtype)
    programs = _tiles(rows, tile["BLOCK_ROWS"]) * _tiles(outputs, tile["BLOCK_OUTPUTS"])
    grid = (low, grid_size / (high - low), spline_order)
    with torch.cuda.device_of(x):
        kan_forward[(programs,)](x, weight, y, rows, inputs, outputs, weight.shape[0], *x.stride(), *grid, **tile)
    return y


@_forward.register_fake
def _(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor | None,
    grid_size: int,
    spline_order: int,
    low: float,
    high: float,
    dtype: torch.dtype,
) -> Tensor:
    return x.new_empty((x.shape[0], base_weight.shape[0]), dtype=dtype)


@torch.library.custom_op(
    "kanscan::kan_linear_triton_backward",
    mutates_args=(),
    schema=f"(Tensor grad_y, {_TENSORS}, {_SETTING}, bool need_x, bool need_weights) -> (Tensor, Tensor)",
)
def _backward(
    grad_y: Tensor,
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor | None,
    grid_size: int,
    spline_order: int,
    low: float,
    high: float,
    dtype: torch.dtype,
    need_x: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of the joint weight (1 + bases, inputs, outputs), or empty tensors."""
    grad_x, grad_weight = _results(x, spline_weight, need_x, need_weights)
    (rows, inputs), outputs = x.shape, base_weight.shape[0]
    if x.numel() == 0 or outputs == 0:
        return grad_x.zero_(), grad_weight.zero_()
    from kanscan.ops.bspline.triton_kernels import kan_input_gradient, kan_weight_gradient

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
    return grad_x, grad_weight


def _results(x: Tensor, spline_weight: Tensor, need_x: bool, need_weights: bool) -> tuple[Tensor, Tensor]:
    outputs, inputs, bases = spline_weight.shape
    joint = (1 + bases, inputs, outputs) if need_weights else (0,)
    return x.new_empty(x.shape if need_x else (0,)), x.new_empty(joint, dtype=torch.float32)


@_backward.register_fake
def _(
    grad_y: Tensor,
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor | None,
    grid_size: int,
    spline_order: int,
    low: float,
    high: float,
    dtype: torch.dtype,
    need_x: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor]:
    return _results(x, spline_weight, need_x, need_weights)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.setting = inputs[4:]


def _gradients(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    *_, spline_weight, spline_scaler = tensors
    needs = ctx.needs_input_grad
    need_weights = any(needs[1:4])
    grad_x, joint = _backward(grad_y, *tensors, *ctx.setting, needs[0], need_weights)
    grads: list[Tensor | None] = [grad_x, None, None, None]
    if need_weights:
        raw = joint[1:].permute(2, 1, 0)
        grads[1:3] = joint[0].t(), raw
        if spline_scaler is not None:
            grads[2:4] = raw * spline_scaler.unsqueeze(-1), (raw * spline_weight).sum(-1)
    found = (
        g.to(t.dtype) if need and g is not None and t is not None else None
        for g, t, need in zip(grads, tensors, needs, strict=False)
    )
    return (*found, *[None] * 5)


_forward.register_autograd(_gradients, setup_context=_keep)
