"""Arguments of a selective scan drawn at random, for the tests of its kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def arguments(
    batch: int, channels: int, length: int, states: int, groups: int = 1, device: str | torch.device = "cpu"
) -> dict[str, Tensor]:
    """Draw every tensor argument, the same for the same length and states."""
    generator = torch.Generator().manual_seed(length + states)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    matrix = (batch, states, length) if groups == 1 else (batch, groups, states, length)
    given = {
        "u": draw(batch, channels, length),
        "delta": draw(batch, channels, length) - 1,
        "A": -torch.exp(draw(channels, states)),
        "B": draw(*matrix),
        "C": draw(*matrix),
        "D": draw(channels),
        "z": draw(batch, channels, length),
        "delta_bias": draw(channels),
        "initial_state": draw(batch, channels, states),
    }
    return {key: t.requires_grad_() for key, t in given.items()}
