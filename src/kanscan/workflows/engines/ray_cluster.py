"""A Ray cluster: a task for each piece of work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kanscan.workflows.engines.engine import Engine, Place
from kanscan.workflows.engines.work import Ended, Work, attempt


class RayEngine(Engine):
    """Submits a task for each piece of work; folders must be seen by all machines of the cluster."""

    def __init__(self, place: Place, folder: Path) -> None:
        super().__init__(place, folder)
        try:
            import ray
        except ImportError:
            raise ValueError("--on ray needs Ray: pip install 'kanscan[ray]'") from None
        self._ray = ray
        if not ray.is_initialized():
            # Without an address Ray starts a cluster of its own on this machine, as large as asked for.
            own = {"num_cpus": place.jobs * place.cpus} if place.jobs else {}
            where: dict[str, Any] = {"address": place.ray_address} if place.ray_address else own
            try:
                ray.init(log_to_driver=False, include_dashboard=False, **where)
            except ConnectionError as error:
                raise ValueError(f"no Ray cluster answers at {place.ray_address}: {error}") from None
        # A dead worker is told and tried again by whoever submitted, with a bound; not by Ray in silence.
        options: dict[str, Any] = {"num_cpus": place.cpus, "max_retries": 0, "max_calls": 1}
        if place.gpus:
            options["num_gpus"] = 1
        self._remote = ray.remote(**options)(attempt)
        self._waiting: list[Work] = []
        self._tasks: dict[Any, Work] = {}

    def submit(self, work: Work) -> None:
        """Take a piece of work."""
        self._waiting.append(work)
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._tasks) < self.place.at_once:
            work = self._waiting.pop(0)
            self._tasks[self._remote.remote(work)] = work

    def wait(self) -> Ended:
        """Return the next that ended."""
        (first, *_), _ = self._ray.wait(list(self._tasks), num_returns=1)
        work = self._tasks.pop(first)
        self._fill()
        try:
            found: Ended = self._ray.get(first)
            return found
        except self._ray.exceptions.RayError as error:
            text = str(error).strip().splitlines() or [""]
            return Ended(work, f"its Ray worker was lost ({type(error).__name__}: {text[0]})")

    def close(self) -> None:
        """Cancel what still runs."""
        self._waiting.clear()
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._tasks.clear()
