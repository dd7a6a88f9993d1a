"""A Slurm cluster, through submitit: a job for each piece of work, put into the queue again when its time is up."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from kanscan.workflows.engines.engine import Engine, Place
from kanscan.workflows.engines.work import Ended, Work, attempt

#: Between two looks at the queue.
_PAUSE_SECONDS = 2.0
#: A result that is written on another machine may take so long to be seen here.
_LATE_SECONDS = 30.0
#: How often a job may reach its time limit; content decides what is left, so there is no harm in many.
_MOST_LIMITS = 10_000


class Resumable:
    """A piece of work that may be stopped at any moment and starts again by the same call: all it knows is on disk."""

    def __call__(self, work: Work) -> Ended:
        """Do the work."""
        return attempt(work)

    def checkpoint(self, work: Work) -> Any:
        """Say what the next job does when the time of this one is up: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, work)


class SlurmEngine(Engine):
    """Submits a job for each piece of work; folders must be seen by all machines of the cluster."""

    def __init__(self, place: Place, folder: Path) -> None:
        super().__init__(place, folder)
        if shutil.which("sbatch") is None:
            raise ValueError("--on slurm needs Slurm's commands (sbatch, squeue), which this machine does not have")
        try:
            from submitit import SlurmExecutor
        except ImportError:
            raise ValueError("--on slurm needs submitit: pip install 'kanscan[cluster]'") from None
        self._executor = SlurmExecutor(folder=folder)
        delay = min(90, 15 * place.minutes)
        options = {
            **{"job_name": "kanscan", "time": place.minutes, "mem": f"{round(1024 * place.memory_gib)}M"},
            **{"cpus_per_task": place.cpus, "signal_delay_s": delay, "ntasks_per_node": 1},
            **({"partition": place.partition} if place.partition else {}),
            **({"gpus_per_node": 1} if place.gpus else {}),
        }
        self._executor.update_parameters(**options)
        self._executor.max_num_timeout = _MOST_LIMITS
        self._waiting: list[Work] = []
        self._jobs: dict[str, tuple[Work, Any]] = {}

    def submit(self, work: Work) -> None:
        """Take a piece of work."""
        self._waiting.append(work)
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._jobs) < self.place.at_once:
            work = self._waiting.pop(0)
            job = self._executor.submit(Resumable(), work)
            self._jobs[job.job_id] = (work, job)

    def wait(self) -> Ended:
        """Return the next that ended."""
        gone: dict[str, float] = {}
        while True:
            queued = _in_queue(self._jobs)
            for key, (work, job) in list(self._jobs.items()):
                if job.paths.result_pickle.exists():
                    return self._forget(key, _result(work, job))
                if key in queued:
                    gone.pop(key, None)
                elif time.monotonic() - gone.setdefault(key, time.monotonic()) > _LATE_SECONDS:
                    why = f"job {key} left Slurm's queue without a result; see {job.paths.stderr}"
                    return self._forget(key, Ended(work, why))
            time.sleep(_PAUSE_SECONDS)

    def _forget(self, key: str, ended: Ended) -> Ended:
        del self._jobs[key]
        self._fill()
        return ended

    def close(self) -> None:
        """Cancel what is queued or runs."""
        self._waiting.clear()
        for _, job in self._jobs.values():
            job.cancel(check=False)
        self._jobs.clear()


def _in_queue(jobs: dict[str, Any]) -> set[str]:
    """Ask Slurm which jobs wait or run; accounting, which many clusters have not, is not needed."""
    answer = subprocess.run(["squeue", "--noheader", "--format=%A", "--me"], capture_output=True, text=True)
    # Where the controller does not answer, nothing is known and nothing is given up.
    return set(jobs) if answer.returncode else set(answer.stdout.split())


def _result(work: Work, job: Any) -> Ended:
    try:
        found: Ended = job.result()
        return found
    except Exception as error:
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        return Ended(work, f"{last}; see {job.paths.stderr}")
