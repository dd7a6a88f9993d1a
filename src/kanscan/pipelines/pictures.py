"""Segmentation: pictures and labels become a network, its training step and its predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kanscan.config.recipe import Recipe
from kanscan.data.pictures.dataset import ConcatenatedDataset, labelled_pictures
from kanscan.data.pictures.transforms import Preprocessing
from kanscan.data.source import Opened, Selection, open_source
from kanscan.data.splits import Split
from kanscan.inference import Predictor
from kanscan.models import MODELS, create_model, model_options
from kanscan.models.base import Network, SegmentationModel
from kanscan.models.fitting import check_fit, complete_options
from kanscan.models.released import load_into
from kanscan.pipelines.parts import build_preprocessing, data_folder, loader_of
from kanscan.pipelines.volumes import volume_predictor
from kanscan.run import Run
from kanscan.training.device import choose_device
from kanscan.training.losses import make_loss
from kanscan.training.segmentation import SegmentationTask, check_batch_norm


def check_settings(recipe: Recipe) -> None:
    """Refuse settings that a segmentation does not know."""
    chosen = model_options(recipe.model.name, recipe.model.preset, recipe.model.options)
    if recipe.diffusion != Recipe().diffusion:
        raise ValueError(
            f"model {recipe.model.name} segments: the settings of diffusion would have no effect; leave them out, or "
            "choose model.name=ukan_diffusion"
        )
    if recipe.data.crop is not None or recipe.data.crop_place != "center":
        raise ValueError(
            "data.crop would hide the rest of a picture from the segmentation; it is for networks that generate"
        )
    make_loss(recipe.loss, chosen.get("out_channels", 2))


def open_data(recipe: Recipe, root: str | Path | None = None) -> Opened:
    """Open the data set a recipe names; see `kanscan.pipelines.build_source`."""
    return open_source(data_folder(recipe, root), recipe.data.reader, recipe.data.options)


def complete(recipe: Recipe, channels: int, num_classes: int) -> dict[str, Any]:
    """Resolve the network's options; see `kanscan.pipelines.network_options`."""
    part = recipe.model
    return complete_options(
        MODELS[part.name],
        model_options(part.name, part.preset, part.options),
        channels=build_preprocessing(recipe, channels).channels,
        num_classes=num_classes,
        image_size=recipe.data.image_size,
        deep_supervision=recipe.loss.deep_supervision,
    )


def check_model(recipe: Recipe, model: Network) -> None:
    """Refuse a network that cannot take the recipe's images."""
    assert isinstance(model, SegmentationModel)  # complete_options refused the others
    check_fit(model, recipe.data.image_size, recipe.loss.deep_supervision)


def task_of(recipe: Recipe, model: Network, num_classes: int) -> SegmentationTask:
    """Build the training step."""
    assert isinstance(model, SegmentationModel)
    return SegmentationTask(
        model,
        make_loss(recipe.loss, model.out_channels),
        recipe.optim,
        recipe.trainer.epochs,
        deep_supervision=recipe.loss.deep_supervision,
        seed=recipe.seed,
    )


def loader(recipe: Recipe, source: Opened, ids: Sequence[str], *, training: bool) -> Any:
    """Build the loader of some cases."""
    settings: dict[str, Any] = {
        "augmentation": recipe.data.augmentation if training else "none",
        "seed": recipe.seed,
        "cache": recipe.data.cache,
    }
    preprocessing = build_preprocessing(recipe, source.reader.channels)
    dataset = labelled_pictures(source.only(ids, "the split"), preprocessing, source.label_map, **settings)
    if not training or recipe.data.extra_training is None:
        return loader_of(recipe, dataset, training=training)
    extra = open_extra(recipe, source)
    # Another seed: equal places in both parts would be turned alike in every epoch.
    more = labelled_pictures(extra.cases, preprocessing, extra.label_map, **settings | {"seed": recipe.seed + 1})
    return loader_of(recipe, ConcatenatedDataset(dataset, more), training=True)


def open_extra(recipe: Recipe, source: Opened) -> Opened:
    """Open the pictures that join the training cases.

    Raises:
        ValueError: They are volumes, have other classes, or are the data set itself, test cases included.
        FileNotFoundError: There is no such folder.
    """
    folder = recipe.data.extra_training
    assert folder is not None
    here, there = folder.resolve(), source.root.resolve()
    if here == there or here in there.parents:
        raise ValueError(
            f"data.extra_training={folder} holds the data set itself, and with it the cases that are kept apart; name "
            "a folder of other pictures"
        )
    extra = open_source(folder)
    if extra.reader.spatial_dims != 2:
        raise ValueError(f"data.extra_training={folder} holds volumes ({extra.reader.key}), expected pictures")
    if extra.label_map.num_classes != source.label_map.num_classes:
        raise ValueError(
            f"data.extra_training={folder} has {extra.label_map.num_classes} classes, {source.root} has "
            f"{source.label_map.num_classes}; both must have the same"
        )
    return extra


def check_batch(recipe: Recipe, model: Network, num_training_cases: int) -> None:
    """Refuse batches that batch norm cannot take, where the size of the images is known beforehand."""
    if recipe.data.image_size is not None:
        batch = min(recipe.trainer.batch_size, num_training_cases)
        check_batch_norm(model, batch, (model.in_channels, *recipe.data.image_size))


def facts(recipe: Recipe, source: Opened) -> dict[str, Any]:
    """Return what prediction needs to know of the data."""
    return {"class_names": list(source.label_map.names), "label_map": asdict(source.label_map)}


def predictor(run: Run, *, device: str = "auto", flips: bool | None = None) -> Any:
    """Build the predictor of a run from its folder alone: a `Predictor`, or a `VolumePredictor` for a run on volumes.

    Args:
        run: A run with weights.
        device: auto, cpu, cuda, cuda:N or mps.
        flips: Average over flips; None: as the recipe's evaluation does.

    Raises:
        ValueError: The run generates pictures, or the weights belong to another network.
        FileNotFoundError: There are no weights yet.
    """
    facts = run.facts
    if "diffusion" in facts:
        raise ValueError(f"{run.path} generates pictures and labels none: kanscan sample {run.path}")
    if not run.weights_path.is_file():
        raise FileNotFoundError(f"{run.path} has no weights yet: no epoch was finished; go on with resume=true")
    if "plan" in facts:
        return volume_predictor(run, device=device, flips=flips)
    model = create_model(facts["model"]["name"], **facts["model"]["options"])
    return Predictor(
        load_into(model, run.weights_path),  # type: ignore[arg-type]
        Preprocessing(**facts["preprocessing"]),
        facts["class_names"],
        device=choose_device(device),
        flips=run.recipe.evaluation.flips if flips is None else flips,
    )


def load_predictor(path: str | Path, *, device: str = "auto", flips: bool | None = None) -> Any:
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
    source = open_data(run.recipe, root)
    if len(names) != source.label_map.num_classes:
        raise ValueError(
            f"{source.root} has the classes {', '.join(source.label_map.names)}; "
            f"this run tells {', '.join(names)} apart"
        )
    return source.select(part, split, f"the split of {run.path}")
