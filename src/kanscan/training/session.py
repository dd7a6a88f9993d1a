"""One training from start, or from where it stopped, to its end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from kanscan.config.parts import TrainerConfig
from kanscan.training.checkpoint import Checkpoints, Files
from kanscan.training.progress import ProgressReport
from kanscan.training.stopping import SignalStop
from kanscan.training.task import Task
from kanscan.training.trainer import fit, make_trainer, torch_settings_kept


def train_task(
    task: Task,
    loaders: tuple[Any, Any | None],
    files: Files,
    folder: Path,
    part: TrainerConfig,
    *,
    about: Mapping[str, Any] | None = None,
) -> Checkpoints:
    """Train, from the state where there is one, and leave weights, curves and state after every epoch.

    Args:
        task: The training step.
        loaders: Of the training and of the validation cases; without the latter no epoch is preferred to another.
        files: Where to write.
        folder: Where event files go.
        part: How long, on what, and when to stop.
        about: Plain values written into the weights' headers.

    Returns:
        What knows the curves and why the training ended.

    Raises:
        Interrupted: A signal asked to stop; the state of the last finished epoch is there.
        ValueError: A case cannot be read, the loss is no longer a number, or memory does not suffice.
    """
    checkpoints = Checkpoints(files, part, about)
    stop = SignalStop()
    with torch_settings_kept(), stop.listening(), enough_memory():
        callbacks = [checkpoints, ProgressReport(checkpoints), stop]
        engine = make_trainer(part, callbacks, clip_norm=task.optim.clip_norm, folder=folder)
        fit(engine, task, *loaders, state=files.state if files.state.is_file() else None)
    return checkpoints


@dataclass(frozen=True)
class Trial:
    """How the first steps of a training went.

    Attributes:
        loss: Of the first batch, before any step.
        first_seconds: Time of the first step, the slowest of all.
        seconds: Time of a later step.
    """

    loss: float
    first_seconds: float
    seconds: float


def try_steps(task: Task, batch: Mapping[str, Any], part: TrainerConfig, count: int = 3) -> Trial:
    """Take a few steps outside of any run, each as the training takes it: precision, clipping and optimizer are its.

    Args:
        task: The training step; its network's weights change.
        batch: From the training loader.
        part: Where and in which precision to compute.
        count: How many steps; at least two, for the first tells nothing of the others.
    """
    watch = _StepWatch()
    with torch_settings_kept(), enough_memory():
        engine = make_trainer(part, [watch], clip_norm=task.optim.clip_norm, batches=count)
        fit(engine, task, _Repeated(batch, count), None)
    first, *later = watch.seconds
    return Trial(watch.losses[0], first, sorted(later)[len(later) // 2])


class _Repeated:
    """A loader of the same batch."""

    def __init__(self, batch: Mapping[str, Any], count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter([self.batch] * self.count)


class _StepWatch(Callback):
    """Notes loss and time of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self._began = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Mapping[str, Tensor], *args: object
    ) -> None:
        # Reading the number waits for a device that computes on its own.
        self.losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        self.seconds.append(time.perf_counter() - self._began)


@contextmanager
def enough_memory() -> Iterator[None]:
    """Say what to do when memory runs out."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise ValueError(
                "the memory does not suffice for this training; lower trainer.batch_size or data.image_size (volumes: "
                "volume.batch_size or volume.patch_size)"
            ) from None
        if "DataLoader worker" in str(error):
            raise ValueError(
                "a process that reads files was killed, most likely because memory ran out; go on with resume=true and "
                "data.num_workers=0, or with fewer"
            ) from None
        raise
