"""A dict that answers a wrong name with the nearest right ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NoReturn, TypeVar

Value = TypeVar("Value")


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """Return the known names that look most like `name`, best first."""
    names = sorted(known)
    # Substrings first: "kan" should find "ukan" although the edit distance to "vm_unet" is not much larger.
    inside = [n for n in names if name and (name.lower() in n.lower() or n.lower() in name.lower())]
    close = difflib.get_close_matches(name, names, n=most, cutoff=0.5)
    return list(dict.fromkeys(close + inside))[:most]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Write the sentence that tells a user which names exist.

    Args:
        kind: What the name should have been, in the singular ("model", "recipe key").
        name: What came.
        known: The names that would have been right.
    """
    names = sorted(known)
    close = nearest(name, names)
    hint = f"did you mean {' or '.join(repr(n) for n in close)}? " if close else ""
    return f"unknown {kind} {name!r}: {hint}known are {', '.join(names) or 'none'}"


class Registry(dict[str, Value]):
    """A catalogue by name; entries are plain dict items, so outsiders add theirs by assignment.

    Example:
        >>> colors = Registry("color", {"red": 1})
        >>> colors["red"]
        1
    """

    def __init__(self, kind: str, entries: dict[str, Value] | None = None) -> None:
        super().__init__(entries or {})
        self.kind = kind

    def __missing__(self, name: str) -> NoReturn:
        raise ValueError(unknown(self.kind, name, self))
