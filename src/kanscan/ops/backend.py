"""Which implementations of an op are here, and which one is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

Implementation = TypeVar("Implementation", bound=Callable[..., object])


def choose(op: str, implementations: Mapping[str, Implementation], name: str) -> Implementation:
    """Pick an implementation by name.

    Args:
        op: Name of the op, for the error.
        implementations: Name -> function, the preferred one first.
        name: "auto" for the first, or a name.

    Raises:
        ValueError: There is no such implementation.
    """
    if name == "auto":
        return next(iter(implementations.values()))
    if name not in implementations:
        raise ValueError(f"{op} has no backend {name!r} here; there are auto, {', '.join(implementations)}")
    return implementations[name]
