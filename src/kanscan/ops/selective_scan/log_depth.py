"""The recurrence in logarithmically many tensor operations: what is traced, exported and compiled.

Neighboring steps are joined, h_2 = a_2 a_1 h_0 + (a_2 x_1 + x_2), the half-length sequence is solved the same way, and
the steps left out are filled in. Only products of decays are formed, never quotients. All states are held at once, so
this form costs N times the memory of the chunked one; it is for graphs, which cannot hold a long loop.
"""

from __future__ import annotations

import torch
from torch import Tensor


def recurrence(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, zoh: bool
) -> tuple[Tensor, Tensor]:
    """Return `y` (sequences, width, length) and the last state (sequences, states, width).

    Args:
        u: Inputs (sequences, width, length).
        delta: Step sizes, like `u`.
        A: Decay rates (sequences, states, width).
        B: Input matrix (sequences, states, width), or (sequences, states, 1, length).
        C: Output matrix, as `B`.
        state: State before the first step (sequences, states, width).
        zoh: Use the zero-order hold.
    """
    if u.shape[-1] == 0:
        return torch.zeros_like(u), state
    step, rate = delta.unsqueeze(1), A.unsqueeze(-1)
    exponent = step * rate
    gain = step
    if zoh:
        safe = torch.where(rate == 0, torch.ones_like(rate), rate)
        gain = torch.where(rate == 0, step * (1 + exponent / 2), torch.expm1(exponent) / safe)
    decay = torch.exp(exponent)
    inputs = gain * u.unsqueeze(1) * _full(B)
    first = inputs[..., :1] + decay[..., :1] * state.unsqueeze(-1)
    states = _solve(decay, torch.cat([first, inputs[..., 1:]], dim=-1))
    return (states * _full(C)).sum(1), states[..., -1]


def _full(matrix: Tensor) -> Tensor:
    return matrix if matrix.ndim == 4 else matrix.unsqueeze(-1)


def _solve(decay: Tensor, inputs: Tensor) -> Tensor:
    """Return h with h_t = decay_t h_(t-1) + inputs_t along the last axis, h_(-1) = 0."""
    length = inputs.shape[-1]
    if length == 1:
        return inputs
    even_decay, odd_decay = decay[..., 0::2], decay[..., 1::2]
    even, odd = inputs[..., 0::2], inputs[..., 1::2]
    num_pairs = odd.shape[-1]
    joined = _solve(even_decay[..., :num_pairs] * odd_decay, even[..., :num_pairs] * odd_decay + odd)
    rest = even[..., 1:] + even_decay[..., 1:] * joined[..., : even.shape[-1] - 1]
    evens = torch.cat([even[..., :1], rest], dim=-1)
    pairs = torch.stack([evens[..., :num_pairs], joined], dim=-1).flatten(-2)
    return pairs if length % 2 == 0 else torch.cat([pairs, evens[..., -1:]], dim=-1)
