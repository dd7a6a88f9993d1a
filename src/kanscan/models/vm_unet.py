"""VM-UNet: Vision Mamba UNet for Medical Image Segmentation (arXiv 2402.02491)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from kanscan.layers.ssm import VSSBlock
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

#: Attribute under which the released wrapper holds the network.
_WRAPPER = "vmunet."


class VMUNet(SegmentationModel):
    """VM-UNet: a U of visual state-space blocks alone, on both sides (Fig. 1).

    The encoder is VMamba's; the decoder mirrors it with patch expanding, skips are added. The default is the network of
    the released configurations, (2, 2, 2, 2) blocks down and (2, 2, 2, 1) up: 27,427,561 parameters with one output.
    Preset "class_default" is what the released class builds by itself: (2, 2, 9, 2) and (2, 9, 2, 2), 44,273,833.

    Args:
        in_channels: Channels of the image. The released network takes three and repeats a gray image.
        out_channels: Channels of the logits; 1 for binary segmentation.
        channels: Width of the first stage, which the others double; or all four widths.
        encoder_depths: VSS blocks of each stage on the way down.
        decoder_depths: VSS blocks of each stage on the way up, deepest first.
        d_state: States of the scans.
        drop_path: Highest rate of stochastic depth, at the bottom of the U.
        skip_at_quarter: Add the skip at a quarter of the size too. Fig. 1 draws it; the released network stores the map
            and never uses it, and its author calls the drawing an error.
        discretization: "euler" (released) or "zoh" (as printed).

    Raises:
        ValueError: An option is not legal.

    Example:
        >>> VMUNet(3, 1, channels=8)(torch.zeros(1, 3, 32, 64)).shape
        torch.Size([1, 1, 32, 64])
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "release": {},
        "class_default": {"encoder_depths": (2, 2, 9, 2), "decoder_depths": (2, 9, 2, 2)},
    }
    released_names: ClassVar[Sequence[tuple[str, str]]] = (
        *VMAMBA_RELEASED_NAMES,
        *VSS_RELEASED_NAMES,
        (r"^", _WRAPPER),
    )

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        channels: int | tuple[int, ...] = 96,
        encoder_depths: tuple[int, ...] = (2, 2, 2, 2),
        decoder_depths: tuple[int, ...] = (2, 2, 2, 1),
        d_state: int = 16,
        drop_path: float = 0.2,
        skip_at_quarter: bool = False,
        discretization: str = "euler",
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, (STRIDE, STRIDE)
        widths = stage_channels(channels)
        scan: dict[str, Any] = {"d_state": d_state, "discretization": discretization}

        def block(width: int, stage: int, rate: float) -> nn.Module:
            return VSSBlock(width, drop_path=rate, **scan)

        self.encoder = VMambaEncoder(in_channels, widths, encoder_depths, drop_path=drop_path, **scan)
        self.decoder = MirrorDecoder(
            widths, decoder_depths, block, drop_path=drop_path, skip_at_quarter=skip_at_quarter
        )
        self.head = nn.Conv2d(widths[0] // 4, out_channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights of linear layers from a truncated normal of deviation 0.02, as released."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build a network of some ten thousand parameters for tests."""
        small = {"channels": 8, "encoder_depths": (1, 1, 1, 1), "decoder_depths": (1, 1, 1, 1), "d_state": 4}
        return cls(**{**small, "drop_path": 0.0, **options})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, H, W)`; H and W must be multiples of 32."""
        self.check_input(x)
        return self.head(self.decoder(*self.encoder(x)))

    def load_pretrained(self, weights: Mapping[str, Any], *, decoder: bool = True) -> Pretrained:
        """Start from a VMamba trained on ImageNet, as the paper does.

        Args:
            weights: State dict of VMamba-T or VMamba-S in their first version (v0), under either naming of its keys, or
                the checkpoint around it.
            decoder: Start the decoder's blocks from the same weights too (released).

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
