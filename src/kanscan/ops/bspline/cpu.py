"""KAN linear by the compiled kernel: float32 inside, and nothing but the input kept for backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kanscan.ops import native
from kanscan.ops.bspline.grid import Grid, order_refusal
from kanscan.ops.bspline.torch import plain
from kanscan.ops.dispatch import Differentiable, Schema, Tensors, result_dtype

absence = native.absence


def refusal(x: Tensor, base_weight: Tensor, spline_order: int, *, asked: bool) -> str | None:
    """Return why the kernel cannot compute this call, or None if it can."""
    return native.refusal(x, base_weight) or order_refusal(spline_order)


def kan_linear(
    x: Tensor, base_weight: Tensor, spline_weight: Tensor, spline_scaler: Tensor | None, grid: Grid
) -> Tensor:
    """See `kanscan.ops.bspline.kan_linear`; under autocast only the result has the autocast dtype."""
    size, order, (low, high) = grid
    rows = x.reshape(-1, x.shape[-1])
    (y,) = _LAYER(rows, base_weight, spline_weight, spline_scaler, size, order, float(low), float(high))
    return y.to(result_dtype(x, base_weight)).view(*x.shape[:-1], base_weight.shape[0])


def _forward(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor | None,
    grid_size: int,
    spline_order: int,
    low: float,
    high: float,
) -> tuple[Tensor]:
    outputs, inputs = base_weight.shape
    if x.numel() == 0:
        return (x.new_zeros((x.shape[0], outputs), dtype=torch.float32),)
    packed, padded = _packed(base_weight, spline_weight, spline_scaler)
    y = x.new_empty((x.shape[0], padded), dtype=torch.float32)
    grid = (grid_size, spline_order, low, grid_size / (high - low))
    native.call("kan_forward", _plain(x), x.shape[0], inputs, packed, padded, *grid, y)
    return (y if padded == outputs else y[:, :outputs].contiguous(),)


def _backward(
    grads: Sequence[Tensor], tensors: Sequence[Any], _: Any, setting: Sequence[Any], needs: Sequence[bool]
) -> Tensors:
    """Return the gradients of the four tensors, float32."""
    (grad_y,), (x, base_weight, spline_weight, spline_scaler) = grads, tensors
    grid_size, spline_order, low, high = setting
    outputs, inputs = base_weight.shape
    grid = (grid_size, spline_order, low, grid_size / (high - low))
    wanted = (needs[0], *[any(needs[1:])] * 3)
    new = x.new_empty if x.numel() else x.new_zeros
    found = [
        new(t.shape, dtype=torch.float32) if want and t is not None else None
        for t, want in zip(tensors, wanted, strict=True)
    ]
    if x.numel() == 0:
        return found
    rows, padding = _plain(x), -outputs % 16
    grad = _plain(F.pad(grad_y, (0, padding)) if padding else grad_y)
    if found[0] is not None:
        packed, padded = _packed(base_weight, spline_weight, spline_scaler)
        native.call("kan_input_gradient", rows, x.shape[0], inputs, packed, padded, *grid, grad, found[0])
    if found[1] is not None:
        bases = grid_size + spline_order
        joint = native.scratch((inputs, 1 + bases, outputs + padding))
        native.call("kan_weight_gradient", rows, x.shape[0], inputs, outputs + padding, *grid, grad, joint)
        scaler = None if spline_scaler is None else _plain(spline_scaler)
        sizes = (outputs, outputs + padding, inputs, bases)
        native.call("kan_unpack", joint, *sizes, _plain(spline_weight), scaler, *found[1:])
    return found


def _shapes(x: Tensor, base_weight: Tensor, *_: Any) -> tuple[Tensor]:
    return (x.new_empty((x.shape[0], base_weight.shape[0]), dtype=torch.float32),)


_LAYER = Differentiable(
    _forward,
    _backward,
    plain,
    num_tensors=4,
    schema=Schema(
        "kan_linear",
        "Tensor x, Tensor base_weight, Tensor spline_weight, Tensor? spline_scaler",
        "int grid_size, int spline_order, float low, float high",
        fake=_shapes,
        device="cpu",
    ),
)


def _plain(t: Tensor) -> Tensor:
    return t if t.dtype is torch.float32 and t.is_contiguous() else t.to(torch.float32).contiguous()


def _packed(base_weight: Tensor, spline_weight: Tensor, spline_scaler: Tensor | None) -> tuple[Tensor, int]:
    """Return the weights in the order of the kernel, and the number of outputs rounded up to whole vectors."""
    outputs, inputs, bases = spline_weight.shape
    padded = outputs + -outputs % 16
    packed = native.scratch((padded * inputs * (1 + bases),))
    scaler = None if spline_scaler is None else _plain(spline_scaler)
    weights = (_plain(base_weight), _plain(spline_weight), scaler)
    native.call("kan_pack", *weights, outputs, padded, inputs, bases, packed)
    return packed, padded
