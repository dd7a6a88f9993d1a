"""Processes of this machine, a few at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kanscan.files import write_text
from kanscan.workflows.engines.engine import Engine, Place
from kanscan.workflows.engines.work import Ended, Work

#: Between two looks at the processes.
_PAUSE_SECONDS = 0.1
#: A process that was asked to stop may finish its batch for so long.
_GRACE_SECONDS = 20.0


@dataclass
class _Running:
    work: Work
    process: subprocess.Popen[bytes]
    answer: Path
    log: Path
    gpu: str | None


class LocalEngine(Engine):
    """Starts a process for each piece of work, so that one that dies takes nothing else with it."""

    def __init__(self, place: Place, folder: Path) -> None:
        super().__init__(place, folder)
        self._waiting: deque[Work] = deque()
        self._running: list[_Running] = []
        self._gpus = deque(place.gpus)

    def submit(self, work: Work) -> None:
        """Take a piece of work."""
        self._waiting.append(work)
        self._fill()

    def wait(self) -> Ended:
        """Return the next that ended."""
        while True:
            for one in self._running:
                if one.process.poll() is not None:
                    self._running.remove(one)
                    if one.gpu is not None:
                        self._gpus.append(one.gpu)
                    self._fill()
                    return _outcome(one)
            time.sleep(_PAUSE_SECONDS)

    def close(self) -> None:
        """Ask what still runs to stop, as Ctrl-C does, and wait for it."""
        self._waiting.clear()
        for one in self._running:
            with suppress(OSError):
                one.process.send_signal(signal.SIGTERM)
        for one in self._running:
            try:
                one.process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                one.process.kill()
        self._running.clear()

    def _fill(self) -> None:
        room = min(self.place.at_once, len(self.place.gpus) or self.place.at_once)
        while self._waiting and len(self._running) < room:
            self._running.append(self._start(self._waiting.popleft()))

    def _start(self, work: Work) -> _Running:
        self.folder.mkdir(parents=True, exist_ok=True)
        order, answer = (self.folder / f"{work.name}.{end}.json" for end in ("order", "answer"))
        log = self.folder / f"{work.name}.log"
        answer.unlink(missing_ok=True)
        write_text(order, work.to_json())
        gpu = self._gpus.popleft() if self._gpus else None
        environment = dict(os.environ)
        # All processes together shall not ask for more threads than there are cores.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.place.at_once)))
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        command = [sys.executable, "-m", "kanscan.workflows.engines.work", str(order), str(answer)]
        with log.open("ab") as file:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
        return _Running(work, process, answer, log, gpu)


def _outcome(one: _Running) -> Ended:
    code = one.process.returncode
    if code == 0 and one.answer.is_file():
        return Ended(one.work, **json.loads(one.answer.read_text(encoding="utf-8")))
    if code < 0:
        name = signal.Signals(-code).name
        why = f"killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    else:
        why = f"ended with exit code {code}"
    return Ended(one.work, f"its process was {why}; see {one.log}" if code < 0 else f"its process {why}; see {one.log}")
