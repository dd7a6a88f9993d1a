"""VMKLA-UNet: vision Mamba with KAN linear attention U-Net (Scientific Reports 15, 13258, 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.as_coded_spline import AsCodedKANLinear
from kanscan.layers.attention import ChannelSpatialAttention, LinearAttention
from kanscan.layers.drop_path import DropPath
from kanscan.layers.embedding import to_map, to_tokens
from kanscan.layers.kan import KANLinear
from kanscan.layers.ssm import SS2D, VSSBlock
from kanscan.layers.vmamba import (
    RELEASED_PARTS,
    STRIDE,
    VMAMBA_RELEASED_NAMES,
    VSS_RELEASED_NAMES,
    MirrorDecoder,
    Pretrained,
    VMambaEncoder,
    load_imagenet,
    stage_channels,
)
from kanscan.models.base import SegmentationModel
from kanscan.registry import unknown

SPLINE_BASES: dict[str, type[nn.Module]] = {"bspline": KANLinear, "as_coded": AsCodedKANLinear}
#: Blocks of the decoder with linear attention: what makes queries and keys, and what the attention is multiplied by.
LINEAR_BLOCKS = {
    "mkcsa": ("kan", "csa"),
    "mkla": ("kan", "gate"),
    "mlcsa": ("linear", "csa"),
    "mlla": ("linear", "gate"),
}
#: Blocks of the decoder that scan.
SCAN_BLOCKS = ("csa", "vss")
CONV_INITS = ("uniform", "truncated_normal")
#: Attribute under which the released wrapper holds the network.
_WRAPPER = "model."
#: What the released network computes in the place of what its paper describes.
_SLIPS: dict[str, Any] = {
    "spline_basis": "as_coded",
    "reread_side": True,
    "reread_attention_input": True,
    "reread_attention_output": True,
    "channel_pooling": "average_twice",
    "rotary": "columns",
}
_RELEASE: dict[str, Any] = {**_SLIPS, "conv_init": "truncated_normal"}


class MKCSABlock(nn.Module):
    """Decoder block of KAN linear attention with channel-spatial attention, and its relatives (Fig. 2 to 4).

        x <- x + conv(x);  x <- x + linear(LayerNorm(attention) * side);  x <- x + conv(x);  x <- x + MLP(LayerNorm(x))

    where `attention` is linear attention over a linear layer, a depth-wise convolution and SiLU of u = LayerNorm(x),
    and `side` is channel and spatial attention of u, or a gate SiLU(linear(u)). The two convolutions in front of the
    residual branches and the LayerNorm of the attention are the released network's; the figures do not show them.

    Args:
        channels: Width C.
        num_heads: Heads of the attention.
        kind: A key of `LINEAR_BLOCKS`.
        kan_channels: Width between the two KAN layers.
        kan_options: Grid options of the KAN layers.
        mlp_ratio: Width of the MLP over C.
        drop_path: Rate of stochastic depth of both branches.
        spline_basis: As in `VMKLAUNet`, like all that follow.
        shared_kan: One KAN for queries and keys.
        reread_side: Memory order at the side branch.
        reread_attention_input: Memory order before the attention.
        reread_attention_output: Memory order after the attention.
        channel_pooling: Poolings of the channel attention.
        rotary: Rotary code.
        position_convs: The two convolutions.
        attention_norm: The LayerNorm of the attention.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        kind: str = "mkcsa",
        *,
        kan_channels: int = 64,
        kan_options: Mapping[str, Any] | None = None,
        mlp_ratio: int = 4,
        drop_path: float = 0.0,
        spline_basis: str = "bspline",
        shared_kan: bool = True,
        reread_side: bool = False,
        reread_attention_input: bool = False,
        reread_attention_output: bool = False,
        channel_pooling: str = "average_max",
        rotary: str = "2d",
        position_convs: bool = True,
        attention_norm: bool = True,
    ) -> None:
        super().__init__()
        maker, side = LINEAR_BLOCKS[kind]
        queries_keys: nn.Module = nn.Linear(channels, 2 * channels)
        if maker == "kan":
            kan = SPLINE_BASES[spline_basis]
            queries_keys = _queries_keys(kan, channels, kan_channels, shared_kan, kan_options or {})
        self.reread_side = reread_side
        self.reread_attention_input = reread_attention_input
        self.reread_attention_output = reread_attention_output
        self.position1 = _depthwise(channels) if position_convs else None
        self.norm1 = nn.LayerNorm(channels)
        self.proj_in = nn.Linear(channels, channels)
        self.conv = _depthwise(channels)
        self.attention = LinearAttention(channels, num_heads, queries_keys, rotary=rotary)
        self.csa = ChannelSpatialAttention(channels, pooling=channel_pooling) if side == "csa" else None
        self.gate = nn.Linear(channels, channels) if side == "gate" else None
        self.norm_out = nn.LayerNorm(channels) if attention_norm else nn.Identity()
        self.proj_out = nn.Linear(channels, channels)
        self.position2 = _depthwise(channels) if position_convs else None
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, mlp_ratio * channels), nn.GELU(), nn.Linear(mlp_ratio * channels, channels)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a channel-last map (B, H, W, C)."""
        x = _add_positions(x, self.position1)
        u = self.norm1(x)
        x = x + self.drop_path(self.proj_out(self.norm_out(self._attend(u)) * self._side(u)))
        x = _add_positions(x, self.position2)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, u: Tensor) -> Tensor:
        size = (u.shape[1], u.shape[2])
        image = F.silu(self.conv(self.proj_in(u).permute(0, 3, 1, 2)))
        tokens = _reread_tokens(image) if self.reread_attention_input else to_tokens(image)
        mixed = self.attention(tokens, size)
        if self.reread_attention_output:
            mixed = _reread_tokens(to_map(mixed, size))
        return mixed.view_as(u)

    def _side(self, u: Tensor) -> Tensor:
        if self.gate is not None:
            return F.silu(self.gate(u))
        assert self.csa is not None
        image = u.permute(0, 3, 1, 2)
        if self.reread_side:
            return self.csa(u.reshape(image.shape)).reshape(u.shape)
        return self.csa(image).permute(0, 2, 3, 1)


def _reread_tokens(image: Tensor) -> Tensor:
    """Take the numbers of a channel-first map in memory order for tokens: a slip that mixes places and channels."""
    return image.reshape(image.shape[0], -1, image.shape[1])


def _add_positions(x: Tensor, conv: nn.Conv2d | None) -> Tensor:
    return x if conv is None else x + conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _depthwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)


def _queries_keys(
    kan: type[nn.Module], channels: int, hidden: int, shared: bool, options: Mapping[str, Any]
) -> nn.Module:
    def stack(width: int) -> nn.Sequential:
        return nn.Sequential(kan(channels, hidden, **options), kan(hidden, width, **options))

    return stack(2 * channels) if shared else _SideBySide(stack(channels), stack(channels))


class _SideBySide(nn.Module):
    """Apply modules to one input and put their outputs side by side."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=-1)


