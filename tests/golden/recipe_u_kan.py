"""The deterministic weights under which the U-KAN figures beside this file were computed.

One PCG64 stream is read in the plain string order of the released keys; what a number means follows from its key.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

#: Constants of the network: they keep the values they were built with and take nothing from the stream.
_KEPT = ("grid", "num_batches_tracked", "time_embedding.timembedding.0.weight")


def weights(state: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return float32 values for every released key of `state`."""
    stream = np.random.Generator(np.random.PCG64(seed))
    filled: dict[str, Tensor] = {}
    for key in sorted(state):
        if key.endswith(_KEPT):
            filled[key] = state[key]
            continue
        drawn = stream.standard_normal(tuple(state[key].shape))
        filled[key] = torch.from_numpy(np.asarray(_scaled(key, drawn), dtype=np.float32))
    return filled


def _scaled(key: str, drawn: np.ndarray) -> np.ndarray:
    name = key.rpartition(".")[2]
    match name:
        case "running_var":
            return np.exp(drawn / 4)
        case "running_mean":
            return drawn / 5
        case "spline_weight":
            return drawn / 2
        case "base_weight" | "spline_scaler":
            return drawn / np.sqrt(drawn.shape[1])
    if drawn.ndim > 1:
        return drawn * np.sqrt(2 / np.prod(drawn.shape[1:]))
    return 1 + drawn / 10 if name == "weight" else drawn / 10
