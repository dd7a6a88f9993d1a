"""A training tried without writing anything: sizes, costs, one step, and how long all of it would take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanscan.complexity import complexity
from kanscan.config.recipe import Recipe
from kanscan.data.source import Opened
from kanscan.metrics.logits import legal_size
from kanscan.training.device import choose_device, device_text, training_memory_mib
from kanscan.training.rate_search import LearningRates, find_learning_rate
from kanscan.training.session import try_steps
from kanscan.workflows.train import prepare

#: A validation step has no backward pass and no optimizer: about a third of a training step.
_VALIDATION_SHARE = 1 / 3
#: A training that takes longer on a CPU deserves a word.
_LONG_SECONDS = 2 * 3600
#: Kind of work -> what suits a CPU.
_SHORTER = {
    "pictures": "on a CPU that is long: the recipe ukan-quick is made for one (25 minutes at most on two cores)",
    "generation": "on a CPU that is long: the recipe ukan_diffusion-quick is made for one",
    "volumes": "on a CPU that is long: set fewer volume.batches_per_epoch and trainer.epochs, narrower "
    "model.options.channels, or trainer.time_budget_minutes",
}


@dataclass(frozen=True)
class Rehearsal:
    """What a training would do, and how its first step went.

    Attributes:
        recipe: Name of the recipe.
        output: Where the run would go.
        dataset: Title of the data set.
        num_train: Cases trained on.
        num_validation: Cases that choose the epoch.
        num_test: Cases reported.
        split: What kept cases together.
        model: Name of the network.
        num_parameters: Its parameters.
        macs: Multiply-adds for one image.
        memory_mib: Estimate of what a training step holds.
        device: Where it ran.
        loss: Loss of the first batch.
        step_seconds: Time of a step; the first takes longer.
        num_steps: Steps of the whole training.
        total_seconds: About how long all of it takes, validation included, reading files not.
        notes: What the user should know.
    """

    recipe: str
    output: str
    dataset: str
    num_train: int
    num_validation: int
    num_test: int
    split: str
    model: str
    num_parameters: int
    macs: int
    memory_mib: float
    device: str
    loss: float
    step_seconds: float
    num_steps: int
    total_seconds: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def __rich__(self) -> str:
        """Write what was found, line by line."""
        from rich.markup import escape

        lines = [
            f"recipe      {self.recipe}",
            f"data        {self.dataset}",
            f"cases       {self.num_train} to train on, {self.num_validation} for validation, {self.num_test} to test",
            f"split       {self.split}",
            f"network     {self.model}: {self.num_parameters:,} parameters, {self.macs / 1e9:.2f} GMACs an image",
            f"memory      about {self.memory_mib:,.0f} MiB for a training step",
            f"first step  loss {self.loss:.4f}; then {self.step_seconds:.2f} s a step on {self.device}",
            f"steps       {self.num_steps:,} in all, about {duration(self.total_seconds)}",
            *(f"note        {note}" for note in self.notes),
            f"Nothing was written. Without --dry-run the run would go to {self.output}",
        ]
        return escape("\n".join(lines))


def rehearse(recipe: Recipe, folder: Path, source: Opened | None = None, notes: tuple[str, ...] = ()) -> Rehearsal:
    """Build everything, take one step and write nothing.

    Args:
        recipe: What would be done.
        folder: Where the run would go.
        source: The data set, where it was opened before.
        notes: What the user should know.
    """
    plan = prepare(recipe, source)
    batch = next(iter(plan.train))
    size = batch["image"].shape[2:]
    padded = (plan.model.in_channels, *legal_size(size, plan.model.stride))
    cost = complexity(plan.model, padded)
    memory = training_memory_mib(plan.model, len(batch["image"]), padded, recipe.trainer.precision)
    chosen = choose_device(recipe.trainer.device)
    trial = try_steps(plan.task, batch, recipe.trainer)
    num_steps = len(plan.train) * recipe.trainer.epochs
    validations = 0 if plan.validation is None else len(plan.validation) * recipe.trainer.epochs
    seconds = trial.seconds * (num_steps + _VALIDATION_SHARE * validations / recipe.trainer.validate_every)
    if chosen.type == "cpu" and seconds > _LONG_SECONDS:
        notes = (*notes, _SHORTER[plan.pipeline.kind])
    return Rehearsal(
        recipe=recipe.name,
        output=str(folder),
        dataset=plan.source.reader.title or plan.source.reader.key,
        num_train=len(plan.split.train),
        num_validation=len(plan.split.validation),
        num_test=len(plan.split.test),
        split=f"{plan.split.kind}; {plan.split.groups or 'groups ignored'}",
        model=recipe.model.name,
        num_parameters=cost.num_parameters,
        macs=cost.macs,
        memory_mib=memory,
        device=device_text(chosen),
        loss=trial.loss,
        step_seconds=trial.seconds,
        num_steps=num_steps,
        total_seconds=seconds,
        notes=(*notes, *plan.notes),
    )


def search_rate(recipe: Recipe, source: Opened | None = None) -> LearningRates:
    """Build everything, and try learning rates on the training cases; nothing is written."""
    plan = prepare(recipe, source)
    return find_learning_rate(plan.task, plan.train, recipe.trainer)


def duration(seconds: float) -> str:
    """Say how long something takes, in the unit a person would choose.

    Example:
        >>> duration(75), duration(5400), duration(200_000)
        ('1 minute', '1.5 hours', '2.3 days')
    """
    unit, length = next(
        ((unit, length) for unit, length in (("day", 86_400), ("hour", 3600)) if seconds >= 1.25 * length),
        ("minute", 60),
    )
    count = max(seconds / length, 1)
    text = f"{count:.0f}" if unit == "minute" else f"{count:.1f}".removesuffix(".0")
    return f"{text} {unit}{'' if text == '1' else 's'}"
