"""The training step of segmentation: what one batch does, and what an epoch amounted to."""

from __future__ import annotations

from copy import deepcopy
from typing import Protocol

import torch
from torch import Tensor, nn

from kanscan.config.parts import OptimConfig
from kanscan.metrics import IGNORED
from kanscan.metrics.logits import labels, legal_size, num_classes, pad_to
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
        dice, iou = image_scores(logits, label)
        self.sums["val"].add({"loss": loss.detach().expand(len(label)), "dice": dice, "iou": iou})

    def logits(self, image: Tensor) -> Tensor:
        """Return logits of the image's own size, whatever the network's stride."""
        logits = self.model(self._padded(image))
        return logits[(..., *(slice(size) for size in image.shape[2:]))]

    def _padded(self, image: Tensor) -> Tensor:
        return pad_to(image, legal_size(image.shape[2:], self.model.stride))

    def epoch_scores(self) -> Figures:
        """Return the mean Dice and IoU of the validation cases."""
        val = self.sums["val"].means()
        return {"val_dice": val.get("dice"), "val_iou": val.get("iou")}


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


@torch.no_grad()
def image_scores(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return Dice and IoU of each image, averaged over its foreground classes, on the network's own grid.

    A class that neither the prediction nor the label holds is not applicable and left out of the mean; a class that
    only one of them holds scores 0. This is the rule of the evaluation.

    Args:
        logits: `(B, K, *S)`; one logit says foreground above 0, several are compared with one another.
        label: `(B, *S)` integer classes; ignored pixels are left out.

    Returns:
        Two tensors `(B,)`; NaN for an image to which no foreground class applies.
    """
    predicted = labels(logits)
    classes = torch.arange(1, num_classes(logits.shape[1]), device=logits.device).view(1, -1, 1)
    if logits.shape[1] <= IGNORED:
        predicted = predicted.masked_fill(label == IGNORED, 0)
    a, b = (predicted.flatten(1).unsqueeze(1) == classes), (label.flatten(1).unsqueeze(1) == classes)
    both, size = (a & b).sum(2).double(), (a.sum(2) + b.sum(2)).double()
    # 0 / 0 is NaN, which is what "not applicable" means here.
    return (2 * both / size).nanmean(1), (both / (size - both)).nanmean(1)
