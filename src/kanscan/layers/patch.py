"""Patches of channel-last maps: cut an image into them, merge four into one, expand one into several."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """Cut an image into patches that do not overlap, one token each, and normalize (VM-UNet section 2.2).

    Args:
        in_channels: Channels of the image.
        channels: Width C of the tokens.
        patch_size: Side of a patch in pixels.

    Example:
        >>> PatchEmbedding(3, 8)(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 8, 12, 8])
    """

    def __init__(self, in_channels: int, channels: int, patch_size: int = 4) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m n d"]:
        """Return a channel-last map, `patch_size` times smaller; pixels beyond the last whole patch are lost."""
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Put the four pixels of every 2x2 square into one, normalize, and project 4C to 2C channels (VMamba section 4.2).

    The four are joined in the order (even row, even column), (odd, even), (even, odd), (odd, odd).

    Args:
        channels: Channels C of the map.

    Example:
        >>> PatchMerging(8)(torch.zeros(1, 6, 4, 8)).shape
        torch.Size([1, 3, 2, 16])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b m n d"]:
        """Return a map of half the size; the last row or column of an odd one is left out."""
        x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
        squares = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        # (b, row, row in square, column, column in square, c): the row in the square runs fastest.
        joined = squares.permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(joined))


class PatchExpanding(nn.Module):
    """Make every pixel a square of pixels: project, rearrange and normalize (VM-UNet section 2.2).

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the larger map.
        factor: Side of the square.

    Example:
        >>> PatchExpanding(16, 8)(torch.zeros(1, 3, 2, 16)).shape
        torch.Size([1, 6, 4, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(in_channels, factor * factor * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b m n d"]:
        """Return a map `factor` times as large."""
        squares = self.expand(x).unflatten(3, (self.factor, self.factor, -1))
        return self.norm(torch.transpose(squares, 2, 3).flatten(3, 4).flatten(1, 2))
