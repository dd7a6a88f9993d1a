"""The selective scan as its definition reads: one step after the other, exact in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Return `y` and the last state; arguments as in `kanscan.ops.selective_scan`, all in one dtype."""
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    num_channels, num_states = A.shape
    h = u.new_zeros(u.shape[0], num_channels, num_states) if initial_state is None else initial_state
    outputs = []
    # unbind, not indexing: the backward of an index fills a zero tensor of the full length at every step.
    steps = zip(
        u.unbind(-1),
        delta.unbind(-1),
        _per_step(B, u.shape[-1], num_channels),
        _per_step(C, u.shape[-1], num_channels),
        strict=True,
    )
    for u_t, delta_t, B_t, C_t in steps:
        exponent = delta_t.unsqueeze(-1) * A
        h = torch.exp(exponent) * h + _input_gain(delta_t, A, exponent, discretization) * B_t * u_t.unsqueeze(-1)
        outputs.append((h * C_t).sum(-1))
    y = torch.stack(outputs, dim=-1) if outputs else torch.zeros_like(u)
    if D is not None:
        y = y + D[:, None] * u
    if z is not None:
        y = y * F.silu(z)
    return y, h


def _per_step(matrix: Tensor, length: int, num_channels: int) -> list[Tensor]:
    """Spread B or C to one (batch or 1, channels, states) matrix a step."""
    if matrix.ndim == 2:
        return [matrix.unsqueeze(0)] * length
    grouped = matrix.unsqueeze(1) if matrix.ndim == 3 else matrix
    spread = grouped.repeat_interleave(num_channels // grouped.shape[1], dim=1)
    return list(spread.unbind(-1))


def _input_gain(delta: Tensor, A: Tensor, exponent: Tensor, discretization: str) -> Tensor:
    """What multiplies B u: delta (Euler), or the integral of exp(A s) over one step (zero-order hold)."""
    if discretization == "euler":
        return delta.unsqueeze(-1)
    safe = torch.where(A == 0, torch.ones_like(A), A)
    return torch.where(A == 0, delta.unsqueeze(-1) * (1 + exponent / 2), torch.expm1(exponent) / safe)
