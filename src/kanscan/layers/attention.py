"""Attention over channels, over places, and over tokens at linear cost."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from kanscan.layers.embedding import to_map, to_tokens

CHANNEL_POOLINGS = ("average_max", "average_twice")
ROTARY_CODES = ("2d", "columns", "none")


class ChannelAttention(nn.Module):
    """Channel gate: a bottleneck shared by two poolings of the map, summed and squashed (CBAM, ECCV 2018, Eq. 2).

    Args:
        channels: Channels of the map.
        reduction: The bottleneck has `channels / reduction` units, at least one.
        pooling: "average_max" as published; "average_twice" pools by the average both times, so that the two halves
            of the sum are equal (released VMKLA-UNet).
    """

    def __init__(self, channels: int, reduction: int = 16, *, pooling: str = "average_max") -> None:
        super().__init__()
        if pooling not in CHANNEL_POOLINGS:
            raise ValueError(f"pooling must be {' or '.join(map(repr, CHANNEL_POOLINGS))}, got {pooling!r}")
        hidden = max(channels // reduction, 1)
        self.pooling = pooling
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.expand = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        """Return the gate, one number between 0 and 1 for each channel."""
        average = self._bottleneck(x.mean((2, 3), keepdim=True))
        if self.pooling == "average_twice":
            return torch.sigmoid(2 * average)
        return torch.sigmoid(average + self._bottleneck(x.amax((2, 3), keepdim=True)))

    def _bottleneck(self, pooled: Tensor) -> Tensor:
        return self.expand(torch.relu(self.reduce(pooled)))


class SpatialAttention(nn.Module):
    """Spatial gate: a convolution of the mean and the maximum over channels, squashed (CBAM, ECCV 2018, Eq. 3).

    Args:
        kernel_size: Odd side of the kernel.
        bias: Give the convolution a bias.
    """

    def __init__(self, kernel_size: int = 7, *, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
        """Return the gate, one number between 0 and 1 for each place."""
        return torch.sigmoid(self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)))


class ChannelSpatialAttention(nn.Module):
    """Weigh the channels of a map, then its places (CBAM, ECCV 2018, Eq. 1).

    Args:
        channels: Channels of the map.
        reduction: As in `ChannelAttention`.
        pooling: As in `ChannelAttention`.
        bias: As in `SpatialAttention`.

    Example:
        >>> ChannelSpatialAttention(16)(torch.zeros(1, 16, 4, 6)).shape
        torch.Size([1, 16, 4, 6])
    """

    def __init__(self, channels: int, reduction: int = 16, *, pooling: str = "average_max", bias: bool = False) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, reduction, pooling=pooling)
        self.spatial = SpatialAttention(bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the weighted map."""
        x = self.channel(x) * x
        return self.spatial(x) * x


