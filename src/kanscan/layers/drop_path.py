"""Stochastic depth."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class DropPath(nn.Module):
    """Skip a residual branch for whole samples while training, and scale the others so that the mean stays.

    Args:
        rate: Share of samples whose branch is skipped, 0 to below 1.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop path rate must be in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Float[Tensor, "b *rest"]) -> Float[Tensor, "b *rest"]:
        """Return the branch, zeroed for the skipped samples."""
        if self.rate == 0 or not self.training:
            return x
        keep = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)

    def extra_repr(self) -> str:
        """Show the rate."""
        return f"rate={self.rate}"
