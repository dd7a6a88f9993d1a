"""Mathematics on tensors: no parameters, no classes with state. Every op has a `reference` that defines it."""

from __future__ import annotations

from collections.abc import Mapping


def implementations() -> dict[str, list[str]]:
    """List op -> names of its implementations that work here, the one that "auto" takes first."""
    from kanscan.ops import bspline, kaconv, selective_scan

    tables: dict[str, Mapping[str, object]] = {}
    for op in (bspline, kaconv, selective_scan):
        tables |= op.IMPLEMENTATIONS
    absent = absences()
    return {name: [way for way in table if way not in absent] for name, table in tables.items()}


def absences() -> dict[str, str]:
    """Tell why a family of implementations cannot be used here: name -> reason."""
    from kanscan.ops import gpu, native

    reasons = {"triton": gpu.absence(), "cpu": native.ABSENCE}
    return {name: reason for name, reason in reasons.items() if reason is not None}
