"""U-KAN Makes Strong Backbone for Medical Image Segmentation and Generation (arXiv 2406.02918)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.conv import DoubleConv
from kanscan.layers.embedding import ConvTokenEmbedding, to_map, to_tokens
from kanscan.layers.kan import TokenizedKANBlock, check_layer_kinds
from kanscan.models.base import SegmentationModel

SKIPS = ("add", "concat")


class UKAN(SegmentationModel):
    """U-KAN: a convolutional U whose two deepest levels are tokenized KAN blocks (Fig. 1, section 3).

    Three convolutional stages (C1/8, C1/4, C1 channels, each halving the size) are followed by two token stages (C2,
    C3 wide). The decoder mirrors them. The defaults are the base model of Table 1 with 6,356,689 parameters at three
    input channels and one output channel; they follow the released network where the text leaves a choice, because the
    printed numbers were made with it.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits; 1 for binary segmentation.
        channels: (C1, C2, C3) of Table 6. C1 must be a multiple of 8.
        layer_kinds: "kan" or "linear" for each layer of every tokenized block (Tables 4 and 5).
        skip: "add" (released; gives the printed parameters) or "concat" (Eq. 8 and 9).
        decoder_block_at_eighth: Put a tokenized block at an eighth of the size in the decoder too (released). Fig. 1
            shows tokenized blocks below an eighth only.
        drop_path: Largest rate of stochastic depth; 0 for the first blocks of encoder and decoder, half of it for the
            second ones, as released.
        grid_size: Intervals of the spline grid.
        spline_order: Degree of the splines.
        grid_range: Ends of the spline grid.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> UKAN(3, 1, channels=(64, 96, 128))(torch.zeros(1, 3, 32, 64)).shape
        torch.Size([1, 1, 32, 64])
    """

    paper: ClassVar[str | None] = "u_kan"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"channels": (64, 96, 128)},
        "base": {"channels": (128, 160, 256)},
        "large": {"channels": (256, 320, 512)},
        "linear": {"channels": (128, 160, 256), "layer_kinds": ("linear", "linear", "linear")},
        "paper": {"skip": "concat", "decoder_block_at_eighth": False},
        "release": {},
    }
    released_names: ClassVar[Sequence[tuple[str, str]]] = (
        (r"^embeddings\.0\.", "patch_embed3."),
        (r"^embeddings\.1\.", "patch_embed4."),
        (r"^encoder_norms\.0\.", "norm3."),
        (r"^encoder_norms\.1\.", "norm4."),
        (r"^decoder_norms\.0\.", "dnorm3."),
        (r"^decoder_norms\.1\.", "dnorm4."),
        (r"^encoder_blocks\.0\.", "block1.0."),
        (r"^encoder_blocks\.1\.", "block2.0."),
        (r"^decoder_blocks\.0\.", "dblock1.0."),
        (r"^decoder_blocks\.1\.", "dblock2.0."),
        (r"^(\w+block\d\.0)\.norm\.|^(block\d\.0)\.norm\.", r"\1\2.norm2."),
        *((rf"\.layers\.{i}\.", f".layer.fc{i + 1}.") for i in range(5)),
        *((rf"\.convs\.{i}\.conv\.", f".layer.dwconv_{i + 1}.dwconv.") for i in range(5)),
        *((rf"\.convs\.{i}\.norm\.", f".layer.dwconv_{i + 1}.bn.") for i in range(5)),
        *((rf"^encoder\.{i}\.", f"encoder{i + 1}.conv.") for i in range(3)),
        *((rf"^decoder\.{i}\.", f"decoder{i + 1}.conv.") for i in range(5)),
        (r"\.conv\.conv1\.", ".conv.0."),
        (r"\.conv\.norm1\.", ".conv.1."),
        (r"\.conv\.conv2\.", ".conv.3."),
        (r"\.conv\.norm2\.", ".conv.4."),
        (r"^head\.", "final."),
    )

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        channels: tuple[int, int, int] = (128, 160, 256),
        layer_kinds: tuple[str, ...] = ("kan", "kan", "kan"),
        skip: str = "add",
        decoder_block_at_eighth: bool = True,
        drop_path: float = 0.0,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        check_layer_kinds(layer_kinds)
        if not 1 <= len(layer_kinds) <= 5:
            raise ValueError(f"U-KAN has 1 to 5 layers in a block (Table 4), got {len(layer_kinds)}")
        if len(channels) != 3 or min(channels) < 8 or channels[0] % 8:
            raise ValueError(f"channels must be three widths of at least 8, the first a multiple of 8; got {channels}")
        if skip not in SKIPS:
            raise ValueError(f'skip must be "add" or "concat", got {skip!r}')
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, (32, 32)
        self.skip = skip
        c1, c2, c3 = channels
        stem = (c1 // 8, c1 // 4, c1)

        def block(width: int, rate: float) -> TokenizedKANBlock:
            grid: dict[str, Any] = {
                "grid_size": grid_size,
                "spline_order": spline_order,
                "grid_range": grid_range,
            }
            return TokenizedKANBlock(width, layer_kinds, drop_path=rate, **grid)

        self.encoder = nn.ModuleList(DoubleConv(i, o, o) for i, o in zip((in_channels, *stem[:-1]), stem, strict=True))
        self.embeddings = nn.ModuleList([ConvTokenEmbedding(c1, c2), ConvTokenEmbedding(c2, c3)])
        self.encoder_blocks = nn.ModuleList([block(c2, 0.0), block(c3, drop_path / 2)])
        self.encoder_norms = nn.ModuleList([nn.LayerNorm(c2), nn.LayerNorm(c3)])

        # A concatenated skip widens what the next decoder level reads; an added one does not.
        skips = (c2, c1, c1 // 4, c1 // 8, 0) if skip == "concat" else (0, 0, 0, 0, 0)
        widths = (c3, c2, c1, c1 // 4, c1 // 8, c1 // 8)
        extra = (0, *skips[:-1])
        self.decoder = nn.ModuleList(
            DoubleConv(w + e, w + e, o) for w, e, o in zip(widths[:-1], extra, widths[1:], strict=True)
        )
        levels = [(c2 + skips[0], 0.0), (c1 + skips[1], drop_path / 2)][: 1 + decoder_block_at_eighth]
        self.decoder_blocks = nn.ModuleList(block(width, rate) for width, rate in levels)
        self.decoder_norms = nn.ModuleList(nn.LayerNorm(width) for width, _ in levels)
        self.head = nn.Conv2d(widths[-1], out_channels, 1)

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a network of a few thousand parameters for tests."""
        return cls(**{"channels": (16, 16, 24), **options})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, H, W)`; H and W must be multiples of 32."""
        self.check_input(x)
        skips: list[Tensor] = []
        for stage in self.encoder:
            # The released network applies a ReLU after pooling and after upsampling; both act on what is >= 0 already.
            x = F.max_pool2d(stage(x), 2)
            skips.append(x)
        for embedding, block, norm in zip(self.embeddings, self.encoder_blocks, self.encoder_norms, strict=True):
            tokens, size = embedding(x)
            x = to_map(norm(block(tokens, size)), size)
            skips.append(x)
        skips.pop()
        for level, stage in enumerate(self.decoder):
            x = F.interpolate(stage(x), scale_factor=2, mode="bilinear", align_corners=False)
            if skips:
                x = x + skips.pop() if self.skip == "add" else torch.cat([x, skips.pop()], dim=1)
            if level < len(self.decoder_blocks):
                size = (x.shape[2], x.shape[3])
                tokens = self.decoder_blocks[level](to_tokens(x), size)
                x = to_map(self.decoder_norms[level](tokens), size)
        return self.head(x)