class ScanCSABlock(nn.Module):
    """VSS block whose scan is weighed by channel and spatial attention: x + CSA(SS2D(LayerNorm(x))).

    The ablation "Only-CSA" adds this attention to VM-UNet; the paper does not say where. Here it refines the residual
    branch before it is added, which is where the authors of that attention put it (CBAM, ECCV 2018, section 4).

    Args:
        channels: Width.
        pooling: As in `ChannelAttention`.
        drop_path: Rate of stochastic depth.
        scan: Options of `SS2D`.
    """

    def __init__(self, channels: int, pooling: str, drop_path: float, scan: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.ss2d = SS2D(channels, **scan)
        self.csa = ChannelSpatialAttention(channels, pooling=pooling)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Transform a channel-last map (B, H, W, C)."""
        scanned = self.ss2d(self.norm(x)).permute(0, 3, 1, 2)
        return x + self.drop_path(self.csa(scanned).permute(0, 2, 3, 1))


class VMKLAUNet(SegmentationModel):
    """VMKLA-UNet: VMamba's encoder, and a decoder of KAN linear attention with channel-spatial attention (Fig. 1).

    The default is what the paper describes, where the released code does something else by slip: its functions are no
    B-splines, three times it reads a map's memory in the wrong order so that places and channels are mixed, both its
    channel poolings are averages, and its rotary code counts columns only. Each slip is an option, all of them together
    are preset "release", which computes what the released network computes on squares, the only size it takes; here
    the same arithmetic goes on to rectangles. The authors published no weights.

    Presets "encoder_2222", "encoder_2292" (the default's depths) and "encoder_22272" are the depths of the encoder that
    the released configurations name; "mkla", "mlla", "mlcsa", "only_csa" and "baseline" (VM-UNet's blocks) are the
    ablations of the decoder; "figure" leaves out what the figures do not draw and adds what they do.

    Args:
        in_channels: Channels of the image. The released network takes three and repeats a gray image.
        out_channels: Channels of the logits; 1 for binary segmentation.
        channels: Width of the first stage, which the others double; or all four widths.
        encoder_depths: VSS blocks of each stage on the way down.
        decoder_depths: Blocks of each stage on the way up, deepest first.
        num_heads: Heads of the attention at each width, finest first.
        block: "mkcsa" (KAN linear attention times channel-spatial attention), "mkla" (a gate in the place of the
            latter), "mlcsa" and "mlla" (the same two with a linear layer in the place of the KAN), "csa" (VSS block
            with channel-spatial attention) or "vss" (VM-UNet).
        kan_channels: Width between the two KAN layers that make queries and keys.
        mlp_ratio: Width of the MLPs over that of their block.
        d_state: States of the scans.
        drop_path: Highest rate of stochastic depth, at the bottom of the U. 0.2 is configured in the released code, but
            its factory drops the number and 0.1 takes effect.
        spline_basis: "bspline", or "as_coded" for the released recursion, in which parentheses are missing.
        shared_kan: One KAN makes queries and keys (released), or each has its own (as the figure draws them).
        reread_side: Slip: channel-spatial attention takes the memory of a channel-last map for a channel-first one.
        reread_attention_input: Slip: the attention takes the memory of a channel-first map for tokens.
        reread_attention_output: Slip: so does what follows it.
        channel_pooling: "average_max", or "average_twice" for the slip.
        rotary: "2d", or "columns" for the slip, or "none" (the paper mentions no position code).
        position_convs: Add depth-wise convolutions in front of the two residual branches (released, not drawn).
        attention_norm: Normalize the attention before the product (released, not drawn).
        skip_at_quarter: Add the skip at a quarter of the size too (drawn; stored and never used as released).
        discretization: "euler" (released) or "zoh".
        conv_init: How convolutions start: "uniform" (bound 1/sqrt(fan_in), as in VM-UNet), or "truncated_normal" of
            deviation 0.02 (released), with which the first epochs without ImageNet weights are slower.
        grid_size: Intervals of the spline grid.
        spline_order: Degree of the splines.
        grid_range: Ends of the spline grid.

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> VMKLAUNet(3, 1, channels=8, num_heads=(1, 1, 2, 2))(torch.zeros(1, 3, 32, 64)).shape
        torch.Size([1, 1, 32, 64])
    """

    paper: ClassVar[str | None] = "vmkla_unet"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "release": _RELEASE,
        "release_synapse": {**_RELEASE, "encoder_depths": (2, 2, 27, 2)},
        "encoder_2222": {"encoder_depths": (2, 2, 2, 2)},
        "encoder_2292": {"encoder_depths": (2, 2, 9, 2)},
        "encoder_22272": {"encoder_depths": (2, 2, 27, 2)},
        "mkla": {"block": "mkla"},
        "mlla": {"block": "mlla"},
        "mlcsa": {"block": "mlcsa"},
        "only_csa": {"block": "csa"},
        "baseline": {"block": "vss"},
        "figure": {
            "shared_kan": False,
            "rotary": "none",
            "position_convs": False,
            "attention_norm": False,
            "skip_at_quarter": True,
        },
    }
    released_names: ClassVar[Sequence[tuple[str, str]]] = (
        *VMAMBA_RELEASED_NAMES,
        *VSS_RELEASED_NAMES,
        *(
            (rf"^(layers_up\.\d\.blocks\.\d+\.){ours}\.", rf"\1{released}.")
            for ours, released in (
                ("position1", "cpe1"),
                ("position2", "cpe2"),
                ("norm1", "in_norm"),
                ("norm2", "norm"),
                ("norm_out", "out_norm"),
                ("proj_in", "in_proj"),
                ("proj_out", "out_proj"),
                ("conv", "dwconv"),
                ("gate", "act_proj"),
                (r"csa\.channel\.reduce", "CA.fc1"),
                (r"csa\.channel\.expand", "CA.fc2"),
                (r"csa\.spatial\.conv", "SA.conv1"),
                (r"attention\.position", "attn.lepe"),
                (r"attention\.queries_keys\.0", "attn.kan.layers.0"),
                (r"attention\.queries_keys\.1", "attn.kan.layers.1"),
                (r"attention\.queries_keys", "attn.qk"),
                (r"mlp\.0", "mlp.fc1"),
                (r"mlp\.2", "mlp.fc2"),
            )
        ),
        (r"^", _WRAPPER),
    )

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        channels: int | tuple[int, ...] = 96,
        encoder_depths: tuple[int, ...] = (2, 2, 9, 2),
        decoder_depths: tuple[int, ...] = (2, 2, 2, 1),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        block: str = "mkcsa",
        kan_channels: int = 64,
        mlp_ratio: int = 4,
        d_state: int = 16,
        drop_path: float = 0.1,
        spline_basis: str = "bspline",
        shared_kan: bool = True,
        reread_side: bool = False,
        reread_attention_input: bool = False,
        reread_attention_output: bool = False,
        channel_pooling: str = "average_max",
        rotary: str = "2d",
        position_convs: bool = True,
        attention_norm: bool = True,
        skip_at_quarter: bool = False,
        discretization: str = "euler",
        conv_init: str = "uniform",
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        if block not in (*LINEAR_BLOCKS, *SCAN_BLOCKS):
            raise ValueError(unknown("decoder block", block, (*LINEAR_BLOCKS, *SCAN_BLOCKS)))
        if spline_basis not in SPLINE_BASES:
            raise ValueError(unknown("spline basis", spline_basis, SPLINE_BASES))
        if conv_init not in CONV_INITS:
            raise ValueError(unknown("start of convolutions", conv_init, CONV_INITS))
        if len(num_heads) != 4:
            raise ValueError(f"num_heads must be four numbers, finest stage first, got {num_heads}")
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, (STRIDE, STRIDE)
        widths = stage_channels(channels)
        scan: dict[str, Any] = {"d_state": d_state, "discretization": discretization}

        def build(width: int, stage: int, rate: float) -> nn.Module:
            if block == "vss":
                return VSSBlock(width, drop_path=rate, **scan)
            if block == "csa":
                return ScanCSABlock(width, channel_pooling, rate, scan)
            return MKCSABlock(
                width,
                num_heads[-1 - stage],
                block,
                kan_channels=kan_channels,
                kan_options={"grid_size": grid_size, "spline_order": spline_order, "grid_range": grid_range},
                mlp_ratio=mlp_ratio,
                drop_path=rate,
                spline_basis=spline_basis,
                shared_kan=shared_kan,
                reread_side=reread_side,
                reread_attention_input=reread_attention_input,
                reread_attention_output=reread_attention_output,
                channel_pooling=channel_pooling,
                rotary=rotary,
                position_convs=position_convs,
                attention_norm=attention_norm,
            )

        self.encoder = VMambaEncoder(in_channels, widths, encoder_depths, drop_path=drop_path, **scan)
        self.decoder = MirrorDecoder(
            widths, decoder_depths, build, drop_path=drop_path, skip_at_quarter=skip_at_quarter
        )
        self.head = nn.Conv2d(widths[0] // 4, out_channels, 1)
        self.conv_init = conv_init
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw linear layers, and convolutions where asked, from a truncated normal of deviation 0.02."""
        small = (nn.Linear, nn.Conv2d) if self.conv_init == "truncated_normal" else (nn.Linear,)
        for module in self.modules():
            if isinstance(module, small):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a network of some ten thousand parameters for tests."""
        small = {"channels": 8, "encoder_depths": (1, 1, 1, 1), "decoder_depths": (1, 1, 1, 1), "d_state": 4}
        return cls(**{**small, "num_heads": (1, 1, 2, 2), "kan_channels": 8, "drop_path": 0.0, **options})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, H, W)`; H and W must be multiples of 32."""
        self.check_input(x)
        return self.head(self.decoder(*self.encoder(x)))

    def load_pretrained(self, weights: Mapping[str, Any], *, decoder: bool = False) -> Pretrained:
        """Start the encoder from a VMamba trained on ImageNet, as the released code does.

        Args:
            weights: State dict of VMamba-T or VMamba-S in their first version (v0), under either naming of its keys, or
                the checkpoint around it.
            decoder: Start the decoder's scans too; possible with `block="csa"` and `"vss"`.

        Returns:
            How many tensors were taken.

        Raises:
            ValueError: No block matches or a shape differs; nothing is changed then.
        """
        return load_imagenet(self, weights, decoder=decoder)

    def from_released(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a released state dict to ours, whether or not it bears the wrapper's prefix."""
        return super().from_released(
            {_WRAPPER + name if name.startswith(RELEASED_PARTS) else name: tensor for name, tensor in state.items()}
        )
