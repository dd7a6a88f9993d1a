"""Which wing a recipe belongs to: one that labels pictures or one that generates them, by its network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kanscan.config.recipe import Recipe
from kanscan.data import READERS
from kanscan.data.pictures.transforms import AUGMENTATIONS
from kanscan.data.source import Opened
from kanscan.data.splits import Split
from kanscan.models import MODELS, create_model, model_options
from kanscan.models.base import Network, NoisePredictor
from kanscan.pipelines import generation
from kanscan.pipelines import pictures as segmentation
from kanscan.pipelines.parts import build_preprocessing
from kanscan.training.device import choose_device
from kanscan.training.task import Task
from kanscan.training.trainer import check_precision


def generates(recipe: Recipe) -> bool:
    """Tell whether the recipe's network predicts noise, so that its training is a diffusion."""
    return issubclass(MODELS[recipe.model.name], NoisePredictor)


def wing_of(recipe: Recipe) -> Any:
    """Return the module that builds this kind of recipe; both have the same functions."""
    return generation if generates(recipe) else segmentation


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
    AUGMENTATIONS[recipe.data.augmentation]
    build_preprocessing(recipe, 3)
    wing_of(recipe).check_settings(recipe)
    return check_precision(recipe.trainer.precision, choose_device(recipe.trainer.device))


def build_source(recipe: Recipe, root: str | Path | None = None) -> Opened:
    """Open the data set a recipe names.

    Args:
        recipe: Names folder and reader.
        root: The folder, where it is not the recipe's.

    Raises:
        ValueError: No folder is named, its layout is not known, or it holds nothing to learn from.
        FileNotFoundError: There is no such folder.
    """
    source: Opened = wing_of(recipe).open_data(recipe, root)
    return source


def network_options(recipe: Recipe, channels: int, num_classes: int) -> dict[str, Any]:
    """Resolve all constructor options of the network: the recipe's, what follows from the data, and the defaults.

    Args:
        recipe: Names the network, its preset and its options.
        channels: Channels of the pictures as the data set has them.
        num_classes: Classes of the data, background included.

    Raises:
        ValueError: The network or an option is unknown, or contradicts the data.
    """
    options: dict[str, Any] = wing_of(recipe).complete(recipe, channels, num_classes)
    return options


def build_model(recipe: Recipe, options: Mapping[str, Any]) -> Network:
    """Build the network with fresh weights drawn from the recipe's seed.

    Raises:
        ValueError: The network cannot take the recipe's images.
    """
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.model.name, **options)
    wing_of(recipe).check_model(recipe, model)
    return model


def build_task(recipe: Recipe, model: Network, num_classes: int = 2) -> Task:
    """Build the training step: loss, optimizer and schedule around a network.

    Args:
        recipe: Names them.
        model: The network.
        num_classes: Classes of the data, for networks that generate labels too.
    """
    task: Task = wing_of(recipe).task_of(recipe, model, num_classes)
    return task


def build_loaders(recipe: Recipe, source: Opened, split: Split) -> tuple[Any, Any | None]:
    """Build the loaders of the training and of the validation cases (None if there are none)."""
    build = wing_of(recipe).loader
    train = build(recipe, source, split.train, training=True)
    return train, build(recipe, source, split.validation, training=False) if split.validation else None


def check_batch(recipe: Recipe, model: Network, num_training_cases: int) -> None:
    """Refuse batches that the network's norms cannot take."""
    wing_of(recipe).check_batch(recipe, model, num_training_cases)
