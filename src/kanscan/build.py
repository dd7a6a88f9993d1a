"""The hall: names in a recipe become objects, a run becomes a predictor; the only file that sees every wing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from kanscan.complexity import num_parameters
from kanscan.config import Recipe, with_root
from kanscan.data import READERS, Case
from kanscan.data.loader import SegmentationDataset, make_loader
from kanscan.data.source import Selection, Source, open_source
from kanscan.data.splits import Split, make_split
from kanscan.data.transforms import AUGMENTATIONS, Preprocessing
from kanscan.models import MODELS, create_model, model_options
from kanscan.models.base import SegmentationModel
from kanscan.models.fitting import check_fit, complete_options
from kanscan.models.released import load_into, read_weights
from kanscan.predictor import Predictor
from kanscan.run import Run
from kanscan.training.checkpoint import Files, Keeper, is_finished
from kanscan.training.device import choose_device, device_text
from kanscan.training.losses import make_loss
from kanscan.training.segmentation import SegmentationTask, check_batch_norm
from kanscan.training.session import train_task
from kanscan.training.stopping import Interrupted
from kanscan.training.trainer import check_precision


def check_names(recipe: Recipe) -> str:
    """Refuse unknown names, devices and precisions before any file is read.

    Returns:
        A warning about speed, or "".

    Raises:
        ValueError: A name is unknown, or a device is not there.
    """
    part = recipe.model
    chosen = model_options(part.name, part.preset, part.options)
    if recipe.data.reader != "auto":
        READERS[recipe.data.reader]
    AUGMENTATIONS[recipe.data.augmentation]
    build_preprocessing(recipe, 3)
    _loss(recipe, chosen.get("out_channels", 2))
    return check_precision(recipe.trainer.precision, choose_device(recipe.trainer.device))


def build_source(recipe: Recipe, root: str | Path | None = None) -> Source:
    """Open the data set a recipe names.

    Args:
        recipe: Names folder and reader.
        root: The folder, where it is not the recipe's.

    Raises:
        ValueError: No folder is named, its layout is not known, or it holds no labelled case.
        FileNotFoundError: There is no such folder.
    """
    folder = root if root is not None else recipe.data.root
    if folder is None:
        raise ValueError(f"recipe {recipe.name!r} does not say where the data lie; add data.root=FOLDER")
    return open_source(folder, recipe.data.reader, recipe.data.options)


def build_split(recipe: Recipe, cases: Sequence[Case]) -> Split:
    """Divide the cases as the recipe says."""
    options = recipe.split.model_dump()
    return make_split(cases, **options | {"seed": recipe.seed if recipe.split.seed is None else recipe.split.seed})


def build_preprocessing(recipe: Recipe, channels: int) -> Preprocessing:
    """Build what is done to pictures; a recipe that leaves the channels open takes the data's."""
    return Preprocessing(recipe.data.channels or channels, recipe.data.image_size, recipe.data.normalization)


def network_options(recipe: Recipe, channels: int, num_classes: int) -> dict[str, Any]:
    """Resolve all constructor options of the network: the recipe's, what follows from the data, and the defaults.

    Args:
        recipe: Names the network, its preset and its options.
        channels: Channels of the pictures as the data set has them.
        num_classes: Classes of the data, background included.

    Raises:
        ValueError: The network or an option is unknown, or contradicts the data.
    """
    part = recipe.model
    return complete_options(
        MODELS[part.name],
        model_options(part.name, part.preset, part.options),
        channels=build_preprocessing(recipe, channels).channels,
        num_classes=num_classes,
        image_size=recipe.data.image_size,
        deep_supervision=recipe.loss.deep_supervision,
    )


def build_model(recipe: Recipe, options: Mapping[str, Any]) -> SegmentationModel:
    """Build the network with fresh weights drawn from the recipe's seed.

    Raises:
        ValueError: The network cannot take the recipe's images.
    """
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.model.name, **options)
    assert isinstance(model, SegmentationModel)  # complete_options refused the others
    check_fit(model, recipe.data.image_size, recipe.loss.deep_supervision)
    return model


