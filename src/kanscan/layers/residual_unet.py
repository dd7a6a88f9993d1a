"""The residual U that U-Mamba and LKM-UNet share: plan of stages, encoder with mixers, decoder with heads."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kanscan.layers.residual import InterpolateUp, Size, convolution, residual_stage, transposed_up

UPSAMPLINGS = ("transpose", "interpolate")
#: Widest stage of a plan that starts from a first width alone, by the number of axes.
WIDEST = {2: 512, 3: 320}
#: The two plans both papers used: abdominal MR slices (2D) and abdominal CT (3D).
_PRINTED_STRIDES: dict[int, tuple[Size, ...]] = {
    2: ((1, 1), *[(2, 2)] * 6),
    3: ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)),
}
_PRINTED_KERNELS: dict[int, tuple[Size, ...]] = {2: ((3, 3),) * 7, 3: ((1, 3, 3), *[(3, 3, 3)] * 5)}
PRINTED_PATCH: dict[int, Size] = {2: (320, 320), 3: (40, 224, 192)}


@dataclass(frozen=True)
class StagePlan:
    """What every stage is made of, finest first; the decoder's depths begin with the coarsest level.

    Attributes:
        channels: Width of each stage.
        strides: Step of each stage, one number per axis; the first stage does not step.
        kernel_sizes: Kernel of each stage, one odd number per axis.
        encoder_depths: Blocks of each stage.
        decoder_depths: Blocks of each decoder level, coarsest first; one level less than there are stages.
    """

    channels: tuple[int, ...]
    strides: tuple[Size, ...]
    kernel_sizes: tuple[Size, ...]
    encoder_depths: tuple[int, ...]
    decoder_depths: tuple[int, ...]

    @property
    def spatial_dims(self) -> int:
        """Number of spatial axes."""
        return len(self.strides[0])

    @property
    def num_stages(self) -> int:
        """Number of stages of the encoder."""
        return len(self.channels)

    def total_stride(self, stage: int | None = None) -> Size:
        """Return by how much each axis has shrunk after `stage` (after the last one by default)."""
        last = self.num_stages if stage is None else stage + 1
        return tuple(math.prod(steps) for steps in zip(*self.strides[:last], strict=True))

    @property
    def is_printed(self) -> bool:
        """Whether the strides are those of the 2D or 3D plan both papers used."""
        return self.strides == _PRINTED_STRIDES[self.spatial_dims]


def plan_stages(
    spatial_dims: int,
    channels: int | Sequence[int],
    strides: Sequence[int | Sequence[int]] | None,
    kernel_sizes: int | Sequence[int | Sequence[int]] | None,
    encoder_depths: int | Sequence[int] | None = None,
    decoder_depths: int | Sequence[int] | None = None,
    *,
    taper: bool = False,
) -> StagePlan:
    """Complete and check the options that describe the stages.

    Args:
        spatial_dims: 2 or 3.
        channels: One width per stage, or the first width: the others double up to 512 (2D) or 320 (3D).
        strides: One step per stage, a number for all axes or one per axis. None: the printed plan of 7 (2D) or
            6 (3D) stages if `channels` has that many entries or is one number, otherwise 1 and then 2 everywhere.
        kernel_sizes: Odd kernels, written as the strides are, or one number for all. None: the printed plan's if
            the strides are left to it too, otherwise 3.
        encoder_depths: Blocks per stage, or one number for all. None: 2.
        decoder_depths: Blocks per decoder level, coarsest first, or one number for all. None: 2.
        taper: Where depths are None, give 1 block from the middle entry of the list on (U-Mamba, April 2024).

    Raises:
        ValueError: An option is not legal; the sentence names it.
    """
    if spatial_dims not in _PRINTED_STRIDES:
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
    printed = _PRINTED_STRIDES[spatial_dims]
    known = (channels, strides, printed)
    num_stages = next(len(stages) for stages in known if stages is not None and not isinstance(stages, int))
    widths = _widths(channels, num_stages, WIDEST[spatial_dims])
    follows_print = strides is None and num_stages == len(printed)
    if strides is None:
        strides = printed if follows_print else (1,) + (2,) * (num_stages - 1)
    if kernel_sizes is None:
        kernel_sizes = _PRINTED_KERNELS[spatial_dims] if follows_print else 3
    steps = axes_per_stage("strides", strides, num_stages, spatial_dims)
    kernels = axes_per_stage("kernel_sizes", kernel_sizes, num_stages, spatial_dims)
    if set(steps[0]) != {1}:
        raise ValueError(f"strides must begin with 1: the first stage keeps the size of the image; got {strides}")
    if any(k % 2 == 0 for kernel in kernels for k in kernel):
        raise ValueError(f"kernel_sizes must be odd so that maps keep their size, got {kernel_sizes}")
    return StagePlan(
        widths,
        steps,
        kernels,
        numbers_per_stage("encoder_depths", _depths(encoder_depths, num_stages, taper), num_stages),
        numbers_per_stage("decoder_depths", _depths(decoder_depths, num_stages, taper, last=1), num_stages - 1),
    )


def _depths(depths: int | Sequence[int] | None, num_stages: int, taper: bool, *, last: int = 0) -> int | Sequence[int]:
    if depths is not None or not taper:
        return 2 if depths is None else depths
    # The middle is that of the encoder's stages for the decoder's levels too: its finest levels become shallow.
    return tuple(2 if index < (num_stages + 1) // 2 else 1 for index in range(num_stages - last))


def _widths(channels: int | Sequence[int], num_stages: int, widest: int) -> tuple[int, ...]:
    if isinstance(channels, int):
        channels = [min(channels * 2**stage, max(widest, channels)) for stage in range(num_stages)]
    if len(channels) < 2 or min(channels) < 1:
        raise ValueError(f"channels must be positive widths for at least two stages, got {tuple(channels)}")
    return tuple(channels)


def numbers_per_stage(name: str, value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Spread one number over `count` stages, or check that there are so many.

    Raises:
        ValueError: The count differs or a number is below 1.
    """
    numbers = (value,) * count if isinstance(value, int) else tuple(value)
    if len(numbers) != count or any(not isinstance(n, int) or n < 1 for n in numbers):
        raise ValueError(f"{name} must be a positive number or {count} of them, got {value}")
    return numbers


