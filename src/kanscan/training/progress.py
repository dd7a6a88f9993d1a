"""What a user sees while a network is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from kanscan.training.checkpoint import Checkpoints, Row, best_row

#: So many validated epochs with a Dice of 0 are reported.
_PATIENCE_WITH_NOTHING = 10


class ProgressReport(Callback):
    """A bar over the whole training with loss, validation Dice and the time left; without a terminal, a line an epoch.

    Args:
        checkpoints: Know the curves.
        console: Where to write; default: standard error.
    """

    def __init__(self, checkpoints: Checkpoints, console: Console | None = None) -> None:
        self.checkpoints = checkpoints
        self.console = console or Console(stderr=True, highlight=False)
        self.bar: Progress | None = None
        self.loss = float("nan")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar, at the epoch where a resumed training goes on."""
        if not self.console.is_terminal or not trainer.is_global_zero:
            return
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        steps = int(trainer.num_training_batches) + sum(int(n) for n in trainer.num_val_batches)
        self.task = self.bar.add_task(
            "", total=(trainer.max_epochs or 0) * steps, epoch="", figures="", completed=trainer.current_epoch * steps
        )
        self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Mapping[str, Tensor], batch: object, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self.bar is not None:
            loss = float(outputs["loss"])
            # A running mean: single batches jump too much to be read.
            self.loss = loss if self.loss != self.loss else 0.9 * self.loss + 0.1 * loss
            self._advance(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        """Move the bar."""
        if self.bar is not None:
            self._advance(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line of the epoch where there is no bar."""
        if self.bar is None and trainer.is_global_zero:
            self.console.print(epoch_line(self.checkpoints, trainer.max_epochs or 0), soft_wrap=True)
        warning = nothing_learned(self.checkpoints.rows)
        if warning and trainer.is_global_zero:
            self.console.print(warning, soft_wrap=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar so that the message stands below it."""
        self._close()

    def _advance(self, trainer: Trainer) -> None:
        assert self.bar is not None
        figures = f"loss {self.loss:.4f}"
        validated = [row for row in self.checkpoints.rows if row["val_dice"] is not None]
        if validated:
            figures += f"  val Dice {validated[-1]['val_dice']:.4f}" + _best(self.checkpoints)
        epoch = f"{trainer.current_epoch + 1}/{trainer.max_epochs}"
        self.bar.update(self.task, advance=1, epoch=epoch, figures=figures)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def nothing_learned(rows: Sequence[Row]) -> str:
    """Say what to try when the Dice of the validation cases has been 0 for some time; once, else ""."""
    validated = [row["val_dice"] for row in rows if row["val_dice"] is not None]
    is_due = rows and rows[-1]["val_dice"] is not None and len(validated) == _PATIENCE_WITH_NOTHING
    if not is_due or max(validated) > 0:
        return ""
    return (
        f"note: nothing is learned yet, val Dice was 0 in {len(validated)} epochs: look at the labels (kanscan check), "
        "lower optim.lr and optim.kan_lr by ten, give rare classes more weight (loss.class_weights, or "
        "loss.name=focal_dice), or show the network smaller parts of the images"
    )


def epoch_line(checkpoints: Checkpoints, epochs: int) -> str:
    """Write the figures of the epoch just finished, and how long the rest will take at its pace."""
    row = checkpoints.rows[-1]
    parts = [f"epoch {row['epoch']}/{epochs}"]
    parts += [
        f"{title} {row[name]:.4f}"
        for name, title in (("train_loss", "loss"), ("val_loss", "val loss"), ("val_dice", "val Dice"))
        if row[name] is not None
    ]
    left = (epochs - row["epoch"]) * _pace(checkpoints.rows)
    return "  ".join(parts) + f"{_best(checkpoints)}  {row['seconds']:.1f} s, {duration(left)} left"


def _best(checkpoints: Checkpoints) -> str:
    best = best_row(checkpoints.rows, checkpoints.select_by)
    return "" if best is None else f" (best so far: epoch {best['epoch']})"


def _pace(rows: list[Row]) -> float:
    # The first epoch reads the files; the recent ones tell what is to come.
    recent = sorted(row["seconds"] for row in rows[-5:])
    return recent[len(recent) // 2]


def duration(seconds: float) -> str:
    """Write a length of time the way a clock shows it.

    Example:
        >>> duration(3750)
        '1:02:30'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
