"""The noise predictor of the diffusion half of U-KAN (arXiv 2406.02918, section 3.4) and its comparators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.embedding import ConvTokenEmbedding, to_map, to_tokens
from kanscan.layers.kan import KANLinear, token_linear
from kanscan.models.base import NoisePredictor

MIDDLES = ("kan", "mlp", "attention", "identity")
TIME_PLACES = ("everywhere", "tokens")
GROUPS = 32
#: Convolutions that end a residual branch, and the last one, start almost at zero: a fresh network predicts no noise.
QUIET_GAIN = 1e-5

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class UKANDiffusion(NoisePredictor):
    """Diffusion U-KAN: a denoising U-Net whose middle is two levels of tokenized KAN blocks (Fig. 1, Eq. 11).

    Levels of residual blocks halve the size three times (with four multipliers); the middle works at a half and a
    quarter of the last size. The defaults are the released network with 26,871,811 parameters, 64,000 of them the
    constant table of the time embedding.

    Args:
        in_channels: Channels of the image; the predicted noise has as many.
        channels: Width of the first level; the time embedding is four times as wide. A multiple of 32; with 32 itself
            each norm group is a single channel, the mean of a picture is hidden, and samples get arbitrary colors.
        multipliers: Width of every level in units of `channels`.
        num_res_blocks: Residual blocks of a level (the way up has one more).
        middle: "kan" (the paper's), "mlp" (Linear, Swish, Linear in place of each KAN layer), "attention" (two residual
            blocks, the first with attention) or "identity" (nothing). The last two are the comparators of Table 3.
        middle_channels: Widths of the two token levels ("kan" and "mlp" only).
        attention_levels: Levels (from 0) whose residual blocks attend. None: as released, that is (2,) for "attention"
            and "identity" and none for the others; Table 3 is therefore no like-for-like swap.
        dropout: Rate inside residual blocks.
        num_steps: Diffusion steps T the time embedding has rows for.
        block_reading: "release": KAN(LN(Z)) + Linear(Swish(time)), then LN. "paper": LN(KAN(Z)) + Linear(time), Eq. 11.
        time_in: "everywhere" (released: every residual block and decoder too) or "tokens" (the text: the KAN blocks).
        grid_size: Intervals of the spline grid.
        spline_order: Degree of the splines.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> model = UKANDiffusion(1, channels=32, multipliers=(1, 1), middle_channels=(32, 32), num_steps=10)
        >>> model(torch.zeros(2, 1, 16, 16), torch.tensor([0, 9])).shape
        torch.Size([2, 1, 16, 16])
    """

    paper: ClassVar[str | None] = "u_kan"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "release": {},
        "paper": {"block_reading": "paper", "time_in": "tokens"},
        "mlp": {"middle": "mlp"},
        "attention": {"middle": "attention"},
        "identity": {"middle": "identity"},
    }
    released_names: ClassVar[Sequence[tuple[str, str]]] = (
        (r"^time_embedding\.table", "time_embedding.timembedding.0.weight"),
        (r"^time_embedding\.linear1\.", "time_embedding.timembedding.1."),
        (r"^time_embedding\.linear2\.", "time_embedding.timembedding.3."),
        (r"^down\.", "downblocks."),
        (r"^up\.", "upblocks."),
        (r"^(downblocks|upblocks)\.(\d+)\.conv\.", r"\1.\2.main."),
        (r"^tail_norm\.", "tail.0."),
        (r"^tail\.(?!0\.)", "tail.2."),
        (r"^middle\.blocks\.", "middleblocks."),
        (r"\.norm1\.", ".block1.0."),
        (r"\.conv1\.", ".block1.2."),
        (r"\.norm2\.", ".block2.0."),
        (r"\.conv2\.", ".block2.3."),
        (r"\.attention\.norm\.", ".attn.group_norm."),
        (r"\.attention\.query\.", ".attn.proj_q."),
        (r"\.attention\.key\.", ".attn.proj_k."),
        (r"\.attention\.value\.", ".attn.proj_v."),
        (r"\.attention\.proj\.", ".attn.proj."),
        (r"^middle\.embeddings\.0\.", "patch_embed3."),
        (r"^middle\.embeddings\.1\.", "patch_embed4."),
        (r"^middle\.norms\.0\.", "norm3."),
        (r"^middle\.norms\.1\.", "norm4."),
        (r"^middle\.norms\.2\.", "dnorm3."),
        (r"^middle\.unused_norm\.", "dnorm4."),
        (r"^middle\.tokens\.0\.", "kan_block1.0."),
        (r"^middle\.tokens\.1\.", "kan_block2.0."),
        (r"^middle\.tokens\.2\.", "kan_dblock1.0."),
        (r"^(kan_d?block\d\.0)\.norm\.", r"\1.norm2."),
        (r"^(kan_d?block\d\.0)\.layer\.", r"\1.kan.fc1."),
        (r"^middle\.decoder\.0\.", "decoder1."),
        (r"^middle\.decoder\.1\.", "decoder2."),
        (r"^(decoder\d)\.norm\.", r"\1.conv.0."),
        (r"^(decoder\d)\.conv\.(?!0\.)", r"\1.conv.2."),
        (r"\.time\.", ".temb_proj.1."),
    )
    unused_parameters: ClassVar[Sequence[str]] = (r"^middle\.unused_norm\.",)

    def __init__(
        self,
        in_channels: int = 3,
        *,
        channels: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 3, 4),
        num_res_blocks: int = 2,
        middle: str = "kan",
        middle_channels: tuple[int, int] = (320, 512),
        attention_levels: tuple[int, ...] | None = None,
        dropout: float = 0.15,
        num_steps: int = 1000,
        block_reading: str = "release",
        time_in: str = "everywhere",
        grid_size: int = 5,
        spline_order: int = 3,
    ) -> None:
        super().__init__()
        _one_of("middle", middle, MIDDLES)
        _one_of("block_reading", block_reading, ("release", "paper"))
        _one_of("time_in", time_in, TIME_PLACES)
        tokens = middle in ("kan", "mlp")
        if channels < GROUPS or channels % GROUPS or (tokens and any(c % GROUPS for c in middle_channels)):
            raise ValueError(
                f"channels and middle_channels must be multiples of {GROUPS} (the groups of the norms), "
                f"got {channels} and {middle_channels}"
            )
        if not multipliers or num_res_blocks < 1 or num_steps < 1:
            raise ValueError(
                "multipliers, num_res_blocks and num_steps must be at least one, "
                f"got {multipliers}, {num_res_blocks} and {num_steps}"
            )
        self.in_channels, self.num_steps = in_channels, num_steps
        self.stride = (2 ** (len(multipliers) - 1 + 2 * tokens),) * 2
        attended = ((2,) if not tokens else ()) if attention_levels is None else attention_levels
        time_channels = 4 * channels
        block_time = time_channels if time_in == "everywhere" else None
        widths = [channels * m for m in multipliers]

        self.time_embedding = TimeEmbedding(num_steps, channels, time_channels)
        self.head = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.down = nn.ModuleList()
        skips, width = [channels], channels
        for level, out in enumerate(widths):
            for _ in range(num_res_blocks):
                self.down.append(ResidualBlock(width, out, block_time, dropout, level in attended))
                width = out
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(Downsample(width))
                skips.append(width)
        if tokens:
            kind: dict[str, Any] = {
                "middle": middle,
                "reading": block_reading,
                "grid_size": grid_size,
                "spline_order": spline_order,
            }
            self.middle: nn.Module = TokenMiddle(width, middle_channels, time_channels, block_time, **kind)
        else:
            self.middle = ResidualMiddle(width, block_time, dropout, empty=middle == "identity")
        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(num_res_blocks + 1):
                self.up.append(ResidualBlock(width + skips.pop(), out, block_time, dropout, level in attended))
                width = out
            if level > 0:
                self.up.append(Upsample(width))
        self.tail_norm = nn.GroupNorm(GROUPS, width)
        self.tail = nn.Conv2d(width, in_channels, 3, padding=1)
        for layer, gain in ((self.head, 1.0), (self.tail, QUIET_GAIN)):
            init_by_both_fans(layer, gain)

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a network of a few ten thousand parameters for tests."""
        small = {"channels": 32, "multipliers": (1, 2), "middle_channels": (32, 64), "num_steps": 10}
        return cls(**{**small, **options})

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the noise in `x`.

        Args:
            x: Noisy images `(B, in_channels, H, W)`; sizes must be multiples of `stride`.
            t: Steps `(B,)`, whole numbers from 0 (almost clean) to T - 1.

        Returns:
            The noise, shaped like `x`.
        """
        self.check_input(x)
        self.check_steps(x, t)
        time = self.time_embedding(t)
        x = self.head(x)
        skips = [x]
        for block in self.down:
            x = block(x, time)
            skips.append(x)
        x = self.middle(x, time)
        for block in self.up:
            x = block(torch.cat([x, skips.pop()], dim=1) if isinstance(block, ResidualBlock) else x, time)
        return self.tail(F.silu(self.tail_norm(x)))


class TimeEmbedding(nn.Module):
    """Sine and cosine of the step at many frequencies, then two linear layers."""

    def __init__(self, num_steps: int, width: int, out_channels: int) -> None:
        super().__init__()
        frequency = torch.exp(torch.arange(0, width, 2) / width * -math.log(10000.0))
        angle = torch.arange(num_steps).float()[:, None] * frequency
        # A constant, but a parameter: the released count includes it.
        self.table = nn.Parameter(torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1), requires_grad=False)
        self.linear1 = init_by_both_fans(nn.Linear(width, out_channels))
        self.linear2 = init_by_both_fans(nn.Linear(out_channels, out_channels))

    def forward(self, t: Tensor) -> Tensor:
        """Embed the steps `(B,)` as `(B, out_channels)`."""
        return self.linear2(F.silu(self.linear1(self.table[t])))


class ResidualBlock(nn.Module):
    """x + conv(Swish(norm(conv(Swish(norm(x))) + time))), then attention if asked for."""

    def __init__(self, in_channels: int, out_channels: int, time: int | None, dropout: float, attend: bool) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, in_channels)
        self.conv1 = init_by_both_fans(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.time = None if time is None else init_by_both_fans(nn.Linear(time, out_channels))
        self.norm2 = nn.GroupNorm(GROUPS, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = init_by_both_fans(nn.Conv2d(out_channels, out_channels, 3, padding=1), QUIET_GAIN)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else init_by_both_fans(nn.Conv2d(in_channels, out_channels, 1))
        self.attention = PixelAttention(out_channels) if attend else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Transform `(B, in_channels, H, W)` at the embedded `time`."""
        branch = self.conv1(F.silu(self.norm1(x)))
        if self.time is not None:
            branch = branch + self.time(F.silu(time))[:, :, None, None]
        branch = self.conv2(self.dropout(F.silu(self.norm2(branch))))
        return self.attention(self.shortcut(x) + branch)


