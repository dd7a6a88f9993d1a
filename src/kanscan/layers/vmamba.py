"""The vision Mamba encoder (VMamba, arXiv 2401.10166v1), a decoder that mirrors it, and ImageNet weights for both."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kanscan.layers.patch import PatchEmbedding, PatchExpanding, PatchMerging
from kanscan.layers.ssm import SS2D_RELEASED_NAMES, VSSBlock

NUM_STAGES = 4
#: Side of the square of pixels that a token of the deepest stage stands for.
STRIDE = 32

#: How the released networks name the parameters of `encoder`, `decoder` and `head`; the last part puts the block's name
#: back that VMamba gave it, wherever in the network it is.
VMAMBA_RELEASED_NAMES = (
    (r"^encoder\.patch_embed\.", "patch_embed."),
    (r"^encoder\.stages\.(\d)\.", r"layers.\1.blocks."),
    (r"^encoder\.merges\.(\d)\.", r"layers.\1.downsample."),
    (r"^decoder\.stages\.(\d)\.", r"layers_up.\1.blocks."),
    *((rf"^decoder\.expands\.{i}\.", f"layers_up.{i + 1}.upsample.") for i in range(NUM_STAGES - 1)),
    (r"^decoder\.final\.", "final_up."),
    (r"^head\.", "final_conv."),
    *SS2D_RELEASED_NAMES,
)
#: How the names then begin.
RELEASED_PARTS = ("patch_embed.", "layers.", "layers_up.", "final_up.", "final_conv.")
#: Names of the parameters of a `VSSBlock`, where it stands in the encoder or decoder.
VSS_RELEASED_NAMES = (
    (r"(\.blocks\.\d+\.)norm\.", r"\1ln_1."),
    (r"(\.blocks\.\d+\.)ss2d\.", r"\1self_attention."),
)

#: From the key names of later VMamba releases to those of January 2024.
_LATER_NAMES = (
    (r"^patch_embed\.0\.", "patch_embed.proj."),
    (r"^patch_embed\.2\.", "patch_embed.norm."),
    (r"(\.blocks\.\d+)\.norm\.", r"\1.ln_1."),
    (r"(\.blocks\.\d+)\.op\.", r"\1.self_attention."),
    (r"^classifier\.", ""),
)


def stage_channels(channels: int | Sequence[int]) -> tuple[int, ...]:
    """Return the widths of the four stages.

    Args:
        channels: The first width, or all four, each twice the one before: patch merging doubles them.

    Raises:
        ValueError: The widths do not double, are not four, or are too few to be cut into 4 x 4 pixels at the end.
    """
    first = channels if isinstance(channels, int) else (channels[0] if channels else 0)
    widths = tuple(first * 2**stage for stage in range(NUM_STAGES))
    if not isinstance(channels, int) and tuple(channels) != widths:
        raise ValueError(
            f"channels must be the first width, or four widths that double such as {widths if first > 0 else (96, 192)}"
            f"; got {tuple(channels)}"
        )
    if first < 4 or first % 4:
        raise ValueError(f"channels must begin with a multiple of 4 (4 at least), got {first}")
    return widths


def check_depths(name: str, depths: Sequence[int]) -> None:
    """Refuse anything but four positive numbers of blocks.

    Raises:
        ValueError: The sentence names the option.
    """
    if len(depths) != NUM_STAGES or min(depths) < 1:
        raise ValueError(f"{name} must be four positive numbers of blocks, such as (2, 2, 2, 2); got {tuple(depths)}")


def drop_path_rates(highest: float, depths: Sequence[int], *, falling: bool = False) -> list[list[float]]:
    """Return rates of stochastic depth, block by block in each stage.

    Args:
        highest: Rate of the last block; they rise to it evenly from 0.
        depths: Blocks of each stage.
        falling: Begin with `highest` and end with 0 instead.
    """
    rates = [highest * index / max(sum(depths) - 1, 1) for index in range(sum(depths))]
    order = iter(rates[::-1] if falling else rates)
    return [[next(order) for _ in range(depth)] for depth in depths]


class VMambaEncoder(nn.Module):
    """VMamba's four stages: patches of 4x4 pixels, then VSS blocks, with patch merging between the stages.

    Args:
        in_channels: Channels of the image.
        channels: As in `stage_channels`.
        depths: VSS blocks of each stage: (2, 2, 9, 2) is VMamba-T, (2, 2, 27, 2) VMamba-S.
        d_state: States of the scans.
        drop_path: Highest rate of stochastic depth, that of the last block.
        discretization: As in `SelectiveSSM`.

    Example:
        >>> deepest, inputs = VMambaEncoder(3, 8, (1, 1, 1, 1))(torch.zeros(1, 3, 32, 64))
        >>> deepest.shape, [x.shape[3] for x in inputs]
        (torch.Size([1, 1, 2, 64]), [8, 16, 32, 64])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int | Sequence[int] = 96,
        depths: Sequence[int] = (2, 2, 9, 2),
        *,
        d_state: int = 16,
        drop_path: float = 0.0,
        discretization: str = "euler",
    ) -> None:
        super().__init__()
        check_depths("encoder_depths", depths)
        widths = stage_channels(channels)
        self.patch_embed = PatchEmbedding(in_channels, widths[0])
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    VSSBlock(width, d_state=d_state, drop_path=rate, discretization=discretization)
                    for rate in stage_rates
                )
            )
            for width, stage_rates in zip(widths, drop_path_rates(drop_path, depths), strict=True)
        )
        self.merges = nn.ModuleList(PatchMerging(width) for width in widths[:-1])

    def forward(self, image: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b m n d"], list[Tensor]]:
        """Return the deepest map, channels last, and what went into each stage, from H/4 to H/32."""
        x = self.patch_embed(image)
        inputs = []
        for level, stage in enumerate(self.stages):
            inputs.append(x)
            x = stage(x)
            if level < len(self.merges):
                x = self.merges[level](x)
        return x, inputs


class MirrorDecoder(nn.Module):
    """The way up of VM-UNet (section 2.2): blocks, then three times a skip, patch expanding and blocks.

    The skips are what went into the encoder's stages, added before the map is enlarged: those at H/32, H/16 and H/8.
    The figures draw a fourth one at H/4; the released networks store that map and never use it.

    Args:
        channels: Widths of the encoder's stages, finest first.
        depths: Blocks of each stage, deepest first.
        block: Builds a block from its width, its stage (0 is the deepest) and its rate of stochastic depth.
        drop_path: Highest rate of stochastic depth, that of the first block; the last has 0.
        skip_at_quarter: Add the skip at H/4 before the last expansion.
    """

    def __init__(
        self,
        channels: Sequence[int],
        depths: Sequence[int],
        block: Callable[[int, int, float], nn.Module],
        *,
        drop_path: float = 0.0,
        skip_at_quarter: bool = False,
    ) -> None:
        super().__init__()
        check_depths("decoder_depths", depths)
        self.skip_at_quarter = skip_at_quarter
        widths = channels[::-1]
        rates = drop_path_rates(drop_path, depths, falling=True)
        self.stages = nn.ModuleList(
            nn.Sequential(*(block(width, stage, rate) for rate in rates[stage])) for stage, width in enumerate(widths)
        )
        self.expands = nn.ModuleList(PatchExpanding(2 * width, width) for width in widths[1:])
        self.final = PatchExpanding(widths[-1], widths[-1] // 4, 4)

    def forward(self, x: Float[Tensor, "b m n d"], skips: list[Tensor]) -> Float[Tensor, "b c h w"]:
        """Return a map of the image's size with a quarter of the first width, channels first."""
        x = self.stages[0](x)
        for expand, stage, skip in zip(self.expands, self.stages[1:], skips[:0:-1], strict=True):
            x = stage(expand(x + skip))
        x = x + skips[0] if self.skip_at_quarter else x
        return self.final(x).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Pretrained:
    """What a checkpoint of ImageNet gave to a network.

    Attributes:
        encoder_tensors: Tensors of the encoder that were filled.
        decoder_tensors: Tensors of the decoder that were filled.
        num_parameters: Numbers in all of them.
        unused: Keys of the checkpoint that have no place in the network.
    """

    encoder_tensors: int
    decoder_tensors: int
    num_parameters: int
    unused: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in a sentence."""
        return (
            f"{self.encoder_tensors} tensors of the encoder and {self.decoder_tensors} of the decoder taken "
            f"({self.num_parameters:,} parameters); {len(self.unused)} tensors of the checkpoint have no place here"
        )


@torch.no_grad()
def load_imagenet(model: nn.Module, weights: Mapping[str, Any], *, decoder: bool) -> Pretrained:
    """Fill the `VMambaEncoder` at `model.encoder`, and the decoder if asked, from a VMamba classifier ("v0").

    The decoder's stages take the blocks of the encoder's stages of the same width, as VM-UNet does. Blocks that the
    checkpoint has more than the network are left; those it has fewer keep their fresh weights.

    Args:
        model: Network with `encoder` and `decoder`.
        weights: Key -> tensor, in the naming of January 2024 (`ln_1`, `self_attention`) or the later one (`norm`,
            `op`); or a checkpoint that holds them under "model" or "model_ema".
        decoder: Fill the decoder's VSS blocks too.

    Returns:
        How many tensors were taken, and which had no place.

    Raises:
        ValueError: No block matches, a shape differs, or the decoder is to be filled and has no VSS block.
    """
    weights = next((weights[key] for key in ("model", "model_ema") if isinstance(weights.get(key), Mapping)), weights)
    given = {_rename(key, _LATER_NAMES): key for key in weights}
    encoder = _match("encoder", _places(model, "encoder"), given, weights)
    mirrored = _match("decoder", _places(model, "decoder"), given, weights) if decoder else []
    for tensor, key in encoder + mirrored:
        tensor.copy_(weights[key])
    used = {key for _, key in encoder + mirrored}
    return Pretrained(
        len(encoder),
        len(mirrored),
        sum(tensor.numel() for tensor, _ in encoder + mirrored),
        tuple(key for key in weights if key not in used),
    )


def _match(
    part: str, places: Mapping[str, Tensor], given: Mapping[str, str], weights: Mapping[str, Tensor]
) -> list[tuple[Tensor, str]]:
    """Pair the tensors of a part with the checkpoint's keys."""
    if not any(".self_attention." in name for name in places):
        raise ValueError(f"the {part} has no VSS blocks for the checkpoint to fill; leave it out with {part}=False")
    matched = [(places[name], given[name]) for name in places if name in given]
    if not any("blocks" in key for _, key in matched):
        block = [name for name in places if ".blocks." in name]
        found = [key for key in weights if "blocks" in key] or list(weights)
        raise ValueError(
            f"no block of the {part} finds its weights: the checkpoint holds {len(weights)} tensors named like "
            f"{', '.join(found[:2])}; expected the first VMamba networks (v0, tiny or small) with names like "
            f"{', '.join(block[:2])}"
        )
    for tensor, key in matched:
        if tensor.shape != weights[key].shape:
            raise ValueError(
                f"the checkpoint's {key} has shape {tuple(weights[key].shape)}, the network's {part} needs "
                f"{tuple(tensor.shape)}; build the network with the checkpoint's channels, d_state and in_channels"
            )
    return matched


def _places(model: nn.Module, part: str) -> dict[str, Tensor]:
    """Map the checkpoint's names to the tensors of a part that they can fill."""
    names = (*VMAMBA_RELEASED_NAMES, *VSS_RELEASED_NAMES)
    parameters = [(name, p) for name, p in model.named_parameters() if name.startswith(f"{part}.")]
    places: dict[str, Tensor] = {_rename(name, names): p for name, p in parameters}
    if part == "encoder":
        return places
    mirrored: dict[str, Tensor] = {}
    for name, tensor in places.items():
        match = re.match(r"layers_up\.(\d)\.(blocks\..*)", name)
        if match:
            mirrored[f"layers.{NUM_STAGES - 1 - int(match[1])}.{match[2]}"] = tensor
    return mirrored


def _rename(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name
