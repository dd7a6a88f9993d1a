"""The training step of segmentation: what one batch does, and what an epoch amounted to."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from kanscan.training.losses import DeepSupervisionLoss
from kanscan.training.optim import learning_rates, make_optimizer, make_schedule

Batch = Mapping[str, Any]


class SegmentationNetwork(Protocol):
    """What is asked of a network here; `kanscan.models.base.SegmentationModel` promises it."""

    stride: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits `(B, K, *S)` of images `(B, C, *S)` whose sizes are multiples of `stride`."""

    def side_outputs(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every supervised scale, full resolution first."""


class SegmentationTask(LightningModule):
    """One training step, one validation step and the averages of an epoch.

    Everything random in an epoch (dropout, stochastic depth) is drawn from a stream that starts from (seed, epoch), so
    an epoch comes out the same whether or not the training was interrupted before it.

    Args:
        model: Network that maps images to logits.
        loss: Takes logits `(B, K, *S)` and integer labels `(B, *S)`.
        optimizer: Keywords of `make_optimizer`.
        schedule: Keywords of `make_schedule`.
        seed: Seed of the run.
        deep_supervision: Train on all of the network's `side_outputs`; validation looks at the full resolution only.
    """

    def __init__(
        self,
        model: SegmentationNetwork,
        loss: nn.Module,
        *,
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        seed: int = 0,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.loss = loss
        self.side_loss = DeepSupervisionLoss(loss) if deep_supervision else None
        self.optimizer_options, self.schedule_options = dict(optimizer), dict(schedule)
        self.seed = seed
        self.sums: dict[str, Averages] = {"train": Averages(), "val": Averages()}
        self.rates = (float("nan"), float("nan"))

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the schedule, stepped after each epoch."""
        optimizer = make_optimizer(self.model, **self.optimizer_options)
        schedule = make_schedule(optimizer, **self.schedule_options)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the engine's own counters out of the state.

        States are written between epochs, where the number of the next epoch says it all; restored counters would make
        the engine pass over that epoch as one it believes half done.
        """
        checkpoint.pop("loops", None)

    def on_train_epoch_start(self) -> None:
        """Start the epoch's own random stream."""
        self.sums = {"train": Averages(), "val": Averages()}
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert not isinstance(optimizer, list)
        self.rates = learning_rates(optimizer)
        torch.manual_seed(epoch_seed(self.seed, self.current_epoch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Raises:
            ValueError: The loss is not a finite number, or batch norm has a single value to look at.
        """
        image, label = batch["image"], batch["label"]
        try:
            if self.side_loss is None:
                loss = self.loss(self.logits(image), label)
            else:
                outputs = self.model.side_outputs(self._padded(image))
                loss = self.side_loss(outputs, self._padded(label.unsqueeze(1).double()).squeeze(1).to(label.dtype))
        except ValueError as error:
            raise explained(error) from None
        self._demand_finite(loss, batch, "training")
        self.sums["train"].add({"loss": loss.detach().expand(len(image))})
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch's loss and scores to the averages of the epoch."""
        logits, label = self.logits(batch["image"]), batch["label"]
        loss = self.loss(logits, label)
        self._demand_finite(loss, batch, "validation")
        dice, iou = image_scores(logits, label)
        self.sums["val"].add({"loss": loss.detach().expand(len(label)), "dice": dice, "iou": iou})

    def logits(self, image: Tensor) -> Tensor:
        """Return logits of the image's own size, whatever the network's stride."""
        logits = self.model(self._padded(image))
        return logits[(..., *(slice(size) for size in image.shape[2:]))]

    def _padded(self, image: Tensor) -> Tensor:
        missing = [-size % stride for size, stride in zip(image.shape[2:], self.model.stride, strict=True)]
        if not any(missing):
            return image
        # As the predictor does it: border pixels repeated at the far ends; torch counts from the last axis.
        return F.pad(image, [n for axis in reversed(missing) for n in (0, axis)], mode="replicate")

    def epoch_figures(self) -> dict[str, float | None]:
        """Return losses, scores and learning rates of the epoch just run; None where nothing was validated."""
        train, val = self.sums["train"].means(), self.sums["val"].means()
        return {
            "train_loss": train.get("loss"),
            "val_loss": val.get("loss"),
            "val_dice": val.get("dice"),
            "val_iou": val.get("iou"),
            "lr": self.rates[0],
            "lr_kan": self.rates[1],
        }

    def _demand_finite(self, loss: Tensor, batch: Batch, stage: str) -> None:
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


def check_batch_norm(model: nn.Module, batch_size: int, image_shape: tuple[int, ...]) -> None:
    """Refuse a batch so small that batch norm would see one value a channel, before anything is written.

    Args:
        model: The network; it is not changed.
        batch_size: Images in a batch.
        image_shape: Channels and spatial size of one image.

    Raises:
        ValueError: The batch is too small.
    """
    shadow = deepcopy(model).to("meta").train()
    try:
        with torch.no_grad():
            shadow(torch.empty(batch_size, *image_shape, device="meta"))
    except ValueError as error:
        raise explained(error) from None


def explained(error: ValueError) -> ValueError:
    """Say what to do about torch's complaint of a single value; other errors stay as they are."""
    if "more than 1 value per channel" not in str(error):
        return error
    return ValueError(
        "one image of this size leaves batch norm a single value per channel at the bottom of the network; "
        "raise trainer.batch_size to 2 or more (which needs as many training cases), or data.image_size"
    )


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the start of the random stream of an epoch."""
    # Neighboring seeds must not share streams: 1,000,003 is a prime larger than any number of epochs.
    return (seed * 1_000_003 + epoch) % 2**63


@torch.no_grad()
def image_scores(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return Dice and IoU of each image, averaged over its foreground classes, on the network's own grid.

    A class that neither the prediction nor the label holds is not applicable and left out of the mean; a class that
    only one of them holds scores 0. This is the rule of the evaluation.

    Args:
        logits: `(B, K, *S)`; one logit says foreground above 0, several are compared with one another.
        label: `(B, *S)` integer classes.

    Returns:
        Two tensors `(B,)`; NaN for an image to which no foreground class applies.
    """
    predicted = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
    classes = torch.arange(1, max(2, logits.shape[1]), device=logits.device).view(1, -1, 1)
    a, b = (predicted.flatten(1).unsqueeze(1) == classes), (label.flatten(1).unsqueeze(1) == classes)
    both, size = (a & b).sum(2).double(), (a.sum(2) + b.sum(2)).double()
    # 0 / 0 is NaN, which is what "not applicable" means here.
    return (2 * both / size).nanmean(1), (both / (size - both)).nanmean(1)
