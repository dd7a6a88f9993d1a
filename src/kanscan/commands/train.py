"""`train`: a recipe, or a folder of pictures, becomes a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from kanscan.registry import unknown

if TYPE_CHECKING:
    from kanscan.run import Run
    from kanscan.training.checkpoint import Checkpoints
    from kanscan.training.rate_search import LearningRates
    from kanscan.workflows.rehearse import Rehearsal


#: Options of this command that may be written key=true too.
_SWITCHES = ("resume", "dry_run", "find_lr")


def train(
    target: str,
    overrides: list[str] | None = None,
    *,
    model: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    output: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    find_lr: bool = False,
    json: bool = False,
) -> Run | Rehearsal | LearningRates:
    """Train a network and leave a run: a folder with weights, curves, split and everything needed to predict.

    Args:
        target: A recipe (`kanscan show recipes`), a YAML file, a folder of images and masks, or a run to go on with.
        overrides: Settings of the recipe as key=value, such as optim.lr=3e-4 (`kanscan show keys`).
        model: Network, short for model.name=...
        epochs: Short for trainer.epochs=...
        seed: Short for seed=...
        device: auto, cpu, cuda, cuda:N or mps; short for trainer.device=...
        output: Folder of the run; default: runs/ and the recipe's name and seed.
        resume: Go on with the run that is there, exactly where it stopped.
        dry_run: Build everything, show sizes and costs, take one step and write nothing.
        find_lr: Try rising learning rates for a hundred steps, suggest optim.lr and optim.kan_lr, and write nothing.
        json: Print the result as JSON.

    Returns:
        The run (`kanscan.Run`); with `dry_run` a `Rehearsal`, with `find_lr` the `LearningRates` that were tried.

    Raises:
        ValueError: A name, a key, a value or a file is wrong, or a run was made with other settings.
        FileNotFoundError: There is no such data folder.
        FileExistsError: The folder holds a run already.
        PermissionError: The folder cannot be written to.

    Example:
        >>> run = train("ukan", ["data.root=my_images"], epochs=50)  # doctest: +SKIP
    """
    from kanscan.config.recipe import recipe_names
    from kanscan.training.stopping import Interrupted

    settings, asked = _settings(overrides, model=model, epochs=epochs, seed=seed, device=device)
    resume, dry_run = resume or asked.get("resume", False), dry_run or asked.get("dry_run", False)
    find_lr = find_lr or asked.get("find_lr", False)
    output = Path(asked["output"]) if output is None and "output" in asked else output
    if not Path(target).exists() and len(Path(target).parts) == 1 and target not in recipe_names():
        # A wrong name is answered before torch is loaded, which takes seconds.
        raise ValueError(f"{unknown('recipe', target, recipe_names())}; there is no folder of that name either")
    from kanscan.workflows.progress import say
    from kanscan.workflows.rehearse import rehearse, search_rate
    from kanscan.workflows.resolve import resolve
    from kanscan.workflows.train import train_run

    found = resolve(target, settings, output, resume)
    if dry_run:
        return rehearse(found.recipe, found.folder, found.source, found.notes)
    for note in found.notes:
        say(f"note: {note}")
    if find_lr:
        return search_rate(found.recipe, found.source)
    try:
        run, ended = train_run(found.recipe, found.folder, source=found.source, resume=resume, say=say)
    except Interrupted as interruption:
        say(f"{interruption}; go on with: kanscan train {quote(str(found.folder))} resume=true")
        raise SystemExit(128 + interruption.signal_number) from None
    if not json:
        say(_ending(run, ended))
    return run


def _settings(
    overrides: list[str] | Mapping[str, Any] | None, **options: object
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate settings of the recipe from options of this command written key=value."""
    from kanscan.config.recipe import parse_overrides

    settings = parse_overrides(overrides or ())
    asked: dict[str, Any] = {key: settings.pop(key) for key in (*_SWITCHES, "output") if key in settings}
    for key in _SWITCHES:
        if not isinstance(asked.get(key, False), bool):
            raise ValueError(f"{key} is true or false, got {asked[key]!r}")
    keys = {"model": "model.name", "epochs": "trainer.epochs", "seed": "seed", "device": "trainer.device"}
    return settings | {keys[name]: value for name, value in options.items() if value is not None}, asked


def _ending(run: Run, ended: Checkpoints | None) -> str:
    from kanscan.training.checkpoint import best_row, selections
    from kanscan.training.stopping import StopReason

    recipe = run.recipe
    column, _ = selections()[recipe.trainer.select_by]
    best = best_row(run.curves, recipe.trainer.select_by)
    lines, where = [], quote(str(run.path))
    if ended is None:
        lines.append(f"{run.path} was finished before, nothing was left to train")
    elif ended.stopped:
        lines.append(f"stopped after epoch {ended.rows[-1]['epoch']}: {ended.stopped}")
        if ended.stopped.reason is StopReason.TIME_BUDGET:
            lines.append(f"go on with:  kanscan train {where} resume=true")
    if best is not None:
        lines.append(f"best epoch {best['epoch']:.0f}: {column} {best[column]:.4f}")
    lines.append(f"run: {run.path}")
    if run.facts.kind == "generation":
        lines.append(f"next:  kanscan sample {where} --judge {quote(str(recipe.data.root))}")
    else:
        lines += [f"next:  kanscan evaluate {where}", f"       kanscan predict {where} IMAGES"]
    return "\n".join(lines)
