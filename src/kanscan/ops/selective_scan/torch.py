"""The selective scan in plain torch, chunk by chunk, with a backward that recomputes the states.

The states of a whole sequence are N times as large as its input, so they are never kept: the sequence is cut into
chunks, forward keeps the state at the start of each chunk, and backward runs through a chunk once more before it goes
through it in reverse. Everything but the recurrence itself is vectorised over the chunk; the recurrence is one
in-place multiply-add per step over all (channel, state) pairs, so nothing is divided by a product of decays and large
step sizes neither overflow nor lose digits.

Within a chunk tensors are laid out time first and channels last, (time, sequence, state, channel): sums over states
then run over whole vectors of channels. A "sequence" is one group of channels of one sample, which shares B and C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import factorial, lcm
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kanscan.ops.dispatch import Differentiable, Tensors
from kanscan.ops.selective_scan import log_depth

#: (channel, state) pairs worked on at a time, and numbers in the buffer of a chunk: both chosen so that the handful of
#: buffers of a chunk stay in the second-level cache.
PAIRS_PER_BLOCK = 2**14
NUMBERS_PER_CHUNK = 2**17
SHORTEST_CHUNK = 32
#: Rates at least this large divide directly in the zero-order hold; trained ones begin at 1.
SMALLEST_RATE = 0.01


def _selective_scan(
    recurrence: Callable[..., tuple[Tensor, ...]],
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
    """Return `y` and the last state; arguments as in `kanscan.ops.selective_scan`, all in one dtype."""
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    batch, channels, length = u.shape
    # B and C may be shared by different numbers of channels; their common refinement serves both.
    groups = lcm(_num_groups(B), _num_groups(C))
    width = channels // groups
    shape = (batch * groups, width)
    state = initial_state if initial_state is not None else u.new_zeros(batch, channels, A.shape[1])
    y, last = recurrence(
        u.reshape(*shape, length),
        delta.reshape(*shape, length),
        _per_pair(A, batch, groups),
        _matrix(B, batch, groups),
        _matrix(C, batch, groups),
        state.reshape(*shape, A.shape[1]).transpose(1, 2).contiguous(),
        discretization == "zoh",
    )
    y = y.reshape(batch, channels, length)
    if D is not None:
        y = torch.addcmul(y, u, D[:, None])
    if z is not None:
        y = y * F.silu(z)
    return y, last.transpose(1, 2).reshape(batch, channels, A.shape[1])


def _num_groups(matrix: Tensor) -> int:
    return matrix.shape[1] if matrix.ndim == 4 else 1


def _per_pair(t: Tensor, batch: int, groups: int) -> Tensor:
    """(channels, states) -> (sequences, states, width)."""
    channels, states = t.shape
    grouped = t.view(groups, channels // groups, states).transpose(1, 2)
    return grouped.expand(batch, -1, -1, -1).reshape(batch * groups, states, channels // groups)


def _matrix(t: Tensor, batch: int, groups: int) -> Tensor:
    """B or C -> (sequences, states, width) if constant, (sequences, states, 1, length) if not."""
    if t.ndim == 2:
        return _per_pair(t, batch, groups)
    grouped = t.unsqueeze(1) if t.ndim == 3 else t
    spread = grouped.unsqueeze(2).expand(-1, -1, groups // grouped.shape[1], -1, -1)
    return spread.reshape(batch * groups, *t.shape[-2:]).unsqueeze(2)


def _forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, zoh: bool) -> tuple[Tensor, ...]:
    """Return `y`, the last state and, block by block, the states at the starts of its chunks.

    h_t = exp(delta_t A) h_(t-1) + gain_t B_t u_t, y_t = sum over states of C_t h_t, for independent sequences.
    """
    y, last, starts = torch.empty_like(u), state.clone(), []
    far = zoh and _far_from_zero(A)
    for block, chunks in _walk(u.shape, A.shape[1]):
        a, current = A[block], state[block]
        kept = []
        for chunk in chunks:
            kept.append(current)
            d, v, b = _rows(delta, block, chunk), _rows(u, block, chunk), _columns(B, block, chunk)
            _, states, _ = _states(d, v, a, b, current, zoh, far)
            current = states[-1].clone()
            y[block, :, chunk] = states.mul_(_columns(C, block, chunk)).sum(2).permute(1, 2, 0)
        last[block] = current
        starts.append(torch.stack(kept) if kept else state.new_empty(0, *state[block].shape))
    return y, last, *starts


def _blocks(sequences: int, pairs: int) -> list[slice]:
    step = max(1, PAIRS_PER_BLOCK // max(pairs, 1))
    return [slice(i, min(i + step, sequences)) for i in range(0, sequences, step)]


def _chunks(length: int, pairs: int) -> list[slice]:
    step = max(SHORTEST_CHUNK, NUMBERS_PER_CHUNK // max(pairs, 1))
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def _walk(shape: torch.Size, states: int) -> Iterator[tuple[slice, list[slice]]]:
    """Yield the blocks of sequences and, for each, its chunks of time."""
    sequences, width, length = shape
    for block in _blocks(sequences, width * states):
        yield block, _chunks(length, (block.stop - block.start) * width * states)


def _rows(t: Tensor, block: slice, chunk: slice) -> Tensor:
    """(sequences, width, length) -> (time, block, 1, width), contiguous."""
    return t[block, :, chunk].permute(2, 0, 1).contiguous().unsqueeze(2)


def _columns(matrix: Tensor, block: slice, chunk: slice) -> Tensor:
    """B or C -> (time or 1, block, states, 1 or width)."""
    if matrix.ndim == 3:
        return matrix[block].unsqueeze(0)
    return matrix[block, :, :, chunk].permute(3, 0, 1, 2).contiguous()


def _far_from_zero(A: Tensor) -> bool:
    """Tell whether the zero-order hold may divide by A as it stands, without its limit at zero."""
    return A.numel() > 0 and float(A.abs().min()) >= SMALLEST_RATE


def _gain(growth: Tensor, delta: Tensor, A: Tensor, far: bool) -> Tensor:
    """(exp(delta A) - 1) / A, which is delta where A is zero, of `growth` = exp(delta A) - 1."""
    if far:
        return growth.div_(A)
    safe = torch.where(A == 0, torch.ones_like(A), A)
    return torch.where(A == 0, delta, growth.div_(safe))


def _gain_slope(delta: Tensor, A: Tensor) -> Tensor:
    """Return d gain / d A = delta^2 f(delta A) with f(x) = (x exp(x) - exp(x) + 1) / x^2."""
    x = delta * A
    small = x.abs() < 0.3
    safe = torch.where(small, torch.ones_like(x), x)
    direct = (safe * torch.exp(safe) - torch.expm1(safe)) / (safe * safe)
    # Near zero the difference cancels; ten terms of sum_k x^k / (k! (k + 2)) are exact in float64 there.
    series = torch.full_like(x, 1 / (factorial(10) * 12))
    for k in range(9, -1, -1):
        series = torch.addcmul(torch.full_like(x, 1 / (factorial(k) * (k + 2))), series, x)
    return delta * delta * torch.where(small, series, direct)


def _states(
    delta: Tensor, u: Tensor, A: Tensor, B: Tensor, start: Tensor, zoh: bool, far: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return decays, states and gains of a chunk that starts from the state `start`; the Euler gain is `delta`."""
    exponent = delta * A
    if zoh:
        # One exponential serves both: adding 1 rounds the decay no more than the multiply-add below does.
        growth = exponent.expm1_()
        decay = growth + 1
        gain = _gain(growth, delta, A, far)
        states = (gain * u).mul_(B)
    else:
        decay, gain = exponent.exp_(), delta
        states = (delta * u) * B
    previous = start
    for state, factor in zip(states.unbind(0), decay.unbind(0), strict=True):
        previous = state.addcmul_(factor, previous)
    return decay, states, gain


