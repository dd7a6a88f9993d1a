"""The selective scan by Triton kernels on a CUDA device, one or several directions of a map at once.

Inside all is float32. Forward keeps its inputs and the state at the start of each chunk of time; backward recomputes
the other states, chunk by chunk. The kernels are in `kernels.triton`, which is imported with the first call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kanscan.ops import gpu
from kanscan.ops.dispatch import Differentiable, Schema, Tensors
from kanscan.ops.selective_scan.groups import in_copies
from kanscan.ops.selective_scan.torch import plain

#: Numbers in a tile (channels, states, steps) of one program: sixteen for each thread, which is what fits into the
#: registers of a thread in backward.
TILE, BACKWARD_TILE = 4096, 2048
#: Consecutive steps that one thread works on, and limits of a chunk.
STEPS = 8
SHORTEST_CHUNK, LONGEST_CHUNK = 16, 256
#: Largest number of states whose tile still fits.
STATES = 256
#: Programs that keep a large device busy in backward, and numbers they may write beside the gradients themselves.
PROGRAMS = 512
PARTIAL_NUMBERS = 2**24

absence = gpu.absence


def refusal(u: Tensor, B: Tensor, C: Tensor, *, asked: bool) -> str | None:
    """Return why the kernel cannot compute this call, or None if it can; `asked` if it was asked for by name."""
    reason = gpu.refusal(u, asked=asked)
    if reason is not None:
        return reason
    if B.ndim == 2 or C.ndim == 2:
        return "the kernel takes B and C that change with time, and one of them is constant"
    states = B.shape[-2]
    if not 1 <= states <= STATES:
        return f"the kernel has 1 to {STATES} states, and {states} were asked for"
    return None


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
    """Scan groups of channels, each along an order of its own; arguments as in `cpu.scan_groups`."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    chunk = chunk_length(A.shape[1], channels_last=delta.stride(2) == 1 != delta.stride(3))
    places = None if order is None else order.to(torch.int32).contiguous()
    y, last = _SCAN(*tensors, places, delta_softplus, discretization == "zoh", chunk, keep)
    return y.sum(1, keepdim=True) if add_groups else y, last