class LinearAttention(nn.Module):
    """Attention of phi(queries) and phi(keys) with phi = ELU + 1, summed over tokens first (VMKLA-UNet section 3.3).

    The cost is linear in the number of tokens. Values are the tokens themselves; their positions enter by rotation of
    queries and keys and by a depth-wise convolution of the values that is added to the result. There is no output
    projection. Sums are formed in float32 at least.

    Args:
        channels: Width C of the tokens.
        num_heads: Heads; they cut the channels into contiguous parts.
        queries_keys: Module that maps tokens (b, l, C) to queries and keys (b, l, 2 C): a linear layer, or a KAN for
            KAN linear attention.
        rotary: "2d" rotates one half of the channel pairs by the row and the other by the column; "columns" rotates
            all of them by the column; "none" rotates nothing.
        rotate_normalizer: Rotate queries and keys in the denominator too. It may then come near zero, which plain
            positive features exclude.

    Raises:
        ValueError: The channels cannot be cut into heads or rotated in pairs, or `rotary` is unknown.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        queries_keys: nn.Module,
        *,
        rotary: str = "2d",
        rotate_normalizer: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"num_heads must divide the {channels} channels of a stage, got {num_heads}")
        check_rotary(channels, rotary)
        if rotate_normalizer and rotary == "none":
            raise ValueError('rotate_normalizer=True has no effect with rotary="none"; choose "2d" or "columns"')
        self.num_heads, self.rotary, self.rotate_normalizer = num_heads, rotary, rotate_normalizer
        self.queries_keys = queries_keys
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, tokens: Float[Tensor, "b l c"], size: tuple[int, int]) -> Float[Tensor, "b l c"]:
        """Attend among tokens that form a map of `size` (height, width)."""
        queries, keys = F.elu(_wide(self.queries_keys(tokens))).add(1).chunk(2, dim=-1)
        with _full_precision(tokens):
            mixed = self._attend(queries, keys, _wide(tokens), size)
        positions = to_tokens(self.position(to_map(tokens, size)))
        return (mixed + positions).to(tokens.dtype)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
        rotated_queries = rotate(queries, size, self.rotary)
        rotated_keys = rotate(keys, size, self.rotary)
        if self.rotate_normalizer:
            queries, keys = rotated_queries, rotated_keys
        q, k, rotated_q, rotated_k, v = (
            t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for t in (queries, keys, rotated_queries, rotated_keys, values)
        )
        normalizer = q @ k.mean(2, keepdim=True).transpose(2, 3) + 1e-6
        state = rotated_k.transpose(2, 3) @ v / v.shape[2]
        return (rotated_q @ state / normalizer).transpose(1, 2).flatten(2)


def _full_precision(x: Tensor) -> AbstractContextManager[object]:
    # Half precision loses the small terms of sums over thousands of tokens. The meta device knows no autocast, and
    # entering the context only where it changes something keeps it out of exported graphs.
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def check_rotary(channels: int, rotary: str) -> None:
    """Refuse a rotary code that is unknown or does not fit the channels.

    Raises:
        ValueError: The sentence names the value and what is legal.
    """
    if rotary not in ROTARY_CODES:
        raise ValueError(f"rotary must be one of {', '.join(map(repr, ROTARY_CODES))}, got {rotary!r}")
    step = {"2d": 4, "columns": 2, "none": 1}[rotary]
    if channels % step:
        raise ValueError(f'rotary="{rotary}" needs a multiple of {step} channels, got {channels}')


def rotate(
    tokens: Float[Tensor, "b l c"], size: tuple[int, int], rotary: str, base: float = 10000.0
) -> Float[Tensor, "b l c"]:
    """Rotate neighboring pairs of channels by angles that grow with the position (RoFormer, arXiv 2104.09864, Eq. 15).

    Pair m of M turns by `position * base ** (-m / M)`. With "2d" the first half of the pairs counts rows and the second
    half columns, each with M = C / 4; with "columns" all M = C / 2 pairs count columns.

    Args:
        tokens: Tokens that form a map row by row.
        size: (height, width) of the map.
        rotary: "2d", "columns" or "none".
        base: Ratio between the fastest and the slowest rotation.

    Returns:
        Rotated tokens; each pair keeps its length.
    """
    if rotary == "none":
        return tokens
    angles = _angles(size, tokens.shape[-1], rotary, base, tokens)
    real, imaginary = tokens.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1).flatten(-2)


def _angles(size: tuple[int, int], channels: int, rotary: str, base: float, like: Tensor) -> Tensor:
    height, width = size
    axes = 2 if rotary == "2d" else 1
    pairs = channels // (2 * axes)
    speeds = base ** -(torch.arange(pairs, dtype=like.dtype, device=like.device) / pairs)
    rows = torch.arange(height, dtype=like.dtype, device=like.device)[:, None, None] * speeds
    columns = torch.arange(width, dtype=like.dtype, device=like.device)[None, :, None] * speeds
    parts = [rows, columns] if axes == 2 else [columns]
    return torch.cat([part.expand(height, width, pairs) for part in parts], dim=-1).flatten(0, 1)
