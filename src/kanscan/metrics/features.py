"""What pictures are compared by: features of a network that is given as a file, or of a small built-in one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

#: Channels of the built-in filters, level by level; each level sees twice as much of the picture.
_WIDTHS = (16, 32, 64)


@dataclass(frozen=True)
class FeatureNet:
    """Pictures in, features out.

    Attributes:
        about: What it is, for the report.
        relative: Its distances compare sets of pictures with one another, never with printed figures.
        network: The TorchScript module, or None for the built-in filters.
        device: Where it computes.
    """

    about: str
    relative: bool
    network: torch.jit.ScriptModule | None
    device: torch.device

    @torch.inference_mode()
    def __call__(
        self, pictures: NDArray[np.uint8], *, batch_size: int = 64
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Compute features `(N, D)` and, where the network gives them, class probabilities `(N, K)`.

        Args:
            pictures: `(N, C, H, W)`; grey is repeated.
            batch_size: Pictures at a time.

        Raises:
            ValueError: The network cannot take the pictures or gives something else.
        """
        features, probabilities = [], []
        for start in range(0, len(pictures), batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(pictures[start : start + batch_size])).to(self.device)
            batch = batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch
            found, classes = (filter_responses(batch), None) if self.network is None else self._asked(batch)
            features.append(found.double().cpu().numpy())
            if classes is not None:
                probabilities.append(classes.double().cpu().numpy())
        return np.concatenate(features), np.concatenate(probabilities) if probabilities else None

    def _asked(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        assert self.network is not None
        try:
            if "return_features" in _arguments(self.network):
                return self.network(batch, return_features=True).flatten(1), self.network(batch)
            answer = self.network(batch)
        except (RuntimeError, torch.jit.Error) as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"the feature network cannot take pictures of shape {tuple(batch.shape)} uint8: {reason}"
            ) from None
        features, classes = answer if isinstance(answer, tuple | list) else (answer, None)
        if not isinstance(features, Tensor) or len(features) != len(batch):
            raise ValueError("the feature network must give (pictures, features), alone or with class logits after it")
        return features.flatten(1), None if classes is None else classes.softmax(1)


def built_in(device: torch.device | str = "cpu") -> FeatureNet:
    """Return the built-in features: responses of fixed random filters at three scales.

    Random filters need no data and no training, so they are the same for every data set and every version of a run;
    a network trained on the data at hand would favor what it was trained on. They see color, edges and texture, not
    what a picture means.
    """
    about = (
        f"built-in: means of {sum(_WIDTHS)} fixed random convolutions at three scales, in units of their deviation "
        "among the pictures learned from; for comparing sets of pictures with one another only, not with printed FID "
        "figures"
    )
    return FeatureNet(about, True, None, torch.device(device))


def load_features(path: str | Path, device: torch.device | str = "cpu") -> FeatureNet:
    """Load a feature network from a TorchScript file; nothing is ever downloaded.

    It takes pictures `(B, 3, H, W)` uint8 and brings them to its size and scale itself. It gives features `(B, D)`,
    or (features, class logits); or it has an argument `return_features` and gives class probabilities without it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no TorchScript file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no feature network at {path}; expected a TorchScript file (.pt)")
    try:
        network = torch.jit.load(str(path), map_location=torch.device(device)).eval()
    except RuntimeError:
        raise ValueError(f"{path} is no TorchScript file; save the feature network with torch.jit.save") from None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return FeatureNet(f"{path.name}, SHA-256 {digest[:16]}", False, network, torch.device(device))


def _arguments(network: torch.jit.ScriptModule) -> list[str]:
    try:
        return [argument.name for argument in getattr(network.forward, "schema").arguments]  # noqa: B009
    except (AttributeError, RuntimeError):
        return []


def filter_responses(pictures: Tensor) -> Tensor:
    """Return the mean response `(B, 112)` of the built-in filters to pictures `(B, 3, H, W)` uint8."""
    x = pictures.float() / 127.5 - 1
    means = []
    for level, weight in enumerate(_filters()):
        if level and min(x.shape[-2:]) >= 2:
            x = F.avg_pool2d(x, 2)
        x = F.relu(F.conv2d(x, weight.to(x), padding=1))
        means.append(x.mean((2, 3)))
    return torch.cat(means, dim=1)


def _filters() -> list[Tensor]:
    stream, before, filters = np.random.Generator(np.random.PCG64(20240605)), 3, []
    for width in _WIDTHS:
        drawn = stream.standard_normal((width, before, 3, 3)) * np.sqrt(2 / (9 * before))
        filters.append(torch.from_numpy(drawn.astype(np.float32)))
        before = width
    return filters
