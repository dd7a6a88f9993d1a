"""Large Window-based Mamba UNet for Medical Image Segmentation (LKM-UNet, MICCAI 2024, arXiv 2403.07332)."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.residual import ConvNormAct, Size, convolution, init_residual
from kanscan.layers.residual_unet import (
    ResidualDecoder,
    ResidualEncoder,
    StagePlan,
    axes_per_stage,
    plan_stages,
    refuse_single_pixel,
    with_aliases,
    without_aliases,
)
from kanscan.layers.ssm import MAMBA_RELEASED_NAMES, BidirectionalMamba, MambaBlock
from kanscan.models.base import SegmentationModel

PARTITIONS = ("windows", "tiles", "lattice")
POOLINGS = ("window", "schedule")
INDIVISIBLE = ("pad", "global")
RESIDUALS = ("both", "patch", "none")
STEMS = ("dense", "depthwise")

#: The window of the deepest stages; the stages above take 2, 4, 8... times as much.
_UNIT: dict[int, Size] = {2: (5, 5), 3: (5, 7, 6)}
_LINEAR = {2: "bilinear", 3: "trilinear"}

#: How one axis falls into windows: (how many, how long), at most twice.
Runs = tuple[tuple[int, int], ...]


class ForwardMamba(nn.Module):
    """LayerNorm and Mamba in one direction: what is left of BiM without the backward scan (ablation of Table 3).

    Args:
        channels: Width of the tokens.
        discretization: "euler" or "zoh".
    """

    def __init__(self, channels: int, *, discretization: str = "euler") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = MambaBlock(channels, discretization=discretization)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform tokens `(B, L, C)`."""
        return self.mamba(self.norm(tokens))


