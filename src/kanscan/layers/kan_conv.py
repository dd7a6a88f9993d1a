"""Convolutions of learned splines, and the layer whose inputs share them (ALL U-KAN)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from kanscan.layers.kan import KANLinear
from kanscan.layers.spline import SharedSplineLayer, SplineLayer
from kanscan.ops.bspline import Grid, bspline_basis, fit_coefficients, knots
from kanscan.ops.dispatch import without_autocast
from kanscan.ops.kaconv import ka_conv, ka_linear

Pair = tuple[int, int]


class SharedKANLinear(SharedSplineLayer):
    """A layer with one learned function an output, shared by all its inputs (SaKAN, ALL U-KAN Eq. 7 and 8).

    y_i = sum_k spline_weight[i, k] * sum_j B_k(x_j) + sum_j base_weight[i, j] * SiLU(x_j)

    With `spline_gradient=False` this is the paper's KA layer: its splines are free of gradients toward the input. There
    is no bias and no scale of the spline; the paper gives neither those nor an initialization.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        input_weight: Learn a weight lambda_j for the bases of each input; it starts at one.
        spline_gradient: Pass gradients to the input through the splines too.
        grid_size: Intervals inside the range.
        spline_order: Degree of the pieces.
        grid_range: Ends of the range.
        noise_scale: Amplitude of the noise to which the fresh splines are fitted; it is divided by the root of the
            number of inputs that share a spline.

    Example:
        >>> SharedKANLinear(4, 2)(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        input_weight: bool = False,
        spline_gradient: bool = False,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        noise_scale: float = 0.1,
    ) -> None:
        super().__init__()
        self.spline_gradient, self.noise_scale = spline_gradient, noise_scale
        self.grid = Grid.checked(grid_size, spline_order, grid_range)
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.spline_weight = nn.Parameter(torch.empty(out_features, self.grid.num_bases))
        self.input_weight = nn.Parameter(torch.ones(in_features)) if input_weight else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights; see `draw_shared_splines`."""
        draw_shared_splines(self.base_weight, self.spline_weight, self.input_weight, self.grid, self.noise_scale)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer to the last axis."""
        return ka_linear(
            x,
            self.base_weight,
            self.spline_weight,
            self.input_weight,
            spline_gradient=self.spline_gradient,
            **self.grid._asdict(),
        )

    def window_sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what enters an output: the sums of the bases `(N, 1, M)` and the SiLU part `(N, out)`."""
        outputs, bases = self.spline_weight.shape
        nothing = self.base_weight.new_zeros(bases, self.base_weight.shape[1])
        each = torch.eye(bases).to(self.base_weight)
        sums = ka_linear(x, nothing, each, self.input_weight, **self.grid._asdict())
        return sums.reshape(-1, 1, bases), F.linear(F.silu(x), self.base_weight).reshape(-1, outputs)

    def extra_repr(self) -> str:
        """Show widths and grid."""
        outputs, inputs = self.base_weight.shape
        return f"{inputs}, {outputs}, {self.grid}, input_weight={self.input_weight is not None}"


class KAConv(SharedSplineLayer):
    """A convolution with one learned function an output, shared by its whole window (KAonv, ALL U-KAN Eq. 9 to 11).

    Every window is unfolded and goes through a `SharedKANLinear`; computed without unfolding, exactly.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the result.
        kernel_size: Taps of the window, (rows, columns) or one number for both.
        stride: As in `torch.nn.Conv2d`.
        padding: As in `torch.nn.Conv2d`, numbers only.
        dilation: As in `torch.nn.Conv2d`.
        groups: As in `torch.nn.Conv2d`.
        padding_contributes: Padded zeros add B_k(0), as they do where a padded map is unfolded (the paper does not
            say).
        input_weight: Learn a weight lambda_j for the bases of each input of a window.
        spline_gradient: As in `SharedKANLinear`.
        grid_size: As in `SharedKANLinear`.
        spline_order: As in `SharedKANLinear`.
        grid_range: As in `SharedKANLinear`.
        noise_scale: As in `SharedKANLinear`.

    Raises:
        ValueError: The groups do not divide the channels, or the grid is not legal.

    Example:
        >>> KAConv(4, 2, 3, stride=2, padding=1)(torch.zeros(1, 4, 6, 8)).shape
        torch.Size([1, 2, 3, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        padding_contributes: bool = True,
        input_weight: bool = False,
        spline_gradient: bool = False,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        noise_scale: float = 0.1,
    ) -> None:
        super().__init__()
        check_groups(in_channels, out_channels, groups)
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        self.window: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        self.groups = groups
        self.padding_contributes, self.spline_gradient = padding_contributes, spline_gradient
        self.noise_scale = noise_scale
        self.grid = Grid.checked(grid_size, spline_order, grid_range)
        self.base_weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel))
        self.spline_weight = nn.Parameter(torch.empty(out_channels, self.grid.num_bases))
        self.input_weight = nn.Parameter(torch.ones(in_channels, *kernel)) if input_weight else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights; see `draw_shared_splines`."""
        draw_shared_splines(self.base_weight, self.spline_weight, self.input_weight, self.grid, self.noise_scale)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Return the map an ordinary convolution of the same window would be as large as."""
        return ka_conv(
            x,
            self.base_weight,
            self.spline_weight,
            self.input_weight,
            padding_contributes=self.padding_contributes,
            spline_gradient=self.spline_gradient,
            **self.window,
            **self.grid._asdict(),
        )

    def window_sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what enters an output: the sums of the bases `(N, groups, M)` and the SiLU part `(N, out)`."""
        bases = self.grid.num_bases
        nothing = self.base_weight.new_zeros(self.groups * bases, *self.base_weight.shape[1:])
        each = torch.eye(bases).repeat(self.groups, 1).to(self.base_weight)
        how = {"padding_contributes": self.padding_contributes, **self.window, **self.grid._asdict()}
        sums = ka_conv(x, nothing, each, self.input_weight, **how).unflatten(1, (self.groups, bases))
        base = F.conv2d(F.silu(x), self.base_weight, None, **self.window)
        return sums.movedim((1, 2), (-2, -1)).flatten(0, -3), base.movedim(1, -1).flatten(0, -2)

    def extra_repr(self) -> str:
        """Show widths, window and grid."""
        outputs, inputs, *kernel = self.base_weight.shape
        window = ", ".join(f"{name}={value}" for name, value in self.window.items())
        return f"{inputs * self.groups}, {outputs}, {tuple(kernel)}, {window}, {self.grid}"


class KANConv(SplineLayer):
    """A convolution with a learned function on every edge: each window goes through a `KANLinear` (U-KAN Eq. 2-4).

    ALL U-KAN's comparison with unshared splines (its Table 2). Bases are formed once for each pixel and enter one
    convolution over SiLU and bases of all channels; padded zeros contribute as in unfolded maps.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the result.
        kernel_size: As in `KAConv`.
        stride: As in `KAConv`.
        padding: As in `KAConv`.
        dilation: As in `KAConv`.
        groups: As in `KAConv`.
        padding_contributes: As in `KAConv`.
        spline_gradient: As in `SharedKANLinear`; passed by default, as in `KANLinear`.
        grid_size: As in `KANLinear`.
        spline_order: As in `KANLinear`.
        grid_range: As in `KANLinear`.
        noise_scale: As in `KANLinear`.

    Raises:
        ValueError: The groups do not divide the channels, or the grid is not legal.
    """

    spline_scaler: nn.Parameter

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        padding_contributes: bool = True,
        spline_gradient: bool = True,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        noise_scale: float = 0.1,
    ) -> None:
        super().__init__()
        check_groups(in_channels, out_channels, groups)
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        self.padding: Pair = (padding, padding) if isinstance(padding, int) else padding
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.padding_contributes, self.spline_gradient = padding_contributes, spline_gradient
        self.noise_scale = noise_scale
        self.grid = Grid.checked(grid_size, spline_order, grid_range)
        shape = (out_channels, in_channels // groups, *kernel)
        self.base_weight = nn.Parameter(torch.empty(shape))
        self.spline_weight = nn.Parameter(torch.empty(*shape, self.grid.num_bases))
        self.spline_scaler = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw fresh weights as `KANLinear` does, the taps of a window being its inputs."""
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5))
        curves = _noise(self.grid, self.base_weight.numel(), self.noise_scale)
        self.spline_weight.copy_(curves.view_as(self.spline_weight))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Return the map an ordinary convolution of the same window would be as large as."""
        base = F.conv2d(F.silu(x), self.base_weight, None, self.stride, self.padding, self.dilation, self.groups)
        return base + self._spline(x if self.spline_gradient else x.detach()).to(base.dtype)

    def _spline(self, x: Tensor) -> Tensor:
        top, left = self.padding
        around = (left, left, top, top)
        weight = self.scaled_spline_weight().movedim(-1, 2).flatten(1, 2)
        with without_autocast(x):
            x = x.to(weight.dtype)
            if self.padding_contributes:
                x = F.pad(x, around)
            # Channels first, then bases: the groups of the convolution stay together.
            maps = bspline_basis(x, *self.grid).movedim(-1, 2).flatten(1, 2)
            if not self.padding_contributes:
                maps = F.pad(maps, around)
            return F.conv2d(maps, weight, None, self.stride, 0, self.dilation, self.groups)


class GradientFreeKANLinear(nn.Module):
    """A `KANLinear` whose splines pass no gradients to the input ("grad-free spline", ALL U-KAN Table 2).

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        **grid: As in `KANLinear`.
    """

    def __init__(self, in_features: int, out_features: int, **grid: Any) -> None:
        super().__init__()
        self.kan = KANLinear(in_features, out_features, **grid)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer to the last axis."""
        # Zero in value; its gradient is that of the base.
        base = F.linear(F.silu(x), self.kan.base_weight.detach())
        return self.kan(x.detach()) + (base - base.detach())


