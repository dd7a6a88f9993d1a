"""A learning rate found by trying: rates that rise from step to step, and the one where the loss falls fastest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from kanscan.config.parts import TrainerConfig
from kanscan.training.session import enough_memory
from kanscan.training.task import Task
from kanscan.training.trainer import fit, make_trainer, torch_settings_kept

#: Rates tried, and how many steps lie between them.
_LOWEST, _HIGHEST, _STEPS = 1e-7, 1.0, 100
#: Weight of the past in the running mean of the losses; a loss so many times the best one ends the search.
_SMOOTHING, _TOO_MUCH = 0.9, 4.0


@dataclass(frozen=True)
class LearningRates:
    """What a search found.

    Attributes:
        rates: `optim.lr` at each step; `optim.kan_lr` rises with it in the recipe's ratio.
        losses: Running mean of the losses.
        suggested: Rate at which it falls fastest.
        suggested_kan: The same for the parameters of KAN layers, None where the recipe gives them none.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggested: float
    suggested_kan: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def __rich__(self) -> str:
        """Say which rates to set."""
        kan = "" if self.suggested_kan is None else f" optim.kan_lr={self.suggested_kan:.1e}"
        return (
            f"over {len(self.rates)} steps the loss fell from {self.losses[0]:.4f} to {min(self.losses):.4f}\n"
            f"fastest at optim.lr={self.suggested:.1e}{kan}\n"
            "Nothing was written; one short search tells the order of magnitude."
        )


def find_learning_rate(task: Task, loader: Iterable[Any], part: TrainerConfig, steps: int = _STEPS) -> LearningRates:
    """Train a little with rates that rise from 1e-7 to 1 (Smith 2017), and stop where the loss runs away.

    Args:
        task: The training step; its network's weights change.
        loader: Of the training cases; it is gone through as often as is needed.
        part: Where and in which precision to compute.
        steps: How many rates.

    Raises:
        ValueError: The loss fell at no rate.
    """
    search = _RisingRates(np.geomspace(_LOWEST, _HIGHEST, steps).tolist())
    with torch_settings_kept(), enough_memory():
        engine = make_trainer(part, [search], clip_norm=task.optim.clip_norm, batches=steps)
        try:
            fit(engine, task, _Endless(loader, steps), None)
        except ValueError:
            # A loss that is no number ends the search as one that runs away does.
            if len(search.losses) < 3:
                raise
    losses = search.losses
    # Where it begins to rise is past what can be learned with.
    lowest = int(np.argmin(losses))
    # Over a tenth of the steps on either side: single batches fall and rise by chance, most of all at the start.
    wide = max(1, steps // 10)
    falls = {i: losses[i - wide] - losses[min(i + wide, lowest)] for i in range(2 * wide, lowest)}
    if not falls or max(falls.values()) <= 0:
        raise ValueError("the loss fell at no rate between 1e-7 and 1; look at the data with kanscan check")
    lr, kan_lr = search.rates[max(falls, key=lambda i: falls[i])], task.optim.kan_lr
    return LearningRates(
        tuple(search.rates[: len(losses)]), tuple(losses), lr, None if kan_lr is None else lr * kan_lr / task.optim.lr
    )


class _Endless:
    """A loader that begins anew where another ends, for so many batches."""

    def __init__(self, loader: Iterable[Any], count: int) -> None:
        self.loader, self.count = loader, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return islice((batch for _ in range(self.count) for batch in self.loader), self.count)


class _RisingRates(Callback):
    """Sets the rate before each step, and notes the running mean of the losses."""

    def __init__(self, rates: list[float]) -> None:
        self.rates = rates
        self.losses: list[float] = []
        self._sum = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, Task)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.rates[batch_idx] * group["initial_lr"] / pl_module.optim.lr

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        self._sum = _SMOOTHING * self._sum + (1 - _SMOOTHING) * loss
        self.losses.append(self._sum / (1 - _SMOOTHING ** (batch_idx + 1)))
        trainer.should_stop = self.losses[-1] > _TOO_MUCH * min(self.losses)
