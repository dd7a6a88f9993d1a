"""U-Mamba: Enhancing Long-range Dependency for Biomedical Image Segmentation (arXiv 2401.04722)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from kanscan.layers.residual import BLOCKS, ConvNormAct, init_residual, residual_stage
from kanscan.layers.residual_unet import (
    PRINTED_PATCH,
    UPSAMPLINGS,
    ResidualDecoder,
    ResidualEncoder,
    StagePlan,
    plan_stages,
    refuse_single_pixel,
    with_aliases,
    without_aliases,
)
from kanscan.layers.ssm import MAMBA_RELEASED_NAMES, MambaBlock
from kanscan.models.base import SegmentationModel

PLACES = ("bottleneck", "encoder")

#: What the two generations of the released code call differently.
_GENERATION_NAMES = {
    "entry": ((r"^bottleneck\.", "mamba_layer."),),
    "resnet_d": (
        (r"^bottleneck\.norm\.", "ln."),
        (r"^bottleneck\.mamba\.", "mamba."),
        (r"\.stages\.(\d+)\.(?=\d)", r".stages.\1.blocks."),
    ),
}


class MambaMixer(nn.Module):
    """LayerNorm and Mamba over a map, without a residual: the block's second half as released.

    Args:
        width: Numbers in a token: channels of the map, or its pixels when the channels are the tokens.
        channel_tokens: Read each channel as a token instead of each pixel.
    """

    def __init__(self, width: int, *, channel_tokens: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mamba = MambaBlock(width)
        self.channel_tokens = channel_tokens

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape; pixels are read in row-major order."""
        tokens = x.flatten(2) if self.channel_tokens else x.flatten(2).transpose(1, 2)
        mixed = self.mamba(self.norm(tokens)).to(x.dtype)
        return (mixed if self.channel_tokens else mixed.transpose(1, 2)).reshape(x.shape)