def load_weights(recipe: Recipe, model: SegmentationModel) -> str:
    """Fill a fresh network from `model.weights` or `model.pretrained`, where the recipe names one.

    Returns:
        What was taken, or "".

    Raises:
        ValueError: Both are named, the weights do not belong to the network, or it takes no pretrained ones.
    """
    part = recipe.model
    if part.weights is not None and part.pretrained is not None:
        raise ValueError("model.weights and model.pretrained are both set; a network starts from one of them")
    if part.weights is not None:
        load_into(model, part.weights)
        return f"the network starts from {part.weights}"
    if part.pretrained is None:
        return ""
    load: Any = getattr(model, "load_pretrained", None)
    if load is None:
        raise ValueError(f"model {part.name} has no pretrained encoder to load; leave out model.pretrained")
    return f"{part.pretrained}: {load(read_weights(part.pretrained))}"


def build_task(recipe: Recipe, model: SegmentationModel) -> SegmentationTask:
    """Build the training step: loss, optimizer and schedule around a network."""
    optim = recipe.optim
    names = ("name", "lr", "kan_lr", "weight_decay", "momentum", "nesterov", "betas", "eps")
    epochs = optim.schedule_epochs or recipe.trainer.epochs
    return SegmentationTask(
        model,
        _loss(recipe, model.out_channels),
        optimizer={name: getattr(optim, name) for name in names},
        schedule={"name": optim.schedule, "epochs": epochs, "min_lr": optim.min_lr},
        seed=recipe.seed,
        deep_supervision=recipe.loss.deep_supervision,
    )


def _loss(recipe: Recipe, out_channels: int) -> torch.nn.Module:
    return make_loss(out_channels=out_channels, **recipe.loss.model_dump(exclude={"deep_supervision"}))


def build_loaders(recipe: Recipe, source: Source, split: Split) -> tuple[Any, Any | None]:
    """Build the loaders of the training and of the validation cases (None if there are none)."""
    train = _loader(recipe, source, split.train, training=True)
    return train, _loader(recipe, source, split.validation, training=False) if split.validation else None


def _loader(recipe: Recipe, source: Source, ids: Sequence[str], *, training: bool) -> Any:
    data, batch_size = recipe.data, recipe.trainer.batch_size
    dataset = SegmentationDataset(
        source.only(ids, "the split"),
        build_preprocessing(recipe, source.reader.channels),
        source.label_map,
        augmentation=data.augmentation if training else "none",
        seed=recipe.seed,
        cache=data.cache,
    )
    return make_loader(
        dataset,
        batch_size=batch_size,
        shuffle=training,
        seed=recipe.seed,
        num_workers=data.num_workers,
        # An incomplete batch would weigh its few images more than the others; a small set has no other batch.
        drop_last=training and len(ids) >= batch_size,
    )


