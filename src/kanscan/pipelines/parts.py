"""What the kinds of work build alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from kanscan.complexity import num_parameters
from kanscan.config.foreign import keys_under
from kanscan.config.parts import NNUNetSplit
from kanscan.config.recipe import Recipe
from kanscan.data.case import Case
from kanscan.data.loading import Cached, make_loader
from kanscan.data.pictures.transforms import Preprocessing
from kanscan.data.source import Opened
from kanscan.data.splits import Split, make_split
from kanscan.layers.lone_volume import quicken_lone_volumes
from kanscan.models import create_model, model_options
from kanscan.models.base import Network, SegmentationModel
from kanscan.models.released import load_fitting, load_into, read_weights
from kanscan.pipelines.base import Preparation
from kanscan.run import Run
from kanscan.run.facts import DatasetFacts
from kanscan.training.losses import make_loss
from kanscan.training.segmentation import SegmentationTask

#: Recipe keys that every kind of work reads.
READ_BY_ALL = keys_under(
    *("name", "description", "claims", "seed", "model", "split", "optim"),
    *("data.root", "data.reader", "data.options", "data.channels", "data.num_workers"),
)


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


def build_model(recipe: Recipe, options: Mapping[str, Any]) -> Network:
    """Build the network with fresh weights drawn from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return create_model(recipe.model.name, **options)


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
        folder = part.weights
        return load_fitting(model, Run.open(folder).weights_path if folder.is_dir() else folder)
    if part.pretrained is None:
        return ""
    return f"{part.pretrained}: {model.load_pretrained(read_weights(part.pretrained))}"


def predictable_network(run: Run) -> SegmentationModel:
    """Build the network of a run with its weights.

    Raises:
        ValueError: The weights belong to another network.
        FileNotFoundError: There are no weights yet.
    """
    demand_weights(run)
    facts = run.facts
    model = load_into(create_model(facts.model.name, **facts.model.options), run.weights_path)
    if not isinstance(model, SegmentationModel):
        raise ValueError(f"{run.path} is damaged: {facts.model.name} labels no images, but run.json says that it does")
    # Windows go through the network one by one.
    quicken_lone_volumes(model)
    return model


def demand_weights(run: Run) -> None:
    """Refuse a run of which no epoch was finished.

    Raises:
        FileNotFoundError: There are no weights.
    """
    if not run.weights_path.is_file():
        raise FileNotFoundError(f"{run.path} has no weights yet: no epoch was finished; go on with resume=true")


def check_loss(recipe: Recipe) -> None:
    """Refuse a loss that does not suit the network's logits, as far as the recipe tells their number."""
    chosen = model_options(recipe.model.name, recipe.model.preset, recipe.model.options)
    make_loss(recipe.loss, chosen.get("out_channels"))


def segmentation_task(recipe: Recipe, model: SegmentationModel) -> SegmentationTask:
    """Build the training step of a network that labels images."""
    return SegmentationTask(
        model,
        make_loss(recipe.loss, model.out_channels),
        recipe.optim,
        recipe.trainer.epochs,
        seed=recipe.seed,
        deep_supervision=recipe.loss.deep_supervision,
    )


def loader_of(recipe: Recipe, dataset: Cached, *, training: bool) -> DataLoader:
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


def data_notes(source: Opened, split: Split) -> tuple[str, ...]:
    """Say what the user should know of data and split; "" where there is nothing to say."""
    return (
        f"{source.num_unlabelled} cases have no label and are left out" if source.num_unlabelled else "",
        split.caveat,
        "" if split.validation else "no validation cases: the last epoch's weights are kept as the best",
    )


def network_facts(model: Network) -> dict[str, Any]:
    """Return what the facts of every kind of run say of its network and version."""
    return {"kanscan": version("kanscan"), "num_parameters": num_parameters(model), "stride": tuple(model.stride)}


def dataset_facts(preparation: Preparation) -> DatasetFacts:
    """Say which data a run was made of."""
    source = preparation.source
    return DatasetFacts(
        reader=source.reader.key,
        title=source.reader.title,
        num_cases=len(source.cases),
        num_extra=preparation.num_extra,
    )
