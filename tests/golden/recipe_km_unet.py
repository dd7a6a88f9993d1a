"""The deterministic weights and images under which the figures of KM-UNet and its baselines were computed.

One PCG64 stream of uniform numbers in [-1, 1) is read in the plain string order of the released keys; the role
of a tensor, told by the end of its key and its rank, decides how the numbers are spread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

#: Constants of the network: nothing is drawn for them.
_KEPT = ("grid", "num_batches_tracked")
#: Projections whose spread follows from their last axis, and how wide they are in units of its Xavier bound.
_PROJECTIONS = {"dt_projs_weight": 0.5, "x_proj_weight": 1.0, "spline_scaler": 1.0}
#: Tensors with a middle and a half-width of their own.
_SPREAD = {
    "running_mean": (0.0, 0.2),
    "running_var": (1.0, 0.5),
    "Ds": (1.0, 0.3),
    "dt_projs_bias": (-3.0, 1.0),
    "spline_weight": (0.0, 0.5),
}


def weights(state: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return float32 values for every released key of `state`."""
    stream = np.random.Generator(np.random.PCG64(seed))
    filled: dict[str, Tensor] = {}
    for key in sorted(state):
        if key.rpartition(".")[2] in _KEPT:
            filled[key] = state[key]
            continue
        drawn = _uniform(stream, tuple(state[key].shape))
        filled[key] = torch.from_numpy(np.asarray(_spread(key, drawn), dtype=np.float32))
    return filled


def image(shape: Sequence[int], seed: int, scale: float = 2.0) -> Tensor:
    """Return float32 uniform noise in [-scale, scale), drawn from a stream of its own."""
    drawn = _uniform(np.random.Generator(np.random.PCG64(seed)), tuple(shape))
    return torch.from_numpy((scale * drawn).astype(np.float32))


def label(shape: Sequence[int], seed: int) -> Tensor:
    """Return the binary label that goes with the weights of `seed`: 1 on about a quarter of the pixels."""
    return (image(shape, seed + 60000) > 1).float()


def _uniform(stream: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (2 * stream.random(math.prod(shape)) - 1).reshape(shape)


def _spread(key: str, drawn: np.ndarray) -> np.ndarray:
    name = key.rpartition(".")[2]
    if name == "A_logs":
        return np.log1p(np.arange(drawn.shape[1])) + drawn / 5
    if name in _SPREAD:
        middle, half = _SPREAD[name]
        return middle + half * drawn
    if name in _PROJECTIONS:
        return _PROJECTIONS[name] * drawn * math.sqrt(3 / drawn.shape[-1])
    if drawn.ndim < 2:
        return 1 + drawn / 5 if name == "weight" else drawn / 10
    gain = 3 if drawn.ndim == 2 else 6
    return drawn * math.sqrt(gain / math.prod(drawn.shape[1:]))
