"""The deterministic weights and inputs under which the LKM-UNet and U-Mamba figures beside this file were computed.

Standard normal numbers come from one PCG64 stream, read in the plain string order of the released keys without their
aliases; the name of a key says how its numbers are shifted and scaled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def is_alias(key: str) -> bool:
    """Tell whether the released code stores this tensor under another name as well."""
    return key.startswith("decoder.encoder.") or ".all_modules." in key


def weights(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
    """Return float64 values for every released key that is no alias."""
    stream = np.random.Generator(np.random.PCG64(seed))
    return {
        key: torch.from_numpy(np.asarray(_scaled(key, stream.standard_normal(tuple(shapes[key])))))
        for key in sorted(shapes)
        if not is_alias(key)
    }


def image(shape: Sequence[int], seed: int) -> Tensor:
    """Return the input that belongs to the weights of `seed`."""
    return _normal(shape, seed + 1)


def cotangent(shape: Sequence[int], seed: int) -> Tensor:
    """Return what the output is multiplied by before it is summed and differentiated."""
    return _normal(shape, seed + 2)


def _normal(shape: Sequence[int], seed: int) -> Tensor:
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape))
    return torch.from_numpy(drawn.astype(np.float32))


def _scaled(key: str, drawn: np.ndarray) -> np.ndarray:
    shape, noise = drawn.shape, drawn / 10
    if key.endswith("A_log"):
        return np.log(np.arange(1, shape[1] + 1)) + noise
    if key.rpartition(".")[2] == "D":
        return 1 + noise
    if key.endswith("dt_proj.bias"):
        return -3 + drawn / 2
    if drawn.ndim == 1:
        return 1 + noise if key.endswith("weight") else noise
    # A transposed convolution keeps its inputs in the first axis.
    fan_in = shape[0] if "transpconvs" in key else int(np.prod(shape[1:]))
    return drawn / np.sqrt(fan_in)
