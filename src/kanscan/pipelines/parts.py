"""What segmentation and generation build alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanscan.config.parts import NNUNetSplit
from kanscan.config.recipe import Recipe
from kanscan.data import Case
from kanscan.data.loading import Cached, make_loader
from kanscan.data.pictures.transforms import Preprocessing
from kanscan.data.splits import Split, make_split
from kanscan.models.base import Network
from kanscan.models.released import load_into, read_weights


def data_folder(recipe: Recipe, root: str | Path | None) -> str | Path:
    """Return where the data lie.

    Args:
        recipe: Names the folder.
        root: The folder, where it is not the recipe's.

    Raises:
        ValueError: No folder is named.
    """
    folder = root if root is not None else recipe.data.root
    if folder is None:
        raise ValueError(f"recipe {recipe.name!r} does not say where the data lie; add data.root=FOLDER")
    return folder


def build_split(recipe: Recipe, cases: Sequence[Case]) -> Split:
    """Divide the cases as the recipe says."""
    part = recipe.split
    if isinstance(part, NNUNetSplit) and part.file is None and recipe.data.root is not None:
        part = part.model_copy(update={"file": recipe.data.root / "splits_final.json"})
    return make_split(cases, part, recipe.seed)


def build_preprocessing(recipe: Recipe, channels: int) -> Preprocessing:
    """Build what is done to pictures; a recipe that leaves the channels open takes the data's."""
    data = recipe.data
    return Preprocessing(data.channels or channels, data.image_size, data.normalization, data.crop)


def load_weights(recipe: Recipe, model: Network) -> str:
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


def loader_of(recipe: Recipe, dataset: Cached, *, training: bool) -> Any:
    """Build the loader of a data set."""
    batch_size = recipe.trainer.batch_size
    return make_loader(
        dataset,
        batch_size=batch_size,
        shuffle=training,
        seed=recipe.seed,
        num_workers=recipe.data.num_workers,
        # An incomplete batch would weigh its few images more than the others; a small set has no other batch.
        drop_last=training and len(dataset) >= batch_size,
    )
