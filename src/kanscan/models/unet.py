"""U-Net and two of its children: Attention U-Net (arXiv 1804.03999) and U-Net++ (arXiv 1807.10165).

Widths, normalization and up-sampling are those of the widely used collection of U-Nets from which the numbers printed
for them in the U-KAN and KM-UNet papers come (34.53 M, 34.9 M and 36.6 M parameters).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.conv import DoubleConv
from kanscan.models.base import SegmentationModel

_WIDTHS = (64, 128, 256, 512, 1024)
#: Our and the released names of what stands inside an attention gate.
_GATE_NAMES = (("gate", "W_g"), ("skip", "W_x"), ("weight", "psi"))


def _check_channels(channels: Sequence[int]) -> None:
    if len(channels) < 2 or min(channels) < 1:
        raise ValueError(f"channels must be the widths of two stages or more, got {channels}")


class UpConv(nn.Module):
    """Up-step of the U-Net: nearest-neighbor doubling, 3x3 convolution, BatchNorm, ReLU.

    Args:
        in_channels: Channels of the deeper map.
        out_channels: Channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)
        # A module, because the papers' profiler counts modules.
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of twice the size."""
        return F.relu(self.norm(self.conv(self.upsample(x))))


class AttentionGate(nn.Module):
    """Additive attention gate of a skip (Attention U-Net Eq. 1 and 2).

    Args:
        channels: Channels of the skip and of the gating map.
        mid_channels: Width of the hidden map.
    """

    def __init__(self, channels: int, mid_channels: int) -> None:
        super().__init__()
        self.gate_conv = nn.Conv2d(channels, mid_channels, 1)
        self.gate_norm = nn.BatchNorm2d(mid_channels)
        self.skip_conv = nn.Conv2d(channels, mid_channels, 1)
        self.skip_norm = nn.BatchNorm2d(mid_channels)
        self.weight_conv = nn.Conv2d(mid_channels, 1, 1)
        self.weight_norm = nn.BatchNorm2d(1)

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        """Return the skip `(B, C, H, W)`, weighted pixel by pixel by what the gating map asks for."""
        hidden = F.relu(self.gate_norm(self.gate_conv(gate)) + self.skip_norm(self.skip_conv(skip)))
        return skip * torch.sigmoid(self.weight_norm(self.weight_conv(hidden)))


class ConcatDecoder(nn.Module):
    """Right half of the U: double the map, put the skip in front of it, convolve twice.

    Args:
        channels: Width of each stage, full resolution first.
        gated: Pass every skip through an attention gate.
    """

    def __init__(self, channels: Sequence[int], *, gated: bool = False) -> None:
        super().__init__()
        levels = list(pairwise(channels))
        self.ups = nn.ModuleList(UpConv(deep, c) for c, deep in levels)
        self.gates = nn.ModuleList(AttentionGate(c, max(c // 2, 1)) for c, _ in levels if gated)
        self.stages = nn.ModuleList(DoubleConv(2 * c, c, c) for c, _ in levels)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return the map at full resolution from those of all encoder stages, full resolution first."""
        x = maps[-1]
        for level in reversed(range(len(self.stages))):
            x, skip = self.ups[level](x), maps[level]
            if len(self.gates):
                skip = self.gates[level](x, skip)
            x = self.stages[level](torch.cat([skip, x], dim=1))
        return x


def _encoder(in_channels: int, channels: Sequence[int]) -> nn.ModuleList:
    _check_channels(channels)
    return nn.ModuleList(DoubleConv(i, o, o) for i, o in pairwise((in_channels, *channels)))


