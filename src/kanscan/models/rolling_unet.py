"""Rolling-UNet: Revitalizing MLP's Ability to Efficiently Extract Long-Distance Dependencies (AAAI 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.conv import DoubleConv
from kanscan.layers.embedding import init_conv_by_fan_out, to_map, to_tokens
from kanscan.layers.kan import token_linear
from kanscan.models.base import SegmentationModel


def roll(x: Tensor, axis: int, direction: int) -> Tensor:
    """Roll channel j of a channels-last map by `direction * j` pixels along a spatial axis, around the border.

    Args:
        x: Map `(B, H, W, C)`.
        axis: 1 (height) or 2 (width).
        direction: 1 moves towards larger indices, -1 towards smaller ones.
    """
    size, channels = x.shape[axis], x.shape[3]
    place = torch.arange(size, device=x.device).unsqueeze(1)
    source = (place - direction * torch.arange(channels, device=x.device)) % size
    source = source.unsqueeze(1) if axis == 1 else source
    return x.gather(axis, source.expand(x.shape))


class RollingMLP(nn.Module):
    """Lo2 block: two diagonal rolling MLPs beside a local depth-wise convolution (Fig. 2).

    Args:
        channels: Width of the tokens.
        dropout: Rate of dropout after every linear layer of the rolling branches.
        unused_weights: Also hold the LayerNorm that the released block never applies, so that parameter counts and
            checkpoints match.
    """

    def __init__(self, channels: int, *, dropout: float = 0.0, unused_weights: bool = True) -> None:
        super().__init__()
        if unused_weights:
            self.unused_norm = nn.LayerNorm(channels)
        self.linears = nn.ModuleList(token_linear(channels, channels) for _ in range(4))
        self.long_norm = nn.LayerNorm(2 * channels)
        self.long_linear = token_linear(2 * channels, channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.local_norm = nn.BatchNorm2d(channels)
        self.fuse = token_linear(2 * channels, channels)
        self.dropout = nn.Dropout(dropout)
        init_conv_by_fan_out(self.depthwise)
        init_conv_by_fan_out(self.pointwise)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Transform tokens `(B, L, C)` that form a map of `size` (height, width)."""
        x = tokens.unflatten(1, size)
        first = self._diagonal(x, self.linears[0], self.linears[1], ((1, 1), (2, 1)))
        second = self._diagonal(x, self.linears[2], self.linears[3], ((2, -1), (1, 1)))
        long = self.long_linear(self.long_norm(torch.cat([first, second], dim=3)))
        long = self.dropout(long) + x
        local = F.relu(self.pointwise(self.depthwise(to_map(tokens, size))))
        local = to_tokens(self.local_norm(local))
        return self.dropout(self.fuse(torch.cat([long.flatten(1, 2), local], dim=2)))

    def _diagonal(
        self, x: Tensor, into: nn.Module, out: nn.Module, moves: tuple[tuple[int, int], tuple[int, int]]
    ) -> Tensor:
        # Rolling along one axis, mixing channels, then rolling along the other lets a pixel see a whole diagonal.
        y = self.dropout(F.gelu(into(roll(x, *moves[0]))))
        return self.dropout(out(roll(y, *moves[1]))) + x


class FeatureIncentiveBlock(nn.Module):
    """FIB: 3x3 convolution, GELU, then LayerNorm on the tokens (Fig. 1).

    Args:
        in_channels: Channels of the map.
        out_channels: Width of the tokens.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.LayerNorm(out_channels)
        init_conv_by_fan_out(self.proj)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens and the (height, width) they form."""
        x = F.gelu(self.proj(x))
        return self.norm(to_tokens(x)), (x.shape[2], x.shape[3])


