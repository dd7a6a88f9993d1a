"""Ctrl-C and the polite kill of a scheduler: finish the batch, leave the last epoch's state, say how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from types import FrameType

from lightning.pytorch import Callback, LightningModule, Trainer


class StopReason(Enum):
    """Why a training ended before its last epoch."""

    PATIENCE = "patience"
    TIME_BUDGET = "time_budget"


@dataclass(frozen=True)
class Stopped:
    """How a training ended before its last epoch.

    Attributes:
        reason: Why.
        sentence: The same in words, with the figures.
    """

    reason: StopReason
    sentence: str

    def __str__(self) -> str:
        return self.sentence


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The user or the system asked the training to stop.

    Attributes:
        signal_number: SIGINT or SIGTERM.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"training stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class SignalStop(Callback):
    """Stops after the current batch once a signal came; a second signal stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextmanager
    def listening(self) -> Iterator[SignalStop]:
        """Listen to SIGINT and SIGTERM while the block runs (in the main thread; others get no signals)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted(number)
        self.received = number

    def _check(self) -> None:
        if self.received is not None:
            raise Interrupted(self.received)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Stop between two batches."""
        self._check()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Stop between two batches."""
        self._check()
