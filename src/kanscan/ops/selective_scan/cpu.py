"""The selective scan by the compiled kernel: states in registers, backward from states kept at each chunk of time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from math import lcm
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kanscan.ops import native

# Schemas are written out: torch would read them off annotations, which a type checker at run time may have wrapped.
_TENSORS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias"


def refusal(u: Tensor, B: Tensor, C: Tensor) -> str | None:
    """Return why the kernel cannot compute this call, or None if it can."""
    if native.ABSENCE is not None:
        return f"the compiled kernels are absent: {native.ABSENCE}"
    # Shapes alone take the same way, so that what a training would hold can be told beforehand.
    if u.device.type not in ("cpu", "meta"):
        return f"the kernel computes on the processor, and the input is on {u.device.type}"
    if u.dtype == torch.float64:
        return "the kernel computes in float32, and float64 was asked for"
    if B.ndim == 2 or C.ndim == 2:
        return "the kernel takes B and C that change with time, and one of them is constant"
    if B.shape[-2] == 0:
        return "the kernel has one state or more, and none were asked for"
    return None


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    *,
    delta_softplus: bool,
    discretization: str,
) -> tuple[Tensor, Tensor]:
    """Return `y` and the last state; arguments as in `kanscan.ops.selective_scan`, all in float32."""
    B, C = _grouped(B, C)
    groups = B.shape[1]
    u, delta = (t.view(t.shape[0], groups, t.shape[1] // groups, t.shape[2]) for t in (u, delta))
    setting: dict[str, Any] = {"delta_softplus": delta_softplus, "discretization": discretization}
    y, last = scan_groups(u, delta, A, B, C, D, delta_bias, initial_state, None, **setting)
    y = y.flatten(1, 2)
    return (y if z is None else y * F.silu(z)), last


def scan_groups(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    order: Tensor | None,
    *,
    delta_softplus: bool,
    discretization: str = "euler",
    add_groups: bool = False,
) -> tuple[Tensor, Tensor]:
    """Scan groups of channels, each along an order of its own.

    Args:
        u: (batch, groups, channels in group, length), or one group that all others read too.
        delta: Step sizes (batch, groups, channels in group, length).
        A: (groups * channels in group, states).
        B: (batch, groups, states, length).
        C: As `B`.
        D: One number for each channel, or None.
        delta_bias: As `D`.
        initial_state: (batch, groups * channels in group, states), or None.
        order: Position that each step of each group reads and writes (groups, length), or None for one after the other.
        delta_softplus: Apply the softplus.
        discretization: "euler" or "zoh".
        add_groups: Return the sum of `y` over the groups, as one group.

    Returns:
        `y` and the last state.
    """
    tensors = (u, delta, A, B, C, D, delta_bias, initial_state)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    given = [t for t in (*tensors, order) if t is not None]
    setting = (delta_softplus, discretization == "zoh", chunk_length(A.shape[1]), keep, add_groups)
    run: Callable[..., tuple[Tensor, Tensor, Tensor]] = _forward
    if native.outright(*given):
        run = _Outright.apply if keep else _apply_forward
    y, last, _ = run(*tensors, order, *setting)
    return y, last


def _grouped(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Give both matrices an axis of groups, the same number of them."""
    B, C = (t.unsqueeze(1) if t.ndim == 3 else t for t in (B, C))
    groups = lcm(B.shape[1], C.shape[1])
    B, C = (t if t.shape[1] == groups else t.repeat_interleave(groups // t.shape[1], dim=1) for t in (B, C))
    return B, C


def chunk_length(states: int) -> int:
    """Steps from one kept state to the next: what is kept is at most an eighth of the inputs for up to 16 states."""
    return max(64, min(512, 2048 // max(states, 1)))


def _kept_shape(u: Tensor, B: Tensor, chunk: int) -> tuple[Any, ...]:
    batch, groups, width, length = u.shape
    states = B.shape[2]
    return (batch, (length + chunk - 1) // chunk, groups, (width + 15) // 16 * 16, states)


def _apply_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    order: Tensor | None,
    delta_softplus: bool,
    zoh: bool,
    chunk: int,
    keep: bool,
    add_groups: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    y, last, kept = _outputs(delta, A, B, order, chunk, keep, add_groups)
    read = [_readable(t, order) for t in (u, delta, B, C)]
    numbers = _numbers(delta, B, chunk, _splits(delta, y), delta_softplus, zoh, [*read, y])
    plain = [None if t is None else t.contiguous() for t in (A, D, delta_bias, initial_state)]
    scan_inputs = (*read[:2], plain[0], *read[2:], *plain[1:])
    native.settle(y, kept)
    native.call("scan_forward", numbers, *scan_inputs, _places(order), y, last, kept if keep else None)
    return y, last, kept


_forward = torch.library.custom_op(
    "kanscan::selective_scan",
    _apply_forward,
    mutates_args=(),
    device_types="cpu",
    schema=f"({_TENSORS}, Tensor? initial_state, Tensor? order, bool delta_softplus, bool zoh, int chunk, bool keep,"
    " bool add_groups) -> (Tensor, Tensor, Tensor)",
)


def _outputs(
    delta: Tensor, A: Tensor, B: Tensor, order: Tensor | None, chunk: int, keep: bool, add_groups: bool
) -> tuple[Tensor, Tensor, Tensor]:
    last = delta.new_empty((delta.shape[0], *A.shape))
    # Places of a block beyond the last channel are not written by every kernel.
    new = delta.new_zeros if delta.shape[2] % 16 else delta.new_empty
    y = _written(delta[:, :1] if add_groups else delta, order)
    return y, last, new(_kept_shape(delta, B, chunk) if keep else (0,))


def _written(like: Tensor, order: Tensor | None) -> Tensor:
    """Return memory for a result shaped like `like`, channels last where an order jumps through time."""
    batch, groups, width, length = like.shape
    if order is None:
        return torch.empty_like(like)
    return like.new_empty((batch, groups, length, width)).transpose(2, 3)


def _written_matrix(B: Tensor, read: Tensor, splits: int) -> Tensor:
    """Return memory for partial gradients of a matrix, states side by side where they are so in what is read."""
    batch, groups, states, length = B.shape
    if read.stride(2) != 1:
        return B.new_empty((splits, batch, groups, states, length))
    return B.new_empty((splits, batch, groups, length, states)).transpose(3, 4)


@_forward.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    order: Tensor | None,
    delta_softplus: bool,
    zoh: bool,
    chunk: int,
    keep: bool,
    add_groups: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(delta, A, B, order, chunk, keep, add_groups)


def _apply_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    kept: Tensor,
    order: Tensor | None,
    delta_softplus: bool,
    zoh: bool,
    chunk: int,
) -> list[Tensor]:
    """Return the gradients of u, delta, A, B, C, D, delta_bias and the initial state."""
    batch, channels = u.shape[0], A.shape[0]
    read = [_readable(t, order) for t in (u, delta, B, C, grad_y)]
    splits = _splits(delta, u)
    grad_u, grad_delta = _written(u, order), _written(delta, order)
    grad_B, grad_C = (_written_matrix(B, read[2], splits) for _ in range(2))
    # Sums over time for each sample: A, initial state, D, bias.
    grad_A, grad_start = (u.new_empty((batch, *A.shape)) for _ in range(2))
    grad_D, grad_bias = (u.new_empty((batch, channels)) for _ in range(2))
    views = [*read, grad_u, grad_delta]
    numbers = _numbers(delta, B, chunk, splits, delta_softplus, zoh, views, grad_B.stride()[3:])
    plain = [None if t is None else t.contiguous() for t in (A, D, delta_bias)]
    scan_inputs = (*read[:2], plain[0], *read[2:4], *plain[1:], _places(order))
    written = (grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_start)
    native.settle(grad_u, grad_delta)
    native.call("scan_backward", numbers, *scan_inputs, kept, read[4], grad_last.contiguous(), *written)
    parts = (grad_A, grad_B, grad_C, grad_D, grad_bias)
    whole = (t[0] if t.shape[0] == 1 else t.sum(0) for t in parts)
    return [grad_u, grad_delta, *whole, grad_start]


_backward = torch.library.custom_op(
    "kanscan::selective_scan_backward",
    _apply_backward,
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor grad_y, Tensor grad_last, {_TENSORS}, Tensor kept, Tensor? order, bool delta_softplus, bool zoh,"
    " int chunk) -> Tensor[]",
)


@_backward.register_fake
def _(
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    kept: Tensor,
    order: Tensor | None,
    delta_softplus: bool,
    zoh: bool,
    chunk: int,
) -> list[Tensor]:
    whole = [_written_matrix(B, _readable(B, order), 1)[0] for _ in range(2)]
    shapes = (A.shape[:1], A.shape[:1], (u.shape[0], *A.shape))
    sums = (u.new_empty(shape) for shape in shapes)
    return [_written(u, order), _written(delta, order), torch.empty_like(A), *whole, *sums]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:7], output[2], inputs[8])
    ctx.setting, ctx.shape = inputs[9:12], output[0].shape


def _gradients(ctx: Any, grad_y: Tensor, grad_last: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grads = _backward(grad_y, grad_last, *ctx.saved_tensors, *ctx.setting)
    found = (g if need else None for g, need in zip(grads, ctx.needs_input_grad[:8], strict=True))
    return (*found, *[None] * 6)


_forward.register_autograd(_gradients, setup_context=_keep)


class _Outright(torch.autograd.Function):
    """The same without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        output = _apply_forward(*inputs)
        _keep(ctx, inputs, output)
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        u, delta, A, *rest = ctx.saved_tensors
        if grad_y is None:
            grad_y = delta.new_zeros(ctx.shape)
        if grad_last is None:
            grad_last = A.new_zeros((delta.shape[0], *A.shape))
        grads = _apply_backward(grad_y, grad_last, u, delta, A, *rest, *ctx.setting)
        found = (g if need else None for g, need in zip(grads, ctx.needs_input_grad[:8], strict=True))
        return (*found, *[None] * 6)


def _readable(t: Tensor, order: Tensor | None) -> Tensor:
    """Return `t` itself where the kernel can read vectors along channels or time, and a copy elsewhere."""
    # Stride 0: the same at all times, as the gradient of a sum is.
    if t.stride(2) == 1 or t.stride(3) == 0:
        return t
    if order is not None:
        # The gradient of a sum over directions lies in memory once.
        once = t[:, :1] if t.stride(1) == 0 else t
        return once.transpose(2, 3).contiguous().transpose(2, 3).expand(t.shape)
    return t if t.stride(3) == 1 else t.contiguous()


def _places(order: Tensor | None) -> Tensor | None:
    return None if order is None else order.to(torch.int32).contiguous()


def _splits(delta: Tensor, together: Tensor) -> int:
    """Return into how many parts the channels of a group are cut so that every thread has work.

    One thread goes through all groups that read, or add to, a lone group of the other tensor.
    """
    threads = torch.get_num_threads()
    if threads == 1 or delta.numel() == 0:
        return 1
    batch, _, width, _ = delta.shape
    blocks = -(-width // native.LANES[native.INSTRUCTION_SET])
    return max(1, min(blocks, -(-2 * threads // (batch * together.shape[1]))))


def _numbers(
    delta: Tensor,
    B: Tensor,
    chunk: int,
    splits: int,
    delta_softplus: bool,
    zoh: bool,
    views: list[Tensor],
    more: Sequence[int] = (),
) -> ctypes.Array[ctypes.c_int64]:
    """Put sizes and strides into the order the kernel reads them in; a lone group is at the place of all of them."""
    strides: list[int] = []
    for t in views:
        batch, group, *rest = t.stride()
        strides += [batch, group if t.shape[1] == delta.shape[1] > 1 else 0, *rest]
    return native.integers([*delta.shape, B.shape[2], chunk, splits, delta_softplus, zoh, *strides, *more])
