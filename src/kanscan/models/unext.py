"""UNeXt: MLP-based Rapid Medical Image Segmentation Network (arXiv 2203.04967)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.embedding import ConvTokenEmbedding, init_conv_by_fan_out, to_map, to_tokens
from kanscan.layers.kan import token_linear
from kanscan.models.base import SegmentationModel

#: Groups of channels that move by -2, -1, 0, 1 and 2 pixels (section 2.2).
NUM_SHIFTS = 5


def shift(x: Tensor, axis: int) -> Tensor:
    """Move five groups of channels by -2 to 2 pixels along a spatial axis; zeros come in at the border.

    Args:
        x: Map `(B, C, H, W)`.
        axis: 2 (height) or 3 (width).
    """
    reach, size = NUM_SHIFTS // 2, x.shape[axis]
    padded = F.pad(x, (0, 0, reach, reach) if axis == 2 else (reach, reach))
    groups = padded.chunk(NUM_SHIFTS, dim=1)
    return torch.cat([g.narrow(axis, 2 * reach - i, size) for i, g in enumerate(groups)], dim=1)


class ShiftedMLPBlock(nn.Module):
    """Tokenized MLP block: tokens + MLP(LayerNorm(tokens)), shifted along height, then along width (Eq. 1-3).

    Args:
        channels: Width of the tokens.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.linear1 = token_linear(channels, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.linear2 = token_linear(channels, channels)
        init_conv_by_fan_out(self.conv)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Transform tokens `(B, L, C)` that form a map of `size` (height, width)."""
        x = self.linear1(to_tokens(shift(to_map(self.norm(tokens), size), 2)))
        x = F.gelu(self.conv(to_map(x, size)))
        return tokens + self.linear2(to_tokens(shift(x, 3)))


class UNeXt(SegmentationModel):
    """U-NeXt: three convolutional stages and two stages of tokenized, shifted MLPs on a U (Fig. 1).

    Every convolution stage has a single 3x3 convolution; skips are added. At three input channels and one output
    channel the default has the 1,471,921 parameters that U-KAN's and KM-UNet's tables print as 1.47 M.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits; 1 for binary segmentation.
        channels: Width of each of the five stages; the last two are the token stages.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> UNeXt(3, 1, channels=(8, 16, 32, 64, 128))(torch.zeros(1, 3, 32, 64)).shape
        torch.Size([1, 1, 32, 64])
    """

    paper: ClassVar[str | None] = None
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"channels": (8, 16, 32, 64, 128)},
        "base": {"channels": (16, 32, 128, 160, 256)},
    }
    released_names: ClassVar[Sequence[tuple[str, str]]] = (
        *((rf"^encoder\.{i}\.", f"encoder{i + 1}.") for i in range(3)),
        *((rf"^encoder_norms\.{i}\.", f"ebn{i + 1}.") for i in range(3)),
        *((rf"^embeddings\.{i}\.", f"patch_embed{i + 3}.") for i in range(2)),
        *((rf"^encoder_blocks\.{i}\.", f"block{i + 1}.0.") for i in range(2)),
        *((rf"^token_norms\.{i}\.", f"norm{i + 3}.") for i in range(2)),
        *((rf"^decoder\.{i}\.", f"decoder{i + 1}.") for i in range(5)),
        *((rf"^decoder_norms\.{i}\.", f"dbn{i + 1}.") for i in range(4)),
        *((rf"^decoder_blocks\.{i}\.", f"dblock{i + 1}.0.") for i in range(2)),
        *((rf"^decoder_token_norms\.{i}\.", f"dnorm{i + 3}.") for i in range(2)),
        (r"(block\d\.0)\.norm\.", r"\1.norm2."),
        (r"(block\d\.0)\.linear(\d)\.", r"\1.mlp.fc\2."),
        (r"(block\d\.0)\.conv\.", r"\1.mlp.dwconv.dwconv."),
        (r"^head\.", "final."),
    )

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        channels: tuple[int, int, int, int, int] = (16, 32, 128, 160, 256),
    ) -> None:
        super().__init__()
        if len(channels) != 5 or min(channels) < 1:
            raise ValueError(f"channels must be five widths, one for each stage of U-NeXt; got {channels}")
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, (32, 32)
        c1, c2, c3, c4, c5 = channels

        def convs(*widths: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(widths))

        self.encoder = convs(in_channels, c1, c2, c3)
        self.encoder_norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (c1, c2, c3))
        self.embeddings = nn.ModuleList([ConvTokenEmbedding(c3, c4), ConvTokenEmbedding(c4, c5)])
        self.encoder_blocks = nn.ModuleList(ShiftedMLPBlock(c) for c in (c4, c5))
        self.token_norms = nn.ModuleList(nn.LayerNorm(c) for c in (c4, c5))
        self.decoder = convs(c5, c4, c3, c2, c1, c1)
        self.decoder_norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (c4, c3, c2, c1))
        self.decoder_blocks = nn.ModuleList(ShiftedMLPBlock(c) for c in (c4, c3))
        self.decoder_token_norms = nn.ModuleList(nn.LayerNorm(c) for c in (c4, c3))
        self.head = nn.Conv2d(c1, out_channels, 1)

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a network of a few thousand parameters for tests."""
        return cls(**{"channels": (4, 8, 12, 16, 20), **options})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, H, W)`; H and W must be multiples of 32."""
        self.check_input(x)
        skips: list[Tensor] = []
        for conv, norm in zip(self.encoder, self.encoder_norms, strict=True):
            x = F.relu(F.max_pool2d(norm(conv(x)), 2))
            skips.append(x)
        for embedding, block, norm in zip(self.embeddings, self.encoder_blocks, self.token_norms, strict=True):
            tokens, size = embedding(x)
            x = to_map(norm(block(tokens, size)), size)
            skips.append(x)
        skips.pop()
        for level, conv in enumerate(self.decoder):
            x = conv(x)
            if level < len(self.decoder_norms):
                x = self.decoder_norms[level](x)
            x = F.relu(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
            if skips:
                x = x + skips.pop()
            if level < len(self.decoder_blocks):
                size = (x.shape[2], x.shape[3])
                tokens = self.decoder_blocks[level](to_tokens(x), size)
                x = to_map(self.decoder_token_norms[level](tokens), size)
        return self.head(x)
