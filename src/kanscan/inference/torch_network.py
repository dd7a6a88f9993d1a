"""TorchNetwork: a model of the catalogue as predictors call it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from kanscan.models.base import SegmentationModel


class TorchNetwork:
    """A torch model that takes and gives arrays; see `kanscan.inference.network.Network`.

    Args:
        model: Put into evaluation mode.
        device: "cpu", "cuda", "cuda:1", "mps".
    """

    def __init__(self, model: SegmentationModel, device: str | torch.device = "cpu") -> None:
        self.model = model.to(device).eval()
        self.device = str(device)
        self.in_channels, self.out_channels = model.in_channels, model.out_channels
        self.spatial_dims, self.stride = model.spatial_dims, tuple(model.stride)

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits `(B, out_channels, *S)` of images `(B, in_channels, *S)`."""
        with torch.inference_mode():
            logits: NDArray[np.float32] = self.model(torch.from_numpy(x).to(self.device)).float().cpu().numpy()
        return logits