def _backward(grads: Tensors, tensors: Sequence[Any], starts: Sequence[Any], setting: Any, _: Any) -> Tensors:
    (u, delta, A, B, C, state), (zoh,) = tensors, setting
    grad_y = torch.zeros_like(u) if grads[0] is None else grads[0]
    grad_u, grad_delta = torch.empty_like(u), torch.empty_like(delta)
    grad_A, grad_B, grad_C = torch.zeros_like(A), torch.zeros_like(B), torch.zeros_like(C)
    grad_state = torch.zeros_like(state) if grads[1] is None else grads[1].clone()
    far = zoh and _far_from_zero(A)
    for (block, chunks), start in zip(_walk(u.shape, A.shape[1]), starts, strict=True):
        carry = grad_state[block]
        for chunk, first in reversed(list(zip(chunks, start.unbind(0), strict=True))):
            d, v = _rows(delta, block, chunk), _rows(u, block, chunk)
            b, c = _columns(B, block, chunk), _columns(C, block, chunk)
            decay, states, gain = _states(d, v, A[block], b, first, zoh, far)
            above = _rows(grad_y, block, chunk)
            _add(grad_C, block, chunk, (states * above), c)
            # g_t = d loss / d h_t, from the last step of the chunk to its first.
            g = above * c
            g[-1] += carry
            steps, factors = g.unbind(0), decay.unbind(0)
            for t in range(len(steps) - 2, -1, -1):
                steps[t].addcmul_(factors[t + 1], steps[t + 1])
            carry = factors[0] * steps[0]
            if zoh:
                through = g * b
                by_gain = through * gain
                grad_u[block, :, chunk] = by_gain.sum(2).permute(1, 2, 0)
                through.mul_(v)
                if far:
                    # d gain / d A = (delta exp(delta A) - gain) / A; what cancels here is lost beside the part that
                    # goes through the decay, which is larger by 1 / (delta A).
                    by_decay = through * decay
                    slope = by_decay.sum(2)
                    grad_A[block] += (by_decay.mul_(d) - by_gain.mul_(v)).sum(0) / A[block]
                else:
                    slope = (through * decay).sum(2)
                    grad_A[block] += (through * _gain_slope(d, A[block])).sum(0)
                _add(grad_B, block, chunk, gain.mul_(v).mul_(g), b)
            else:
                through = (g * b).sum(2)
                grad_u[block, :, chunk] = (through * d.squeeze(2)).permute(1, 2, 0)
                slope = through * v.squeeze(2)
                _add(grad_B, block, chunk, g * (d * v), b)
            # d loss / d (delta A) at every step.
            exponent = decay.mul_(g)
            exponent[0].mul_(first)
            exponent[1:].mul_(states[:-1])
            grad_A[block] += (exponent * d).sum(0)
            slope += exponent.mul_(A[block]).sum(2)
            grad_delta[block, :, chunk] = slope.permute(1, 2, 0)
        grad_state[block] = carry
    return grad_u, grad_delta, grad_A, grad_B, grad_C, grad_state


def _add(gradient: Tensor, block: slice, chunk: slice, terms: Tensor, like: Tensor) -> None:
    """Sum `terms` (time, block, states, width) to the shape of B or C and put them into its gradient."""
    if gradient.ndim == 3:
        gradient[block] += terms.sum(0)
    else:
        gradient[block, :, :, chunk] = terms.sum_to_size(like.shape).permute(1, 2, 3, 0)


_RECURRENCE = Differentiable(_forward, _backward, log_depth.recurrence, num_tensors=6, num_results=2)
#: The scan chunk by chunk; a graph would hold the loop over time unrolled, and is recorded from `plain`.
selective_scan = partial(_selective_scan, _RECURRENCE)
#: The same in a few dozen operations, all states at once.
plain = partial(_selective_scan, log_depth.recurrence)
