"""The selective scan by the compiled kernel: states in registers, backward from states kept at each chunk of time."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kanscan.ops import native
from kanscan.ops.dispatch import Differentiable, Schema, Tensors
from kanscan.ops.selective_scan.groups import in_copies
from kanscan.ops.selective_scan.torch import plain

absence = native.absence


def refusal(u: Tensor, B: Tensor, C: Tensor, *, asked: bool) -> str | None:
    """Return why the kernel cannot compute this call, or None if it can."""
    # Shapes alone take the same way, so that what a training would hold can be told beforehand.
    reason = native.refusal(u, devices=("cpu", "meta"))
    if reason is None and (B.ndim == 2 or C.ndim == 2):
        return "the kernel takes B and C that change with time, and one of them is constant"
    if reason is None and B.shape[-2] == 0:
        return "the kernel has one state or more, and none were asked for"
    return reason


def scan_groups(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
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
        z: Gate, shaped like `delta`, or None.
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
    setting = (delta_softplus, discretization == "zoh", chunk_length(A.shape[1]), keep, add_groups)
    y, last = _SCAN(*tensors, order, *setting)
    return (y if z is None else y * F.silu(z)), last


def chunk_length(states: int) -> int:
    """Steps from one kept state to the next: what is kept is at most an eighth of the inputs for up to 16 states."""
    return max(64, min(512, 2048 // max(states, 1)))


def _kept_shape(u: Tensor, B: Tensor, chunk: int) -> tuple[Any, ...]:
    batch, groups, width, length = u.shape
    states = B.shape[2]
    return (batch, (length + chunk - 1) // chunk, groups, (width + 15) // 16 * 16, states)


def _forward(
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


def _backward(
    grads: Tensors, tensors: Sequence[Any], kept: Sequence[Tensor], setting: Sequence[Any], _: Sequence[bool]
) -> Tensors:
    """Return the gradients of u, delta, A, B, C, D, delta_bias and the initial state."""
    u, delta, A, B, C, D, delta_bias, _, order = tensors
    delta_softplus, zoh, chunk, _, add_groups = setting
    batch, channels = u.shape[0], A.shape[0]
    grad_y, grad_last = grads
    if grad_y is None:
        grad_y = torch.zeros_like(delta[:, :1] if add_groups else delta)
    if grad_last is None:
        grad_last = A.new_zeros((batch, *A.shape))
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
    native.call("scan_backward", numbers, *scan_inputs, *kept, read[4], grad_last.contiguous(), *written)
    parts = (grad_A, grad_B, grad_C, grad_D, grad_bias)
    whole = (t[0] if t.shape[0] == 1 else t.sum(0) for t in parts)
    return [grad_u, grad_delta, *whole, grad_start, None]


def _shapes(*inputs: Any) -> Tensors:
    delta, A, B, order = inputs[1], inputs[2], inputs[3], inputs[8]
    *_, chunk, keep, add_groups = inputs
    return _outputs(delta, A, B, order, chunk, keep, add_groups)


def _gradient_shapes(_: Any, tensors: Sequence[Any], *rest: Any) -> Tensors:
    u, delta, A, B, *_, order = tensors
    whole = [_written_matrix(B, _readable(B, order), 1)[0] for _ in range(2)]
    shapes = (A.shape[:1], A.shape[:1], (u.shape[0], *A.shape))
    sums = (u.new_empty(shape) for shape in shapes)
    return [_written(u, order), _written(delta, order), torch.empty_like(A), *whole, *sums, None]


def _plain(*inputs: Any) -> Tensors:
    u, delta, A, B, C, D, delta_bias, initial_state, order, delta_softplus, zoh, _, _, add_groups = inputs
    setting = {"delta_softplus": delta_softplus, "discretization": "zoh" if zoh else "euler", "add_groups": add_groups}
    return in_copies(plain)(u, delta, A, B, C, D, None, delta_bias, initial_state, order, **setting)


_SCAN = Differentiable(
    _forward,
    _backward,
    _plain,
    num_tensors=9,
    num_results=2,
    schema=Schema(
        "selective_scan",
        "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, Tensor? initial_state, "
        "Tensor? order",
        "bool delta_softplus, bool zoh, int chunk, bool keep, bool add_groups",
        fake=_shapes,
        fake_backward=_gradient_shapes,
        kept=1,
        device="cpu",
    ),
)


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
