"""The networks the papers are measured against and MONAI provides: SegResNet, UNETR, Swin UNETR, nnU-Net's DynUNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kanscan.layers.residual_unet import plan_stages, refuse_single_pixel
from kanscan.metrics.logits import legal_size
from kanscan.models.base import SegmentationModel

# MONAI takes seconds to import, so each constructor imports the one network it builds.

NORMS = ("instance", "batch")
#: Patch of UNETR, fixed by its four doublings.
_UNETR_PATCH = 16
_UNETR_SIDE = {2: 256, 3: 96}
#: MONAI's own keys: ours hold the network under one more name.
_INSIDE = ((r"^network\.", ""),)


def _check_dims(spatial_dims: int) -> None:
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")


class SegResNet(SegmentationModel):
    """SegResNet (arXiv 1810.11654, without its autoencoder branch): pre-activated residual blocks, additive skips.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits.
        spatial_dims: 2 or 3.
        channels: First width, a multiple of 8 (the groups of its norms); every stage doubles it.
        encoder_depths: Residual blocks of every stage.
        decoder_depths: Residual blocks of every decoder level, coarsest first; one level less than there are stages.
        dropout: Rate of dropout after the first convolution.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> SegResNet(1, 2, channels=8)(torch.zeros(1, 1, 16, 24)).shape
        torch.Size([1, 2, 16, 24])
    """

    supports: ClassVar[tuple[int, ...]] = (2, 3)
    released_names: ClassVar[Sequence[tuple[str, str]]] = _INSIDE

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        spatial_dims: int = 2,
        channels: int = 32,
        encoder_depths: tuple[int, ...] = (1, 2, 2, 4),
        decoder_depths: tuple[int, ...] = (1, 1, 1),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        from monai.networks.nets import SegResNet as Network

        _check_dims(spatial_dims)
        if channels < 8 or channels % 8:
            raise ValueError(f"channels must be a multiple of 8, got {channels}; take {max(-(-channels // 8), 1) * 8}")
        if len(decoder_depths) != len(encoder_depths) - 1 or min(*encoder_depths, *decoder_depths) < 1:
            raise ValueError(
                f"decoder_depths must be one positive number less than encoder_depths {tuple(encoder_depths)}, "
                f"got {tuple(decoder_depths)}"
            )
        self.in_channels, self.out_channels, self.spatial_dims = in_channels, out_channels, spatial_dims
        self.stride = (2 ** len(decoder_depths),) * spatial_dims
        self.network = Network(
            spatial_dims=spatial_dims,
            init_filters=channels,
            in_channels=in_channels,
            out_channels=out_channels,
            dropout_prob=dropout or None,
            blocks_down=tuple(encoder_depths),
            blocks_up=tuple(decoder_depths),
        )

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a narrow network of three stages for tests."""
        return cls(**{"channels": 8, "encoder_depths": (1, 1, 2), "decoder_depths": (1, 1), **options})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, *S)`; every size must be a multiple of `stride`."""
        self.check_input(x)
        return self.network(x)


class UNETR(SegmentationModel):
    """UNETR (arXiv 2103.10504): a vision transformer of 12 layers as the encoder of a convolutional decoder.

    Its position embedding ties it to one image size.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits.
        spatial_dims: 2 or 3.
        image_size: Size of the images, multiples of 16, a number or one per axis. None: 256 (2D) or 96 (3D).
        channels: First width of the decoder.
        hidden_size: Width of the tokens, a multiple of `num_heads`.
        mlp_dim: Width inside the transformer's perceptrons.
        num_heads: Attention heads.
        dropout: Rate of dropout.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> UNETR.tiny(image_size=(32, 48))(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 1, 32, 48])
    """

    supports: ClassVar[tuple[int, ...]] = (2, 3)
    released_names: ClassVar[Sequence[tuple[str, str]]] = _INSIDE
    #: MONAI's transformer blocks hold the norm of a cross attention that UNETR does not have.
    unused_parameters: ClassVar[Sequence[str]] = (r"\.norm_cross_attn\.",)

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        spatial_dims: int = 2,
        image_size: int | tuple[int, ...] | None = None,
        channels: int = 16,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_heads: int = 12,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        from monai.networks.nets import UNETR as Network  # noqa: N811

        _check_dims(spatial_dims)
        if image_size is None:
            image_size = _UNETR_SIDE[spatial_dims]
        size = (image_size,) * spatial_dims if isinstance(image_size, int) else tuple(image_size)
        if len(size) != spatial_dims or any(s < 1 or s % _UNETR_PATCH for s in size):
            raise ValueError(f"image_size must be {spatial_dims} multiples of {_UNETR_PATCH}, got {image_size}")
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads={num_heads}, got {hidden_size}")
        self.in_channels, self.out_channels, self.spatial_dims = in_channels, out_channels, spatial_dims
        self.image_size, self.stride = size, (_UNETR_PATCH,) * spatial_dims
        self.network = Network(
            in_channels=in_channels,
            out_channels=out_channels,
            img_size=size,
            feature_size=channels,
            hidden_size=hidden_size,
            mlp_dim=mlp_dim,
            num_heads=num_heads,
            dropout_rate=dropout,
            spatial_dims=spatial_dims,
        )

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a narrow network for small images for tests."""
        small = {"image_size": 32, "channels": 4, "hidden_size": 16, "mlp_dim": 24, "num_heads": 2}
        return cls(**{**small, **options})

    def check_input(self, x: Tensor) -> None:
        """Refuse an input this network cannot take.

        Raises:
            ValueError: As in the base class, or the size is not the one the network was built for.
        """
        assert self.image_size is not None
        if x.ndim == self.spatial_dims + 2 and tuple(x.shape[2:]) != self.image_size:
            built, got = (" x ".join(map(str, size)) for size in (self.image_size, x.shape[2:]))
            legal = legal_size(x.shape[2:], (_UNETR_PATCH,) * self.spatial_dims)
            raise ValueError(
                f"this UNETR was built for images of {built}, got {got}; resize to {built}, or build it with "
                f"image_size={legal}"
            )
        super().check_input(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, *S)` of images of `image_size`."""
        self.check_input(x)
        return self.network(x)


class SwinUNETR(SegmentationModel):
    """Swin UNETR (arXiv 2201.01266): a Swin transformer as the encoder of a convolutional decoder.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits.
        spatial_dims: 2 or 3.
        channels: First width, a multiple of 12 and of the first number of heads.
        depths: Swin blocks of the four stages.
        num_heads: Attention heads of the four stages.
        window_size: Side of the attention windows.
        norm: "instance" (as published) or "batch", of the convolutional blocks.
        drop_path: Largest rate of stochastic depth.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> SwinUNETR.tiny()(torch.zeros(1, 3, 32, 64)).shape
        torch.Size([1, 1, 32, 64])
    """

    supports: ClassVar[tuple[int, ...]] = (2, 3)
    takes_no_images: ClassVar[bool] = False
    released_names: ClassVar[Sequence[tuple[str, str]]] = _INSIDE

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        spatial_dims: int = 2,
        channels: int = 48,
        depths: tuple[int, int, int, int] = (2, 2, 2, 2),
        num_heads: tuple[int, int, int, int] = (3, 6, 12, 24),
        window_size: int = 7,
        norm: str = "instance",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        from monai.networks.nets import SwinUNETR as Network

        _check_dims(spatial_dims)
        if channels < 12 or channels % 12:
            raise ValueError(f"channels must be a multiple of 12, got {channels}; take {-(-channels // 12) * 12 or 12}")
        if len(depths) != 4 or len(num_heads) != 4:
            raise ValueError(f"depths and num_heads must be four numbers each, got {depths} and {num_heads}")
        if any(channels * 2**stage % heads for stage, heads in enumerate(num_heads)):
            raise ValueError(f"num_heads must divide the widths {channels}, doubled at every stage; got {num_heads}")
        if norm not in NORMS:
            raise ValueError(f"norm must be {' or '.join(map(repr, NORMS))}, got {norm!r}")
        self.in_channels, self.out_channels, self.spatial_dims = in_channels, out_channels, spatial_dims
        self.stride, self.norm = (32,) * spatial_dims, norm
        device = torch.empty(0).device
        # MONAI reads numbers out of a tensor, which a device without memory does not have.
        with torch.device("cpu" if device.type == "meta" else device):
            self.network = Network(
                in_channels=in_channels,
                out_channels=out_channels,
                depths=depths,
                num_heads=num_heads,
                window_size=window_size,
                feature_size=channels,
                norm_name=norm,
                dropout_path_rate=drop_path,
                spatial_dims=spatial_dims,
            )
        self.to(device)

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a narrow network for tests, with norms that can stand a single pixel."""
        small = {"channels": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2), "window_size": 4, "norm": "batch"}
        return cls(**{**small, **options})

    def check_input(self, x: Tensor) -> None:
        """Refuse an input this network cannot take.

        Raises:
            ValueError: As in the base class, and with instance norms for a size that shrinks to a single pixel.
        """
        super().check_input(x)
        if self.norm == "instance":
            refuse_single_pixel(type(self).__name__, x, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, *S)`; every size must be a multiple of 32."""
        self.check_input(x)
        return self.network(x)


class DynUNet(SegmentationModel):
    """DynUNet: the plain U of nnU-Net (Nature Methods 18, 203, 2021), its stages written as LKM-UNet's and U-Mamba's.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits.
        spatial_dims: 2 or 3.
        channels: Width of every stage, at least three, or the first width: the others double up to 512 (2D) or 320
            (3D).
        strides: Step of every stage, a number or one per axis, beginning with 1. None: seven stages for 320 x 320 (2D)
            or six for 40 x 224 x 192 (3D) where `channels` allows it, otherwise every later stage halves every axis.
        kernel_sizes: Odd kernel of every stage, written as the strides are, or one number. None: those of that plan.
        residual: Take residual blocks instead of two plain convolutions.
        deep_supervision: Give every decoder level a head; `side_outputs` returns them all.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> DynUNet(1, 3, channels=(8, 16, 32))(torch.zeros(1, 1, 20, 44)).shape
        torch.Size([1, 3, 20, 44])
    """

    supports: ClassVar[tuple[int, ...]] = (2, 3)
    takes_no_images: ClassVar[bool] = False
    side_parameters: Sequence[str] = (r"^network\.deep_supervision_heads\.",)
    released_names: ClassVar[Sequence[tuple[str, str]]] = _INSIDE

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        spatial_dims: int = 2,
        channels: int | tuple[int, ...] = 32,
        strides: tuple[int | tuple[int, ...], ...] | None = None,
        kernel_sizes: int | tuple[int | tuple[int, ...], ...] | None = None,
        residual: bool = False,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        from monai.networks.nets import DynUNet as Network

        plan = plan_stages(spatial_dims, channels, strides, kernel_sizes)
        if plan.num_stages < 3:
            raise ValueError(f"channels must give DynUNet at least three stages, got {plan.num_stages}")
        self.in_channels, self.out_channels, self.spatial_dims = in_channels, out_channels, spatial_dims
        self.plan, self.stride = plan, plan.total_stride()
        self.network = Network(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=plan.kernel_sizes,
            strides=plan.strides,
            upsample_kernel_size=plan.strides[1:],
            filters=plan.channels,
            deep_supervision=deep_supervision,
            deep_supr_num=plan.num_stages - 2,
            res_block=residual,
        )
        # It registers every block a second time inside nested levels, and collects its heads' results in a list there.
        del self.network.skip_layers
        if not deep_supervision:
            self.network.deep_supervision_heads = nn.ModuleList()

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a narrow network of three stages for tests."""
        return cls(**{"channels": (8, 12, 16), **options})

    def check_input(self, x: Tensor) -> None:
        """Refuse an input this network cannot take.

        Raises:
            ValueError: As in the base class, and for a size that shrinks to a single pixel.
        """
        super().check_input(x)
        refuse_single_pixel(type(self).__name__, x, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, *S)`; every size must be a multiple of `stride`."""
        return self.network.output_block(self._levels(x)[-1])

    def side_outputs(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every decoder level that has a head, full resolution first."""
        *coarser, finest = self._levels(x)
        heads = self.network.deep_supervision_heads
        # The heads are numbered from fine to coarse.
        coarse = [head(level) for head, level in zip(heads, coarser[::-1], strict=False)]
        return [self.network.output_block(finest), *coarse]

    def _levels(self, x: Tensor) -> list[Tensor]:
        """Return the map of every decoder level, coarsest first."""
        self.check_input(x)
        x = self.network.input_block(x)
        skips = [x]
        for down in self.network.downsamples:
            x = down(x)
            skips.append(x)
        x = self.network.bottleneck(x)
        levels = []
        for up in self.network.upsamples:
            x = up(x, skips.pop())
            levels.append(x)
        return levels

    def to_released(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename our state dict to MONAI's keys, each tensor under both of its names."""
        plain = super().to_released(state)
        aliases = self._nested_names()
        nested = {
            aliases[block] + name.removeprefix(block): tensor
            for name, tensor in plain.items()
            for block in aliases
            if name.startswith(block)
        }
        return plain | nested

    def from_released(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename MONAI's state dict to ours."""
        return super().from_released({name: t for name, t in state.items() if not name.startswith("skip_layers.")})

    def _nested_names(self) -> dict[str, str]:
        """Return prefix of each block -> its prefix in the nested levels."""
        num_levels = self.plan.num_stages - 1
        names = {"bottleneck.": "skip_layers." + "next_layer." * num_levels}
        for level in range(num_levels):
            inside = "skip_layers." + "next_layer." * level
            names[f"downsamples.{level - 1}." if level else "input_block."] = f"{inside}downsample."
            names[f"upsamples.{num_levels - 1 - level}."] = f"{inside}upsample."
            if level:
                names[f"deep_supervision_heads.{level - 1}."] = f"{inside}super_head."
        return names