def axes_per_stage(
    name: str, value: int | Sequence[int | Sequence[int]], num_stages: int, spatial_dims: int
) -> tuple[Size, ...]:
    """Spread a number per stage over the axes, or check that there is one per axis.

    Raises:
        ValueError: The number of stages or axes differs or a number is below 1.
    """
    stages: Sequence[Any] = (value,) * num_stages if isinstance(value, int) else value
    sizes = tuple((s,) * spatial_dims if isinstance(s, int) else tuple(s) for s in stages)
    if (
        len(sizes) != num_stages
        or any(len(size) != spatial_dims for size in sizes)
        or any(not isinstance(n, int) or n < 1 for size in sizes for n in size)
    ):
        raise ValueError(
            f"{name} must list a positive number, or {spatial_dims} of them, for each of the {num_stages} "
            f"stages; got {value}"
        )
    return sizes


def refuse_single_pixel(name: str, x: Tensor, stride: Size) -> None:
    """Refuse a batch whose deepest map would be one pixel: instance normalization has nothing to normalize there.

    Args:
        name: The network, for the message.
        x: Image batch whose size is a multiple of `stride`.
        stride: By how much each axis shrinks.

    Raises:
        ValueError: The sentence names the next legal size.
    """
    # No number is taken of a size that fits: in a graph that is recorded it may be a symbol.
    if all(s == step for s, step in zip(x.shape[2:], stride, strict=True)):
        size = tuple(int(s) for s in x.shape[2:])
        legal = (*size[:-1], 2 * size[-1])
        raise ValueError(
            f"{name} shrinks {' x '.join(map(str, size))} to a single pixel, which cannot be normalized; "
            f"the next legal size is {' x '.join(map(str, legal))}"
        )


