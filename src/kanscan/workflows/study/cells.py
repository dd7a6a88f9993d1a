"""The cells of a study: each a resolved recipe and a folder named by it, and how far each is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kanscan.config.recipe import Recipe, load_recipe, with_root
from kanscan.files import read_json, write_json
from kanscan.run import Run
from kanscan.run.lock import who_holds
from kanscan.workflows.study.spec import Study, recipe_of

#: Settings on which nothing that a cell shows depends.
_WITHOUT_EFFECT = (
    *("name", "description", "claims", "data.root", "data.cache", "data.num_workers"),
    *("trainer.device", "volume.memory_limit_mib", "volume.cache"),
)
#: Works on a run's folder that others must wait for.
WORKS = ("training", "evaluation")


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes:
        row: Name of its row: the model, with its option where the study has several.
        model: Key of the study's models.
        dataset: Key of the study's data sets.
        seed: Of weights and order.
        split: What the cases were split by: a seed of the split, a fold, or both; equal for cells whose cases are
            split alike.
        recipe: What is trained; None where there can be none.
        sentence: Why there can be none.
        folder: Of its run.
    """

    row: str
    model: str
    dataset: str
    seed: int
    split: str
    recipe: Recipe | None
    sentence: str = ""
    folder: Path = field(default=Path())

    @property
    def run(self) -> Run:
        """Its run, which may not be there yet."""
        return Run(self.folder)

    @property
    def is_done(self) -> bool:
        """Whether it is trained and judged."""
        return self.run.report_path.is_file()

    @property
    def words(self) -> str:
        """Say which one it is."""
        return f"{self.row} on {self.dataset}, seed {self.seed}" + (f", {self.split}" if "fold" in self.split else "")

    @cached_property
    def failure(self) -> Failures:
        """What went wrong so far."""
        return Failures(self.folder.with_suffix(".failed.json"))

    def state(self) -> str:
        """Say how far it is."""
        if self.recipe is None:
            return f"cannot be made: {self.sentence}"
        if self.is_done:
            return "done"
        epochs = f"{len(self.run.curves)} of {self.recipe.trainer.epochs} epochs"
        for work in WORKS:
            if holder := who_holds(self.folder, work):
                return f"{epochs}; {holder.partition(';')[0]}"
        if self.failure.sentence:
            return f"failed: {self.failure.sentence}"
        return epochs if self.run.curves else "waiting"


@dataclass(frozen=True)
class Failures:
    """The last failure of a cell, beside its folder, so that it is known after the process that met it is gone."""

    path: Path

    @property
    def sentence(self) -> str:
        """Why it failed; "" where it did not."""
        return str(read_json(self.path)["sentence"]) if self.path.is_file() else ""

    def note(self, sentence: str) -> None:
        """Write it down; "" removes it."""
        if sentence:
            write_json(self.path, {"sentence": sentence})
        else:
            self.path.unlink(missing_ok=True)


def plan_cells(study: Study, folder: Path) -> list[Cell]:
    """List all cells, row after row; one whose recipe is not legal is listed with the reason.

    Args:
        study: What is made.
        folder: Of the study; cells lie in its folder `cells`.

    Raises:
        ValueError: No recipe is legal: the study is wrong, not a cell of it.
    """
    cells = []
    for option, changes in (study.options or {"": {}}).items():
        for model, network in study.models.items():
            row = f"{model}, {option}" if option else model
            for dataset in study.datasets:
                for seed in study.seeds:
                    for split, settings in _splits(study, seed):
                        overrides = {**changes, **settings, "seed": seed}
                        if not network.model:
                            cells.append(Cell(row, model, dataset, seed, split, None, network.why))
                            continue
                        cells.append(_cell(study, folder, (row, model, dataset, seed, split), overrides))
    wrong = [cell.sentence for cell in cells if study.models[cell.model].model and cell.recipe is None]
    if wrong and not any(cell.recipe for cell in cells):
        raise ValueError(wrong[0])
    return cells


def _splits(study: Study, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """List the splits under a seed, and what of the recipe makes them."""
    seeds = study.splits or (None,)
    folds = range(study.folds) if study.folds else (None,)
    found = []
    for split in seeds:
        for fold in folds:
            settings: dict[str, Any] = {} if split is None else {"split.seed": split}
            words = [] if split is None else [f"split {split}"]
            if fold is not None:
                # All seeds see the same folds, unless several ways to draw them are asked for.
                drawn = {"split.seed": study.seeds[0] if split is None else split}
                settings |= {"split.kind": "kfold", "split.fold": fold, "split.num_folds": study.folds, **drawn}
                words.append(f"fold {fold + 1} of {study.folds}")
            found.append((", ".join(words) or f"split {seed}", settings))
    return found


def _cell(study: Study, folder: Path, place: tuple[str, str, str, int, str], changes: Mapping[str, Any]) -> Cell:
    row, model, dataset, seed, split = place
    network, data = study.models[model], study.datasets[dataset]
    overrides: dict[str, Any] = {"model.name": network.model, "model.preset": network.preset}
    overrides |= {f"model.options.{key}": value for key, value in network.options.items()}
    overrides |= {**data.overrides, **study.overrides, **network.overrides, **changes}
    overrides["claims"] = [f"{study.printed}/{data.printed or dataset}/{model}"] if study.printed else []
    try:
        recipe = load_recipe(recipe_of(study, model, dataset), overrides)
    except ValueError as error:
        return Cell(row, model, dataset, seed, split, None, str(error))
    recipe = with_root(recipe, recipe.data.root)
    return Cell(row, model, dataset, seed, split, recipe, folder=folder / "cells" / cell_key(dataset, recipe))


def cell_key(dataset: str, recipe: Recipe) -> str:
    """Name a cell by all that decides its figures: data set and resolved recipe."""
    content = recipe.model_dump(mode="json")
    for key in _WITHOUT_EFFECT:
        *parents, last = key.split(".")
        part = content
        for name in parents:
            part = part[name]
        part.pop(last, None)
    text = json.dumps([dataset, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def distinct(cells: list[Cell]) -> list[Cell]:
    """Leave out cells that cannot be made, and all but the first of those that are the same run."""
    return list({cell.folder: cell for cell in reversed(cells) if cell.recipe is not None}.values())[::-1]
