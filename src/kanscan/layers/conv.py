"""Convolution blocks shared by the U-shaped networks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DoubleConv(nn.Module):
    """Twice: 3x3 convolution with bias, BatchNorm, ReLU.

    Args:
        in_channels: Channels of the input.
        mid_channels: Channels between the two convolutions.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(mid_channels)
        self.conv2 = nn.Conv2d(mid_channels, out_channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Return a map of the same size."""
        x = torch.relu_(self.norm1(self.conv1(x)))
        return torch.relu_(self.norm2(self.conv2(x)))
