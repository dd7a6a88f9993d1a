"""One training from start, or from where it stopped, to its end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kanscan.training.checkpoint import Files, Keeper
from kanscan.training.optim import make_optimizer
from kanscan.training.progress import ProgressReport
from kanscan.training.stopping import SignalStop
from kanscan.training.task import Task
from kanscan.training.trainer import fit, make_trainer, torch_settings_kept


def train_task(
    task: Task,
    loaders: tuple[Any, Any | None],
    files: Files,
    folder: Path,
    *,
    about: Mapping[str, Any],
    select_by: str = "dice",
    patience: int | None = None,
    time_budget_minutes: float | None = None,
    **trainer: Any,
) -> Keeper:
    """Train, from the state where there is one, and leave weights, curves and state after every epoch.

    Args:
        task: The training step.
        loaders: Of the training and of the validation cases; without the latter no epoch is preferred to another.
        files: Where to write.
        folder: Where event files go.
        about: Plain values written into the weights' headers.
        select_by: As in `Keeper`.
        patience: As in `Keeper`.
        time_budget_minutes: As in `Keeper`.
        **trainer: Further keywords of `make_trainer`.

    Returns:
        The keeper: it knows the curves and why the training ended.

    Raises:
        Interrupted: A signal asked to stop; the state of the last finished epoch is there.
        ValueError: A case cannot be read, the loss is no longer a number, or memory does not suffice.
    """
    keeper = Keeper(files, select_by=select_by, patience=patience, time_budget_minutes=time_budget_minutes, about=about)
    stop = SignalStop()
    with torch_settings_kept(), stop.listening(), enough_memory():
        engine = make_trainer(folder=folder, callbacks=[keeper, ProgressReport(keeper), stop], **trainer)
        fit(engine, task, *loaders, state=files.state if files.state.is_file() else None)
    return keeper


def try_step(task: Task, batch: Mapping[str, Any], device: torch.device) -> tuple[float, float]:
    """Take one optimizer step outside of any run.

    Args:
        task: The training step; its network's weights change.
        batch: From the training loader.
        device: Where to compute.

    Returns:
        The loss before the step, and the seconds it took.
    """
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    task.to(device).train()
    optimizer = make_optimizer(task.model, task.optim)
    began = time.perf_counter()
    with enough_memory():
        loss = task.training_step(moved, 0)
        loss.backward()
        optimizer.step()
    return loss.item(), time.perf_counter() - began


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
        raise
