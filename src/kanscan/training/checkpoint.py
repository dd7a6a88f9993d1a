"""What a training leaves behind after each epoch, so that a kill at any moment loses one epoch and changes nothing.

The files of an epoch are written in this order: best weights, last weights, curves, and at last the state. A kill in
between leaves the older state, from which the epoch is repeated and gives the same files again.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from kanscan.config.parts import TrainerConfig
from kanscan.files import atomic, write_text
from kanscan.metrics.validation import validated
from kanscan.training.stopping import Stopped, StopReason
from kanscan.training.task import Task

if TYPE_CHECKING:
    from torch.serialization import MAP_LOCATION

Row = dict[str, Any]


@dataclass(frozen=True)
class Files:
    """Where a training writes.

    Attributes:
        best_weights: Weights of the best epoch (safetensors).
        last_weights: Weights of the last finished epoch (safetensors).
        state: All that is needed to go on.
        curves: One row an epoch (CSV).
    """

    best_weights: Path
    last_weights: Path
    state: Path
    curves: Path


class Checkpoints(Callback):
    """Writes weights, curves and state after each epoch, and stops when patience or time is used up.

    Args:
        files: Where to write.
        part: Says which score chooses, and when to stop; its time budget is counted from now.
        about: Plain values written into the weights' headers.

    Attributes:
        rows: The curves so far.
        stopped: Why the training ended before its last epoch; None if it did not.
    """

    def __init__(self, files: Files, part: TrainerConfig, about: Mapping[str, Any] | None = None) -> None:
        self.files = files
        self.select_by = part.select_by
        self.patience = part.patience
        budget = part.time_budget_minutes
        self.deadline = None if budget is None else time.monotonic() + 60 * budget
        self.about = dict(about or {})
        self.rows: list[Row] = []
        self.stopped: Stopped | None = None
        self._epoch_began = time.monotonic()
        self._state_is_current = False

    def state_dict(self) -> dict[str, Any]:
        """Give what goes into the state: plain values only."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the curves of an earlier part of the run."""
        self.rows = upgraded(state_dict["rows"])
        self._state_is_current = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the state here: Lightning steps its schedules and counters after the hooks of an epoch's end."""
        if not self._state_is_current:
            trainer.save_checkpoint(self.files.state)
        self._state_is_current = False
        self._epoch_began = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write weights and curves of the epoch, and decide whether it was the last."""
        assert isinstance(pl_module, Task)
        seconds = time.monotonic() - self._epoch_began
        row = {"epoch": trainer.current_epoch + 1, **pl_module.epoch_figures(), "seconds": round(seconds, 3)}
        self.rows.append(row)
        if trainer.is_global_zero:
            about = {**self.about, "epoch": row["epoch"]}
            if best_row(self.rows, self.select_by) is row:
                column, _ = selections()[self.select_by]
                write_weights(self.files.best_weights, pl_module.served, {**about, column: row[column]})
            write_weights(self.files.last_weights, pl_module.served, about)
            write_curves(self.files.curves, self.rows)
        for logger in trainer.loggers:
            logger.log_metrics({k: v for k, v in row.items() if v is not None}, step=row["epoch"])
        if row["epoch"] < (trainer.max_epochs or 0):
            self.stopped = self._reason_to_stop(seconds)
            trainer.should_stop = self.stopped is not None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last state; without any validation the last weights serve as the best."""
        assert isinstance(pl_module, Task)
        trainer.save_checkpoint(self.files.state)
        if trainer.is_global_zero and best_row(self.rows, self.select_by) is None:
            write_weights(self.files.best_weights, pl_module.served, {**self.about, "epoch": trainer.current_epoch})

    def _reason_to_stop(self, seconds: float) -> Stopped | None:
        epoch, best = self.rows[-1]["epoch"], best_row(self.rows, self.select_by)
        if self.patience is not None and best is not None and epoch - best["epoch"] >= self.patience:
            column, _ = selections()[self.select_by]
            words = f"{column} has not improved for {epoch - best['epoch']} epochs (trainer.patience={self.patience})"
            return Stopped(StopReason.PATIENCE, words)
        if self.deadline is not None and time.monotonic() + seconds > self.deadline:
            return Stopped(StopReason.TIME_BUDGET, "another epoch would not fit into trainer.time_budget_minutes")
        return None


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a state so that a crash leaves the old one or the new one; reads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write a state."""
        with atomic(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: MAP_LOCATION = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a state."""
        return read_state(path, map_location=map_location)


def read_state(path: str | Path, *, map_location: MAP_LOCATION = "cpu") -> dict[str, Any]:
    """Read a state file without running any code it may contain.

    Raises:
        ValueError: It is not a state of a training.
    """
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        # torch raises RuntimeError, EOFError, KeyError or UnpicklingError here, depending on what the file is.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} cannot be read as the state of a training ({reason}); it is damaged or foreign"
        ) from None
    if not isinstance(state, dict) or "optimizer_states" not in state:
        raise ValueError(
            f"{path} is not the state of a training: it holds no optimizer; weights alone cannot be resumed"
        )
    return state


def rows_of_state(state: Mapping[str, Any]) -> list[Row]:
    """Return the curves inside a state."""
    for content in state.get("callbacks", {}).values():
        if isinstance(content, Mapping) and "rows" in content:
            return upgraded(content["rows"])
    return []


def upgraded(rows: Sequence[Row]) -> list[Row]:
    """Return rows of curves under today's names; version 0.1.0 called the column of `kan_lr` otherwise."""
    return [{"kan_lr" if name == "lr_kan" else name: value for name, value in row.items()} for row in rows]


def is_finished(state: Path, part: TrainerConfig) -> bool:
    """Tell from the state file whether nothing is left to train; the curves may be an epoch ahead of it."""
    rows = rows_of_state(read_state(state)) if state.is_file() else []
    if not rows:
        return False
    best = best_row(rows, part.select_by)
    gave_up = part.patience is not None and best is not None and rows[-1]["epoch"] - best["epoch"] >= part.patience
    return rows[-1]["epoch"] >= part.epochs or gave_up


def columns() -> list[str]:
    """Return the columns of the curves."""
    return ["epoch", "train_loss", "val_loss", *validated(), "lr", "kan_lr", "seconds"]


def selections() -> dict[str, tuple[str, bool]]:
    """Return the scores by which the best epoch can be chosen -> their column, and whether more is better."""
    scores = {metric.name: (column, metric.direction == "higher") for column, metric in validated().items()}
    return {**scores, "loss": ("val_loss", False)}


def best_row(rows: Sequence[Row], select_by: str) -> Row | None:
    """Return the best validated epoch, the earlier one of equals; None if none was validated."""
    column, more_is_better = selections()[select_by]
    validated = [row for row in rows if row[column] is not None]
    sign = -1 if more_is_better else 1
    return min(validated, key=lambda row: sign * row[column], default=None)


def write_curves(path: Path, rows: Sequence[Row]) -> None:
    """Write the curves as CSV; an empty cell is an epoch without validation."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(row.get(name)) for name in columns()} for row in rows)
    write_text(path, text.getvalue())


def _cell(value: object) -> object:
    return "" if value is None else f"{value:.8g}" if isinstance(value, float) else value


def write_weights(path: Path, model: nn.Module, about: Mapping[str, Any]) -> None:
    """Write a network's weights as safetensors; equal weights give equal files."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic(path) as temporary:
        # One entry: the order of several is not kept by the writer.
        save_file(tensors, temporary, metadata={"kanscan": json.dumps(about, sort_keys=True)})
