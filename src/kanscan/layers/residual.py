"""Residual blocks of the nnU-Net family, 2D and 3D: convolutions, instance normalization, leaky ReLU."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Size = tuple[int, ...]

#: Slope of the leaky ReLU for negative values, in every block and in the initialization that fits it.
SLOPE = 0.01
BLOCKS = ("resnet_d", "entry")

_CONV: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED_CONV: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_INSTANCE_NORM: dict[int, Callable[..., nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_AVERAGE_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: Size,
    *,
    stride: Size | None = None,
    bias: bool = True,
    groups: int = 1,
) -> nn.Module:
    """Build a convolution for as many axes as the kernel has; odd kernels keep the size at stride 1."""
    return _CONV[len(kernel_size)](
        in_channels,
        out_channels,
        kernel_size,
        stride=stride or (1,) * len(kernel_size),
        padding=tuple((k - 1) // 2 for k in kernel_size),
        bias=bias,
        groups=groups,
    )


def instance_norm(channels: int, spatial_dims: int) -> nn.Module:
    """Build an instance normalization with learned gain and bias and no running statistics."""
    return _INSTANCE_NORM[spatial_dims](channels, eps=1e-5, affine=True)


class ConvNormAct(nn.Module):
    """Convolution, instance normalization and, unless it is left out, leaky ReLU.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: One odd number per axis.
        stride: One number per axis; 1 everywhere by default.
        bias: Give the convolution a bias.
        activation: End with the leaky ReLU.
        groups: Groups of the convolution; `in_channels` makes it depth-wise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *,
        stride: Size | None = None,
        bias: bool = True,
        activation: bool = True,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = convolution(in_channels, out_channels, kernel_size, stride=stride, bias=bias, groups=groups)
        self.norm = instance_norm(out_channels, len(kernel_size))
        self.activation = activation

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b d *t"]:
        """Return a map whose size is the input's divided by the stride."""
        x = self.norm(self.conv(x))
        return F.leaky_relu(x, SLOPE, inplace=True) if self.activation else x


class ResidualBlock(nn.Module):
    """Basic block of a ResNet-D: two convolutions and a shortcut, pooled, then projected if the width changes.

    The sum is activated, not the branch. The projection has no bias.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: One odd number per axis.
        stride: One number per axis, taken by the first convolution and by the pooling of the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, *, stride: Size | None = None) -> None:
        super().__init__()
        spatial_dims = len(kernel_size)
        self.conv1 = ConvNormAct(in_channels, out_channels, kernel_size, stride=stride)
        self.conv2 = ConvNormAct(out_channels, out_channels, kernel_size, activation=False)
        shortcut: list[nn.Module] = []
        if stride and max(stride) > 1:
            shortcut.append(_AVERAGE_POOL[spatial_dims](stride, stride))
        if in_channels != out_channels:
            one = (1,) * spatial_dims
            shortcut.append(ConvNormAct(in_channels, out_channels, one, bias=False, activation=False))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b d *t"]:
        """Return a map whose size is the input's divided by the stride."""
        return F.leaky_relu(self.conv2(self.conv1(x)) + self.shortcut(x), SLOPE, inplace=True)


class EntryBlock(nn.Module):
    """Block that opens every stage of U-Mamba (April 2024): its shortcut is always a 1x1 convolution.

    The projection carries the stride itself, has a bias and is not normalized.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: One odd number per axis.
        stride: One number per axis, taken by the first convolution and by the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, *, stride: Size | None = None) -> None:
        super().__init__()
        spatial_dims = len(kernel_size)
        self.conv1 = convolution(in_channels, out_channels, kernel_size, stride=stride)
        self.norm1 = instance_norm(out_channels, spatial_dims)
        self.conv2 = convolution(out_channels, out_channels, kernel_size)
        self.norm2 = instance_norm(out_channels, spatial_dims)
        self.shortcut = convolution(in_channels, out_channels, (1,) * spatial_dims, stride=stride)

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b d *t"]:
        """Return a map whose size is the input's divided by the stride."""
        branch = F.leaky_relu(self.norm1(self.conv1(x)), SLOPE, inplace=True)
        return F.leaky_relu(self.norm2(self.conv2(branch)) + self.shortcut(x), SLOPE, inplace=True)


class InterpolateUp(nn.Module):
    """Nearest-neighbor enlargement, then a 1x1 convolution with bias.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Factor per axis.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Size) -> None:
        super().__init__()
        self.scale = tuple(float(s) for s in stride)
        self.conv = convolution(in_channels, out_channels, (1,) * len(stride))

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b d *t"]:
        """Return a map whose size is the input's times the stride."""
        return self.conv(F.interpolate(x, scale_factor=self.scale, mode="nearest"))


def transposed_up(in_channels: int, out_channels: int, stride: Size) -> nn.Module:
    """Build a transposed convolution whose kernel is its stride: each pixel grows into a block of its own."""
    return _TRANSPOSED_CONV[len(stride)](in_channels, out_channels, stride, stride)


def residual_stage(
    block: str,
    in_channels: int,
    out_channels: int,
    kernel_size: Size,
    *,
    stride: Size | None = None,
    depth: int = 2,
) -> nn.Sequential:
    """Build `depth` residual blocks; the first changes the width and carries the stride.

    Args:
        block: "resnet_d" for `ResidualBlock`, "entry" for `EntryBlock` as the first one.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: One odd number per axis.
        stride: One number per axis.
        depth: Number of blocks, at least 1.
    """
    first = {"resnet_d": ResidualBlock, "entry": EntryBlock}[block]
    rest = (ResidualBlock(out_channels, out_channels, kernel_size) for _ in range(depth - 1))
    return nn.Sequential(first(in_channels, out_channels, kernel_size, stride=stride), *rest)


def init_residual(network: nn.Module, *, zero_init: bool) -> None:
    """Draw 2D and 3D convolutions from He normal for the leaky ReLU, biases zero; leave the rest alone.

    Args:
        network: The network, initialized in place.
        zero_init: Start every `ResidualBlock` as its shortcut: its second normalization gives zeros.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            # For transposed ones torch counts outputs x kernel as the fan; the released networks left it so.
            nn.init.kaiming_normal_(module.weight, a=SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif zero_init and isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.norm.weight)  # type: ignore[arg-type]
            nn.init.zeros_(module.conv2.norm.bias)  # type: ignore[arg-type]