class UMamba(SegmentationModel):
    """U-Mamba: a residual U whose bottleneck ("Bot") or encoder stages ("Enc") end in a Mamba layer (Fig. 1).

    The default is the network the authors released in April 2024 with the Mamba layer at the bottleneck and the 2D
    plan of seven stages; the preset "release_v1" is their code of January 2024, on which other networks of that spring
    were built. Their checkpoints are not interchangeable. With one input channel and 14 classes the parameters are
    47,533,012 (Bot 2D), 41,945,158 (Bot 3D), 47,015,538 (Enc 2D at 320 x 320) and 42,842,798 (Enc 3D at
    40 x 224 x 192); in "release_v1" 63,344,180, 57,832,166, 67,333,428 and 59,105,766.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits, one per class with the background, or 1.
        spatial_dims: 2 or 3.
        mamba_at: "bottleneck" (U-Mamba_Bot) or "encoder" (U-Mamba_Enc).
        channels: Width of every stage, or the first width: the others double up to 512 (2D) or 320 (3D).
        strides: Step of every stage, a number or one per axis, beginning with 1. None: the printed plan of seven (2D)
            or six (3D) stages where `channels` allows it, otherwise every later stage halves every axis.
        kernel_sizes: Odd kernel of every stage, written as the strides are, or one number. None: the printed plan's
            where the strides are, otherwise 3.
        encoder_depths: Residual blocks of every stage, or one number. None: 2, and with `block="entry"` 1 from the
            middle stage on, as released.
        decoder_depths: Residual blocks of every decoder level, coarsest first, or one number. None: as above.
        image_size: Size of the images (a number or one per axis), needed where channels become tokens: such a network
            takes that size alone. None: the patch of the printed plan where its strides are used.
        block: First block of a stage: "entry" (April 2024) or "resnet_d" (January 2024); the stem follows it.
        upsampling: "interpolate" (nearest, then 1x1 convolution) or "transpose" (transposed convolution).
        finest_skip: Join the skip at full resolution. None: in 3D only, as released.
        mamba_interval: With `mamba_at="encoder"` every so many stages, counted back from the last, have a Mamba layer.
            None: 2 in 2D and 1 in 3D, as released.
        channel_tokens: With `mamba_at="encoder"` read the channels as tokens where the map has no more pixels than
            channels.
        zero_init: Start the residual branches of "resnet_d" blocks at zero. None: with `mamba_at="encoder"` and
            `block="resnet_d"`, as released.
        deep_supervision: Give every decoder level a head; `side_outputs` returns them all.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> UMamba(1, 3, channels=(8, 16, 32))(torch.zeros(1, 1, 32, 48)).shape
        torch.Size([1, 3, 32, 48])
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "release": {},
        "release_v1": {
            "block": "resnet_d",
            "upsampling": "transpose",
            "finest_skip": True,
            "mamba_interval": 1,
            "channel_tokens": False,
        },
    }
    supports: ClassVar[tuple[int, ...]] = (2, 3)
    takes_no_images: ClassVar[bool] = False
    released_names: ClassVar[Sequence[tuple[str, str]]] = (
        (r"^encoder\.stem\.(conv|norm)\.", r"encoder.stem.convs.0.\1."),
        (r"\.shortcut\.(\d)\.", r".skip.\1."),
        (r"\.shortcut\.(weight|bias)$", r".conv3.\1"),
        (r"^encoder\.mixers\.", "encoder.mamba_layers."),
        (r"^decoder\.ups\.(\d+)\.conv\.", r"decoder.upsample_layers.\1.conv."),
        (r"^decoder\.ups\.(\d+)\.(weight|bias)$", r"decoder.transpconvs.\1.\2"),
        (r"^decoder\.heads\.", "decoder.seg_layers."),
    )

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        spatial_dims: int = 2,
        mamba_at: str = "bottleneck",
        channels: int | tuple[int, ...] = 32,
        strides: tuple[int | tuple[int, ...], ...] | None = None,
        kernel_sizes: int | tuple[int | tuple[int, ...], ...] | None = None,
        encoder_depths: int | tuple[int, ...] | None = None,
        decoder_depths: int | tuple[int, ...] | None = None,
        image_size: int | tuple[int, ...] | None = None,
        block: str = "entry",
        upsampling: str = "interpolate",
        finest_skip: bool | None = None,
        mamba_interval: int | None = None,
        channel_tokens: bool = True,
        zero_init: bool | None = None,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("mamba_at", mamba_at, PLACES),
            ("block", block, BLOCKS),
            ("upsampling", upsampling, UPSAMPLINGS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")
        plan = plan_stages(
            spatial_dims, channels, strides, kernel_sizes, encoder_depths, decoder_depths, taper=block == "entry"
        )
        self.in_channels, self.out_channels, self.spatial_dims = in_channels, out_channels, spatial_dims
        self.mamba_at, self.block, self.plan, self.stride = mamba_at, block, plan, plan.total_stride()
        self.image_size: tuple[int, ...] | None = None
        if mamba_at == "encoder":
            interval = (2 if spatial_dims == 2 else 1) if mamba_interval is None else mamba_interval
            mixers = self._mixers(plan, interval, channel_tokens, image_size)
        else:
            mixers = [nn.Identity() for _ in plan.channels]
            self.bottleneck = MambaMixer(plan.channels[-1])
        self.encoder = ResidualEncoder(_stem(in_channels, plan, block), plan, block, mixers)
        self.decoder = ResidualDecoder(
            plan,
            block,
            upsampling,
            out_channels,
            finest_skip=spatial_dims == 3 if finest_skip is None else finest_skip,
            deep_supervision=deep_supervision,
        )
        self.side_parameters = (rf"^decoder\.{self.decoder.coarser_heads}",)
        if zero_init is None:
            zero_init = mamba_at == "encoder" and block == "resnet_d"
        init_residual(self, zero_init=zero_init)

    def _mixers(
        self, plan: StagePlan, interval: int, channel_tokens: bool, image_size: int | tuple[int, ...] | None
    ) -> list[nn.Module]:
        if interval < 1:
            raise ValueError(f"mamba_interval must be at least 1, got {interval}")
        size = self._image_size(plan, image_size) if channel_tokens else None
        mixers: list[nn.Module] = []
        for stage, width in enumerate(plan.channels):
            if (plan.num_stages - 1 - stage) % interval:
                mixers.append(nn.Identity())
                continue
            pixels = 0
            if size is not None:
                pixels = math.prod(s // step for s, step in zip(size, plan.total_stride(stage), strict=True))
            swap = 0 < pixels <= width
            mixers.append(MambaMixer(pixels if swap else width, channel_tokens=swap))
            if swap:
                self.image_size = size
        return mixers

    def _image_size(self, plan: StagePlan, image_size: int | tuple[int, ...] | None) -> tuple[int, ...]:
        if image_size is None and plan.is_printed:
            return PRINTED_PATCH[plan.spatial_dims]
        if image_size is None:
            raise ValueError(
                "U-Mamba Enc reads channels as tokens where a map is small: pass image_size, the size all images will "
                "have, or channel_tokens=False"
            )
        size = (image_size,) * plan.spatial_dims if isinstance(image_size, int) else tuple(image_size)
        if len(size) != plan.spatial_dims or any(s < 1 or s % m for s, m in zip(size, self.stride, strict=True)):
            legal = " x ".join(map(str, self.stride))
            raise ValueError(f"image_size must be {plan.spatial_dims} multiples of {legal}, got {image_size}")
        return size

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a network of some ten thousand parameters for tests."""
        return cls(**{"channels": (8, 12, 16), **options})

    def check_input(self, x: Tensor) -> None:
        """Refuse an input this network cannot take.

        Raises:
            ValueError: As in the base class; or the network is tied to another size.
        """
        super().check_input(x)
        refuse_single_pixel(type(self).__name__, x, self.stride)
        if self.image_size is not None and tuple(x.shape[2:]) != self.image_size:
            built, got = (" x ".join(map(str, size)) for size in (self.image_size, x.shape[2:]))
            raise ValueError(
                f"this UMamba was built for images of {built} because it reads channels as tokens, got {got}; resize "
                f"to {built}, or build it with image_size={tuple(x.shape[2:])} or channel_tokens=False"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, *S)`; every size must be a multiple of `stride`."""
        return self.decoder(self._maps(x))[0]

    def side_outputs(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every decoder level that has a head, full resolution first."""
        return self.decoder(self._maps(x), all_scales=True)

    def _maps(self, x: Tensor) -> list[Tensor]:
        self.check_input(x)
        maps = self.encoder(x)
        if self.mamba_at == "bottleneck":
            maps[-1] = self.bottleneck(maps[-1])
        return maps

    def released_name(self, name: str) -> str:
        """Return the name that the released code of the same generation gives to our parameter `name`."""
        patterns = [*_GENERATION_NAMES[self.block]]
        if ".mamba." in name:
            patterns += MAMBA_RELEASED_NAMES
        for pattern, replacement in patterns:
            name = re.sub(pattern, replacement, name)
        return super().released_name(name)

    def to_released(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename our state dict to the released keys, each tensor under all of its released names."""
        return with_aliases(super().to_released(state))

    def from_released(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a released state dict, complete or without its repetitions, to ours."""
        return super().from_released(without_aliases(state))


def _stem(in_channels: int, plan: StagePlan, block: str) -> nn.Module:
    if block == "resnet_d":
        return ConvNormAct(in_channels, plan.channels[0], plan.kernel_sizes[0])
    return residual_stage(block, in_channels, plan.channels[0], plan.kernel_sizes[0], depth=plan.encoder_depths[0])
