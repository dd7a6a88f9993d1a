"""The training step of segmentation: what one batch does, and what an epoch amounted to."""

from __future__ import annotations

from copy import deepcopy
from typing import Protocol

import torch
from torch import Tensor, nn

from kanscan.config.parts import OptimConfig
from kanscan.metrics.logits import legal_size, pad_to
from kanscan.metrics.validation import image_scores, validated
from kanscan.training.losses import DeepSupervisionLoss
from kanscan.training.task import Averages, Batch, Figures, Task, epoch_seed

__all__ = [
    "Averages",
    "SegmentationNetwork",
    "SegmentationTask",
    "check_batch_norm",
    "epoch_seed",
    "explained",
    "image_scores",
]


class SegmentationNetwork(Protocol):
    """What is asked of a network here; `kanscan.models.base.SegmentationModel` promises it."""

    stride: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits `(B, K, *S)` of images `(B, C, *S)` whose sizes are multiples of `stride`."""

    def side_outputs(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every supervised scale, full resolution first."""


class SegmentationTask(Task):
    """One training step, one validation step and the averages of an epoch.

    Args:
        model: Network that maps images to logits.
        loss: Takes logits `(B, K, *S)` and integer labels `(B, *S)`.
        optim: Optimizer and schedule.
        epochs: Length of the training.
        seed: Seed of the run.
        deep_supervision: Train on all of the network's `side_outputs`; validation looks at the full resolution only.
    """

    def __init__(
        self,
        model: SegmentationNetwork,
        loss: nn.Module,
        optim: OptimConfig,
        epochs: int,
        *,
        seed: int = 0,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__(model, optim, epochs, seed=seed)
        self.loss = loss
        self.side_loss = DeepSupervisionLoss(loss) if deep_supervision else None

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
                loss = self.side_loss(self.model.side_outputs(self._padded(image)), label)
        except ValueError as error:
            raise explained(error) from None
        self.demand_finite(loss, batch, "training")
        self.sums["train"].add({"loss": loss.detach().expand(len(image))})
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch's loss and scores to the averages of the epoch."""
        logits, label = self.logits(batch["image"]), batch["label"]
        loss = self.loss(logits, label)
        self.demand_finite(loss, batch, "validation")
        self.sums["val"].add({"loss": loss.detach().expand(len(label)), **image_scores(logits, label)})

    def logits(self, image: Tensor) -> Tensor:
        """Return logits of the image's own size, whatever the network's stride."""
        logits = self.model(self._padded(image))
        return logits[(..., *(slice(size) for size in image.shape[2:]))]

    def _padded(self, image: Tensor) -> Tensor:
        return pad_to(image, legal_size(image.shape[2:], self.model.stride))

    def epoch_scores(self) -> Figures:
        """Return the mean scores of the validation cases."""
        val = self.sums["val"].means()
        return {column: val.get(metric.name) for column, metric in validated().items()}


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
