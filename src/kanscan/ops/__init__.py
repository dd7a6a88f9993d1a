"""Mathematics on tensors: no parameters, no classes with state. Every op has a `reference` that defines it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from kanscan.ops import bspline, kaconv, selective_scan
from kanscan.ops.dispatch import Backend, asking

__all__ = ["OPS", "absences", "backend", "implementations"]

#: Op -> its backends, the preferred one first.
OPS: Mapping[str, Mapping[str, Backend[Any]]] = {**bspline.BACKENDS, **kaconv.BACKENDS, **selective_scan.BACKENDS}


def implementations() -> dict[str, list[str]]:
    """List op -> names of its backends that work here, the one that "auto" takes first."""
    absent = absences()
    return {op: [name for name in table if name not in absent] for op, table in OPS.items()}


def absences() -> dict[str, str]:
    """Tell why a backend cannot be used here: name -> reason."""
    rows = {name: row.absence() for table in OPS.values() for name, row in table.items() if row.absence is not None}
    return {name: reason for name, reason in rows.items() if reason is not None}


def backend(name: str) -> AbstractContextManager[None]:
    """Let every op, and so every layer, be computed by one backend inside a `with`, in all threads.

    An op that has no backend of this name takes what it would take anyway, and a call that names one keeps it. An op
    that has it but cannot serve a call by it refuses that call.

    Args:
        name: "triton", "cpu", "torch", "reference", or "auto" for the first that can serve.

    Raises:
        ValueError: No op has a backend of this name.

    Example:
        >>> from kanscan.layers.kan import KANLinear
        >>> with backend("reference"):
        ...     y = KANLinear(4, 2)(torch.zeros(3, 4))
    """
    names = ["auto", *dict.fromkeys(name for table in OPS.values() for name in table)]
    if name not in names:
        raise ValueError(f"no op has a backend {name!r}; there are {', '.join(names)}")
    return asking(name)