def check_batch(recipe: Recipe, model: SegmentationModel, num_training_cases: int) -> None:
    """Refuse batches that batch norm cannot take, where the size of the images is known beforehand."""
    if recipe.data.image_size is not None:
        batch = min(recipe.trainer.batch_size, num_training_cases)
        check_batch_norm(model, batch, (model.in_channels, *recipe.data.image_size))


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
    """

    recipe: Recipe
    source: Source
    split: Split
    options: dict[str, Any]
    model: SegmentationModel
    task: SegmentationTask
    loaders: tuple[Any, Any | None]
    notes: tuple[str, ...]


def prepare(recipe: Recipe, split: Split | None = None) -> Preparation:
    """Build everything a recipe names; nothing is written.

    Args:
        recipe: What to do.
        split: The split of a run that goes on; None: as the recipe says.

    Raises:
        ValueError: Something is unknown, or does not fit; the sentence says what.
        FileNotFoundError: The data are not there.
    """
    warning = check_names(recipe)
    source = build_source(recipe)
    recipe = with_root(recipe, source.root)
    options = network_options(recipe, source.reader.channels, source.label_map.num_classes)
    model = build_model(recipe, options)
    started = load_weights(recipe, model) if split is None else ""  # a run that goes on has weights in its state
    split = split or build_split(recipe, source.cases)
    check_batch(recipe, model, len(split.train))
    loaders = build_loaders(recipe, source, split)
    notes = (
        warning,
        started,
        f"{source.num_unlabelled} cases have no label and are left out" if source.num_unlabelled else "",
        split.caveat,
        "" if split.validation else "no validation cases: the last epoch's weights are kept as the best",
        # A cache that fits needs no word.
        loaders[0].dataset.cache_note if loaders[0].dataset.cache_note.endswith("each epoch") else "",
    )
    task = build_task(recipe, model)
    return Preparation(recipe, source, split, options, model, task, loaders, tuple(filter(None, notes)))


def train_run(
    recipe: Recipe, path: str | Path, *, resume: bool = False, say: Callable[[str], None] = lambda text: None
) -> tuple[Run, Keeper | None]:
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
    try:
        return run, _fit(run, preparation)
    except Interrupted:
        raise
    except Exception:
        # Nothing was learned yet: the folder must not stand in the way of a second try.
        if not run.curves_path.exists():
            run.discard()
        raise


def _go_on(recipe: Recipe, run: Run, say: Callable[[str], None]) -> tuple[Run, Keeper | None]:
    recipe = run.check_same(with_root(recipe, recipe.data.root))
    part = recipe.trainer
    if is_finished(run.state_path, epochs=part.epochs, patience=part.patience, select_by=part.select_by):
        return run, None
    preparation = prepare(recipe, Split.load(run.split_path))
    run.note_resumed(preparation.recipe, device_text(choose_device(part.device)))
    _announce(preparation, say)
    say(f"{run.path} goes on; it has {len(run.curves)} of {part.epochs} epochs")
    return run, _fit(run, preparation)


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
    return {
        "kanscan": version("kanscan"),
        "model": {"name": recipe.model.name, "options": preparation.options},
        "num_parameters": num_parameters(model),
        "stride": list(model.stride),
        "preprocessing": asdict(build_preprocessing(recipe, source.reader.channels)),
        "class_names": list(source.label_map.names),
        "data": {"reader": source.reader.key, "title": source.reader.title, "num_cases": len(source.cases)},
    }


def _fit(run: Run, preparation: Preparation) -> Keeper:
    recipe = preparation.recipe
    return train_task(
        preparation.task,
        preparation.loaders,
        Files(run.weights_path, run.last_weights_path, run.state_path, run.curves_path),
        run.path,
        about={"model": recipe.model.name, "recipe": recipe.name, "kanscan": version("kanscan")},
        clip_norm=recipe.optim.clip_norm,
        **recipe.trainer.model_dump(exclude={"batch_size"}),
    )


def predictor(run: Run, *, device: str = "auto", flips: bool | None = None) -> Predictor:
    """Build the predictor of a run from its folder alone.

    Args:
        run: A run with weights.
        device: auto, cpu, cuda, cuda:N or mps.
        flips: Average over flips; None: as the recipe's evaluation does.

    Raises:
        ValueError: The weights belong to another network.
        FileNotFoundError: There are no weights yet.
    """
    if not run.weights_path.is_file():
        raise FileNotFoundError(f"{run.path} has no weights yet: no epoch was finished; go on with resume=true")
    facts = run.facts
    model = create_model(facts["model"]["name"], **facts["model"]["options"])
    return Predictor(
        load_into(model, run.weights_path),  # type: ignore[arg-type]
        Preprocessing(**facts["preprocessing"]),
        facts["class_names"],
        device=choose_device(device),
        flips=run.recipe.evaluation.flips if flips is None else flips,
    )


def load_predictor(path: str | Path, *, device: str = "auto", flips: bool | None = None) -> Predictor:
    """Open a run folder and build its predictor; neither the data nor the place of training is needed.

    Args:
        path: The folder that `train` wrote.
        device: As in `predictor`.
        flips: As in `predictor`.

    Raises:
        ValueError: The folder is no run, or its weights belong to another network.
        FileNotFoundError: There are no weights yet.
    """
    return predictor(Run.open(path), device=device, flips=flips)


def evaluation_cases(run: Run, *, part: str = "test", root: str | Path | None = None) -> Selection:
    """Find the cases a run is judged on.

    Args:
        run: A run.
        part: "test", "validation" or "train" of the run's own split; "all": every labelled case of the data set, which
            with `root` may be another one.
        root: Where the data lie, if not where the recipe says.

    Raises:
        ValueError: The part is unknown or empty, or the data do not fit the run.
        FileNotFoundError: The data are not there.
    """
    split, names = Split.load(run.split_path), run.facts["class_names"]
    source = build_source(run.recipe, root)
    if len(names) != source.label_map.num_classes:
        raise ValueError(
            f"{source.root} has the classes {', '.join(source.label_map.names)}; "
            f"this run tells {', '.join(names)} apart"
        )
    return source.select(part, split, f"the split of {run.path}")
