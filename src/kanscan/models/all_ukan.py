"""ALL U-KAN: Fully Kolmogorov-Arnold Deep Model in Medical Image Segmentation (arXiv 2602.03156)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.conv import DoubleConv
from kanscan.layers.embedding import ConvTokenEmbedding, to_map, to_tokens
from kanscan.layers.kan import KANLinear, TokenizedKANBlock
from kanscan.layers.kan_conv import GradientFreeKANLinear, KAConv, KANConv, SharedKANLinear
from kanscan.models.base import SegmentationModel

TOKEN_LAYERS = ("ka", "kan", "linear")
CONVOLUTIONS = ("ka", "kan", "plain")


class AllUKAN(SegmentationModel):
    """ALL U-KAN: U-KAN with every convolution and every token layer replaced by layers of splines (section 3).

    31 convolutions become KAonv: 6 in the encoder, 10 in the decoder, 2 patch embeddings, 12 depth-wise ones and the
    head. The 12 token layers become KA layers. In both all inputs of an output share one spline, whose gradients do not
    reach the input. Norms, ReLUs, pooling and added skips stay as in U-KAN.

    No code is published; the default is the plain reading of the text, with 2,806,120 parameters at three input
    channels and one output channel. The printed 3.17 M (3.21 M with lambda) is NOT reproduced: with lambda the plain
    reading has 2,842,547, with depth-wise layers in groups of 16 channels 3,091,240 and 3,127,667. The difference
    between the two printed numbers is met in either reading, and so are the other rows of Table 2: 2.76 M, 6.35 M and
    2.78 M. Its 30.34 M for unshared splines is met only with those groups of 16 (30,343,264; plainly read 27,492,064).

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits; 1 for binary segmentation.
        channels: (C1, C2, C3) as in U-KAN. C1 must be a multiple of 8.
        token_layers: "ka" (shared splines), "kan" (a spline for each edge: U-KAN) or "linear".
        convolutions: "ka" (KAonv), "kan" (a spline for each edge) or "plain".
        input_weight: Learn lambda_j, one weight for each input of a layer with shared splines.
        spline_gradient: Pass gradients to the input through the splines too, which the paper does not.
        padding_contributes: Padded zeros enter the splines of convolutions as inputs and add B_k(0); the paper does
            not say. Otherwise padding adds nothing.
        depthwise_group_width: Channels in a group of the depth-wise convolutions. 1 is what depth-wise means; 16 is
            the only width that gives the printed 30.34 M.
        grid_size: Intervals of the spline grid.
        spline_order: Degree of the splines.
        grid_range: Ends of the spline grid; not stated, U-KAN's.

    Raises:
        ValueError: An option is not legal, or has no effect beside the others.

    Example:
        >>> AllUKAN(3, 1, channels=(16, 16, 24))(torch.zeros(1, 3, 32, 64)).shape
        torch.Size([1, 1, 32, 64])
    """

    paper: ClassVar[str | None] = "all_ukan"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "lambda": {"input_weight": True},
        # The other rows of Table 2.
        "linear": {"token_layers": "linear", "convolutions": "plain"},
        "ukan": {"token_layers": "kan", "convolutions": "plain", "spline_gradient": True},
        "ukan_gradient_free": {"token_layers": "kan", "convolutions": "plain"},
        "sakan": {"convolutions": "plain"},
        "kan_everywhere": {"token_layers": "kan", "convolutions": "kan", "spline_gradient": True},
        "kan_everywhere_wide": {
            "token_layers": "kan",
            "convolutions": "kan",
            "spline_gradient": True,
            "depthwise_group_width": 16,
        },
        "wide": {"depthwise_group_width": 16},
        "wide_lambda": {"depthwise_group_width": 16, "input_weight": True},
    }

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        channels: tuple[int, int, int] = (128, 160, 256),
        token_layers: str = "ka",
        convolutions: str = "ka",
        input_weight: bool = False,
        spline_gradient: bool = False,
        padding_contributes: bool = True,
        depthwise_group_width: int = 1,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        if len(channels) != 3 or min(channels) < 8 or channels[0] % 8:
            raise ValueError(f"channels must be three widths of at least 8, the first a multiple of 8; got {channels}")
        _check_kinds(token_layers, convolutions, input_weight, spline_gradient)
        _check_conv_options(convolutions, padding_contributes, depthwise_group_width)
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, (32, 32)
        c1, c2, c3 = channels
        stem = (in_channels, c1 // 8, c1 // 4, c1)
        widths = (c3, c2, c1, c1 // 4, c1 // 8, c1 // 8)
        self.encoder = nn.ModuleList(DoubleConv(i, o, o) for i, o in pairwise(stem))
        self.embeddings = nn.ModuleList([ConvTokenEmbedding(c1, c2), ConvTokenEmbedding(c2, c3)])
        self.encoder_blocks = nn.ModuleList(TokenizedKANBlock(width, ("linear",) * 3) for width in (c2, c3))
        self.encoder_norms = nn.ModuleList(nn.LayerNorm(width) for width in (c2, c3))
        self.decoder = nn.ModuleList(DoubleConv(i, i, o) for i, o in pairwise(widths))
        self.decoder_blocks = nn.ModuleList(TokenizedKANBlock(width, ("linear",) * 3) for width in (c2, c1))
        self.decoder_norms = nn.ModuleList(nn.LayerNorm(width) for width in (c2, c1))
        self.head = nn.Conv2d(widths[-1], out_channels, 1)

        grid: dict[str, Any] = {"grid_size": grid_size, "spline_order": spline_order, "grid_range": grid_range}
        shared: dict[str, Any] = {"input_weight": input_weight, "spline_gradient": spline_gradient, **grid}
        if token_layers != "linear":
            self._replace_linear(token_layers, shared, grid)
        if convolutions != "plain":
            options = shared if convolutions == "ka" else {"spline_gradient": spline_gradient, **grid}
            options = {**options, "padding_contributes": padding_contributes}
            self._replace_convolutions(KAConv if convolutions == "ka" else KANConv, options, depthwise_group_width)

    def _replace_linear(self, kind: str, shared: dict[str, Any], grid: dict[str, Any]) -> None:
        def build(old: nn.Module) -> nn.Module:
            assert isinstance(old, nn.Linear)
            sizes = (old.in_features, old.out_features)
            if kind == "ka":
                return SharedKANLinear(*sizes, **shared)
            return KANLinear(*sizes, **grid) if shared["spline_gradient"] else GradientFreeKANLinear(*sizes, **grid)

        _replace(self, nn.Linear, build)

    def _replace_convolutions(
        self, layer: type[KAConv] | type[KANConv], options: dict[str, Any], depthwise_group_width: int
    ) -> None:
        def build(old: nn.Module) -> nn.Module:
            assert isinstance(old, nn.Conv2d)
            groups = old.groups
            if groups > 1:
                groups //= depthwise_group_width
                if groups * depthwise_group_width != old.groups:
                    raise ValueError(
                        f"depthwise_group_width must divide the widths of the token stages, got "
                        f"{depthwise_group_width} for a width of {old.groups}"
                    )
            window: dict[str, Any] = {"stride": old.stride, "padding": old.padding, "groups": groups}
            return layer(old.in_channels, old.out_channels, old.kernel_size, **window, **options)  # type: ignore[arg-type]

        _replace(self, nn.Conv2d, build)

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a network of a few thousand parameters for tests."""
        return cls(**{"channels": (16, 16, 24), **options})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, H, W)`; H and W must be multiples of 32."""
        self.check_input(x)
        skips: list[Tensor] = []
        for stage in self.encoder:
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
                x = x + skips.pop()
            if level < len(self.decoder_blocks):
                size = (x.shape[2], x.shape[3])
                tokens = self.decoder_blocks[level](to_tokens(x), size)
                x = to_map(self.decoder_norms[level](tokens), size)
        return self.head(x)


def _replace(module: nn.Module, kind: type[nn.Module], build: Callable[[nn.Module], nn.Module]) -> None:
    """Put what `build` makes of it in the place of every layer of a kind."""
    for name, child in list(module.named_children()):
        if isinstance(child, kind):
            setattr(module, name, build(child))
        else:
            _replace(child, kind, build)


def _check_kinds(token_layers: str, convolutions: str, input_weight: bool, spline_gradient: bool) -> None:
    if token_layers not in TOKEN_LAYERS:
        raise ValueError(f"token_layers must be one of {', '.join(TOKEN_LAYERS)}, got {token_layers!r}")
    if convolutions not in CONVOLUTIONS:
        raise ValueError(f"convolutions must be one of {', '.join(CONVOLUTIONS)}, got {convolutions!r}")
    if input_weight and "ka" not in (token_layers, convolutions):
        raise ValueError('input_weight=True has no effect: neither token_layers nor convolutions is "ka"')
    if spline_gradient and (token_layers, convolutions) == ("linear", "plain"):
        raise ValueError('spline_gradient=True has no effect with token_layers="linear" and convolutions="plain"')


def _check_conv_options(convolutions: str, padding_contributes: bool, depthwise_group_width: int) -> None:
    if depthwise_group_width < 1:
        raise ValueError(f"depthwise_group_width must be 1 or more, got {depthwise_group_width}")
    if convolutions == "plain" and depthwise_group_width != 1:
        raise ValueError('depthwise_group_width has no effect with convolutions="plain"')
    if convolutions == "plain" and not padding_contributes:
        raise ValueError('padding_contributes=False has no effect with convolutions="plain"')
