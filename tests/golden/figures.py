"""Reading the figures beside this file, and comparing with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent


class Figures(dict[str, Any]):
    """Arrays of one file as tensors (float64 where they are floating), and its `meta`."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as content:
            self.meta: dict[str, Any] = json.loads(str(content["meta"])) if "meta" in content.files else {}
            super().__init__({name: _tensor(content[name]) for name in content.files if name != "meta"})


def _tensor(array: np.ndarray) -> Any:
    if array.dtype.kind in "US":
        return [str(item) for item in array]
    return torch.from_numpy(array.astype(np.float64) if array.dtype.kind == "f" else array)


def figures(family: str, name: str) -> Figures:
    """Read `tests/golden/<family>/<name>.npz`."""
    return Figures(HERE / family / f"{name}.npz")


def gradient_norms(module: torch.nn.Module) -> dict[str, float]:
    """Return the L2 norm of every parameter's gradient; -1 where there is none."""
    return {name: -1.0 if p.grad is None else float(p.grad.double().norm()) for name, p in module.named_parameters()}


def assert_close(ours: Tensor, golden: Tensor, tolerance: float) -> None:
    """Demand that the largest absolute difference stays below `tolerance`; NaN never passes."""
    assert ours.shape == golden.shape, f"shape {tuple(ours.shape)}, golden {tuple(golden.shape)}"
    difference = float((ours.detach().double() - golden.double()).abs().max())
    assert difference <= tolerance, f"largest difference {difference:.3g}, tolerance {tolerance:.3g}"
