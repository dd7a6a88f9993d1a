"""What a place to run work offers, and how a user asks for one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kanscan.workflows.engines.work import Ended, Work

#: A cluster's queue is not flooded.
_MOST_QUEUED = 256


@dataclass(frozen=True)
class Place:
    """Where a user wants work to run.

    Attributes:
        on: A key of `kanscan.workflows.engines.catalogue.ENGINES`.
        jobs: Pieces of work at once, each in a process of its own; 0: one after another in this process, and all at
            once in the queue of a cluster.
        gpus: Of this machine: a CUDA device for each process in turn, such as "0" or "1"; none: all processes see all.
        partition: Of Slurm: the partition; "": the cluster's own choice.
        minutes: Of Slurm: time limit of a job; what is not finished then goes on in the next.
        memory_gib: Of a job, on Slurm.
        cpus: Of a job, on Slurm and Ray.
        ray_address: Of a Ray cluster that runs; "": the one of this machine, or a new one.
    """

    on: str = "local"
    jobs: int = 0
    gpus: tuple[str, ...] = ()
    partition: str = ""
    minutes: int = 240
    memory_gib: float = 16
    cpus: int = 2
    ray_address: str = ""

    def __post_init__(self) -> None:
        if self.jobs < 0:
            raise ValueError(f"--jobs must be 1 or more, got {self.jobs}")
        if self.minutes < 1:
            raise ValueError(f"--minutes must be 1 or more, got {self.minutes}")

    @property
    def at_once(self) -> int:
        """Pieces of work that run or queue at once."""
        return self.jobs or len(self.gpus) or (1 if self.on == "local" else _MOST_QUEUED)


class Engine(ABC):
    """Runs pieces of work, several at once; the final classes are listed in `catalogue.ENGINES`."""

    def __init__(self, place: Place, folder: Path) -> None:
        """Get ready.

        Args:
            place: What the user asked for.
            folder: For logs and what else is kept between processes.
        """
        self.place, self.folder = place, folder

    @abstractmethod
    def submit(self, work: Work) -> None:
        """Take a piece of work; it starts at once or when there is room."""

    @abstractmethod
    def wait(self) -> Ended:
        """Return a piece of work that ended; waits for one. Each that was submitted comes back once."""

    @abstractmethod
    def close(self) -> None:
        """Stop what still runs."""


def run_all(
    engine: Engine, works: Sequence[Work], *, retry: int = 0, told: Callable[[Ended, int], None] = lambda e, left: None
) -> list[Ended]:
    """Run work to its end.

    Args:
        engine: Where.
        works: What.
        retry: How often a piece that failed is tried again, unless it would fail alike.
        told: Takes each end, and how many are still to come.

    Returns:
        How each ended, in the order of `works`.
    """
    attempts = dict.fromkeys((work.name for work in works), 0)
    ends: dict[str, Ended] = {}
    for work in works:
        engine.submit(work)
    while len(ends) < len(works):
        ended = engine.wait()
        attempts[ended.work.name] += 1
        if ended.sentence and not ended.is_final and attempts[ended.work.name] <= retry:
            engine.submit(ended.work)
            continue
        ends[ended.work.name] = ended
        told(ended, len(works) - len(ends))
    return [ends[work.name] for work in works]
