"""From maps to tokens and back."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn


def to_tokens(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b l c"]:
    """Read a map row by row as tokens."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Float[Tensor, "b l c"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Put tokens back into a map of `size` (height, width)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *size)


def init_conv_by_fan_out(conv: nn.Conv2d) -> None:
    """Draw the weight from N(0, 2 / fan_out) and zero the bias; fan_out counts kernel x outputs / groups."""
    fan_out = math.prod(conv.kernel_size) * conv.out_channels // conv.groups
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2.0 / fan_out))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class ConvTokenEmbedding(nn.Module):
    """Overlapping patch embedding: 3x3 convolution with stride 2, tokens, LayerNorm (U-KAN section 3.2).

    Args:
        in_channels: Channels of the map.
        out_channels: Width of the tokens.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_channels)
        init_conv_by_fan_out(self.proj)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b l d"], tuple[int, int]]:
        """Return the tokens and the (height, width) they form."""
        x = self.proj(x)
        return self.norm(to_tokens(x)), (x.shape[2], x.shape[3])
