"""KAN linear by the compiled kernel: float32 inside, and nothing but the input kept for backward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kanscan.ops import native

Range = tuple[float, float]

#: Degrees of splines that are compiled.
ORDERS = (1, 2, 3)

# Schemas are written out: torch would read them off annotations, which a type checker at run time may have wrapped.
_TENSORS = "Tensor x, Tensor base_weight, Tensor spline_weight, Tensor? spline_scaler"
_GRID = "int grid_size, int spline_order, float low, float high"


def refusal(x: Tensor, base_weight: Tensor, spline_order: int) -> str | None:
    """Return why the kernel cannot compute this call, or None if it can."""
    if native.ABSENCE is not None:
        return f"the compiled kernels are absent: {native.ABSENCE}"
    if x.device.type != "cpu":
        return f"the kernel computes on the processor, and the input is on {x.device.type}"
    if torch.float64 in (x.dtype, base_weight.dtype):
        return "the kernel computes in float32, and float64 was asked for"
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
    """See `kanscan.ops.bspline.kan_linear`; under autocast only the result has the autocast dtype."""
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else base_weight.dtype
    rows = x.reshape(-1, x.shape[-1])
    weights = [t for t in (base_weight, spline_weight, spline_scaler) if t is not None]
    apply = _Outright.apply if native.outright(x, *weights) else _forward
    y = apply(rows, base_weight, spline_weight, spline_scaler, grid_size, spline_order, *map(float, grid_range))
    return y.to(dtype).view(*x.shape[:-1], base_weight.shape[0])


def _apply_forward(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor | None,
    grid_size: int,
    spline_order: int,
    low: float,
    high: float,
) -> Tensor:
    outputs, inputs = base_weight.shape
    if x.numel() == 0:
        return x.new_zeros((x.shape[0], outputs), dtype=torch.float32)
    packed, padded = _packed(base_weight, spline_weight, spline_scaler)
    y = x.new_empty((x.shape[0], padded), dtype=torch.float32)
    grid = (grid_size, spline_order, low, grid_size / (high - low))
    native.call("kan_forward", _plain(x), x.shape[0], inputs, packed, padded, *grid, y)
    return y if padded == outputs else y[:, :outputs].contiguous()


_forward = torch.library.custom_op(
    "kanscan::kan_linear",
    _apply_forward,
    mutates_args=(),
    device_types="cpu",
    schema=f"({_TENSORS}, {_GRID}) -> Tensor",
)


@_forward.register_fake
def _(x: Tensor, base_weight: Tensor, *_: object) -> Tensor:
    return x.new_empty((x.shape[0], base_weight.shape[0]), dtype=torch.float32)


def _apply_backward(
    grad_y: Tensor,
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor | None,
    grid_size: int,
    spline_order: int,
    low: float,
    high: float,
    need_x: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the four tensors, float32; empty ones where none is needed."""
    outputs, inputs = base_weight.shape
    grid = (grid_size, spline_order, low, grid_size / (high - low))
    shapes = _gradient_shapes(x, base_weight, spline_weight, spline_scaler, need_x, need_weights)
    if x.numel() == 0:
        return tuple(x.new_zeros(shape, dtype=torch.float32) for shape in shapes)  # type: ignore[return-value]
    results = [x.new_empty(shape, dtype=torch.float32) for shape in shapes]
    rows, padding = _plain(x), -outputs % 16
    grad = _plain(F.pad(grad_y, (0, padding)) if padding else grad_y)
    if need_x:
        packed, padded = _packed(base_weight, spline_weight, spline_scaler)
        native.call("kan_input_gradient", rows, x.shape[0], inputs, packed, padded, *grid, grad, results[0])
    if need_weights:
        bases = grid_size + spline_order
        joint = native.scratch((inputs, 1 + bases, outputs + padding))
        native.call("kan_weight_gradient", rows, x.shape[0], inputs, outputs + padding, *grid, grad, joint)
        scaler = None if spline_scaler is None else _plain(spline_scaler)
        written = (*results[1:3], None if scaler is None else results[3])
        sizes = (outputs, outputs + padding, inputs, bases)
        native.call("kan_unpack", joint, *sizes, _plain(spline_weight), scaler, *written)
    return tuple(results)  # type: ignore[return-value]


def _gradient_shapes(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    spline_scaler: Tensor | None,
    need_x: bool,
    need_weights: bool,
) -> list[torch.Size]:
    weights: list[Tensor | None] = [base_weight, spline_weight, spline_scaler]
    nothing = torch.Size((0,))
    shapes = [x.shape if need_x else nothing]
    return shapes + [w.shape if need_weights and w is not None else nothing for w in weights]


_backward = torch.library.custom_op(
    "kanscan::kan_linear_backward",
    _apply_backward,
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor grad_y, {_TENSORS}, {_GRID}, bool need_x, bool need_weights) -> (Tensor, Tensor, Tensor, Tensor)",
)


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
    need_x: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shapes = _gradient_shapes(x, base_weight, spline_weight, spline_scaler, need_x, need_weights)
    return tuple(x.new_empty(shape, dtype=torch.float32) for shape in shapes)  # type: ignore[return-value]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.grid = inputs[4:]


def _gradients(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    return _asked_for(ctx, _backward(grad_y, *ctx.saved_tensors, *ctx.grid, *_needs(ctx)))


def _needs(ctx: Any) -> tuple[bool, bool]:
    return ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:4])


def _asked_for(ctx: Any, grads: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    found = (
        g.to(t.dtype) if need and t is not None else None
        for g, t, need in zip(grads, ctx.saved_tensors, ctx.needs_input_grad, strict=False)
    )
    return (*found, None, None, None, None)


_forward.register_autograd(_gradients, setup_context=_keep)


class _Outright(torch.autograd.Function):
    """The same without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _keep(ctx, inputs, inputs[0])
        return _apply_forward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        arguments = (*ctx.saved_tensors, *ctx.grid, *_needs(ctx))
        return _asked_for(ctx, _apply_backward(grads[0], *arguments))


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
