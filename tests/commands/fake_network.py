"""A network without training: what is bright is foreground."""

import torch

from kanscan.models.base import SegmentationModel


class Brightness(SegmentationModel):
    """Logits that follow the brightness of each pixel; with several channels, one class a brightness band.

    Takes images normalized to 0..1 (normalization "unit").
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 1, stride: int = 8, shift: float = 0.0) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride = (stride, stride)
        #: Lets a test make a worse or better one; saved with the weights.
        self.shift = torch.nn.Parameter(torch.tensor(shift))

    @classmethod
    def tiny(cls, **options):
        return cls(**options)

    def forward(self, x):
        self.check_input(x)
        brightness = x.mean(1, keepdim=True) + self.shift
        if self.out_channels == 1:
            return 40 * (brightness - 0.5)
        centers = torch.linspace(0, 1, self.out_channels, device=x.device).view(1, -1, 1, 1)
        return -100 * (brightness - centers) ** 2
