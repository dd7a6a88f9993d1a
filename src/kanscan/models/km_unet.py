"""KM-UNet: KAN Mamba U-Net for medical image segmentation (arXiv 2501.02559)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.attention import ChannelSpatialAttention
from kanscan.layers.conv import DoubleConv
from kanscan.layers.embedding import ConvTokenEmbedding, to_map, to_tokens
from kanscan.layers.kan import TokenizedKANBlock
from kanscan.layers.ssm import SS2D, SS2D_RELEASED_NAMES
from kanscan.models.base import SegmentationModel
from kanscan.ops.scan_order import CORNERS, CROSS, SPIRAL
from kanscan.registry import unknown

#: Ours and the released names of what no released forward pass uses.
_UNUSED_BLOCKS = (r"^decoder_blocks\.", r"^decoder_norms\.")
_UNUSED_ATTENTIONS = (r"^unused_attentions\.",)
_UNUSED_RELEASED = ("dblock1.", "dblock2.", "dnorm3.", "dnorm4.", "cbam.", "cbam1.", "cbam2.")
SCAN_ORDERS = {"cross": CROSS, "corners": CORNERS, "spiral": SPIRAL}
SEM_PLACES = ("path", "skip", "none")
#: What the released network does differently from the paper.
_RELEASE: dict[str, Any] = {
    "sem": "skip",
    "scan_order": "cross",
    "discretization": "euler",
    "decoder_blocks": False,
    "unused_modules": True,
}


class MultiScaleAttention(nn.Module):
    """Multi-scale attention: a branch along rows and columns and a 3x3 branch weigh one another (section 3.3).

    The channels are cut into groups that share all weights; this is efficient multi-scale attention (arXiv 2305.13563),
    which the paper's "aggregation" of a 1x1 and a 3x3 convolution stands for in the released network.

    Args:
        channels: Channels of the map.
        groups: Groups; the largest divisor of both numbers is taken, so that any width works.
    """

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__()
        self.groups = math.gcd(channels, groups)
        width = channels // self.groups
        self.strips = nn.Conv2d(width, width, 1)
        self.local = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted map (B, C, H, W)."""
        x_grouped = x.reshape(x.shape[0] * self.groups, x.shape[1] // self.groups, *x.shape[2:])
        # A group has few channels: where each has a map of its own, libraries pad them to whole vectors.
        local = self.local(x_grouped.contiguous(memory_format=torch.channels_last))
        directed = self._directed(x_grouped)
        weight = _channel_mix(directed, local) + _channel_mix(local, directed)
        return (x_grouped * torch.sigmoid(weight)).view_as(x)

    def _directed(self, x: Tensor) -> Tensor:
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
        strips = self.strips(torch.cat([rows, columns.transpose(2, 3)], dim=2))
        rows, columns = strips.split([x.shape[2], x.shape[3]], dim=2)
        return self.norm(x * torch.sigmoid(rows) * torch.sigmoid(columns.transpose(2, 3)))


def _channel_mix(weighing: Tensor, weighed: Tensor) -> Tensor:
    """Sum the channels of one map with weights from the spatial means of the other: (B, 1, H, W)."""
    share = torch.softmax(weighing.mean((2, 3)), dim=1)
    return torch.einsum("bc,bchw->bhw", share, weighed).unsqueeze(1)


class SEM(nn.Module):
    """Spatial enhancement module: selective scans for features, then multi-scale attention (section 3.3, Fig. 2).

    Args:
        channels: Channels of the map.
        multi_scale_attention: Keep the second half.
        scan: Options of `SS2D`; None leaves out the first half.
    """

    def __init__(self, channels: int, multi_scale_attention: bool, scan: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.scan = None if scan is None else SS2D(channels, **scan)
        self.attention = MultiScaleAttention(channels) if multi_scale_attention else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the enhanced map (B, C, H, W)."""
        if self.scan is not None:
            x = self.scan(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x if self.attention is None else self.attention(x)


class KMUNet(SegmentationModel):
    """KM-UNet: the U of U-KAN with selective scans and multi-scale attention at every convolutional level (Fig. 1).

    Three convolutional stages with SEM and two stages of tokenized KAN blocks go down; the decoder mirrors them, so
    that it has SEM at four levels and tokenized KAN blocks at two. Skips are added.

    The default is what the paper describes. The released network differs: SEM refines only what is handed over to the
    decoder and never the path down; the tokenized KAN blocks of the decoder are built and stored but not used, and so
    are three attention modules (1,273,545 of 7,012,554 parameters); scans run along rows and columns from two corners
    only. That is preset "release". The authors' training logs were made by a third network, "release" without the
    multi-scale attention (7,002,778 parameters): preset "release_logged". The 7.35 M parameters of Table 3 belong to
    none of them.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits; 1 for binary segmentation.
        channels: Widths of the five stages; or three numbers (C1, C2, C3) that stand for C1/8, C1/4, C1, C2, C3.
        sem: "path": SEM transforms what goes on to the next stage, in encoder and decoder. "skip": in the encoder it
            transforms the skips only (released). "none": no SEM, which leaves U-KAN.
        scans: The first half of SEM.
        multi_scale_attention: The second half of SEM.
        scan_order: "corners" (Eq. 1: one scan from each corner), "cross" (rows and columns, forth and back: released),
            or "spiral" (from the outer layers to the center: contribution 3).
        merge: How the directional scans are merged: "sum" (released) or "reweight" (section 3.3 speaks of re-weighting;
            there is no formula and no code for it, the weights here are learned from the mean of each scan).
        discretization: "zoh" (Algorithm 1) or "euler" (released).
        decoder_blocks: Use tokenized KAN blocks in the decoder.
        unused_modules: Hold the modules that released checkpoints store but never use.
        layer_kinds: "kan" or "linear" for each layer of every tokenized block.
        grid_size: Intervals of the spline grid.
        spline_order: Degree of the splines.
        grid_range: Ends of the spline grid.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> KMUNet(3, 1, channels=(32, 24, 32))(torch.zeros(1, 3, 32, 64)).shape
        torch.Size([1, 1, 32, 64])
    """

    paper: ClassVar[str | None] = "km_unet"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "spiral": {"scan_order": "spiral"},
        "reweight": {"merge": "reweight"},
        "release": _RELEASE,
        "release_logged": {**_RELEASE, "multi_scale_attention": False},
    }
    released_names: ClassVar[Sequence[tuple[str, str]]] = (
        *((rf"^embeddings\.{i}\.", f"patch_embed{i + 3}.") for i in range(2)),
        *((rf"^encoder_norms\.{i}\.", f"norm{i + 3}.") for i in range(2)),
        *((rf"^decoder_norms\.{i}\.", f"dnorm{i + 3}.") for i in range(2)),
        *((rf"^encoder_blocks\.{i}\.", f"block{i + 1}.0.") for i in range(2)),
        *((rf"^decoder_blocks\.{i}\.", f"dblock{i + 1}.0.") for i in range(2)),
        (r"^(d?block\d\.0)\.norm\.", r"\1.norm2."),
        *((rf"\.layers\.{i}\.", f".layer.fc{i + 1}.") for i in range(5)),
        *((rf"\.convs\.{i}\.conv\.", f".layer.dwconv_{i + 1}.dwconv.") for i in range(5)),
        *((rf"\.convs\.{i}\.norm\.", f".layer.dwconv_{i + 1}.bn.") for i in range(5)),
        *((rf"^encoder\.{i}\.", f"encoder{i + 1}.conv.") for i in range(3)),
        *((rf"^decoder\.{i}\.", f"decoder{i + 1}.conv.") for i in range(5)),
        (r"\.conv\.conv1\.", ".conv.0."),
        (r"\.conv\.norm1\.", ".conv.1."),
        (r"\.conv\.conv2\.", ".conv.3."),
        (r"\.conv\.norm2\.", ".conv.4."),
        *((rf"^encoder_sems\.{i}\.scan\.", f"ss2d_{i + 1}.") for i in range(3)),
        *((rf"^decoder_sems\.{i}\.scan\.", f"ss2d_decoder{i + 1}.") for i in range(4)),
        *((rf"^encoder_sems\.{i}\.attention\.", f"ema{i + 1}.") for i in range(3)),
        *((rf"^decoder_sems\.{i}\.attention\.", f"ema_decoder{i + 1}.") for i in range(4)),
        (r"^(ema\w+)\.strips\.", r"\1.conv1x1."),
        (r"^(ema\w+)\.local\.", r"\1.conv3x3."),
        (r"^(ema\w+)\.norm\.", r"\1.gn."),
        *((rf"^unused_attentions\.{i}\.", f"cbam{i or ''}.") for i in range(3)),
        (r"^(cbam\d?)\.channel\.reduce\.", r"\1.channel_attention.shared_MLP.0."),
        (r"^(cbam\d?)\.channel\.expand\.", r"\1.channel_attention.shared_MLP.2."),
        (r"^(cbam\d?)\.spatial\.conv\.", r"\1.spatial_attention.conv2d."),
        *SS2D_RELEASED_NAMES,
        (r"^head\.", "final."),
    )

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        channels: tuple[int, ...] = (128, 160, 256),
        sem: str = "path",
        scans: bool = True,
        multi_scale_attention: bool = True,
        scan_order: str = "corners",
        merge: str = "sum",
        discretization: str = "zoh",
        decoder_blocks: bool = True,
        unused_modules: bool = False,
        layer_kinds: tuple[str, ...] = ("kan", "kan", "kan"),
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        if sem not in SEM_PLACES:
            raise ValueError(unknown("place of SEM", sem, SEM_PLACES))
        if not scans and not multi_scale_attention:
            raise ValueError("scans=False and multi_scale_attention=False leave nothing of SEM; take sem='none'")
        widths = _stage_widths(channels)
        c1, c2, c3, c4, c5 = widths
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, (32, 32)
        self.sem, self.use_decoder_blocks = sem, decoder_blocks
        if scan_order not in SCAN_ORDERS:
            raise ValueError(unknown("scan order", scan_order, SCAN_ORDERS))
        scan = {"orders": SCAN_ORDERS[scan_order], "merge": merge, "discretization": discretization}
        grid: dict[str, Any] = {"grid_size": grid_size, "spline_order": spline_order, "grid_range": grid_range}

        def sems(*widths: int) -> nn.ModuleList | None:
            if sem == "none":
                return None
            return nn.ModuleList(SEM(width, multi_scale_attention, scan if scans else None) for width in widths)

        def blocks(*widths: int) -> nn.ModuleList:
            return nn.ModuleList(TokenizedKANBlock(width, layer_kinds, **grid) for width in widths)

        self.encoder = nn.ModuleList(DoubleConv(i, o, o) for i, o in pairwise((in_channels, c1, c2, c3)))
        self.encoder_sems = sems(c1, c2, c3)
        self.embeddings = nn.ModuleList(ConvTokenEmbedding(i, o) for i, o in pairwise((c3, c4, c5)))
        self.encoder_blocks = blocks(c4, c5)
        self.encoder_norms = nn.ModuleList(nn.LayerNorm(width) for width in (c4, c5))
        self.decoder = nn.ModuleList(DoubleConv(i, i, o) for i, o in pairwise((c5, c4, c3, c2, c1, c1)))
        self.decoder_sems = sems(c4, c3, c2, c1)
        if decoder_blocks or unused_modules:
            self.decoder_blocks = blocks(c4, c3)
            self.decoder_norms = nn.ModuleList(nn.LayerNorm(width) for width in (c4, c3))
        if unused_modules:
            # Which parameters are dead depends on the options, so this shadows the fact of the class.
            self.unused_parameters = _UNUSED_ATTENTIONS + (() if decoder_blocks else _UNUSED_BLOCKS)  # type: ignore[misc]
            self.unused_attentions = nn.ModuleList(ChannelSpatialAttention(w, bias=True) for w in (c1, c2, c3))
        self.head = nn.Conv2d(c1, out_channels, 1)

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a network of some ten thousand parameters for tests."""
        return cls(**{"channels": (4, 8, 16, 16, 24), **options})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, H, W)`; H and W must be multiples of 32."""
        self.check_input(x)
        x, skips = self._encode(x)
        for level, stage in enumerate(self.decoder):
            x = F.interpolate(stage(x), scale_factor=2, mode="bilinear", align_corners=False)
            if skips:
                x = x + skips.pop()
                x = x if self.decoder_sems is None else self.decoder_sems[level](x)
            if self.use_decoder_blocks and level < len(self.decoder_blocks):
                size = (x.shape[2], x.shape[3])
                tokens = self.decoder_blocks[level](to_tokens(x), size)
                x = to_map(self.decoder_norms[level](tokens), size)
        return self.head(x)

    def _encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            x = F.max_pool2d(stage(x), 2)
            enhanced = x if self.encoder_sems is None else self.encoder_sems[level](x)
            skips.append(enhanced)
            x = enhanced if self.sem == "path" else x
        for embedding, block, norm in zip(self.embeddings, self.encoder_blocks, self.encoder_norms, strict=True):
            tokens, size = embedding(x)
            x = to_map(norm(block(tokens, size)), size)
            skips.append(x)
        return skips.pop(), skips

    def from_released(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a released state dict to ours; what the released network never uses is dropped unless held here."""
        ours = super().from_released(state)
        held = self.state_dict().keys()
        return {name: tensor for name, tensor in ours.items() if name in held or not name.startswith(_UNUSED_RELEASED)}


def _stage_widths(channels: Sequence[int]) -> tuple[int, ...]:
    widths = tuple(channels)
    if len(widths) == 3 and widths[0] % 8 == 0:
        widths = (widths[0] // 8, widths[0] // 4, *widths)
    if len(widths) != 5 or min(widths) < 1:
        raise ValueError(
            f"channels must be five widths, one for each stage of KM-UNet, or three of which the first is a multiple "
            f"of 8; got {tuple(channels)}"
        )
    return widths
