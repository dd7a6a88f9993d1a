"""The Triton kernels: whether they can be used, and on which tensors.

They need the package `triton`, which torch brings along where it is built for CUDA, and a CUDA device. Nothing here
imports it: a kernel is imported when the first tensor asks for it. `TRITON_INTERPRET=1` in the environment lets Triton
interpret its kernels, so that they can be checked without a device; nobody would choose that for its speed, so "auto"
does not. `KANSCAN_TRITON=none` in the environment leaves the kernels unused.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

VARIABLE = "KANSCAN_TRITON"


def _absence(wanted: str) -> str | None:
    if wanted == "none":
        return f"the environment says {VARIABLE}=none"
    if find_spec("triton") is None:
        return "the package triton is not installed; torch brings it along where it is built for CUDA"
    return None


# Settled at import, as that of the compiled kernels: a graph that is being traced can read a constant.
#: Why the Triton kernels cannot be used here whatever the tensors, or None if they can.
ABSENCE = _absence(os.environ.get(VARIABLE, ""))


def interpreting() -> bool:
    """Tell whether Triton is told to interpret its kernels instead of compiling them."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def refusal(*tensors: Tensor, asked: bool) -> str | None:
    """Return why the kernels cannot compute on these tensors, or None if they can.

    Args:
        *tensors: The input first.
        asked: Whether the kernels were asked for by name; only then they are interpreted.
    """
    if ABSENCE is not None:
        return f"the Triton kernels are absent: {ABSENCE}"
    kind = tensors[0].device.type
    if kind != "cuda" and not (asked and kind == "cpu" and interpreting()):
        return f"the kernel computes on a CUDA device, and the input is on {kind}"
    if any(t.dtype == torch.float64 for t in tensors):
        return "the kernel computes in float32, and float64 was asked for"
    return None


def absence() -> str | None:
    """Tell why "auto" can take no Triton kernel here, or None if it can."""
    if ABSENCE is not None:
        return ABSENCE
    if interpreting():
        return "kernels are interpreted here (TRITON_INTERPRET), and taken only where asked for by name"
    return None if torch.cuda.is_available() else "torch sees no CUDA device"
