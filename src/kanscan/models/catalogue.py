"""The catalogue of networks, open to others: by assignment in a Python script, or by an entry point of a package."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from kanscan.models.base import Network
from kanscan.registry import Registry, unknown

#: Packages name their networks here: `[project.entry-points."kanscan.models"]`, then `mine = "my_package:Mine"`.
GROUP = "kanscan.models"


class Catalogue(Registry[type[Network]]):
    """Networks by name; those of other installed packages are loaded when they are asked for.

    Only what is installed is ever loaded: a recipe or a run names a network, never code.
    """

    def __missing__(self, name: str) -> type[Network]:  # type: ignore[override]
        points = _entry_points()
        if name not in points:
            raise ValueError(unknown(self.kind, name, {*self, *points}))
        self[name] = _load(points[name])
        return self[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a network, or `default` where there is none of that name."""
        return self[name] if name in self or name in _entry_points() else default

    def discover(self) -> list[str]:
        """Load the networks of all installed packages.

        Returns:
            A sentence for each that cannot be loaded.
        """
        problems = []
        for name in _entry_points():
            try:
                self[name]
            except ValueError as error:
                problems.append(str(error))
        return problems


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(point: EntryPoint) -> type[Network]:
    package = point.dist.name if point.dist is not None else "an installed package"
    where = f"network {point.name!r} of {package} ({point.value})"
    try:
        cls = point.load()
    except Exception as error:  # whatever another package raises while it is imported
        raise ValueError(
            f"{where} cannot be loaded: {type(error).__name__}: {error}; mend or remove {package}"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Network)):
        raise ValueError(f"{where} is no network: it must inherit from kanscan.models.base.SegmentationModel")
    return cls
