"""This very process, one piece of work after another."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from kanscan.workflows.engines.engine import Engine, Place
from kanscan.workflows.engines.work import Ended, Work, attempt


class HereEngine(Engine):
    """Does the work when its end is waited for; nothing has to be started for it."""

    def __init__(self, place: Place, folder: Path) -> None:
        super().__init__(place, folder)
        self._waiting: deque[Work] = deque()

    def submit(self, work: Work) -> None:
        """Take a piece of work."""
        self._waiting.append(work)

    def wait(self) -> Ended:
        """Do the next."""
        return attempt(self._waiting.popleft())

    def close(self) -> None:
        """Forget what was not begun."""
        self._waiting.clear()
