"""Recipe: everything that decides a run, frozen, one YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from kanscan.config.family import Part
from kanscan.config.parts import (
    FAMILIES,
    LOSSES,
    NOISES,
    OPTIMIZERS,
    SPLITS,
    DataConfig,
    DiffusionConfig,
    EvaluationConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SplitConfig,
    TrainerConfig,
    VolumeConfig,
)
from kanscan.config.upgrade import upgrade
from kanscan.registry import nearest, unknown


class Recipe(Part):
    """Everything that decides a run.

    Example:
        >>> Recipe(seed=1).model.name
        'ukan'
    """

    name: str = "ukan"
    description: str = ""
    #: "paper/claim" keys whose printed figures the report shows beside ours.
    claims: tuple[str, ...] = ()
    seed: int = 2981
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    volume: VolumeConfig = VolumeConfig()
    split: Annotated[SerializeAsAny[SplitConfig], BeforeValidator(SPLITS.validate)] = SPLITS.validate({})
    loss: Annotated[SerializeAsAny[LossConfig], BeforeValidator(LOSSES.validate)] = LOSSES.validate({})
    diffusion: Annotated[SerializeAsAny[DiffusionConfig], BeforeValidator(NOISES.validate)] = NOISES.validate({})
    optim: Annotated[SerializeAsAny[OptimConfig], BeforeValidator(OPTIMIZERS.validate)] = OPTIMIZERS.validate({})
    trainer: TrainerConfig = TrainerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def to_yaml(self) -> str:
        """Write the recipe completely, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def recipe_names() -> list[str]:
    """List the recipes that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in files("kanscan.recipes").iterdir() if p.name.endswith(".yaml"))


def load_recipe(source: str | Path = "", overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Read a recipe by name or from a YAML file and apply overrides.

    Args:
        source: A name of `recipe_names()`, a path to a YAML file, or "" for the defaults.
        overrides: `"optim.lr=3e-4"` strings, or a mapping of dotted keys to values.

    Returns:
        The checked recipe.

    Raises:
        ValueError: The name, a key or a value is wrong; the sentence names it and the nearest right one.
    """
    path = Path(source)
    if str(source) == "":
        text, where = "", "the defaults"
    elif path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"no recipe file at {path}")
        text, where = _text_of(path), str(path)
    else:
        if str(source) not in recipe_names():
            raise ValueError(unknown("recipe", str(source), recipe_names()))
        text, where = (files("kanscan.recipes") / f"{source}.yaml").read_text(encoding="utf-8"), str(source)
    try:
        content = yaml.safe_load(text) or {}
    except (yaml.YAMLError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"{where} is not valid YAML: {reason}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where} must hold keys and values, got a {type(content).__name__}")
    changes = parse_overrides(overrides)
    content = upgrade(content)
    _drop_what_was_written_for_another(content, changes)
    for key, value in changes.items():
        _assign(content, key, value)
    return check_recipe(content, where)


def _drop_what_was_written_for_another(content: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Leave out what a file says of the network, optimizer, split, ... that the overrides put another in place of."""
    model = content.get("model", {})
    if isinstance(model, dict) and changes.get("model.name", model.get("name")) != model.get("name"):
        content["model"] = {}
    for group, family in FAMILIES.items():
        part = content.get(group)
        tags = {tag: changes[f"{group}.{tag}"] for tag in family.choices if f"{group}.{tag}" in changes}
        if not isinstance(part, dict) or all(part.get(tag) == value for tag, value in tags.items()):
            continue
        try:
            before, now = (family.choose(part).model_fields, family.choose(part | tags).model_fields)
        except ValueError:
            continue  # an unknown name: the check of the whole says so
        content[group] = {key: value for key, value in part.items() if key in now or key not in before}


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8") from None


def parse_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Turn `key=value` strings into a mapping of dotted keys to YAML values."""
    if isinstance(overrides, Mapping):
        return dict(overrides)
    parsed: dict[str, Any] = {}
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ValueError(f"cannot read {item!r}: overrides are written key=value, for example trainer.epochs=50")
        parsed[key.strip()] = _yaml_value(value)
    return parsed


def _yaml_value(text: str) -> object:
    # YAML 1.1 reads "1e-4" as a string because it lacks the dot.
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text


def _assign(content: dict[str, Any], key: str, value: object) -> None:
    *parents, last = key.split(".")
    for name in parents:
        child = content.setdefault(name, {})
        if not isinstance(child, dict):
            raise ValueError(f"cannot set {key}: {name} is not a group of settings")
        content = child
    content[last] = value


def check_recipe(content: Mapping[str, Any], where: str = "the recipe") -> Recipe:
    """Validate plain values into a Recipe; the first thing wrong becomes one sentence.

    Raises:
        ValueError: A key is unknown or a value is not legal.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        # An unknown key often makes its neighbors wrong too: report it first.
        problems = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        first = problems[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ValueError(_unknown_key(place, first["input"], content, where)) from None
        if first["type"] == "value_error":
            raise ValueError(f"{place} in {where}: {first['ctx']['error']}") from None
        raise ValueError(f"{place} in {where}: {first['msg']}, got {first.get('input')!r}") from None


def _unknown_key(place: str, value: object, content: Mapping[str, Any], where: str) -> str:
    group, _, option = place.partition(".")
    owners = FAMILIES[group].owners(option) if group in FAMILIES else []
    if owners:
        tags = {owner.partition("=")[0] for owner in owners}
        chosen = FAMILIES[group].choose(content[group]).model_fields
        here = " and ".join(f"{group}.{tag}={chosen[tag].default}" for tag in chosen if tag in tags)
        return (
            f"{place}={value} in {where} has no effect with {here}; it is an option of "
            f"{' and '.join(f'{group}.{owner}' for owner in owners)}"
        )
    keys = all_keys()
    last = place.rpartition(".")[2]
    # The right key may live in another group: "epochs" is trainer.epochs.
    same = [k for k in keys if k.rpartition(".")[2] == last]
    close = same or nearest(place, keys) or nearest(last, keys)
    hint = f"; did you mean {' or '.join(close)}?" if close else f"; known are {', '.join(keys)}"
    return f"unknown key {place!r} in {where}{hint}"


def with_root(recipe: Recipe, root: str | Path | None) -> Recipe:
    """Return the recipe with its data in absolute folders, so that a run can go on from anywhere."""
    extra = recipe.data.extra_training
    folders = {
        "root": None if root is None else Path(root).resolve(),
        "extra_training": None if extra is None else extra.resolve(),
    }
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=folders)})


def differences(one: Recipe, other: Recipe) -> dict[str, tuple[Any, Any]]:
    """List the dotted keys in which two recipes differ, with both values."""
    a, b = values(one), values(other)
    return {key: (a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)}


def values(recipe: Recipe) -> dict[str, Any]:
    """List the plain value of every dotted key that a recipe has."""
    found: dict[str, Any] = {}
    for name, value in recipe.model_dump(mode="json").items():
        is_group = isinstance(getattr(recipe, name), Part)
        found |= {f"{name}.{key}": inner for key, inner in value.items()} if is_group else {name: value}
    return found


def all_keys() -> list[str]:
    """List every dotted key a recipe may hold, whatever the names in it."""
    keys: list[str] = []
    for name, info in Recipe.model_fields.items():
        kind = info.annotation
        if name in FAMILIES:
            keys += [f"{name}.{option}" for option in FAMILIES[name].options()]
        elif isinstance(kind, type) and issubclass(kind, Part):
            keys += [f"{name}.{option}" for option in kind.model_fields]
        else:
            keys.append(name)
    return keys