@torch.no_grad()
def draw_shared_splines(
    base_weight: Tensor, spline_weight: Tensor, input_weight: Tensor | None, grid: Grid, noise_scale: float
) -> None:
    """Draw the weights of a layer with shared splines; the paper does not say how.

    The base is drawn as in a linear layer or convolution of torch. Splines are fitted to noise on the grid, as those of
    `KANLinear` are; since all inputs of an output read the same spline, their sum grows with the number of inputs, not
    with its root: the noise is divided by the root.
    """
    nn.init.kaiming_uniform_(base_weight, a=math.sqrt(5))
    shared = math.sqrt(base_weight[0].numel())
    spline_weight.copy_(_noise(grid, spline_weight.shape[0], noise_scale / shared))
    if input_weight is not None:
        nn.init.ones_(input_weight)


def check_groups(in_channels: int, out_channels: int, groups: int) -> None:
    """Refuse groups that do not divide the channels.

    Raises:
        ValueError: The sentence names the numbers.
    """
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(f"groups must divide {in_channels} and {out_channels} channels, got {groups}")


def _noise(grid: Grid, curves: int, scale: float) -> Tensor:
    """Return coefficients (curves, bases) of splines through uniform noise at the inner knots."""
    points = grid.inner(knots(*grid, dtype=torch.float32))
    noise = (torch.rand(len(points), curves, dtype=points.dtype) - 0.5) * (scale / grid.grid_size)
    return fit_coefficients(points, noise, **grid._asdict()).mT.contiguous()
