"""What a predictor asks of a network: arrays in, logits out. What computes them is the network's own matter."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Network(Protocol):
    """A network that maps images to logits, as arrays.

    Attributes:
        in_channels: Channels of the images.
        out_channels: Channels of the logits: 1 for binary tasks, one per class (background included) otherwise.
        spatial_dims: 2 or 3.
        stride: Every spatial size is a multiple of it, one number per axis.
        device: Where it computes, such as "cpu" or "cuda:1".
    """

    in_channels: int
    out_channels: int
    spatial_dims: int
    stride: tuple[int, ...]
    device: str

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits `(B, out_channels, *S)` of images `(B, in_channels, *S)`."""
        ...


def finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give logits back.

    Raises:
        ValueError: There is NaN or infinity among them.
    """
    if not np.isfinite(logits).all():
        raise ValueError(
            "the network answered with NaN; its weights are damaged or the normalization is not the one of training"
        )
    return logits