class PixelAttention(nn.Module):
    """Every pixel attends to all pixels, one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.query, self.key, self.value = (init_by_both_fans(nn.Conv2d(channels, channels, 1)) for _ in range(3))
        self.proj = init_by_both_fans(nn.Conv2d(channels, channels, 1), QUIET_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """Add to each pixel what it attends to."""
        size = (x.shape[2], x.shape[3])
        normed = self.norm(x)
        q, k, v = (to_tokens(layer(normed)) for layer in (self.query, self.key, self.value))
        return x + self.proj(to_map(F.scaled_dot_product_attention(q, k, v), size))


class Downsample(nn.Module):
    """3x3 convolution with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = init_by_both_fans(nn.Conv2d(channels, channels, 3, stride=2, padding=1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Halve the size; the time is not used."""
        return self.conv(x)


class Upsample(nn.Module):
    """Twice the size by repetition, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = init_by_both_fans(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Double the size; the time is not used."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class ResidualMiddle(nn.Module):
    """Two residual blocks, the first with attention, or nothing."""

    def __init__(self, channels: int, time: int | None, dropout: float, *, empty: bool) -> None:
        super().__init__()
        attends = () if empty else (True, False)
        self.blocks = nn.ModuleList(ResidualBlock(channels, channels, time, dropout, attend) for attend in attends)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Transform the map of the deepest level."""
        for block in self.blocks:
            x = block(x, time)
        return x


class TokenMiddle(nn.Module):
    """Two levels down as tokens, a block at each, and back with added skips (Fig. 1)."""

    def __init__(
        self,
        channels: int,
        widths: tuple[int, int],
        time: int,
        decoder_time: int | None,
        *,
        middle: str,
        reading: str,
        grid_size: int,
        spline_order: int,
    ) -> None:
        super().__init__()
        c1, c2 = widths

        def block(width: int) -> TokenBlock:
            if middle == "kan":
                layer: nn.Module = KANLinear(width, width, grid_size=grid_size, spline_order=spline_order)
            else:
                layer = nn.Sequential(token_linear(width, width), nn.SiLU(), token_linear(width, width))
            return TokenBlock(width, time, layer, reading)

        def norm(width: int) -> nn.Module:
            # In Eq. 11 the norm stands inside the block and none follows.
            return nn.LayerNorm(width) if reading == "release" else nn.Identity()

        self.embeddings = nn.ModuleList([ConvTokenEmbedding(channels, c1), ConvTokenEmbedding(c1, c2)])
        self.tokens = nn.ModuleList([block(c1), block(c2), block(c1)])
        self.norms = nn.ModuleList([norm(c1), norm(c2), norm(c1)])
        self.decoder = nn.ModuleList([UpConv(c2, c1, decoder_time), UpConv(c1, channels, decoder_time)])
        # The released MLP twin stores one norm more than it uses.
        self.unused_norm = nn.LayerNorm(channels) if middle == "mlp" and reading == "release" else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Transform the map of the deepest level."""
        maps = [x]
        for level, embedding in enumerate(self.embeddings):
            tokens, size = embedding(maps[-1])
            maps.append(to_map(self.norms[level](self.tokens[level](tokens, time)), size))
        x = self.decoder[0](maps[2], time) + maps[1]
        tokens = self.norms[2](self.tokens[2](to_tokens(x), time))
        x = to_map(tokens, (x.shape[2], x.shape[3]))
        return self.decoder[1](x, time) + maps[0]


class TokenBlock(nn.Module):
    """One KAN layer (or its twin) on tokens, with the time added; no residual."""

    def __init__(self, channels: int, time: int, layer: nn.Module, reading: str) -> None:
        super().__init__()
        self.reading = reading
        self.norm = nn.LayerNorm(channels)
        self.time = token_linear(time, channels)
        self.layer = layer

    def forward(self, tokens: Tensor, time: Tensor) -> Tensor:
        """Transform tokens `(B, L, C)` at the embedded `time`."""
        if self.reading == "paper":
            return self.norm(self.layer(tokens)) + self.time(time)[:, None]
        return self.layer(self.norm(tokens)) + self.time(F.silu(time))[:, None]


class UpConv(nn.Module):
    """Norm, Swish, 3x3 convolution, time, twice the size, Swish."""

    def __init__(self, in_channels: int, out_channels: int, time: int | None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = None if time is None else nn.Linear(time, out_channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Bring a map to twice its size."""
        x = self.conv(F.silu(self.norm(x)))
        if self.time is not None:
            x = x + self.time(F.silu(time))[:, :, None, None]
        return F.silu(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


def init_by_both_fans(layer: Layer, gain: float = 1.0) -> Layer:
    """Draw the weight Xavier-uniform, zero the bias, return the layer."""
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{option} must be {' or '.join(map(repr, known))}, got {value!r}")
