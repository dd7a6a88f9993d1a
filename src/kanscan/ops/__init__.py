"""Mathematics on tensors: no parameters, no classes with state. Every op has a `reference` that defines it."""

from __future__ import annotations


def implementations() -> dict[str, list[str]]:
    """List op -> names of its implementations here, the one that "auto" takes first."""
    from kanscan.ops import bspline

    return {op: list(table) for op, table in bspline.IMPLEMENTATIONS.items()}
