"""From a recipe to a run: everything is built and checked, then trained into a folder, or on from where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kanscan.complexity import num_parameters
from kanscan.config.recipe import Recipe, with_root
from kanscan.data.source import Opened
from kanscan.data.splits import Split
from kanscan.data.volumes.plan import VolumePlan
from kanscan.models.base import Network
from kanscan.pipelines.parts import build_preprocessing, build_split, load_weights
from kanscan.pipelines.volumes import Planned, check_volume_names, patch_loaders, plan_volumes, write_plan
from kanscan.pipelines.wings import (
    build_loaders,
    build_model,
    build_source,
    build_task,
    check_batch,
    check_names,
    generates,
    network_options,
    wing_of,
)
from kanscan.run import Run
from kanscan.training.checkpoint import Checkpoints, Files, is_finished
from kanscan.training.device import choose_device, device_text
from kanscan.training.session import train_task
from kanscan.training.stopping import Interrupted
from kanscan.training.task import Task


@dataclass(frozen=True)
class Preparation:
    """Everything a training needs, built and checked.

    Attributes:
        recipe: The recipe, with the folder of the data made absolute.
        source: The data set.
        split: Who is trained on.
        options: All constructor options of the network.
        model: The network.
        task: The training step.
        loaders: Of the training and of the validation cases.
        notes: What the user should know.
        planned: Of volumes: how they reach the network.
    """

    recipe: Recipe
    source: Opened
    split: Split
    options: dict[str, Any]
    model: Network
    task: Task
    loaders: tuple[Any, Any | None]
    notes: tuple[str, ...]
    planned: Planned | None = None


def prepare(recipe: Recipe, split: Split | None = None, plan: VolumePlan | None = None) -> Preparation:
    """Build everything a recipe names; nothing is written.

    Args:
        recipe: What to do.
        split: The split of a run that goes on; None: as the recipe says.
        plan: The plan of a run on volumes that goes on.

    Raises:
        ValueError: Something is unknown, or does not fit; the sentence says what.
        FileNotFoundError: The data are not there.
    """
    warning = check_names(recipe)
    source = build_source(recipe)
    recipe = with_root(recipe, source.root)
    if source.reader.spatial_dims == 3:
        return _prepare_volumes(recipe, source, split, plan, warning)
    options = network_options(recipe, source.reader.channels, source.label_map.num_classes)
    model = build_model(recipe, options)
    started = load_weights(recipe, model) if split is None else ""  # a run that goes on has weights in its state
    split = split or build_split(recipe, source.cases)
    check_batch(recipe, model, len(split.train))
    loaders = build_loaders(recipe, source, split)
    memory = loaders[0].dataset.memory
    notes = (
        warning,
        started,
        *_data_notes(source, split),
        _extra_note(recipe, len(loaders[0].dataset) - len(split.train)),
        # Pictures that fit into memory need no word.
        str(memory) if memory is not None and not memory.fits else "",
    )
    task = build_task(recipe, model, source.label_map.num_classes)
    return Preparation(recipe, source, split, options, model, task, loaders, tuple(filter(None, notes)))


def _prepare_volumes(
    recipe: Recipe, source: Opened, split: Split | None, plan: VolumePlan | None, warning: str
) -> Preparation:
    """Build everything for volumes; the plan needs to know who is trained on."""
    if recipe.data.extra_training is not None:
        raise ValueError(f"data.extra_training adds pictures; {source.root} holds volumes")
    if generates(recipe):
        raise ValueError(f"model {recipe.model.name} generates pictures; {source.root} holds volumes")
    check_volume_names(recipe)
    resumed = split is not None
    split = split or build_split(recipe, source.cases)
    planned = plan_volumes(recipe, source, split, plan)
    started = "" if resumed else load_weights(recipe, planned.model)
    loaders = patch_loaders(recipe, source, split, planned.plan)
    task = build_task(recipe, planned.model, source.label_map.num_classes)
    notes = (warning, started, *_data_notes(source, split), *planned.notes)
    return Preparation(
        recipe, source, split, planned.options, planned.model, task, loaders, tuple(filter(None, notes)), planned
    )


def _data_notes(source: Opened, split: Split) -> tuple[str, ...]:
    return (
        f"{source.num_unlabelled} cases have no label and are left out" if source.num_unlabelled else "",
        split.caveat,
        "" if split.validation else "no validation cases: the last epoch's weights are kept as the best",
    )


def _extra_note(recipe: Recipe, count: int) -> str:
    return f"{count} more cases to train on from {recipe.data.extra_training}" if count else ""


def train_run(
    recipe: Recipe, path: str | Path, *, resume: bool = False, say: Callable[[str], None] = lambda text: None
) -> tuple[Run, Checkpoints | None]:
    """Train a recipe into a folder, or go on with the run that is there.

    Args:
        recipe: What to do.
        path: The run's folder.
        resume: Go on with a run that is there; without one, a new run is started all the same.
        say: Takes what the user should know before the training starts.

    Returns:
        The run, and how the training ended; None where the run was finished before.

    Raises:
        ValueError: Something in recipe or data is wrong, or the run was made with other settings.
        FileExistsError: There is a run and `resume` is not set.
        PermissionError: The folder cannot be written to.
        Interrupted: A signal asked to stop.
    """
    run = Run(Path(path))
    if resume and run.recipe_path.is_file():
        return _go_on(recipe, Run.open(path), say)
    run.demand_new()
    preparation = prepare(recipe)
    _announce(preparation, say)
    for loader in filter(None, preparation.loaders):
        # A broken file shall be known before the run begins.
        loader.dataset.fill_cache()
    source, device = preparation.source, device_text(choose_device(recipe.trainer.device))
    split = {**preparation.split.to_json(), "case_groups": {case.id: case.group for case in source.cases}}
    run = Run.create(path, preparation.recipe, _facts(preparation), split=split, device=device)
    if preparation.planned is not None:
        write_plan(run, preparation.planned)
    try:
        return run, _fit(run, preparation)
    except Interrupted:
        raise
    except Exception:
        # Nothing was learned yet: the folder must not stand in the way of a second try.
        if not run.curves_path.exists():
            run.discard()
        raise


def _go_on(recipe: Recipe, run: Run, say: Callable[[str], None]) -> tuple[Run, Checkpoints | None]:
    recipe = run.check_same(with_root(recipe, recipe.data.root))
    part = recipe.trainer
    if is_finished(run.state_path, part):
        return run, None
    plan = VolumePlan.from_json(run.facts["plan"]) if "plan" in run.facts else None
    preparation = prepare(recipe, Split.load(run.split_path), plan)
    before, now = run.facts["data"].get("num_extra", 0), _num_extra(preparation)
    if before != now:
        raise ValueError(
            f"{recipe.data.extra_training} holds {now} cases, but {before} when {run.path} began; restore them, or "
            "start a new run with another --output"
        )
    run.note_resumed(preparation.recipe, device_text(choose_device(part.device)))
    _announce(preparation, say)
    say(f"{run.path} goes on; it has {len(run.curves)} of {part.epochs} epochs")
    return run, _fit(run, preparation)


def _num_extra(preparation: Preparation) -> int:
    if preparation.recipe.data.extra_training is None:
        return 0
    return len(preparation.loaders[0].dataset) - len(preparation.split.train)


def _announce(preparation: Preparation, say: Callable[[str], None]) -> None:
    source, split = preparation.source, preparation.split
    say(
        f"{source.reader.title or source.reader.key}: {len(split.train)} cases to train on, {len(split.validation)} to "
        f"choose the epoch, {len(split.test)} to test ({split.kind} split; {split.groups or 'groups ignored'})"
    )
    for note in preparation.notes:
        say(f"note: {note}")


def _facts(preparation: Preparation) -> dict[str, Any]:
    """Collect what prediction needs beside the recipe, so that a run works without the data."""
    recipe, source, model = preparation.recipe, preparation.source, preparation.model
    if preparation.planned is not None:
        reaching: dict[str, Any] = {"plan": preparation.planned.plan.to_json()}
    else:
        reaching = {"preprocessing": asdict(build_preprocessing(recipe, source.reader.channels))}
    return {
        "kanscan": version("kanscan"),
        "model": {"name": recipe.model.name, "options": preparation.options},
        "num_parameters": num_parameters(model),
        "stride": list(model.stride),
        **reaching,
        **wing_of(recipe).facts(recipe, source),
        "data": {
            "reader": source.reader.key,
            "title": source.reader.title,
            "num_cases": len(source.cases),
            "num_extra": _num_extra(preparation),
        },
    }


def _fit(run: Run, preparation: Preparation) -> Checkpoints:
    recipe = preparation.recipe
    return train_task(
        preparation.task,
        preparation.loaders,
        Files(run.weights_path, run.last_weights_path, run.state_path, run.curves_path),
        run.path,
        recipe.trainer,
        about={"model": recipe.model.name, "recipe": recipe.name, "kanscan": version("kanscan")},
    )