def _encode(stages: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    maps: list[Tensor] = []
    for level, stage in enumerate(stages):
        x = stage(x if level == 0 else F.max_pool2d(x, 2))
        maps.append(x)
    return maps


_LAST = 9
#: How the released U-Net and Attention U-Net name what `_encoder` and `ConcatDecoder` hold.
_RELEASED_NAMES = (
    *((rf"^encoder\.{i}\.", f"Conv{i + 1}.conv.") for i in range(_LAST)),
    *((rf"^decoder\.stages\.{i}\.", f"Up_conv{i + 2}.conv.") for i in range(_LAST)),
    *((rf"^decoder\.ups\.{i}\.conv\.", f"Up{i + 2}.up.1.") for i in range(_LAST)),
    *((rf"^decoder\.ups\.{i}\.norm\.", f"Up{i + 2}.up.2.") for i in range(_LAST)),
    *((rf"^decoder\.gates\.{i}\.", f"Att{i + 2}.") for i in range(_LAST)),
    *((rf"^(Att\d)\.{ours}_conv\.", rf"\1.{theirs}.0.") for ours, theirs in _GATE_NAMES),
    *((rf"^(Att\d)\.{ours}_norm\.", rf"\1.{theirs}.1.") for ours, theirs in _GATE_NAMES),
    (r"\.conv\.conv1\.", ".conv.0."),
    (r"\.conv\.norm1\.", ".conv.1."),
    (r"\.conv\.conv2\.", ".conv.3."),
    (r"\.conv\.norm2\.", ".conv.4."),
    (r"^head\.", "Conv."),
)


class UNet(SegmentationModel):
    """U-Net with batch normalization: five double convolutions down, four up, skips concatenated.

    34,527,041 parameters at three input channels and one output channel.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits; 1 for binary segmentation.
        channels: Width of each stage, full resolution first; their number sets the depth.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> UNet(1, 3, channels=(8, 16, 32))(torch.zeros(1, 1, 32, 44)).shape
        torch.Size([1, 3, 32, 44])
    """

    released_names: ClassVar[Sequence[tuple[str, str]]] = _RELEASED_NAMES

    def __init__(self, in_channels: int = 3, out_channels: int = 1, *, channels: tuple[int, ...] = _WIDTHS) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride = (2 ** (len(channels) - 1),) * 2
        self.encoder = _encoder(in_channels, channels)
        self.decoder = ConcatDecoder(channels)
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a network of a few thousand parameters for tests."""
        return cls(**{"channels": (4, 8, 12), **options})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, H, W)`; H and W must be multiples of `stride`."""
        self.check_input(x)
        return self.head(self.decoder(_encode(self.encoder, x)))


class AttentionUNet(SegmentationModel):
    """Attention U-Net: a U-Net whose skips are gated by the deeper map (Attention U-Net Fig. 1 and 2).

    The gate works at the resolution of the skip, after the up-step. 34,878,573 parameters at three input channels and
    one output channel.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits; 1 for binary segmentation.
        channels: Width of each stage, full resolution first; their number sets the depth.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> AttentionUNet(1, 3, channels=(8, 16, 32))(torch.zeros(1, 1, 32, 44)).shape
        torch.Size([1, 3, 32, 44])
    """

    released_names: ClassVar[Sequence[tuple[str, str]]] = _RELEASED_NAMES

    def __init__(self, in_channels: int = 3, out_channels: int = 1, *, channels: tuple[int, ...] = _WIDTHS) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride = (2 ** (len(channels) - 1),) * 2
        self.encoder = _encoder(in_channels, channels)
        self.decoder = ConcatDecoder(channels, gated=True)
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a network of a few thousand parameters for tests."""
        return cls(**{"channels": (4, 8, 12), **options})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, H, W)`; H and W must be multiples of `stride`."""
        self.check_input(x)
        return self.head(self.decoder(_encode(self.encoder, x)))


class UNetPlusPlus(SegmentationModel):
    """U-Net++: a triangle of nodes, each reading all earlier nodes of its row and the one below (U-Net++ Eq. 1).

    36,629,633 parameters at three input channels and one output channel. Deeper maps are doubled bilinearly with
    aligned corners, without a convolution of their own.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits; 1 for binary segmentation.
        channels: Width of each stage, full resolution first; their number sets the depth.
        deep_supervision: Give every node of the top row a head (U-Net++ section 3.2). `side_outputs` then returns the
            logits of all of them, the deepest node first; `forward` returns their mean, the paper's accurate mode.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> UNetPlusPlus(1, 3, channels=(8, 16, 32))(torch.zeros(1, 1, 32, 44)).shape
        torch.Size([1, 3, 32, 44])
    """

    released_names: ClassVar[Sequence[tuple[str, str]]] = (
        (r"^nodes\.", "conv"),
        (r"^(conv\d_\d\.)norm", r"\1bn"),
        (r"^head\.", "final."),
    )

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        channels: tuple[int, ...] = _WIDTHS,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        _check_channels(channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride = (2 ** (len(channels) - 1),) * 2
        rows = zip((in_channels, *channels[:-1]), channels, (*channels[1:], 0), strict=True)
        self.nodes = nn.ModuleDict(
            {
                f"{i}_{j}": DoubleConv(above if j == 0 else j * width + below, width, width)
                for i, (above, width, below) in enumerate(rows)
                for j in range(len(channels) - i)
            }
        )
        self.depth = len(channels)
        # A module, because the papers' profiler counts modules.
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.head = nn.Conv2d(channels[0], out_channels, 1)
        self.side_heads = nn.ModuleList(
            nn.Conv2d(channels[0], out_channels, 1) for _ in channels[2:] if deep_supervision
        )

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a network of a few thousand parameters for tests."""
        return cls(**{"channels": (4, 6, 8), **options})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, H, W)`; H and W must be multiples of `stride`."""
        logits = self.side_outputs(x)
        return logits[0] if len(logits) == 1 else torch.stack(logits).mean(0)

    def side_outputs(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every supervised node of the top row, the deepest node first."""
        top = self._top_row(x)
        # The first node has seen nothing deeper and takes no head.
        heads = (*self.side_heads, self.head)
        return [head(node) for head, node in zip(reversed(heads), reversed(top), strict=False)]

    def _top_row(self, x: Tensor) -> list[Tensor]:
        self.check_input(x)
        encoder = [self.nodes[f"{i}_0"] for i in range(self.depth)]
        rows = [[node] for node in _encode(encoder, x)]
        for j in range(1, self.depth):
            for i, row in enumerate(rows[: self.depth - j]):
                below = self.upsample(rows[i + 1][j - 1])
                row.append(self.nodes[f"{i}_{j}"](torch.cat([*row, below], dim=1)))
        return rows[0]
