"""The deterministic weights and inputs under which the VM-UNet and VMKLA-UNet figures beside this file were computed.

Standard normal numbers come from one PCG64 stream, read in the plain string order of the released keys; the name of a
key says how its numbers are shifted and scaled.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

#: Constants of the network: they keep the values they were built with and take nothing from the stream.
_KEPT = ("grid", "num_batches_tracked")
#: Centers and widths of what is drawn around a value of its own.
_AROUND = {
    "Ds": (1.0, 0.1),
    "dt_projs_bias": (-3.0, 0.5),
    "spline_scaler": (1.0, 0.1),
    "running_mean": (0.0, 0.1),
}


def weights(state: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return float32 values for every released key of `state`."""
    stream = np.random.Generator(np.random.PCG64(seed))
    filled: dict[str, Tensor] = {}
    for key in sorted(state):
        if key.rpartition(".")[2] in _KEPT:
            filled[key] = state[key]
            continue
        drawn = stream.standard_normal(tuple(state[key].shape))
        filled[key] = torch.from_numpy(np.asarray(_scaled(key, drawn), dtype=np.float32))
    return filled


def image(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Tensor:
    """Return an input, or (weight seed + 20000) what the output is multiplied by before its mean is taken."""
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape) * scale
    return torch.from_numpy(drawn.astype(np.float32))


def _scaled(key: str, drawn: np.ndarray) -> np.ndarray:
    name, shape = key.rpartition(".")[2], drawn.shape
    if name in _AROUND:
        center, width = _AROUND[name]
        return center + width * drawn
    match name:
        case "A_logs":
            return np.log(np.arange(1, shape[-1] + 1)) + drawn / 10
        case "x_proj_weight" | "dt_projs_weight":
            return drawn / np.sqrt(shape[-1])
        case "spline_weight":
            return drawn / (50 * np.sqrt(shape[1]))
        case "running_var":
            return 1 + np.abs(drawn) / 10
    if drawn.ndim == 1:
        return 1 + drawn / 10 if name == "weight" else drawn / 10
    return drawn / np.sqrt(np.prod(shape[1:]))