class PiM(nn.Module):
    """Pixel-level SSM: the pixels of every window are one sequence, in row-major order (Eq. 6).

    With `indivisible="pad"` a map that the windows do not divide is padded at its far sides and the padding is masked:
    padded pixels are no tokens, so the windows at those sides are shorter sequences.

    Args:
        ssm: Transforms tokens `(B, L, C)`.
        window: One number per axis, see `partition`.
        partition: "windows": contiguous windows of `window` pixels. "tiles": `window` contiguous windows per axis.
            "lattice": the pixels whose positions differ by multiples of `window` form a sequence.
        indivisible: "pad", or "global": where `window` does not divide an axis the whole map is one sequence.
        residual: Add the input.
    """

    def __init__(
        self,
        ssm: nn.Module,
        window: Size,
        *,
        partition: str = "windows",
        indivisible: str = "pad",
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.ssm, self.window, self.residual = ssm, window, residual
        self.partition, self.indivisible = partition, indivisible

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        size = tuple(int(s) for s in x.shape[2:])
        whole = _divides(size, self.window)
        if not whole and self.indivisible == "global":
            mixed = _per_window(x, [((1, s),) for s in size], self.ssm)
        elif self.partition != "lattice":
            mixed = _per_window(x, _contiguous(size, _pixels(size, self.window, self.partition)), self.ssm)
        elif whole:
            mixed = _per_window(x, _dilated(size, self.window), self.ssm, strided=True)
        else:
            # Brought together along every axis, the members of a sub-lattice are contiguous windows.
            orders = [_lattice_order(s, period, x.device) for s, period in zip(size, self.window, strict=True)]
            mixed = _per_window(_reorder(x, orders), _dilated(size, self.window), self.ssm)
            mixed = _reorder(mixed, [order.argsort() for order in orders])
        return x + mixed if self.residual else mixed

    def extra_repr(self) -> str:
        """Show the window."""
        return f"window={self.window}, partition={self.partition}, indivisible={self.indivisible}"


class PaM(nn.Module):
    """Patch-level SSM: patches pooled to their mean are one sequence; the result is copied back to the patch (Fig. 2).

    With `indivisible="pad"` patches that reach beyond the map are the mean of the pixels they have.

    Args:
        ssm: Transforms tokens `(B, L, C)`.
        patch: One number per axis: pixels, or with `partition="tiles"` patches.
        partition: "windows" or "tiles", see `PiM`.
        indivisible: "pad", or "global": where `patch` does not divide an axis nothing is pooled.
        residual: Add the input.
    """

    def __init__(
        self,
        ssm: nn.Module,
        patch: Size,
        *,
        partition: str = "windows",
        indivisible: str = "pad",
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.ssm, self.patch, self.residual = ssm, patch, residual
        self.partition, self.indivisible = partition, indivisible

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        size = tuple(int(s) for s in x.shape[2:])
        patch = _pixels(size, self.patch, self.partition)
        if not _divides(size, patch) and self.indivisible == "global":
            patch = (1,) * len(size)
        mixed = _pool(x, patch)
        mixed = _per_window(mixed, [((1, s),) for s in mixed.shape[2:]], self.ssm)
        mixed = _enlarge(mixed, patch, size)
        return x + mixed if self.residual else mixed

    def extra_repr(self) -> str:
        """Show the patch."""
        return f"patch={self.patch}, partition={self.partition}, indivisible={self.indivisible}"


def _divides(size: Size, window: Size) -> bool:
    return all(s % w == 0 for s, w in zip(size, window, strict=True))


def _pixels(size: Size, window: Size, partition: str) -> Size:
    """Return the side of a window in pixels, at most the map's."""
    sides = zip(size, window, strict=True)
    return tuple(-(-s // w) for s, w in sides) if partition == "tiles" else tuple(min(s, w) for s, w in sides)


def _contiguous(size: Size, window: Size) -> list[Runs]:
    """Cut every axis into windows; what is left over is one shorter window."""
    return [_present((s // w, w), (1, s % w)) for s, w in zip(size, window, strict=True)]


def _dilated(size: Size, window: Size) -> list[Runs]:
    """Cut every axis into sub-lattices; where the period does not divide it, the first ones are longer by one."""
    return [_present((s % w, s // w + 1), (w - s % w, s // w)) for s, w in zip(size, window, strict=True)]


def _present(*runs: tuple[int, int]) -> Runs:
    return tuple((count, length) for count, length in runs if count and length)


def _lattice_order(size: int, period: int, device: torch.device) -> Tensor:
    positions = torch.arange(size, device=device)
    return (positions % period).argsort(stable=True)


def _reorder(x: Tensor, orders: Sequence[Tensor]) -> Tensor:
    for axis, order in enumerate(orders, start=2):
        x = x.index_select(axis, order)
    return x


def _per_window(x: Tensor, runs: Sequence[Runs], ssm: Callable[[Tensor], Tensor], *, strided: bool = False) -> Tensor:
    """Apply `ssm` to every window as tokens `(B', L, C)` and put the results back.

    Args:
        x: Map `(B, C, *S)`.
        runs: How each axis falls into windows. Regions with windows of different length are computed apart.
        ssm: Transforms tokens.
        strided: The members of a window lie `count` pixels apart instead of side by side; one kind of run per axis.
    """
    for axis, pieces in enumerate(runs):
        if len(pieces) > 1:
            parts = x.split([count * length for count, length in pieces], axis + 2)
            regions = ([*runs[:axis], (piece,), *runs[axis + 1 :]] for piece in pieces)
            return torch.cat([_per_window(p, r, ssm) for p, r in zip(parts, regions, strict=True)], axis + 2)
    batch, channels, *size = x.shape
    spatial_dims = len(size)
    counts, lengths = zip(*(pieces[0] for pieces in runs), strict=True)
    outer, inner = (lengths, counts) if strided else (counts, lengths)
    grid = [n for pair in zip(outer, inner, strict=True) for n in pair]
    count_axes = range(2 + strided, 2 + 2 * spatial_dims, 2)
    length_axes = range(3 - strided, 2 + 2 * spatial_dims, 2)
    split = x.reshape(batch, channels, *grid).permute(0, *count_axes, *length_axes, 1)
    tokens = split.reshape(-1, math.prod(lengths), channels)
    mixed = ssm(tokens).to(x.dtype).reshape(split.shape)
    order = [0, *count_axes, *length_axes, 1]
    return mixed.permute([order.index(axis) for axis in range(len(order))]).reshape(x.shape)


def _pool(x: Tensor, patch: Size) -> Tensor:
    if max(patch) == 1:
        return x
    pool = F.avg_pool2d if len(patch) == 2 else F.avg_pool3d
    # With ceil_mode a patch that reaches beyond the map is divided by the pixels it has.
    ragged = not _divides(tuple(x.shape[2:]), patch)
    return pool(x, patch, patch, ceil_mode=ragged)


def _enlarge(x: Tensor, patch: Size, size: Size) -> Tensor:
    for axis, (repeats, length) in enumerate(zip(patch, size, strict=True), start=2):
        if repeats > 1:
            x = x.repeat_interleave(repeats, axis).narrow(axis, 0, length)
    return x


class LKMUNet(SegmentationModel):
    """LKM-UNet: a residual U whose encoder stages end in a pixel-level and a patch-level Mamba layer (Fig. 1).

    The default follows the text: contiguous windows of 40, 20, 20, 10, 10, 5, 5 pixels (2D) or 20 x 28 x 24 twice, 10 x
    14 x 12 twice, 5 x 7 x 6 twice (3D), patches pooled by the same window, a residual around both. The released code
    (preset "release") uses these numbers as the period of a dilated lattice, pools by 8, 4, 4, 2, 2, 1, 1 and gives up
    windows and pooling without a word where they do not divide the map; its parameters are the same, because neither
    windows nor pooling have any. With one input channel and 14 classes there are 80,886,452 (2D) and 63,782,246 (3D).
    Stem and down-sampling follow the released network in both, because the printed plans were made with it.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the logits, one per class with the background, or 1.
        spatial_dims: 2 or 3.
        channels: Width of every stage, or the first width: the others double up to 512 (2D) or 320 (3D).
        strides: Step of every stage, a number or one per axis, beginning with 1. None: the plan of section 4 with seven
            (2D) or six (3D) stages where `channels` allows it, otherwise every later stage halves every axis.
        kernel_sizes: Odd kernel of every stage (Table 2), written as the strides are, or one number. None: the plan's
            where the strides are, otherwise 3.
        encoder_depths: Residual blocks of every stage, or one number.
        decoder_depths: Residual blocks of every decoder level, coarsest first, or one number.
        windows: Window of every stage, written as the strides are. None: 5 (2D) or 5 x 7 x 6 (3D) at the last two
            stages, doubled for every two stages above.
        partition: "windows" (text), "tiles" (the author's later word: the numbers count windows per axis) or "lattice"
            (released), see `PiM`.
        pooling: "window" (text), "schedule" (released: 1 at the last two stages, doubled for every two above), or a
            patch for every stage, written as the strides are.
        indivisible: What windows and patches that do not divide the map do: "pad", or "global" (released), see `PiM`
            and `PaM`.
        pixel_ssm: Have the pixel-level layer (Table 3).
        patch_ssm: Have the patch-level layer (Table 3).
        bidirectional: Scan in both directions (Table 3).
        residual: Add the input after "both" layers (released), after the "patch" layer alone (text), or "none" (Eq. 6).
        discretization: "euler" (released) or "zoh" (Eq. 2).
        stem: "dense": convolution, instance normalization, leaky ReLU (released); "depthwise": a depth-wise convolution
            alone (text), whose width must be a multiple of `in_channels`.
        stem_stride: Step of the stem: 1 (released) or 2 (text). The text does not say how full resolution is reached
            again: the finest logits are enlarged linearly.
        zero_init: Start the residual branches of the convolution blocks at zero, as released.
        deep_supervision: Give every decoder level a head; `side_outputs` returns them all.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> LKMUNet(1, 3, channels=(8, 16, 32))(torch.zeros(1, 1, 20, 44)).shape
        torch.Size([1, 3, 20, 44])
    """

    paper: ClassVar[str | None] = "lkm_unet"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "release": {"partition": "lattice", "pooling": "schedule", "indivisible": "global"},
        "printed_stem": {"stem": "depthwise", "stem_stride": 2, "channels": 48},
        "pixel_only": {"patch_ssm": False},
        "patch_only": {"pixel_ssm": False},
        "unidirectional": {"bidirectional": False},
        "no_ssm": {"pixel_ssm": False, "patch_ssm": False},
    }
    supports: ClassVar[tuple[int, ...]] = (2, 3)
    takes_no_images: ClassVar[bool] = False
    released_names: ClassVar[Sequence[tuple[str, str]]] = (
        (r"^encoder\.stem\.(conv|norm)\.", r"encoder.stem.convs.0.\1."),
        (r"\.stages\.(\d+)\.(?=\d)", r".stages.\1.blocks."),
        (r"\.shortcut\.(\d)\.", r".skip.\1."),
        (r"^encoder\.mixers\.(\d+)\.pixel\.ssm\.", r"encoder.mamba_layers.\1."),
        (r"^encoder\.mixers\.(\d+)\.patch\.ssm\.", r"encoder.w_mamba_layers.\1."),
        (r"^decoder\.ups\.", "decoder.transpconvs."),
        (r"^decoder\.heads\.", "decoder.seg_layers."),
    )

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        spatial_dims: int = 2,
        channels: int | tuple[int, ...] = 32,
        strides: tuple[int | tuple[int, ...], ...] | None = None,
        kernel_sizes: int | tuple[int | tuple[int, ...], ...] | None = None,
        encoder_depths: int | tuple[int, ...] = 2,
        decoder_depths: int | tuple[int, ...] = 2,
        windows: int | tuple[int | tuple[int, ...], ...] | None = None,
        partition: str = "windows",
        pooling: str | int | tuple[int | tuple[int, ...], ...] = "window",
        indivisible: str = "pad",
        pixel_ssm: bool = True,
        patch_ssm: bool = True,
        bidirectional: bool = True,
        residual: str = "both",
        discretization: str = "euler",
        stem: str = "dense",
        stem_stride: int = 1,
        zero_init: bool = True,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("partition", partition, PARTITIONS),
            ("indivisible", indivisible, INDIVISIBLE),
            ("residual", residual, RESIDUALS),
            ("stem", stem, STEMS),
            *([("pooling", pooling, POOLINGS)] if isinstance(pooling, str) else []),
        ):
            if value not in known:
                raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")
        if stem_stride < 1:
            raise ValueError(f"stem_stride must be at least 1, got {stem_stride}")
        plan = plan_stages(spatial_dims, channels, strides, kernel_sizes, encoder_depths, decoder_depths)
        self.in_channels, self.out_channels, self.spatial_dims = in_channels, out_channels, spatial_dims
        self.plan, self.stem_stride = plan, stem_stride
        self.stride = tuple(stem_stride * total for total in plan.total_stride())
        self.windows = _per_stage("windows", windows, plan, _UNIT[spatial_dims])
        # Patches of the released schedule are pixels whatever the windows are.
        patch_partition = partition if pooling == "window" and partition != "lattice" else "windows"
        if pooling == "window":
            patches = self.windows
        else:
            patches = _per_stage("pooling", None if isinstance(pooling, str) else pooling, plan, (1,) * spatial_dims)
        ssm = BidirectionalMamba if bidirectional else ForwardMamba

        def mixer(width: int, window: Size, patch: Size) -> nn.Module:
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            if pixel_ssm:
                layers["pixel"] = PiM(
                    ssm(width, discretization=discretization),
                    window,
                    partition=partition,
                    indivisible=indivisible,
                    residual=residual == "both",
                )
            if patch_ssm:
                layers["patch"] = PaM(
                    ssm(width, discretization=discretization),
                    patch,
                    partition=patch_partition,
                    indivisible=indivisible,
                    residual=residual != "none",
                )
            return nn.Sequential(layers)

        mixers = [mixer(*stage) for stage in zip(plan.channels, self.windows, patches, strict=True)]
        self.encoder = ResidualEncoder(_stem(in_channels, plan, stem, stem_stride), plan, "resnet_d", mixers)
        self.decoder = ResidualDecoder(plan, "resnet_d", "transpose", out_channels, deep_supervision=deep_supervision)
        self.side_parameters = (rf"^decoder\.{self.decoder.coarser_heads}",)
        init_residual(self, zero_init=zero_init)

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a network of some ten thousand parameters for tests."""
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
        return self._logits(x, all_scales=False)[0]

    def side_outputs(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every decoder level that has a head, full resolution first."""
        return self._logits(x, all_scales=True)

    def _logits(self, x: Tensor, *, all_scales: bool) -> list[Tensor]:
        self.check_input(x)
        logits = self.decoder(self.encoder(x), all_scales=all_scales)
        if self.stem_stride > 1:
            logits[0] = F.interpolate(logits[0], size=x.shape[2:], mode=_LINEAR[self.spatial_dims])
        return logits

    def released_name(self, name: str) -> str:
        """Return the name that the released code gives to our parameter `name`."""
        for pattern, replacement in MAMBA_RELEASED_NAMES if ".ssm." in name else ():
            name = re.sub(pattern, replacement, name)
        return super().released_name(name)

    def to_released(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename our state dict to the released keys, each tensor under all of its released names."""
        return with_aliases(super().to_released(state))

    def from_released(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a released state dict, complete or without its repetitions, to ours."""
        return super().from_released(without_aliases(state))


def _per_stage(
    name: str, value: int | Sequence[int | Sequence[int]] | None, plan: StagePlan, unit: Size
) -> tuple[Size, ...]:
    """Check one size per stage, or let `unit` double for every two stages above the last two."""
    if value is not None:
        return axes_per_stage(name, value, plan.num_stages, plan.spatial_dims)
    exponents = ((plan.num_stages - stage + 1) // 2 - 1 for stage in range(plan.num_stages))
    return tuple(tuple(n * 2**exponent for n in unit) for exponent in exponents)


def _stem(in_channels: int, plan: StagePlan, kind: str, stride: int) -> nn.Module:
    width, kernel_size, steps = plan.channels[0], plan.kernel_sizes[0], (stride,) * plan.spatial_dims
    if kind == "dense":
        return ConvNormAct(in_channels, width, kernel_size, stride=steps)
    if width % in_channels:
        raise ValueError(
            f'stem="depthwise" needs a first width that is a multiple of in_channels={in_channels}, got {width}; '
            f"take {-(-width // in_channels) * in_channels}"
        )
    return convolution(in_channels, width, kernel_size, stride=steps, groups=in_channels)
