"""`train`: a recipe, or a folder of pictures, becomes a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanscan.config.recipe import Recipe
    from kanscan.run import Run
    from kanscan.training.checkpoint import Checkpoints

#: Recipe for a folder of pictures that comes without one.
FOLDER_RECIPE = "ukan"
#: The same for a network that generates pictures.
GENERATING_RECIPE = "ukan_diffusion"
#: The same for a folder of volumes.
VOLUMES_RECIPE = "volumes"


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
    json: bool = False,
) -> Any:
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
        json: Print the result as JSON.

    Returns:
        The run (`kanscan.Run`); with `dry_run` a `Rehearsal`.

    Raises:
        ValueError: A name, a key, a value or a file is wrong, or a run was made with other settings.
        FileNotFoundError: There is no such data folder.
        FileExistsError: The folder holds a run already.
        PermissionError: The folder cannot be written to.

    Example:
        >>> run = train("ukan", ["data.root=my_images"], epochs=50)  # doctest: +SKIP
    """
    from kanscan.training.stopping import Interrupted
    from kanscan.workflows.training import train_run

    settings, asked = _settings(overrides, model=model, epochs=epochs, seed=seed, device=device)
    resume, dry_run = resume or asked.get("resume", False), dry_run or asked.get("dry_run", False)
    output = Path(asked["output"]) if output is None and "output" in asked else output
    recipe, folder = _resolve(target, settings, output, resume)
    if dry_run:
        return _rehearse(recipe, folder)
    try:
        run, ended = train_run(recipe, folder, resume=resume, say=_say)
    except Interrupted as interruption:
        _say(f"{interruption}; go on with: kanscan train {quote(str(folder))} resume=true")
        raise SystemExit(128 + interruption.signal_number) from None
    if not json:
        _say(_ending(run, ended))
    return run


def _settings(overrides: list[str] | Mapping[str, Any] | None, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate settings of the recipe from options of this command written key=value."""
    from kanscan.config.recipe import parse_overrides

    settings = parse_overrides(overrides or ())
    asked: dict[str, Any] = {key: settings.pop(key) for key in ("resume", "output", "dry_run") if key in settings}
    for key in ("resume", "dry_run"):
        if not isinstance(asked.get(key, False), bool):
            raise ValueError(f"{key} is true or false, got {asked[key]!r}")
    keys = {"model": "model.name", "epochs": "trainer.epochs", "seed": "seed", "device": "trainer.device"}
    return settings | {keys[name]: value for name, value in options.items() if value is not None}, asked


def _resolve(target: str, settings: dict[str, Any], output: Path | None, resume: bool) -> tuple[Recipe, Path]:
    """Find the recipe and the run's folder."""
    from kanscan.config.parts import KFoldSplit
    from kanscan.config.recipe import load_recipe, recipe_names
    from kanscan.registry import unknown
    from kanscan.run import Run

    path = Path(target)
    if Run(path).recipe_path.is_file():
        if output is not None and output.resolve() != path.resolve():
            raise ValueError(f"{path} is a run, which goes on in its own folder; leave out --output {output}")
        if not resume:
            Run(path).demand_new()
        return load_recipe(Run.open(path).recipe_path, settings), path
    if path.is_dir() and target not in recipe_names():
        base = _folder_recipe(path, settings)
        model = settings.get("model.name", load_recipe(base).model.name)
        name = {} if "name" in settings else {"name": f"{model}-{path.resolve().name}"}
        supervision = _supervision(model) if base == VOLUMES_RECIPE else {}
        recipe = load_recipe(base, {"data.root": str(path), **name, **supervision, **settings})
    elif path.suffix in (".yaml", ".yml") or target in recipe_names():
        recipe = load_recipe(target, settings)
    elif path.exists():
        raise ValueError(f"{path} is a file; expected a recipe, a YAML file, a folder of images and masks, or a run")
    elif len(path.parts) > 1:
        raise FileNotFoundError(f"no folder at {path}; expected a folder of images and masks, or a run")
    else:
        raise ValueError(f"{unknown('recipe', target, recipe_names())}; there is no folder of that name either")
    fold = f"_fold{recipe.split.fold}" if isinstance(recipe.split, KFoldSplit) else ""
    return recipe, output or Path("runs") / f"{recipe.name}_s{recipe.seed}{fold}"


def _folder_recipe(path: Path, settings: Mapping[str, Any]) -> str:
    """Return the recipe for a folder: one for volumes, and of pictures one of its own for a network that generates."""
    if _holds_volumes(path, settings):
        return VOLUMES_RECIPE
    if "model.name" not in settings:
        return FOLDER_RECIPE
    from kanscan.models import MODELS
    from kanscan.models.base import NoisePredictor

    return GENERATING_RECIPE if issubclass(MODELS[settings["model.name"]], NoisePredictor) else FOLDER_RECIPE


def _supervision(model: str) -> dict[str, bool]:
    """Switch deep supervision off for a network without side outputs; a wrong name is refused later."""
    from kanscan.models import MODELS
    from kanscan.models.base import SegmentationModel

    known = MODELS.get(model)
    has_side_outputs = known is not None and getattr(known, "side_outputs", None) is not SegmentationModel.side_outputs
    return {} if has_side_outputs else {"loss.deep_supervision": False}


def _holds_volumes(path: Path, settings: Mapping[str, Any]) -> bool:
    from kanscan.data.readers import READERS, recognize

    try:
        key = settings.get("data.reader", "auto")
        key = recognize(path) if key == "auto" else key
        if key == "table":
            from kanscan.data import make_reader

            return make_reader(key, path).spatial_dims == 3
        return READERS[key].spatial_dims == 3
    except (OSError, ValueError):
        return False  # the training says what is wrong with the folder


def _rehearse(recipe: Recipe, folder: Path) -> Rehearsal:
    from kanscan.complexity import complexity
    from kanscan.training.device import choose_device, device_text, training_memory_mib
    from kanscan.training.session import try_steps
    from kanscan.workflows.training import prepare

    plan = prepare(recipe)
    loader, _ = plan.loaders
    batch = next(iter(loader))
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
        num_steps=len(loader) * recipe.trainer.epochs,
        notes=plan.notes,
    )


def _ending(run: Run, ended: Checkpoints | None) -> str:
    from kanscan.training.checkpoint import SELECTIONS, best_row
    from kanscan.training.stopping import StopReason

    recipe = run.recipe
    column, _ = SELECTIONS[recipe.trainer.select_by]
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
    if "diffusion" in run.facts:
        lines.append(f"next:  kanscan sample {where} --judge {quote(str(recipe.data.root))}")
    else:
        lines += [f"next:  kanscan evaluate {where}", f"       kanscan predict {where} IMAGES"]
    return "\n".join(lines)


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)
