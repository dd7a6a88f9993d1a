"""What a study is made of, and where that is said: a printed table of a paper, or a YAML file of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kanscan.config.recipe import recipe_names
from kanscan.metrics import METRICS
from kanscan.papers import Network, load_paper, paper_names
from kanscan.registry import unknown

#: Where a study of a run's folder says what it is.
STUDY_FILE = "study.yaml"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StudyData(_Part):
    """A data set of a study.

    Attributes:
        recipe: Recipe that trains on it; the networks take the place of its own.
        overrides: Keys of the recipe for all cells of this data set.
        printed: Its name in the printed table; empty: its own name here.
    """

    recipe: str
    overrides: dict[str, Any] = Field(default_factory=dict)
    printed: str = ""


class StudyModel(Network):
    """A row of a study.

    Attributes:
        recipes: Data set -> recipe, where the row has another one than the others.
    """

    recipes: dict[str, str] = Field(default_factory=dict)


class Study(_Part):
    """Networks x data sets x seeds x splits x folds x options.

    Attributes:
        name: Heading.
        printed: Printed table that ours stands beside, such as "u_kan/table1".
        models: Row -> network; one without a model is shown with the reason and not trained.
        datasets: Data set -> recipe and overrides.
        seeds: Of weights and order; where `splits` is empty, of a drawn split too, as the papers do.
        splits: Seeds of the split, each with every seed: so the two causes of spread are told apart.
        folds: Folds of a cross-validation that replaces the recipes' split; None: as the recipes split.
        options: Name -> overrides; each makes a row of every model.
        overrides: Keys of the recipe for all cells.
        metrics: Columns.
    """

    name: str = "study"
    printed: str = ""
    models: dict[str, StudyModel]
    datasets: dict[str, StudyData]
    seeds: tuple[int, ...] = (2981,)
    splits: tuple[int, ...] = ()
    folds: int | None = Field(None, ge=2)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    overrides: dict[str, Any] = Field(default_factory=dict)
    metrics: tuple[str, ...] = ("dice", "iou")

    @field_validator("metrics")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            METRICS[name]  # says which there are
        return value

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        for name in ("models", "datasets", "seeds", "metrics"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; a study needs one at least")
        return self

    def to_yaml(self) -> str:
        """Write the study completely."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_study(target: str, changes: Mapping[str, Any] | None = None) -> Study:
    """Read a study and apply changes.

    Args:
        target: "u_kan/table1", a YAML file, or the folder of a study.
        changes: Keys of a recipe, which hold for every cell; or of the study: seeds, splits, folds, metrics; rows (of
            the models, those to keep) and datasets (the same); datasets.NAME.KEY and models.NAME.KEY for the cells of
            one data set or row.

    Raises:
        ValueError: There is no such study, or a part of it is not legal.
    """
    path = Path(target)
    if (path / STUDY_FILE).is_file():
        path = path / STUDY_FILE
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"no study at {path}")
        content, where = _read(path), str(path)
    else:
        content, where = _printed(target).model_dump(mode="json"), target
    return _check(_changed(content, changes or {}), where)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold keys and values, got a {type(content).__name__}")
    return content


def _check(content: Mapping[str, Any], where: str) -> Study:
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        if first["type"] == "extra_forbidden":
            raise ValueError(f"{unknown('key of a study', place, Study.model_fields)} ({where})") from None
        raise ValueError(f"{place} in {where}: {first['msg'].removeprefix('Value error, ')}") from None
    if study.printed:
        paper, _, table = study.printed.partition("/")
        if table not in load_paper(paper).tables:
            raise ValueError(unknown(f"table of {paper}", table, load_paper(paper).tables))
    return study


def _printed(key: str) -> Study:
    """Make the study of a printed table."""
    name, _, table = key.partition("/")
    if name not in paper_names():
        raise ValueError(f"{unknown('study', key, study_names())}; there is no YAML file or study of that name either")
    paper = load_paper(name)
    if table not in paper.tables:
        raise ValueError(unknown(f"table of {name}", table, paper.tables))
    cells = paper.study(table)
    if not cells:
        raise ValueError(f"{key} is not made by trainings on a data set; those that are: {', '.join(study_names())}")
    datasets = {cell.dataset: StudyData(recipe=cell.recipe) for cell in reversed(cells)}
    columns = [name for name in paper.tables[table].columns if name in datasets]
    models: dict[str, StudyModel] = {}
    for method in paper.tables[table].rows:
        own = {cell.dataset: cell.recipe for cell in cells if cell.method == method}
        other = {dataset: recipe for dataset, recipe in own.items() if recipe != datasets[dataset].recipe}
        network = paper.network(table, method).model_dump()
        models[method] = StudyModel(**network, recipes=other)
    metrics = [m for m in dict.fromkeys(m for _, m in paper.tables[table].places) if m in METRICS]
    return Study(
        name=f"{paper.title}: {paper.tables[table].caption}",
        printed=key,
        models=models,
        datasets={name: datasets[name] for name in columns},
        seeds=paper.settings[paper.experiment(table)].seeds or (2981,),
        metrics=tuple(metrics) or ("dice", "iou"),
    )


def study_names() -> list[str]:
    """List the printed tables that trainings make."""
    papers = map(load_paper, paper_names())
    return [f"{paper.key}/{table}" for paper in papers for table in paper.tables if paper.study(table)]


#: Keys of a study that a change may set; others are keys of a recipe.
_OWN = ("seeds", "splits", "folds", "metrics", "printed")


def _changed(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    content = {**content, "overrides": dict(content.get("overrides") or {})}
    for key, value in changes.items():
        group, _, rest = key.partition(".")
        if key == "rows" or key == "datasets":
            part = "models" if key == "rows" else "datasets"
            content[part] = _kept(content.get(part) or {}, value, key)
        elif group in ("datasets", "models") and rest:
            content[group] = _with_override(content.get(group) or {}, group, rest, value)
        elif key in _OWN:
            content[key] = [value] if key in ("seeds", "splits", "metrics") and not isinstance(value, list) else value
        else:
            content["overrides"][key] = value
    return content


def _kept(known: Mapping[str, Any], wanted: Any, key: str) -> dict[str, Any]:
    names = [str(name) for name in (wanted if isinstance(wanted, list) else [wanted])]
    for name in names:
        if name not in known:
            raise ValueError(unknown(key.removesuffix("s"), name, known))
    return {name: known[name] for name in names}


def _with_override(known: Mapping[str, Any], group: str, rest: str, value: Any) -> dict[str, Any]:
    # Names of rows hold dots ("windows 0.5"): the longest that fits is meant.
    name = max((n for n in known if rest.startswith(f"{n}.")), key=len, default=None)
    if name is None:
        raise ValueError(unknown(group.removesuffix("s"), rest.partition(".")[0], known))
    entry = known[name]
    overrides = {**(entry.get("overrides") or {}), rest[len(name) + 1 :]: value}
    return {**known, name: {**entry, "overrides": overrides}}


def recipe_of(study: Study, model: str, dataset: str) -> str:
    """Return the recipe that a cell starts from: a name, or a file.

    Raises:
        ValueError: There is none of that name.
    """
    recipe = study.models[model].recipes.get(dataset, study.datasets[dataset].recipe)
    if not recipe.endswith((".yaml", ".yml")) and recipe not in recipe_names():
        raise ValueError(f"{unknown('recipe', recipe, recipe_names())} (data set {dataset} of the study)")
    return recipe
