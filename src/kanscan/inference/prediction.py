"""What a predictor is, and what it says about one image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from kanscan.inference.network import Network
from kanscan.inference.windows import Progress
from kanscan.metrics.logits import num_classes

Image = TypeVar("Image", contravariant=True)


@dataclass(frozen=True)
class Prediction:
    """What the network says about one image.

    Attributes:
        label: Class indices uint8 in the image's own grid: `(H, W)`, of a volume `(I, J, K)`.
        probabilities: `(K, *S)` float32 in that grid, background first; they sum to one over K, which is 2 for a binary
            task. Scaled by the predictor's temperature, which the label is not. None where they were not asked for.
        network_label: Class indices uint8 in the grid that the papers take their scores in: of pictures the network's,
            of volumes their own.
    """

    label: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None
    network_label: NDArray[np.uint8]


class Predictor(ABC, Generic[Image]):
    """Image in, label map out: all that was done to images in training, and the way back.

    Args:
        network: Maps arrays to logits.
        class_names: One a class, background first; two for a network with one logit.
        flips: Average over the mirrorings of the image.

    Raises:
        ValueError: The network's logits and the class names do not fit.
    """

    #: (height, width) that the network sees, or None where it depends on the image.
    image_size: tuple[int, int] | None = None

    def __init__(self, network: Network, class_names: Sequence[str], flips: bool) -> None:
        expected = num_classes(network.out_channels)
        if len(class_names) != expected:
            raise ValueError(
                f"a network with {network.out_channels} output channel{'s' * (network.out_channels > 1)} tells "
                f"{expected} classes apart, got {len(class_names)} names: {', '.join(class_names)}"
            )
        self.network = network
        self.class_names = tuple(class_names)
        self.flips = flips
        #: Divides the logits that probabilities are made of; classes are chosen without it, so labels never change.
        self.temperature = 1.0

    @property
    @abstractmethod
    def takes(self) -> object:
        """What decides how images reach the network; equal for predictors whose networks can be compared."""

    def scaled(self, temperature: float) -> Self:
        """Divide the logits that probabilities are made of by `temperature`, above 0, from now on."""
        self.temperature = temperature
        return self

    @abstractmethod
    def __call__(self, image: Image, *, probabilities: bool = False, progress: Progress | None = None) -> Prediction:
        """Predict one image.

        Args:
            image: Picture or volume, as its reader gives it.
            probabilities: Return them too.
            progress: Told how many parts of how many are done; what it raises stops the work.

        Raises:
            ValueError: The image does not suit the network.
        """

    @abstractmethod
    def scored_label(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring a reference to the grid of `Prediction.network_label`."""
