"""From a recipe to a run: everything is built and checked, then trained into a folder, or on from where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from kanscan.config.parts import TimedSchedule
from kanscan.config.recipe import Recipe, with_root
from kanscan.data.source import Opened
from kanscan.data.splits import Split
from kanscan.pipelines import check_names, open_data, pipeline_of_data
from kanscan.pipelines.base import Preparation
from kanscan.pipelines.parts import build_split
from kanscan.run import Run
from kanscan.run.facts import RunFacts
from kanscan.run.lock import locked
from kanscan.training.checkpoint import Checkpoints, Files, is_finished
from kanscan.training.device import choose_device, device_text
from kanscan.training.session import train_task
from kanscan.training.stopping import Interrupted


def prepare(
    recipe: Recipe, source: Opened | None = None, split: Split | None = None, resumed: RunFacts | None = None
) -> Preparation:
    """Build everything a recipe names; nothing is written.

    Args:
        recipe: What to do.
        source: The data set, where it was opened before; None: as the recipe says.
        split: The split of a run that goes on; None: as the recipe says.
        resumed: Facts of a run that goes on.

    Raises:
        ValueError: Something is unknown, or does not fit; the sentence says what.
        FileNotFoundError: The data are not there.
    """
    warning = check_names(recipe)
    source = source or open_data(recipe)
    recipe = with_root(recipe, source.root)
    pipeline = pipeline_of_data(recipe, source)
    pipeline.check(recipe)
    found = pipeline.prepare(recipe, source, split or build_split(recipe, source.cases), resumed)
    found.task.freeze(recipe.model.freeze, recipe.model.freeze_epochs)
    return replace(found, notes=(warning, *found.notes)) if warning else found


def train_run(
    recipe: Recipe,
    path: str | Path,
    *,
    source: Opened | None = None,
    resume: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Run, Checkpoints | None]:
    """Train a recipe into a folder, or go on with the run that is there.

    Args:
        recipe: What to do.
        path: The run's folder.
        source: The data set, where it was opened before.
        resume: Go on with a run that is there; without one, a new run is started all the same.
        say: Takes what the user should know before the training starts.

    Returns:
        The run, and how the training ended; None where the run was finished before.

    Raises:
        ValueError: Something in recipe or data is wrong, or the run was made with other settings.
        FileExistsError: There is a run and `resume` is not set.
        PermissionError: The folder cannot be written to.
        InUseError: Another process trains this run.
        Interrupted: A signal asked to stop.
    """
    run = Run(Path(path))
    with locked(run.path, "training"):
        if resume and run.recipe_path.is_file():
            return _go_on(recipe, Run.open(path), say)
        run.demand_new()
        return _begin(recipe, run, source, say)


def _begin(
    recipe: Recipe, run: Run, source: Opened | None, say: Callable[[str], None]
) -> tuple[Run, Checkpoints | None]:
    preparation = prepare(recipe, source)
    _announce(preparation, say)
    for loader in filter(None, (preparation.train, preparation.validation)):
        # A broken file shall be known before the run begins.
        loader.dataset.fill_cache()  # type: ignore[attr-defined]
    source, device = preparation.source, device_text(choose_device(recipe.trainer.device))
    split = {**preparation.split.to_json(), "case_groups": {case.id: case.group for case in source.cases}}
    facts = preparation.pipeline.facts(preparation)
    run = Run.create(run.path, preparation.recipe, facts, split=split, device=device)
    preparation.pipeline.write_beside(run, preparation)
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
    before_epochs = run.recipe.trainer.epochs
    recipe = run.check_same(with_root(recipe, recipe.data.root))
    part = recipe.trainer
    if is_finished(run.state_path, part):
        return run, None
    facts = run.facts
    preparation = prepare(recipe, split=Split.load(run.split_path), resumed=facts)
    before, now = facts.data.num_extra, preparation.num_extra
    if before != now:
        raise ValueError(
            f"{recipe.data.extra_training} holds {now} cases, but {before} when {run.path} began; restore them, or "
            "start a new run with another --output"
        )
    run.note_resumed(preparation.recipe, device_text(choose_device(part.device)))
    _announce(preparation, say)
    say(f"{run.path} goes on; it has {len(run.curves)} of {part.epochs} epochs")
    if part.epochs > before_epochs and isinstance(recipe.optim, TimedSchedule) and not recipe.optim.schedule_epochs:
        say(
            f"note: its {recipe.optim.schedule} schedule was made for {before_epochs} epochs and has ended; a new one "
            f"goes from optim.lr over the {part.epochs - before_epochs} further epochs"
        )
    return run, _fit(run, preparation)


def _announce(preparation: Preparation, say: Callable[[str], None]) -> None:
    source, split = preparation.source, preparation.split
    say(
        f"{source.reader.title or source.reader.key}: {len(split.train)} cases to train on, {len(split.validation)} to "
        f"choose the epoch, {len(split.test)} to test ({split.kind} split; {split.groups or 'groups ignored'})"
    )
    for note in preparation.notes:
        say(f"note: {note}")


def _fit(run: Run, preparation: Preparation) -> Checkpoints:
    recipe = preparation.recipe
    return train_task(
        preparation.task,
        (preparation.train, preparation.validation),
        Files(run.weights_path, run.last_weights_path, run.state_path, run.curves_path),
        run.path,
        recipe.trainer,
        about={"model": recipe.model.name, "recipe": recipe.name, "kanscan": version("kanscan")},
    )
