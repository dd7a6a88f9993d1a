"""Where work can run, by the name a user gives; each engine loads what it needs when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kanscan.registry import Registry
from kanscan.workflows.engines.engine import Engine, Place


def _local(place: Place, folder: Path) -> Engine:
    from kanscan.workflows.engines.here import HereEngine
    from kanscan.workflows.engines.local import LocalEngine

    return LocalEngine(place, folder) if place.jobs or place.gpus else HereEngine(place, folder)


def _slurm(place: Place, folder: Path) -> Engine:
    from kanscan.workflows.engines.slurm import SlurmEngine

    return SlurmEngine(place, folder)


def _ray(place: Place, folder: Path) -> Engine:
    from kanscan.workflows.engines.ray_cluster import RayEngine

    return RayEngine(place, folder)


#: Places by name.
ENGINES: Registry[Callable[[Place, Path], Engine]] = Registry(
    "place to run (--on)", {"local": _local, "slurm": _slurm, "ray": _ray}
)
