"""Kinds of work from file to file; the one room that turns the names of a recipe or run into objects."""

from __future__ import annotations

from pathlib import Path

from kanscan.config.recipe import Recipe
from kanscan.data import READERS
from kanscan.data.source import Opened, Selection, open_source
from kanscan.data.splits import Split
from kanscan.models import MODELS, model_options
from kanscan.models.base import NoisePredictor
from kanscan.pipelines.base import LabelingPipeline, Pipeline, Preparation
from kanscan.pipelines.generation import GenerationPipeline, open_unlabelled_pictures
from kanscan.pipelines.parts import check_loss, data_folder
from kanscan.pipelines.pictures import PicturePipeline
from kanscan.pipelines.volumes import VolumePipeline
from kanscan.run import Run
from kanscan.training.device import choose_device
from kanscan.training.trainer import check_precision

__all__ = [
    "GENERATION",
    "PICTURES",
    "PIPELINES",
    "VOLUMES",
    "LabelingPipeline",
    "Pipeline",
    "Preparation",
    "check_names",
    "evaluation_cases",
    "generates",
    "labeling_pipeline",
    "open_data",
    "pipeline_of_data",
]

PICTURES, VOLUMES, GENERATION = PicturePipeline(), VolumePipeline(), GenerationPipeline()
#: Every kind of work, by the name that run.json gives it.
PIPELINES: dict[str, Pipeline] = {one.kind: one for one in (PICTURES, VOLUMES, GENERATION)}


def generates(recipe: Recipe) -> bool:
    """Tell whether the recipe's network predicts noise, so that its training is a diffusion."""
    return issubclass(MODELS[recipe.model.name], NoisePredictor)


def check_names(recipe: Recipe) -> str:
    """Refuse unknown names, devices and precisions, and settings without effect, before any file is read.

    Returns:
        A warning about speed, or "".

    Raises:
        ValueError: A name is unknown, a setting does not suit the network, or a device is not there.
    """
    model_options(recipe.model.name, recipe.model.preset, recipe.model.options)
    if recipe.data.reader != "auto":
        READERS[recipe.data.reader]
    if generates(recipe):
        GENERATION.check(recipe)
    else:
        check_loss(recipe)
    return check_precision(recipe.trainer.precision, choose_device(recipe.trainer.device))


def open_data(recipe: Recipe, root: str | Path | None = None) -> Opened:
    """Open the data set a recipe names.

    Args:
        recipe: Names folder and reader.
        root: The folder, where it is not the recipe's.

    Raises:
        ValueError: No folder is named, its layout is not known, or it holds nothing to learn from.
        FileNotFoundError: There is no such folder.
    """
    if generates(recipe):
        return open_unlabelled_pictures(recipe, root)
    return open_source(data_folder(recipe, root), recipe.data.reader, recipe.data.options)


def pipeline_of_data(recipe: Recipe, source: Opened) -> Pipeline:
    """Tell which kind of work a recipe is on a data set.

    Raises:
        ValueError: The network generates pictures, and the data are volumes.
    """
    if source.reader.spatial_dims == 2:
        return GENERATION if generates(recipe) else PICTURES
    if generates(recipe):
        raise ValueError(f"model {recipe.model.name} generates pictures; {source.root} holds volumes")
    return VOLUMES


def labeling_pipeline(run: Run) -> LabelingPipeline:
    """Return the kind of work of a run that labels images.

    Raises:
        ValueError: The run generates pictures.
    """
    found = PIPELINES[run.facts.kind]
    if not isinstance(found, LabelingPipeline):
        raise ValueError(f"{run.path} generates pictures and labels none: kanscan sample {run.path}")
    return found


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
    split, names = Split.load(run.split_path), run.facts.class_names
    recipe = run.recipe
    source = open_source(data_folder(recipe, root), recipe.data.reader, recipe.data.options)
    if len(names) != source.label_map.num_classes:
        raise ValueError(
            f"{source.root} has the classes {', '.join(source.label_map.names)}; "
            f"this run tells {', '.join(names)} apart"
        )
    return source.select(part, split, f"the split of {run.path}")
