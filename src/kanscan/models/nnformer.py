"""nnFormer (Zhou et al., IEEE Transactions on Image Processing 32, 2023; arXiv 2109.03201), in 2D and 3D."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.drop_path import DropPath
from kanscan.models.base import SegmentationModel
from kanscan.registry import unknown

Size = tuple[int, ...]

_CONV: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_UP: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
#: What is built without being asked: the plan for Synapse (3D), and that for ACDC without its first axis (2D).
_CHANNELS = {2: 96, 3: 192}
_PATCH = {2: (4, 4), 3: (2, 4, 4)}
_WINDOWS = {2: (5, 5, 10, 5), 3: (4, 4, 8, 4)}
_HEAD_WIDTH = 32
POSITION_INDICES = ("unique", "released")


class WindowAttention(nn.Module):
    """Multi-head attention inside windows with a learned bias for every offset (section 3.2, LV-MSA).

    Args:
        channels: Width C.
        window: Largest window, one length per axis.
        num_heads: Heads.
        own_queries: Project queries, keys and values from the tokens; otherwise keys and values only, and the queries
            are handed in (skip attention).
        position_index: As in `NNFormer`.
    """

    def __init__(
        self, channels: int, window: Size, num_heads: int, own_queries: bool = True, position_index: str = "unique"
    ) -> None:
        super().__init__()
        self.window, self.num_heads = window, num_heads
        self.project_in = nn.Linear(channels, (3 if own_queries else 2) * channels)
        self.project_out = nn.Linear(channels, channels)
        self.position_bias = nn.Parameter(torch.empty(math.prod(2 * w - 1 for w in window), num_heads))
        nn.init.trunc_normal_(self.position_bias, std=0.02)
        steps = [math.prod(2 * w - 1 for w in window[axis + 1 :]) for axis in range(len(window))]
        self.steps = [3 * window[1] - 1, *steps[1:]] if position_index == "released" else steps

    def forward(self, tokens: Tensor, queries: Tensor | None, size: Size, mask: Tensor | None) -> Tensor:
        """Mix the tokens of each window.

        Args:
            tokens: Windows `(N, T, C)` that are attended to.
            queries: Windows of queries; None where they are projected from the tokens.
            size: The windows' own size, T pixels.
            mask: Added to the scores, `(N or a divisor, 1, T, T)`; None: nothing is.

        Returns:
            `(N, T, C)`.
        """
        parts = list(self.project_in(tokens).chunk(2 if queries is not None else 3, dim=-1))
        if queries is not None:
            parts.insert(0, queries.to(parts[0].dtype))
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        bias = self.position_bias[self._index(size)].permute(2, 0, 1).unsqueeze(0)
        if mask is not None:
            # The windows of an image follow one another: each image takes the masks of all of its windows.
            query, key, value = (part.unflatten(0, (-1, len(mask))) for part in (query, key, value))
            bias = (bias + mask).unsqueeze(0)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        if mask is not None:
            mixed = mixed.flatten(0, 1)
        return self.project_out(mixed.transpose(1, 2).flatten(2))

    def _index(self, size: Size) -> Tensor:
        """Return the row of the bias for every pair of pixels of a window: (T, T)."""
        axes = torch.meshgrid(*(torch.arange(s, device=self.position_bias.device) for s in size), indexing="ij")
        index = torch.zeros((), dtype=torch.long, device=self.position_bias.device)
        for place, window, step in zip(axes, self.window, self.steps, strict=True):
            flat = place.flatten()
            index = index + (flat[:, None] - flat[None, :] + window - 1) * step
        return index

    def released_buffers(self) -> dict[str, Tensor]:
        """Return the index that the released code stores beside the weights."""
        return {"position_index": self._index(self.window)}


class WindowBlock(nn.Module):
    """Transformer block over the windows of a map: x + attention(LN(x)), then x + MLP(LN(x)) (Eq. 3 and 4).

    Args:
        channels: Width.
        window: Window, one length per axis.
        num_heads: Heads.
        shifted: Shift the windows by half their size (SLV-MSA).
        skip: Take keys and values from the encoder's map and the queries from the decoder's (skip attention).
        mlp_ratio: Width of the MLP over that of the block.
        drop_path: Rate of stochastic depth.
        position_index: As in `NNFormer`.
    """

    def __init__(
        self,
        channels: int,
        window: Size,
        num_heads: int,
        *,
        shifted: bool = False,
        skip: bool = False,
        mlp_ratio: int = 4,
        drop_path: float = 0.0,
        position_index: str = "unique",
    ) -> None:
        super().__init__()
        self.window, self.shifted = window, shifted
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, window, num_heads, not skip, position_index)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, mlp_ratio * channels), nn.GELU(), nn.Linear(mlp_ratio * channels, channels)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Transform a channel-last map `(B, *S, C)`; with `skip`, x is the decoder's map before the two are added."""
        mixed = self._attend(x) if skip is None else self._attend(skip, x)
        x = (x if skip is None else x + skip) + self.drop_path(mixed)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        size = tuple(int(s) for s in x.shape[1:-1])
        # A map no larger than the window is one window, as at the two lower stages of the published plans (GV-MSA).
        window = tuple(min(w, s) for w, s in zip(self.window, size, strict=True))
        shift = tuple(w // 2 if self.shifted and s > w else 0 for w, s in zip(window, size, strict=True))
        padded = tuple(-(-s // w) * w for w, s in zip(window, size, strict=True))
        mask = None if padded == size and not any(shift) else _mask(size, padded, window, shift, x.device)

        def windows(of: Tensor) -> Tensor:
            of = F.pad(self.norm1(of), [0, 0, *_padding(size, padded)])
            return _partition(torch.roll(of, [-s for s in shift], _axes(size)) if any(shift) else of, window)

        mixed = self.attention(windows(x), None if queries is None else windows(queries), window, mask)
        whole = _merge(mixed, window, padded)
        whole = torch.roll(whole, shift, _axes(size)) if any(shift) else whole
        for axis, length in enumerate(size, start=1):
            whole = whole.narrow(axis, 0, length)
        return whole


class Stage(nn.ModuleList):
    """The blocks of a stage; every second one of the encoder is shifted, in the decoder all but the first.

    Args:
        channels: Width.
        window: Window, one length per axis.
        num_heads: Heads.
        rates: Stochastic depth of every block.
        skip: Begin with skip attention.
        **options: Of every block.
    """

    def __init__(
        self, channels: int, window: Size, num_heads: int, rates: Sequence[float], skip: bool, **options: Any
    ) -> None:
        super().__init__(
            WindowBlock(
                channels,
                window,
                num_heads,
                shifted=i > 0 if skip else i % 2 == 1,
                skip=skip and i == 0,
                drop_path=rate,
                **options,
            )
            for i, rate in enumerate(rates)
        )

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Transform a channel-last map."""
        for level, block in enumerate(self):
            x = block(x, skip if level == 0 else None)
        return x


def _axes(size: Size) -> list[int]:
    return list(range(1, len(size) + 1))


def _padding(size: Size, padded: Size) -> list[int]:
    """Return what `F.pad` takes for the spatial axes, last axis first."""
    return [n for s, p in zip(size[::-1], padded[::-1], strict=True) for n in (0, p - s)]


def _partition(x: Tensor, window: Size) -> Tensor:
    """Cut a map `(B, *S, C)` into windows `(B x windows, pixels, C)`."""
    counts = [s // w for s, w in zip(x.shape[1:-1], window, strict=True)]
    # The shape, not `len`: that would hold the number of images in an exported graph.
    cut = x.reshape(x.shape[0], *(n for pair in zip(counts, window, strict=True) for n in pair), x.shape[-1])
    dims = len(window)
    order = [0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1]
    return cut.permute(order).reshape(-1, math.prod(window), x.shape[-1])


def _merge(windows: Tensor, window: Size, size: Size) -> Tensor:
    """Undo `_partition` for a map of `size`."""
    dims, counts = len(window), [s // w for s, w in zip(size, window, strict=True)]
    cut = windows.reshape(-1, *counts, *window, windows.shape[-1])
    order = [0, *(n for axis in range(1, dims + 1) for n in (axis, axis + dims)), 2 * dims + 1]
    return cut.permute(order).reshape(-1, *size, windows.shape[-1])


def _mask(size: Size, padded: Size, window: Size, shift: Size, device: torch.device) -> Tensor:
    """Return -inf between pixels of a window that are no neighbors in the map: (windows, 1, T, T).

    A shift brings pixels of opposite borders together, and padding adds pixels that are none.
    """
    region = torch.zeros((1, *padded, 1), device=device)
    for axis, (length, whole, wide, moved) in enumerate(zip(size, padded, window, shift, strict=True)):
        place = torch.arange(whole, device=device)
        kind = (place >= whole - wide).long() + (place >= whole - moved).long() if moved else torch.zeros_like(place)
        kind = torch.where(torch.roll(place, -moved) >= length, 3, kind)
        shape = [1] * len(region.shape)
        shape[axis + 1] = whole
        region = region * 4 + kind.view(shape)
    flat = _partition(region, window).squeeze(-1)
    apart = flat[:, None, :] != flat[:, :, None]
    return torch.zeros(apart.shape, device=device).masked_fill(apart, -math.inf).unsqueeze(1)


class Embedding(nn.Module):
    """Four convolutions with GELU and LayerNorm in between that lead to one token a patch (section 3.1).

    Args:
        in_channels: Channels of the image.
        channels: Width of the tokens.
        patch_size: Pixels of a patch, one length per axis: 1 or even.
    """

    def __init__(self, in_channels: int, channels: int, patch_size: Size) -> None:
        super().__init__()
        conv = _CONV[len(patch_size)]
        first = tuple(min(p, 2) for p in patch_size)
        second = tuple(p // f for p, f in zip(patch_size, first, strict=True))
        half = channels // 2
        self.convs = nn.ModuleList(
            [
                conv(in_channels, half, 3, stride=first, padding=1),
                conv(half, half, 3, padding=1),
                conv(half, channels, 3, stride=second, padding=1),
                conv(channels, channels, 3, padding=1),
            ]
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in (half, half, channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the channel-last map of tokens `(B, *S, C)`."""
        last = len(self.convs) - 1
        for level, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = conv(x)
            x = norm((x if level == last else F.gelu(x)).movedim(1, -1))
            x = x if level == last else x.movedim(-1, 1)
        return x


class Resample(nn.Module):
    """LayerNorm and a convolution that halves the map and doubles its width, or the reverse (section 3.1).

    Args:
        channels: Width of the map that comes in.
        spatial_dims: 2 or 3.
        up: Enlarge, with a transposed convolution; otherwise GELU comes before the norm.
    """

    def __init__(self, channels: int, spatial_dims: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.norm = nn.LayerNorm(channels)
        if up:
            self.conv = _UP[spatial_dims](channels, channels // 2, 2, stride=2)
        else:
            self.conv = _CONV[spatial_dims](channels, 2 * channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Resample a channel-last map."""
        return self.conv(self.norm(x if self.up else F.gelu(x)).movedim(-1, 1)).movedim(1, -1)


class NNFormer(SegmentationModel):
    """nnFormer: a U of windowed transformers whose skips are attention, not sums (Fig. 1).

    Stages attend inside local volumes, every second block inside shifted ones; where the map is no larger than the
    window, as at the two lower stages of the published plans, attention is global. The first block of each decoder
    level takes its queries from the decoder's map and keys and values from the encoder's.

    The 3D default is the plan published for Synapse, crops of 64 x 128 x 128 with one channel and 14 classes: 150.5 M
    parameters, as UNETR++ (arXiv 2212.04497) counts them. No 2D network is published; the 2D default is the plan for
    ACDC without its first axis. The published code ties a network to its crop; here every multiple of `stride` will do:
    windows at a border are padded with pixels that nobody attends to. Its index of offsets multiplies the first axis by
    3 w - 1 where (2 w - 1)^2 would keep offsets apart, so that many share a bias: preset "release".

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits, one per class with the background, or 1.
        spatial_dims: 2 or 3.
        channels: First width, which every later stage doubles; a multiple of `num_heads` and even. None: 96 (2D) or
            192 (3D).
        depths: Blocks of every stage; the decoder's levels mirror all but the last.
        num_heads: Heads of the first stage, doubled at every later one. None: one for every 32 channels.
        patch_size: Pixels of a token, a number or one per axis: 1 or even. None: 4 x 4 (2D) or 2 x 4 x 4 (3D).
        windows: Window of every stage, a number or one per axis. None: 5, 5, 10, 5 (2D) or 4, 4, 8, 4 (3D).
        mlp_ratio: Width of the MLPs over that of their block.
        drop_path: Highest rate of stochastic depth, at the bottom of the encoder and at the end of the decoder.
        position_index: "unique", or "released" (3D) for the index of the published code.
        deep_supervision: Give every decoder level a head; `side_outputs` returns them all.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> NNFormer.tiny()(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 1, 32, 48])
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "synapse": {"spatial_dims": 3},
        "release": {"spatial_dims": 3, "position_index": "released"},
    }
    supports: ClassVar[tuple[int, ...]] = (2, 3)
    side_parameters: Sequence[str] = (r"^heads\.[1-9]",)
    released_names: ClassVar[Sequence[tuple[str, str]]] = (
        *(
            (rf"^embedding\.convs\.{i}\.", f"model_down.patch_embed.proj{i // 2 + 1}.conv{i % 2 + 1}.")
            for i in range(4)
        ),
        *(
            (rf"^embedding\.norms\.{i}\.", f"model_down.patch_embed.proj{i // 2 + 1}.norm{i % 2 + 1}.")
            for i in range(3)
        ),
        (r"^embedding\.norms\.3\.", "model_down.patch_embed.norm."),
        (r"^encoder\.(\d+)\.(\d+)\.", r"model_down.layers.\1.blocks.\2."),
        (r"^encoder_norms\.(\d+)\.", r"model_down.norm\1."),
        (r"^downs\.(\d+)\.conv\.", r"model_down.layers.\1.downsample.reduction."),
        (r"^downs\.(\d+)\.", r"model_down.layers.\1.downsample."),
        (r"^decoder\.(\d+)\.(\d+)\.", r"decoder.layers.\1.blocks.\2."),
        (r"^ups\.(\d+)\.conv\.", r"decoder.layers.\1.Upsample.up."),
        (r"^ups\.(\d+)\.", r"decoder.layers.\1.Upsample."),
        (r"^heads\.(\d+)\.", r"final.\1.up."),
        (r"^(decoder\.layers\.\d+\.blocks\.0)\.attention\.project_in\.", r"\1.attn.kv."),
        (r"\.attention\.project_in\.", ".attn.qkv."),
        (r"\.attention\.project_out\.", ".attn.proj."),
        (r"\.attention\.position_bias$", ".attn.relative_position_bias_table"),
        (r"\.attention\.position_index$", ".attn.relative_position_index"),
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.2\.", ".mlp.fc2."),
    )

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        spatial_dims: int = 2,
        channels: int | None = None,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        num_heads: int | None = None,
        patch_size: int | tuple[int, ...] | None = None,
        windows: tuple[int | tuple[int, ...], ...] | None = None,
        mlp_ratio: int = 4,
        drop_path: float = 0.2,
        position_index: str = "unique",
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        if position_index not in POSITION_INDICES:
            raise ValueError(unknown("index of positions", position_index, POSITION_INDICES))
        if position_index == "released" and spatial_dims == 2:
            raise ValueError("position_index='released' is that of three axes; it has no effect on 2D networks")
        if len(depths) < 2 or min(depths) < 1:
            raise ValueError(f"depths must be positive numbers for at least two stages, got {tuple(depths)}")
        channels = _CHANNELS[spatial_dims] if channels is None else channels
        num_heads = max(1, channels // _HEAD_WIDTH) if num_heads is None else num_heads
        if channels < 2 or channels % 2 or num_heads < 1 or channels % num_heads:
            raise ValueError(f"channels must be even and a multiple of num_heads={num_heads}, got {channels}")
        patch = _per_axis("patch_size", _PATCH[spatial_dims] if patch_size is None else patch_size, spatial_dims)
        if any(p > 1 and p % 2 for p in patch):
            raise ValueError(f"patch_size must be 1 or even along each axis, got {patch_size}")
        stages = _stage_windows(windows, depths, spatial_dims)
        self.in_channels, self.out_channels, self.spatial_dims = in_channels, out_channels, spatial_dims
        self.stride = tuple(p * 2 ** (len(depths) - 1) for p in patch)

        def blocks(stage: int, rates: Sequence[float], skip: bool = False) -> Stage:
            width, heads = channels * 2**stage, num_heads * 2**stage
            options: dict[str, Any] = {"mlp_ratio": mlp_ratio, "position_index": position_index}
            return Stage(width, stages[stage], heads, rates, skip=skip, **options)

        widths = [channels * 2**stage for stage in range(len(depths))]
        self.embedding = Embedding(in_channels, channels, patch)
        self.encoder = nn.ModuleList(blocks(i, rates) for i, rates in enumerate(_rates(drop_path, depths)))
        self.encoder_norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.downs = nn.ModuleList(Resample(width, spatial_dims, up=False) for width in widths[:-1])
        self.ups = nn.ModuleList(Resample(width, spatial_dims, up=True) for width in widths[1:])
        going_up = _rates(drop_path, depths[-2::-1])[::-1]
        self.decoder = nn.ModuleList(blocks(i, rates, skip=True) for i, rates in enumerate(going_up))
        self.heads = nn.ModuleList(
            _UP[spatial_dims](width, out_channels, patch, stride=patch)
            for width in (widths[:-1] if deep_supervision else widths[:1])
        )

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a narrow network of three stages for tests."""
        dims = int(options.get("spatial_dims", 2))
        small = {
            "channels": 8,
            "num_heads": 1,
            "depths": (2, 2, 1),
            "patch_size": 2,
            "windows": (3, 4, (2, 3, 2)[:dims]),
        }
        return cls(**{**small, **options})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, *S)`; every size must be a multiple of `stride`."""
        return self.heads[0](self._levels(x)[-1])

    def side_outputs(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every decoder level that has a head, full resolution first."""
        return [head(level) for head, level in zip(self.heads, self._levels(x)[::-1], strict=False)]

    def _levels(self, x: Tensor) -> list[Tensor]:
        """Return the map of every decoder level, channels first, coarsest first."""
        self.check_input(x)
        x = self.embedding(x)
        skips: list[Tensor] = []
        for level, (stage, norm) in enumerate(zip(self.encoder, self.encoder_norms, strict=True)):
            x = stage(self.downs[level - 1](x) if level else x)
            skips.append(norm(x))
        x, levels = skips.pop(), []
        for stage, up in zip(reversed(self.decoder), reversed(self.ups), strict=True):
            x = stage(up(x), skips.pop())
            levels.append(x.movedim(-1, 1))
        return levels


def _per_axis(name: str, value: int | Sequence[int], spatial_dims: int) -> Size:
    size = (value,) * spatial_dims if isinstance(value, int) else tuple(value)
    if len(size) != spatial_dims or any(not isinstance(n, int) or n < 1 for n in size):
        raise ValueError(f"{name} must be a positive number, or {spatial_dims} of them, got {value}")
    return size


def _stage_windows(
    windows: Sequence[int | Sequence[int]] | None, depths: Sequence[int], spatial_dims: int
) -> tuple[Size, ...]:
    wanted = _WINDOWS[spatial_dims] if windows is None else windows
    if len(wanted) != len(depths):
        raise ValueError(f"windows must name one for each of the {len(depths)} stages, got {wanted}")
    return tuple(_per_axis("a window", window, spatial_dims) for window in wanted)


def _rates(highest: float, depths: Sequence[int]) -> list[list[float]]:
    """Spread rates of stochastic depth evenly from 0 to the highest over the blocks of all stages."""
    rates = torch.linspace(0, highest, sum(depths), device="cpu").tolist()
    ends = list(accumulate(depths, initial=0))
    return [rates[start:end] for start, end in pairwise(ends)]
