"""Which implementations of an op are here, and which one is taken."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Implementation = TypeVar("Implementation", bound=Callable[..., object])

#: Implementations whose op only exists where kanscan is installed.
COMPILED = ("triton", "cpu")
_LOG = logging.getLogger("kanscan")
_said: set[tuple[str, str]] = set()


def choose(
    op: str,
    implementations: Mapping[str, Implementation],
    name: str,
    refusals: Mapping[str, str | None] | None = None,
) -> Implementation:
    """Pick an implementation by name.

    Args:
        op: Name of the op, for the error.
        implementations: Name -> function, the preferred one first.
        name: "auto" for the first that can serve this call, or a name. A graph that is being exported takes no compiled
            kernel by itself, so that it runs where kanscan is not.
        refusals: Name -> why this implementation cannot serve this call, or None.

    Raises:
        ValueError: There is no such implementation, or it cannot serve this call.
    """
    refusals = refusals or {}
    if name == "auto":
        exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()
        for candidate, implementation in implementations.items():
            if refusals.get(candidate) is None and not (exporting and candidate in COMPILED):
                _say(op, candidate)
                return implementation
    if name not in implementations:
        raise ValueError(f"{op} has no backend {name!r} here; there are auto, {', '.join(implementations)}")
    reason = refusals.get(name)
    if reason is not None:
        raise ValueError(f"{op}: backend {name!r} cannot be used: {reason}; backend 'auto' takes what can")
    return implementations[name]


def _say(op: str, name: str) -> None:
    if torch.compiler.is_compiling() or (op, name) in _said:
        return
    _said.add((op, name))
    _LOG.info("%s is computed by backend %s", op, name)