class ResidualEncoder(nn.Module):
    """A stem and stages of residual blocks, each stage followed by what mixes its pixels.

    Args:
        stem: Brings the image to the width of the first stage.
        plan: The stages.
        block: Kind of the first block of a stage, see `residual_stage`.
        mixers: One module per stage; its output is the skip of that stage and the input of the next.
    """

    def __init__(self, stem: nn.Module, plan: StagePlan, block: str, mixers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(
            residual_stage(block, i, o, kernel, stride=stride, depth=depth)
            for i, o, kernel, stride, depth in zip(
                (plan.channels[0], *plan.channels[:-1]),
                plan.channels,
                plan.kernel_sizes,
                plan.strides,
                plan.encoder_depths,
                strict=True,
            )
        )
        self.mixers = nn.ModuleList(mixers)

    def forward(self, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
        """Return the map of every stage, finest first."""
        x = self.stem(x)
        maps = []
        for stage, mixer in zip(self.stages, self.mixers, strict=True):
            x = mixer(stage(x))
            maps.append(x)
        return maps


class ResidualDecoder(nn.Module):
    """Levels that enlarge, join the skip and refine; each has a 1x1 head.

    The enlarged map comes first in the concatenation, the skip second.

    Args:
        plan: The stages of the encoder.
        block: Kind of the first block of a level, see `residual_stage`.
        upsampling: "transpose" or "interpolate".
        out_channels: Channels of the logits.
        finest_skip: Join the skip at the finest level too.
        deep_supervision: Give every level a head, not the finest alone.
    """

    def __init__(
        self,
        plan: StagePlan,
        block: str,
        upsampling: str,
        out_channels: int,
        *,
        finest_skip: bool = True,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        enlarge: Callable[[int, int, Size], nn.Module] = transposed_up if upsampling == "transpose" else InterpolateUp
        self.ups, self.stages, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.finest_skip = finest_skip
        finest = plan.num_stages - 2
        for level, depth in enumerate(plan.decoder_depths):
            stage = finest - level
            width = plan.channels[stage]
            joined = width * (2 if finest_skip or level < finest else 1)
            self.ups.append(enlarge(plan.channels[stage + 1], width, plan.strides[stage + 1]))
            self.stages.append(residual_stage(block, joined, width, plan.kernel_sizes[stage], depth=depth))
            has_head = deep_supervision or level == finest
            # A placeholder keeps the numbers of the heads, and so their names, in both cases.
            self.heads.append(convolution(width, out_channels, (1,) * plan.spatial_dims) if has_head else nn.Identity())
        self.deep_supervision = deep_supervision
        #: Pattern of the parameters that only the logits of coarser levels come from.
        self.coarser_heads = rf"heads\.(?!{finest}\.)"

    def forward(self, maps: Sequence[Tensor], *, all_scales: bool = False) -> list[Tensor]:
        """Return logits, full resolution first.

        Args:
            maps: Output of the encoder, finest first.
            all_scales: Return the logits of every level that has a head, not of the finest alone.
        """
        *skips, x = maps
        finest = len(skips) - 1
        logits: list[Tensor] = []
        for level, (up, stage, head) in enumerate(zip(self.ups, self.stages, self.heads, strict=True)):
            x = up(x)
            if self.finest_skip or level < finest:
                x = torch.cat([x, skips[finest - level]], dim=1)
            x = stage(x)
            if level == finest or (all_scales and self.deep_supervision):
                logits.append(head(x))
        return logits[::-1]


# The released networks register the encoder inside the decoder as well, and each convolution and normalization
# of a `ConvNormAct` a second time in a list; their state dicts repeat the tensors under those names.
_LISTED = re.compile(r"((?:convs\.\d+|conv[12]|skip\.[01]))\.(conv|norm)\.(?=\w+$)")


def with_aliases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the second and third names under which the released networks store a tensor."""
    listed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        listed[name] = tensor
        alias = _LISTED.sub(lambda m: f"{m[1]}.all_modules.{int(m[2] == 'norm')}.", name)
        listed[alias] = tensor
    inside = {f"decoder.{name}": tensor for name, tensor in listed.items() if name.startswith("encoder.")}
    return listed | inside


def without_aliases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep one name for each tensor of a released state dict; an alias counts if the first name is missing."""
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        first = re.sub(r"^decoder\.encoder\.", "encoder.", name)
        first = re.sub(r"\.all_modules\.([01])\.", lambda m: f".{('conv', 'norm')[int(m[1])]}.", first)
        if first == name or first not in plain:
            plain[first] = tensor
    return plain
