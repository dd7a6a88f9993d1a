"""Layers of learned splines (Kolmogorov-Arnold layers)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kanscan.layers.drop_path import DropPath
from kanscan.layers.embedding import init_conv_by_fan_out, to_map, to_tokens
from kanscan.layers.spline import SplineLayer
from kanscan.ops.bspline import Grid, fit_coefficients, kan_linear, knots

LAYER_KINDS = ("kan", "linear")


class KANLinear(SplineLayer):
    """A linear layer with a learned function on every edge: SiLU and a B-spline, summed (U-KAN Eq. 2-4).

    y_o = sum_i base_weight[o, i] * SiLU(x_i) + spline_scaler[o, i] * sum_m spline_weight[o, i, m] * B_m(x_i)

    There is no bias. Inputs are not normalized or clipped: `spline_order` intervals beyond the grid the spline part is
    zero and only SiLU remains.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        grid_size: Intervals inside the range.
        spline_order: Degree of the pieces.
        grid_range: Ends of the range.
        spline_scaler: Learn one scale for each edge's spline. It starts as a random number around zero, not at one.
        noise_scale: Amplitude of the noise to which the fresh splines are fitted.

    Example:
        >>> KANLinear(4, 2)(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        spline_scaler: bool = True,
        noise_scale: float = 0.1,
    ) -> None:
        super().__init__()
        self.grid = Grid.checked(grid_size, spline_order, grid_range)
        self.in_features, self.out_features, self.noise_scale = in_features, out_features, noise_scale
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.spline_weight = nn.Parameter(torch.empty(out_features, in_features, self.grid.num_bases))
        self.spline_scaler = nn.Parameter(torch.empty(out_features, in_features)) if spline_scaler else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw fresh weights: uniform base and scaler of bound 1/sqrt(in), splines fitted to noise on the grid."""
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))
        points = self.grid.inner(self.knots())
        noise = torch.rand(len(points), self.in_features, self.out_features, dtype=points.dtype) - 0.5
        fitted = self.fit(points, noise * (self.noise_scale / self.grid.grid_size))
        self.spline_weight.copy_(fitted)
        if self.spline_scaler is not None:
            nn.init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5))

    def knots(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, " knots"]:
        """Return the extended knots that every input shares."""
        return knots(*self.grid, dtype=dtype)

    def fit(
        self, points: Float[Tensor, " points"], curves: Float[Tensor, "points inputs outputs"]
    ) -> Float[Tensor, "outputs inputs bases"]:
        """Return the coefficients whose splines come closest to `curves` sampled at `points`.

        Args:
            points: Where every curve is sampled.
            curves: Value of the curve of each (input, output) edge at each point.
        """
        return fit_coefficients(points, curves, **self.grid._asdict()).permute(2, 1, 0).contiguous()

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer to the last axis."""
        return kan_linear(x, self.base_weight, self.spline_weight, self.spline_scaler, **self.grid._asdict())

    def released_buffers(self) -> dict[str, Tensor]:
        """Give what the released layer stores beside its weights: the knots, one row for each input."""
        return {"grid": self.knots().to(self.base_weight).repeat(self.in_features, 1)}

    def extra_repr(self) -> str:
        """Show widths and grid."""
        return f"{self.in_features}, {self.out_features}, {self.grid}"


class DepthwiseConvBlock(nn.Module):
    """Depth-wise 3x3 convolution, BatchNorm, ReLU, on tokens that form a map.

    Args:
        channels: Width of the tokens.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.BatchNorm2d(channels)
        init_conv_by_fan_out(self.conv)

    def forward(self, tokens: Float[Tensor, "b l c"], size: tuple[int, int]) -> Float[Tensor, "b l c"]:
        """Mix neighbors on the map of `size` (height, width)."""
        return to_tokens(torch.relu_(self.norm(self.conv(to_map(tokens, size)))))


class TokenizedKANBlock(nn.Module):
    """Tokenized KAN block: x + layers(LayerNorm(x)), each a KAN and a depth-wise convolution (U-KAN Eq. 7).

    The paper normalizes after the sum, once for each layer; the released network has one residual around all layers
    and normalizes before them, which is what is built here.

    Args:
        channels: Width of the tokens.
        layer_kinds: "kan" or "linear" for each layer, in order (U-KAN Tables 4 and 5). "linear" is a plain linear layer
            with bias; the non-linearity is the ReLU after the depth-wise convolution.
        drop_path: Rate of stochastic depth of the residual branch.
        grid_size: As in `KANLinear`.
        spline_order: As in `KANLinear`.
        grid_range: As in `KANLinear`.
    """

    def __init__(
        self,
        channels: int,
        layer_kinds: Sequence[str] = ("kan", "kan", "kan"),
        *,
        drop_path: float = 0.0,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        check_layer_kinds(layer_kinds)
        self.norm = nn.LayerNorm(channels)
        self.layers = nn.ModuleList(
            KANLinear(channels, channels, grid_size=grid_size, spline_order=spline_order, grid_range=grid_range)
            if kind == "kan"
            else token_linear(channels, channels)
            for kind in layer_kinds
        )
        self.convs = nn.ModuleList(DepthwiseConvBlock(channels) for _ in layer_kinds)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Float[Tensor, "b l c"], size: tuple[int, int]) -> Float[Tensor, "b l c"]:
        """Transform tokens that form a map of `size` (height, width)."""
        branch = self.norm(tokens)
        for layer, conv in zip(self.layers, self.convs, strict=True):
            branch = conv(layer(branch), size)
        return tokens + self.drop_path(branch)


def check_layer_kinds(layer_kinds: Sequence[str]) -> None:
    """Refuse an empty list of layers or an unknown kind.

    Raises:
        ValueError: The sentence names what came and what is known.
    """
    unknown = [kind for kind in layer_kinds if kind not in LAYER_KINDS]
    if isinstance(layer_kinds, str) or not layer_kinds or unknown:
        raise ValueError(
            f"layer_kinds must list {' or '.join(map(repr, LAYER_KINDS))} for each layer of a block, "
            f'such as ("kan", "linear", "kan"); got {layer_kinds!r}'
        )


def token_linear(in_features: int, out_features: int) -> nn.Linear:
    """Build the plain twin of a KAN layer: linear with bias, truncated-normal weights of deviation 0.02."""
    linear = nn.Linear(in_features, out_features)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear
