"""Every key of a recipe with its default and the names under which it has an effect, for pages and listings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from kanscan.config.family import Family, Part
from kanscan.config.parts import FAMILIES
from kanscan.config.recipe import Recipe


@dataclass(frozen=True)
class Key:
    """One setting.

    Attributes:
        name: Dotted.
        kind: Its type.
        default: Its value where a recipe does not say.
        owner: A class that has it.
        only_with: The settings under which it has an effect; "" for all.
    """

    name: str
    kind: object
    default: object
    owner: type[Part]
    only_with: str = ""


def described_keys() -> list[Key]:
    """List all keys; one whose default depends on a name comes once for each default."""
    found: list[Key] = []
    for name, info in Recipe.model_fields.items():
        kind = info.annotation
        if name in FAMILIES:
            found += _of_family(FAMILIES[name])
        elif isinstance(kind, type) and issubclass(kind, Part):
            found += [Key(f"{name}.{key}", f.annotation, _default(f), kind) for key, f in kind.model_fields.items()]
        else:
            found.append(Key(name, kind, _default(info), Recipe))
    return found


def _of_family(family: Family) -> Iterator[Key]:
    for tag, known in family.choices.items():
        names = ", ".join(map(repr, known))
        yield Key(f"{family.group}.{tag}", f"Literal[{names}]", next(iter(known)), family.base)
    for option in family.options():
        if option in family.choices:
            continue
        owners = [(f"{family.group}.{tag}={value}", cls) for tag, value, cls in family.classes()]
        owners = [(tag, cls) for tag, cls in owners if option in cls.model_fields]
        everywhere = any(all(option in cls.model_fields for cls in known.values()) for known in family.choices.values())
        for default in dict.fromkeys(repr(_default(cls.model_fields[option])) for _, cls in owners):
            alike = [(tag, cls) for tag, cls in owners if repr(_default(cls.model_fields[option])) == default]
            field, cls = alike[0][1].model_fields[option], alike[0][1]
            only = "" if everywhere and len(alike) == len(owners) else ", ".join(tag for tag, _ in alike)
            yield Key(f"{family.group}.{option}", field.annotation, _default(field), cls, only)


def _default(info: FieldInfo) -> object:
    return info.get_default(call_default_factory=True)