class RollingUNet(SegmentationModel):
    """Rolling-UNet: a convolutional U whose deep levels mix along rolled diagonals (Fig. 1).

    Presets "small" (the default), "medium" and "large" have 1,783,185, 7,098,401 and 28,324,929 parameters at three
    input channels and one output channel; 1,024, 2,048 and 4,096 of them are LayerNorms that the released code
    stores and never applies.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits; 1 for binary segmentation.
        channels: Width of each of the five stages; the first must be even.
        dropout: Rate of dropout inside the bottleneck's Lo2 block; the presets use 0.1, 0.2 and 0.3. Its places
            within the block are after each linear layer of the long-range branches and after the fusion.
        unused_weights: Hold the LayerNorms that are never applied; False drops them.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> RollingUNet(3, 1)(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 1, 32, 48])
    """

    paper: ClassVar[str | None] = None
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"channels": (16, 32, 64, 128, 256), "dropout": 0.1},
        "medium": {"channels": (32, 64, 128, 256, 512), "dropout": 0.2},
        "large": {"channels": (64, 128, 256, 512, 1024), "dropout": 0.3},
    }
    released_names: ClassVar[Sequence[tuple[str, str]]] = (
        *((rf"^encoder\.{i}\.", f"conv{i + 1}.conv.") for i in range(3)),
        *((rf"^decoder\.{i}\.", f"decoder{3 - i}.conv.") for i in range(3)),
        *((rf"^tokens\.{i}\.", f"FIBlock{i + 1}.") for i in range(3)),
        *((rf"^blocks\.{i}\.", f"block{i + 1}.0.mlp.") for i in range(3)),
        *((rf"^norms\.{i}\.", f"norm{i + 1}.") for i in range(3)),
        (r"\.mlp\.unused_norm\.", ".norm2."),
        *((rf"\.mlp\.linears\.{i}\.", f".mlp.fc{i + 1}.") for i in range(4)),
        (r"\.mlp\.long_linear\.", ".mlp.fc5."),
        (r"\.mlp\.fuse\.", ".mlp.fc6."),
        (r"\.mlp\.long_norm\.", ".mlp.norm1."),
        (r"\.mlp\.local_norm\.", ".mlp.norm2."),
        (r"\.mlp\.depthwise\.", ".mlp.dwconv.dwconv."),
        (r"\.mlp\.pointwise\.", ".mlp.dwconv.point_conv."),
        (r"\.conv\.conv1\.", ".conv.0."),
        (r"\.conv\.norm1\.", ".conv.1."),
        (r"\.conv\.conv2\.", ".conv.3."),
        (r"\.conv\.norm2\.", ".conv.4."),
        (r"^leave\.", "FIBlock4."),
        (r"^leave_norm\.", "dbn4."),
        (r"^head\.", "final."),
    )

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        channels: tuple[int, int, int, int, int] = (16, 32, 64, 128, 256),
        dropout: float = 0.1,
        unused_weights: bool = True,
    ) -> None:
        super().__init__()
        if len(channels) != 5 or min(channels) < 1 or channels[0] % 2:
            raise ValueError(f"channels must be five widths, the first one even; got {channels}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, (16, 16)
        c1, c2, c3, c4, c5 = channels
        self.encoder = nn.ModuleList(DoubleConv(i, o, o) for i, o in ((in_channels, c1), (c1, c2), (c2, c3)))
        self.tokens = nn.ModuleList(FeatureIncentiveBlock(i, o) for i, o in ((c3, c4), (c4, c5), (c5, c4)))
        self.blocks = nn.ModuleList(
            RollingMLP(c, dropout=rate, unused_weights=unused_weights)
            for c, rate in ((c4, 0.0), (c5, dropout), (c4, 0.0))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in (c4, c5, c4))
        self.leave = nn.Conv2d(c4, c3, 3, padding=1)
        self.leave_norm = nn.BatchNorm2d(c3)
        self.decoder = nn.ModuleList(DoubleConv(i, i, o) for i, o in ((c3, c2), (c2, c1), (c1, c1 // 2)))
        self.head = nn.Conv2d(c1 // 2, out_channels, 1)

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a network of a few thousand parameters for tests, without the weights that nothing uses."""
        return cls(**{"channels": (4, 6, 8, 10, 12), "unused_weights": False, **options})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, H, W)`; H and W must be multiples of 16."""
        self.check_input(x)
        skips: list[Tensor] = []
        for stage in self.encoder:
            skips.append(stage(x))
            x = F.max_pool2d(skips[-1], 2)
        skips.append(self._mix(0, *self.tokens[0](x)))
        x = self._mix(1, *self.tokens[1](F.max_pool2d(skips[-1], 2)))
        tokens, size = self.tokens[2](x)
        x = _double(to_map(tokens, size)) + skips.pop()
        x = self._mix(2, to_tokens(x), (x.shape[2], x.shape[3]))
        x = F.relu(self.leave_norm(self.leave(x)))
        for stage in self.decoder:
            x = stage(_double(x) + skips.pop())
        return self.head(x)

    def _mix(self, index: int, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        return to_map(self.norms[index](self.blocks[index](tokens, size)), size)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
