"""What a user names becomes a recipe and the folder of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanscan.config.parts import KFoldSplit
from kanscan.config.recipe import Recipe, load_recipe, recipe_names
from kanscan.data.source import Opened, open_source
from kanscan.data.unlabelled import open_pictures
from kanscan.models import MODELS
from kanscan.models.base import NoisePredictor, SegmentationModel
from kanscan.registry import unknown
from kanscan.run import Run

#: Recipe for a folder of pictures that comes without one.
FOLDER_RECIPE = "ukan"
#: The same for a network that generates pictures.
GENERATING_RECIPE = "ukan_diffusion"
#: The same for a folder of volumes.
VOLUMES_RECIPE = "volumes"


@dataclass(frozen=True)
class Resolved:
    """What will be done, and where.

    Attributes:
        recipe: The recipe.
        folder: Of the run.
        source: The data set, where it had to be opened to choose the recipe.
        notes: What the user should know.
    """

    recipe: Recipe
    folder: Path
    source: Opened | None = None
    notes: tuple[str, ...] = ()


def resolve(target: str, settings: Mapping[str, Any], output: Path | None = None, resume: bool = False) -> Resolved:
    """Find the recipe and the run's folder.

    Args:
        target: A recipe, a YAML file, a folder of images and masks, or a run to go on with.
        settings: Dotted keys of the recipe, and their values.
        output: The folder, where the user names one.
        resume: Going on with a run is meant.

    Raises:
        ValueError: The target is nothing of that, or a setting is wrong.
        FileNotFoundError: There is no such folder.
        FileExistsError: It is a run, and going on was not asked for.
    """
    path = Path(target)
    if Run(path).recipe_path.is_file():
        if output is not None and output.resolve() != path.resolve():
            raise ValueError(f"{path} is a run, which goes on in its own folder; leave out --output {output}")
        if not resume:
            Run(path).demand_new()
        return Resolved(load_recipe(Run.open(path).recipe_path, settings), path)
    source: Opened | None = None
    notes: tuple[str, ...] = ()
    if path.is_dir() and target not in recipe_names():
        recipe, source = _for_folder(path, settings)
    elif path.suffix in (".yaml", ".yml") or target in recipe_names():
        recipe, notes = load_recipe(target, settings), _left_out(target, settings)
    elif path.exists():
        raise ValueError(f"{path} is a file; expected a recipe, a YAML file, a folder of images and masks, or a run")
    elif len(path.parts) > 1:
        raise FileNotFoundError(f"no folder at {path}; expected a folder of images and masks, or a run")
    else:
        raise ValueError(f"{unknown('recipe', target, recipe_names())}; there is no folder of that name either")
    fold = f"_fold{recipe.split.fold}" if isinstance(recipe.split, KFoldSplit) else ""
    return Resolved(recipe, output or Path("runs") / f"{recipe.name}_s{recipe.seed}{fold}", source, notes)


def _for_folder(path: Path, settings: Mapping[str, Any]) -> tuple[Recipe, Opened]:
    """Choose the recipe for a folder: one for volumes, and of pictures one of its own for a network that generates."""
    named = settings.get("model.name")
    generates = named is not None and issubclass(MODELS[named], NoisePredictor)
    reader, options = settings.get("data.reader", "auto"), settings.get("data.options", {})
    if generates:
        base = GENERATING_RECIPE
        source = open_pictures(path, reader, options, labelled=settings.get("diffusion.with_label", False))
    else:
        source = open_source(path, reader, options)
        base = VOLUMES_RECIPE if source.reader.spatial_dims == 3 else FOLDER_RECIPE
    model = named or load_recipe(base).model.name
    fixed: dict[str, Any] = {"data.root": str(path), "name": f"{model}-{path.resolve().name}"}
    network = MODELS[model]
    has_side_outputs = (
        issubclass(network, SegmentationModel) and network.side_outputs is not SegmentationModel.side_outputs
    )
    if base == VOLUMES_RECIPE and not has_side_outputs:
        # The recipe for volumes trains on side outputs, which this network does not have.
        fixed["loss.deep_supervision"] = False
    return load_recipe(base, fixed | dict(settings)), source


def _left_out(target: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what of a recipe belongs to its own network and is left out for another one."""
    base = load_recipe(target).model
    if settings.get("model.name", base.name) == base.name:
        return ()
    own = {
        "preset": base.preset,
        "options": base.options or None,
        "weights": base.weights,
        "pretrained": base.pretrained,
    }
    dropped = [f"model.{key}" for key, value in own.items() if value is not None]
    if not dropped:
        return ()
    return (f"{', '.join(dropped)} of the recipe {target} belong to {base.name} and are left out",)