def chunk_length(states: int, *, channels_last: bool) -> int:
    """Return the steps of a chunk: a power of two, long where time is contiguous, short where eight channels are."""
    channels = 8 if channels_last else 2
    return max(SHORTEST_CHUNK, min(LONGEST_CHUNK, TILE // (channels * _power_of_two(states))))


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def _tile(size: int, width: int, states: int, chunk: int) -> dict[str, int]:
    block_n = _power_of_two(states)
    block_e = max(1, min(_power_of_two(width), size // (block_n * chunk)))
    numbers = block_e * block_n * chunk
    return {
        "BLOCK_E": block_e,
        "BLOCK_N": block_n,
        "STEPS": STEPS,
        "RUNS": chunk // STEPS,
        "num_warps": 8 if numbers > 2048 else 4,
    }


def _strides(t: Tensor | None, like: Tensor) -> tuple[int, ...]:
    """Return the strides of `t`; a lone group is at the place of all of them."""
    if t is None:
        return (0, 0, 0, 0)
    batch, group, *rest = t.stride()
    return (batch, group if t.shape[1] == like.shape[1] else 0, *rest)


def _plain(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.to(torch.float32).contiguous()


def _forward(
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
    delta_softplus: bool,
    zoh: bool,
    chunk: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `y`, the last state and, if `keep`, the states at the starts of the chunks."""
    y, last, kept = _results(delta, A, chunk, keep)
    batch, groups, width, length = delta.shape
    if delta.numel() == 0:
        return y, last.zero_() if initial_state is None else last.copy_(initial_state), kept
    from kanscan.ops.selective_scan.kernels.triton import scan_forward

    tile = _tile(TILE, width, A.shape[1], chunk)
    read = (_plain(A), B, C, _plain(D), z, _plain(delta_bias), _plain(initial_state), order)
    strides = [_strides(t, delta) for t in (u, delta, B, C, z, y)]
    sizes = (groups, width, length, A.shape[1])
    grid = (batch * groups * -(-width // tile["BLOCK_E"]),)
    with torch.cuda.device_of(delta):
        scan_forward[grid](
            u,
            delta,
            *read,
            y,
            last,
            kept if keep else None,
            *strides,
            *sizes,
            softplus=delta_softplus,
            hold=zoh,
            **tile,
        )
    return y, last, kept


def _results(delta: Tensor, A: Tensor, chunk: int, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, length = delta.shape[0], delta.shape[3]
    last = delta.new_empty((batch, *A.shape), dtype=torch.float32)
    kept = (batch, (length + chunk - 1) // chunk, *A.shape) if keep else (0,)
    return torch.empty_like(delta, dtype=torch.float32), last, delta.new_empty(kept, dtype=torch.float32)


def _backward(
    grads: Tensors, tensors: Sequence[Any], kept: Sequence[Tensor], setting: Sequence[Any], _: Sequence[bool]
) -> Tensors:
    """Return the gradients of u, delta, A, B, C, D, z, delta_bias and the initial state."""
    u, delta, A, B, C, D, z, delta_bias, _, order = tensors
    delta_softplus, zoh, chunk, _ = setting
    grad_y = torch.zeros_like(delta) if grads[0] is None else grads[0]
    grad_last = A.new_zeros((delta.shape[0], *A.shape), dtype=torch.float32) if grads[1] is None else grads[1]
    batch, groups, width, length = delta.shape
    shapes = (u, delta, A, B, C, A[:, 0], _gate_gradient(z, delta), A[:, 0], grad_last)
    if delta.numel() == 0:
        nothing = [torch.zeros_like(t, dtype=torch.float32) for t in shapes[:-1]]
        return [*nothing, grad_last.clone(memory_format=torch.contiguous_format), None]
    from kanscan.ops.selective_scan.kernels.triton import scan_backward

    tile = _tile(BACKWARD_TILE, width, A.shape[1], chunk)
    blocks = -(-width // tile["BLOCK_E"])
    span = -(-blocks // _shares(blocks, delta, A.shape[1]))
    shares = -(-blocks // span)
    grad_u, grad_delta = (torch.empty_like(delta, dtype=torch.float32) for _ in range(2))
    grad_z = _gate_gradient(z, delta)
    grad_A, grad_start = (A.new_empty((batch, *A.shape), dtype=torch.float32) for _ in range(2))
    grad_D, grad_bias = (A.new_empty((batch, A.shape[0]), dtype=torch.float32) for _ in range(2))
    grad_B, grad_C = (B.new_empty((shares, *B.shape), dtype=torch.float32) for _ in range(2))
    read = (_plain(A), B, C, _plain(D), z, _plain(delta_bias), order, *kept)
    written = (grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_start)
    given = (grad_y, u, delta, B, C, z, grad_u, grad_delta, None if z is None else grad_z)
    strides = [_strides(t, delta) for t in given]
    sizes = (batch, groups, width, length, A.shape[1], span)
    with torch.cuda.device_of(delta):
        scan_backward[(batch * groups * shares,)](
            grad_y, _plain(grad_last), u, delta, *read, *written, *strides, *sizes,
            softplus=delta_softplus, hold=zoh, **tile,
        )  # fmt: skip
    if u.shape[1] < groups:
        grad_u = grad_u.sum(1, keepdim=True)
    sums = [grad_A.sum(0), grad_B.sum(0), grad_C.sum(0), grad_D.sum(0)]
    return [grad_u, grad_delta, *sums, grad_z, grad_bias.sum(0), grad_start, None]


def _shares(blocks: int, delta: Tensor, states: int) -> int:
    """Return into how many parts the channels of a group are cut: enough work for a device, within bounds of memory."""
    batch, groups, _, length = delta.shape
    affordable = max(PARTIAL_NUMBERS, 2 * delta.numel()) // (2 * batch * groups * states * length)
    return max(1, min(blocks, -(-PROGRAMS // (batch * groups)), affordable))


def _gate_gradient(z: Tensor | None, delta: Tensor) -> Tensor:
    empty = delta.new_empty((0,), dtype=torch.float32)
    return empty if z is None else torch.empty_like(delta, dtype=torch.float32)


def _shapes(*inputs: Any) -> Tensors:
    return _results(inputs[1], inputs[2], *inputs[-2:])


def _gradient_shapes(_: Any, tensors: Sequence[Any], *rest: Any) -> Tensors:
    u, delta, A, B, C, _, z, *_ = tensors
    grad_delta, whole = (torch.empty_like(delta, dtype=torch.float32) for _ in range(2))
    grad_u = whole.sum(1, keepdim=True) if u.shape[1] < delta.shape[1] else whole
    shapes = (A.shape, B.shape, C.shape, A.shape[:1])
    sums = [A.new_empty(shape, dtype=torch.float32) for shape in shapes]
    start = A.new_empty((delta.shape[0], *A.shape), dtype=torch.float32)
    return [grad_u, grad_delta, *sums, _gate_gradient(z, delta), torch.empty_like(sums[-1]), start, None]


def _in_plain_operations(*inputs: Any) -> Tensors:
    *tensors, delta_softplus, zoh, _, _ = inputs
    return in_copies(plain)(*tensors, delta_softplus=delta_softplus, discretization="zoh" if zoh else "euler")


_SCAN = Differentiable(
    _forward,
    _backward,
    _in_plain_operations,
    num_tensors=10,
    num_results=2,
    schema=Schema(
        "selective_scan_triton",
        "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
        "Tensor? initial_state, Tensor? order",
        "bool delta_softplus, bool zoh, int chunk, bool keep",
        fake=_shapes,
        fake_backward=_gradient_shapes,
        kept=1,
    ),
)
