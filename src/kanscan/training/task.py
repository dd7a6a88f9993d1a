"""What every training step shares: optimizer, schedule, the random stream of an epoch, and its averages."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from kanscan.config.parts import OptimConfig, TimedSchedule
from kanscan.training.optim import learning_rates, make_optimizer, make_schedule

Batch = Mapping[str, Any]
#: What an epoch amounted to, beside its number and its seconds; None where a quantity does not apply.
Figures = dict[str, float | None]


class Task(LightningModule):
    """A training step; what keeps weights, writes curves and shows progress asks for no more than this.

    Everything random in an epoch is drawn from a stream that starts from (seed, epoch), so an epoch comes out the same
    whether or not the training was interrupted before it.

    Args:
        model: The network that is trained.
        optim: Optimizer and schedule.
        epochs: Length of the training.
        seed: Seed of the run.
    """

    def __init__(self, model: Any, optim: OptimConfig, epochs: int, *, seed: int = 0) -> None:
        super().__init__()
        self.model: Any = model
        self.optim, self.epochs = optim, epochs
        #: First epoch of the schedule: 0, or where a finished training went on for more.
        self.schedule_began = 0
        self.seed = seed
        self.sums: dict[str, Averages] = {"train": Averages(), "val": Averages()}
        self.rates = (float("nan"), float("nan"))
        self.frozen: tuple[str, ...] = ()
        self.frozen_epochs: int | None = None

    def freeze(self, beginnings: Sequence[str], epochs: int | None = None) -> None:
        """Keep parameters as they are, batch norms in front of them included.

        Args:
            beginnings: Of the parameters' names in the network.
            epochs: In so many epochs from the start; None: in all.

        Raises:
            ValueError: A beginning fits no parameter, or nothing is left to learn.
        """
        names = [name for name, _ in self.model.named_parameters()]
        for beginning in beginnings:
            if not any(name.startswith(beginning) for name in names):
                known = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
                raise ValueError(f"model.freeze={beginning}: no parameter begins so; this network has {known}")
        if beginnings and epochs is None and all(name.startswith(tuple(beginnings)) for name in names):
            raise ValueError("model.freeze names all parameters: nothing would be learned")
        self.frozen, self.frozen_epochs = tuple(beginnings), epochs

    def _hold_frozen(self) -> None:
        if not self.frozen:
            return
        is_free = self.frozen_epochs is not None and self.current_epoch >= self.frozen_epochs
        # Without a gradient the optimizer passes over a parameter, its decay included.
        for name, parameter in self.model.named_parameters():
            if name.startswith(self.frozen):
                parameter.requires_grad_(is_free)
        for name, module in self.model.named_modules():
            if name.startswith(self.frozen):
                module.train(is_free)

    @property
    def served(self) -> nn.Module:
        """The network whose weights are written: the trained one, or an average of it."""
        network: nn.Module = self.model
        return network

    @abstractmethod
    def epoch_scores(self) -> Figures:
        """Return val_dice and val_iou of the epoch just run; None where they do not apply."""

    def epoch_figures(self) -> Figures:
        """Return losses, scores and learning rates of the epoch just run; None where nothing was validated."""
        train, val = self.sums["train"].means(), self.sums["val"].means()
        return {
            "train_loss": train.get("loss"),
            "val_loss": val.get("loss"),
            **self.epoch_scores(),
            "lr": self.rates[0],
            "kan_lr": self.rates[1],
        }

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the schedule, stepped after each epoch."""
        is_mixed = self._trainer is not None and "mixed" in str(self._trainer.precision)
        optimizer = make_optimizer(self.model, self.optim, is_mixed=is_mixed)
        schedule = make_schedule(optimizer, self.optim, self.epochs - self.schedule_began)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the engine's own counters out of the state.

        States are written between epochs, where the number of the next epoch says it all; restored counters would make
        the engine pass over that epoch as one it believes half done.
        """
        checkpoint.pop("loops", None)
        checkpoint["schedule"] = {"began": self.schedule_began, "epochs": self.epochs}

    def go_on_from(self, checkpoint: Mapping[str, Any]) -> bool:
        """Take up the schedule of an earlier part of the training, or begin a new one where that was finished.

        Returns:
            Whether a new one begins.
        """
        before = checkpoint.get("schedule") or self._schedule_of_older_state(checkpoint)
        # A schedule of its own length, or none, goes on as it would have in a longer training.
        is_bound = isinstance(self.optim, TimedSchedule) and self.optim.schedule_epochs is None
        is_new = is_bound and before["epochs"] <= checkpoint["epoch"] < self.epochs
        self.schedule_began = checkpoint["epoch"] if is_new else before["began"]
        return is_new

    def _schedule_of_older_state(self, checkpoint: Mapping[str, Any]) -> dict[str, int]:
        """Find out how long the training of a state was that does not say it (version 0.1.0)."""
        (state,) = checkpoint["lr_schedulers"]
        return {"began": 0, "epochs": state.get("T_max", state.get("total_iters", self.epochs))}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let a new schedule begin at the first rates; what the optimizer knows of the gradients stays."""
        before = checkpoint.get("schedule", {"began": 0})
        if self.schedule_began != before["began"]:
            checkpoint["lr_schedulers"] = []
            for state in checkpoint["optimizer_states"]:
                for group in state["param_groups"]:
                    group["lr"] = group["initial_lr"]

    def on_train_epoch_start(self) -> None:
        """Start the epoch's own random stream."""
        self.sums = {"train": Averages(), "val": Averages()}
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert not isinstance(optimizer, list)
        self.rates = learning_rates(optimizer)
        self._hold_frozen()
        torch.manual_seed(epoch_seed(self.seed, self.current_epoch))

    def demand_finite(self, loss: Tensor, batch: Batch, stage: str) -> None:
        """Refuse to go on from a loss that is no number.

        Raises:
            ValueError: It is not finite; the sentence names the cases.
        """
        if torch.isfinite(loss):
            return
        cases = ", ".join(str(case) for case in batch["id"])
        raise ValueError(
            f"the {stage} loss became {loss.item()} in epoch {self.current_epoch + 1} on the cases {cases}: look at "
            "these images, or train more gently with a lower optim.lr and optim.kan_lr or with optim.clip_norm=1"
        )


class Averages:
    """Means over the images of an epoch."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one value an image `(B,)` for each quantity; NaN (not applicable) is left out."""
        for name, value in values.items():
            applicable = value[~value.isnan()]
            self.totals[name] = self.totals.get(name, 0.0) + float(applicable.sum())
            self.counts[name] = self.counts.get(name, 0) + len(applicable)

    def means(self) -> dict[str, float]:
        """Return the mean of every quantity that applied to an image."""
        return {name: total / self.counts[name] for name, total in self.totals.items() if self.counts[name]}


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the start of the random stream of an epoch."""
    # Neighboring seeds must not share streams: 1,000,003 is a prime larger than any number of epochs.
    return (seed * 1_000_003 + epoch) % 2**63
