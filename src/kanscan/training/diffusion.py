"""The training step of a diffusion model: how well the noise in an image is predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kanscan.config.parts import DiffusionConfig, OptimConfig
from kanscan.metrics.validation import validated
from kanscan.training.process import noise_process, sample_generator
from kanscan.training.task import Batch, Figures, Task

#: The released loss is the sum of squares over the whole batch, divided by this.
SUM_DIVISOR = 1000
#: Steps of the validation cases follow multiples of the golden section, which fill 0..1 evenly for any number of cases.
_GOLDEN_SECTION = 0.6180339887498949


class DiffusionTask(Task):
    """One step of noise prediction (U-KAN section 3.4, Eq. 12).

    The curves hold the mean squared error of a value, whichever loss is trained on: a network that predicts nothing
    has 1. Validation takes the same noise and the same steps every time, drawn from (seed, case), and judges the
    averaged weights where there are such.

    Args:
        model: Network that maps noisy images and steps to noise.
        part: How the noise is added, what of its prediction counts, and whether an average of the weights is served.
        label_classes: Append the label as a further channel in -1..1, of so many classes; None: images alone.
        optim: Optimizer and schedule.
        epochs: Length of the training.
        seed: Seed of the run.
    """

    def __init__(
        self,
        model: nn.Module,
        part: DiffusionConfig,
        optim: OptimConfig,
        epochs: int,
        *,
        label_classes: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model, optim, epochs, seed=seed)
        self.process, self.loss_name, self.label_classes = noise_process(part), part.loss, label_classes
        self.average = (
            None if part.ema_decay is None else AveragedModel(model, multi_avg_fn=exponential_average(part.ema_decay))
        )

    @property
    def served(self) -> nn.Module:
        """The averaged network, where an average is kept."""
        network: nn.Module = self.model if self.average is None else self.average.module
        return network

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch at steps drawn from the epoch's stream.

        Raises:
            ValueError: The loss is not a finite number.
        """
        image = self.image(batch)
        t = torch.randint(self.process.num_steps, (len(image),), device=image.device)
        noise = torch.randn_like(image)
        errors = (self.model(self.process.noisy(image, noise, t), t) - noise).square()
        self.demand_finite(errors.sum(), batch, "training")
        self.sums["train"].add({"loss": errors.detach().flatten(1).mean(1)})
        return errors.sum() / SUM_DIVISOR if self.loss_name == "sum" else errors.mean()

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Take the new weights into the average."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch's error, at the cases' own steps and noise, to the averages of the epoch."""
        image = self.image(batch)
        places = [int(i) for i in batch["index"]]
        noise = torch.cat([torch.randn(1, *image.shape[1:], generator=sample_generator(self.seed, i)) for i in places])
        share = (torch.tensor(places, dtype=torch.float64) + 0.5) * _GOLDEN_SECTION % 1
        t = (share * self.process.num_steps).long().to(image.device)
        noise = noise.to(image)
        errors = (self.served(self.process.noisy(image, noise, t), t) - noise).square()
        self.demand_finite(errors.sum(), batch, "validation")
        self.sums["val"].add({"loss": errors.flatten(1).mean(1)})

    def image(self, batch: Batch) -> Tensor:
        """Return the images in -1..1, the label as their last channel where it is learned too."""
        image: Tensor = batch["image"]
        if self.label_classes is None:
            return image
        label = 2 * batch["label"].to(image) / (self.label_classes - 1) - 1
        return torch.cat([image, label.unsqueeze(1)], dim=1)

    def epoch_scores(self) -> Figures:
        """Return no scores: nothing is compared with a label."""
        return dict.fromkeys(validated())


def exponential_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Return a moving average for `AveragedModel`; short at first, so that the fresh weights soon count for nothing.

    Args:
        decay: Share of the average that stays at each step; early on (1 + n) / (10 + n) of n steps, if that is less.
    """

    def average(averages: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        n = float(count)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, current, count)

    return average
