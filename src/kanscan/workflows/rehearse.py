"""A training tried without writing anything: sizes, costs, one step, and how long all of it would take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanscan.complexity import complexity
from kanscan.config.recipe import Recipe
from kanscan.data.source import Opened
from kanscan.training.device import choose_device, device_text, training_memory_mib
from kanscan.training.session import try_steps
from kanscan.workflows.train import prepare


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
            f"first step  loss {self.loss:.4f}, {self.step_seconds:.2f} s on {self.device}",
            f"steps       {self.num_steps:,} in all",
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
    padded = (plan.model.in_channels, *(-(-s // m) * m for s, m in zip(size, plan.model.stride, strict=True)))
    cost = complexity(plan.model, padded)
    memory = training_memory_mib(plan.model, len(batch["image"]), padded, recipe.trainer.precision)
    chosen = choose_device(recipe.trainer.device)
    trial = try_steps(plan.task, batch, recipe.trainer)
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
        num_steps=len(plan.train) * recipe.trainer.epochs,
        notes=(*notes, *plan.notes),
    )
