"""PicturePredictor: a picture of any size becomes a label map of that size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from kanscan.data.pictures.resizing import resize_image
from kanscan.data.pictures.transforms import Preprocessing
from kanscan.inference.network import Network, finite
from kanscan.inference.prediction import Prediction, Predictor
from kanscan.inference.windows import Progress
from kanscan.metrics.logits import legal_size, likeliest, pad_to, probabilities


class PicturePredictor(Predictor[NDArray]):
    """Picture in, label map out: channels, size, normalization, flips and the way back to the original grid.

    With a fixed image size the picture is resized to it, and the probabilities are resized back bilinearly before a
    class is chosen. Without one the picture keeps its size: it is padded at the bottom and right with repeated border
    pixels up to the next multiple of the network's stride, and the result is cropped back.

    Args:
        network: Maps arrays to logits, such as a `TorchNetwork` or an `OnnxNetwork`.
        preprocessing: As in training.
        class_names: One a class, background first; two for a network with one logit.
        flips: Average the probabilities over the four flips of the picture.

    Raises:
        ValueError: The channels of network and preprocessing, or its logits and the class names, do not fit.

    Example:
        >>> from kanscan.inference.torch_network import TorchNetwork
        >>> from kanscan.models import create_model
        >>> network = TorchNetwork(create_model("ukan", preset="small"))
        >>> predictor = PicturePredictor(network, Preprocessing(image_size=(64, 64)), ("background", "lesion"))
        >>> predictor(np.zeros((50, 70, 3), np.uint8)).label.shape
        (50, 70)
    """

    def __init__(
        self,
        network: Network,
        preprocessing: Preprocessing,
        class_names: Sequence[str],
        *,
        flips: bool = False,
    ) -> None:
        if preprocessing.channels != network.in_channels:
            raise ValueError(
                f"the preprocessing gives {preprocessing.channels} channels, the network takes {network.in_channels}"
            )
        if network.spatial_dims != 2:
            raise ValueError(f"a predictor of pictures needs a 2D network, got one for {network.spatial_dims}D images")
        super().__init__(network, class_names, flips)
        self.preprocessing = preprocessing
        self.image_size = preprocessing.image_size

    def __call__(self, image: NDArray, *, probabilities: bool = True, progress: Progress | None = None) -> Prediction:
        """Predict one picture.

        Args:
            image: `(H, W)` or `(H, W, C)`, as `kanscan.data.pictures.files.read_image` gives it.
            probabilities: They cost nothing more and come in any case.
            progress: Told once, at the end: pictures are seen whole.

        Raises:
            ValueError: The picture has NaN or a channel count that cannot be served.
        """
        found = next(self.stream([image]))
        if progress is not None:
            progress(1, 1)
        return found

    @property
    def takes(self) -> Preprocessing:
        """What is done to pictures before the network sees them."""
        return self.preprocessing

    def scored_label(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring a reference to the grid the network works on."""
        return self.preprocessing.prepare_label(label)

    def stream(self, images: Iterable[NDArray], *, batch_size: int = 8) -> Iterator[Prediction]:
        """Predict many pictures, in their order; only one batch is held in memory.

        Args:
            images: As for a single call; sizes may differ.
            batch_size: Pictures that go through the network together.
        """
        source = iter(images)
        while batch := list(islice(source, batch_size)):
            prepared = [self.prepare(image) for image in batch]
            for image, answer in zip(batch, self._run(prepared), strict=True):
                yield self._finish(answer, (int(image.shape[0]), int(image.shape[1])))

    def prepare(self, image: NDArray) -> NDArray[np.float32]:
        """Check a picture and bring it to what the network takes, `(C, h, w)`.

        Raises:
            ValueError: As in a call.
        """
        if image.ndim not in (2, 3) or 0 in image.shape:
            raise ValueError(f"expected an image (height, width) or (height, width, channels), got shape {image.shape}")
        if np.issubdtype(image.dtype, np.floating) and not np.isfinite(image).all():
            bad = int(image.size - np.isfinite(image).sum())
            raise ValueError(
                f"the image contains NaN or infinite values ({bad} of {image.size}); repair or leave it out"
            )
        channels = 1 if image.ndim == 2 else image.shape[-1]
        wanted = self.preprocessing.channels
        # Grey is repeated, color averaged; anything else would be a guess.
        if channels not in (1, wanted) and (channels, wanted) != (3, 1):
            raise ValueError(
                f"the image has {channels} channels, the network takes {wanted}; arrays are (height, width, channels)"
            )
        return self._padded(self.preprocessing(image))

    def _padded(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.preprocessing.image_size is not None:
            return x
        return pad_to(x, legal_size(x.shape[-2:], self.network.stride))

    def _run(self, prepared: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return `(K, h, w)` probabilities of each picture; pictures of one size go through together.

        With a temperature those scaled by it follow: `(2 K, h, w)`.
        """
        results: dict[int, NDArray[np.float32]] = {}
        for shape in {x.shape for x in prepared}:
            places = [i for i, x in enumerate(prepared) if x.shape == shape]
            answers = self._probabilities(np.stack([prepared[i] for i in places]))
            results.update(zip(places, answers, strict=True))
        return [results[i] for i in range(len(prepared))]

    def _probabilities(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        flips: list[tuple[int, ...]] = [(), (-1,), (-2,), (-2, -1)] if self.flips else [()]
        seen = (self._of_logits(finite(self.network(np.ascontiguousarray(np.flip(x, axes))))) for axes in flips)
        return np.stack([np.flip(one, axes) for one, axes in zip(seen, flips, strict=True)]).mean(0)

    def _of_logits(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        plain = probabilities(logits)
        if self.temperature == 1:
            return plain
        return np.concatenate([plain, probabilities(logits / np.float32(self.temperature))], axis=1)

    def _finish(self, answer: NDArray[np.float32], size: tuple[int, int]) -> Prediction:
        if self.preprocessing.image_size is None:
            answer = full = answer[:, : size[0], : size[1]]
        else:
            full = answer if answer.shape[1:] == size else resize_image(answer, size)
        classes = len(self.class_names)
        return Prediction(
            label=likeliest(full[:classes], axis=0).astype(np.uint8),
            probabilities=np.ascontiguousarray(full[-classes:]),
            network_label=likeliest(answer[:classes], axis=0).astype(np.uint8),
        )
