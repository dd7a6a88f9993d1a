"""A part of a recipe that is one of several classes: the value of an option, its tag, says which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, create_model

from kanscan.registry import Registry


class Part(BaseModel):
    """Some settings of a recipe: frozen, and unknown ones refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


Base = TypeVar("Base", bound=Part, covariant=True)


class Family(Generic[Base]):
    """The classes a part is chosen from.

    With two tags (optimizer and schedule) the part is an instance of one class of each: what is foreign to both is
    unknown to it, and it can be passed whole to whoever asks for one of the two.

    Args:
        group: Name of the part in a recipe.
        base: What all of them are.
        **tags: Tag -> classes, the default first; a class says its own value as the default of the tag's field.

    Attributes:
        choices: Tag -> value -> class; outsiders add theirs by assignment.
    """

    def __init__(self, group: str, base: type[Base], **tags: Sequence[type[Part]]) -> None:
        self.group, self.base = group, base
        self.choices = {
            tag: Registry(f"{group}.{tag}", {cls.model_fields[tag].default: cls for cls in classes})
            for tag, classes in tags.items()
        }

    def choose(self, content: Mapping[str, Any]) -> type[Base]:
        """Return the class that the tags in `content` name; an absent tag names the default.

        Raises:
            ValueError: A tag has an unknown value.
        """
        chosen = []
        for tag, classes in self.choices.items():
            value = content.get(tag, next(iter(classes)))
            chosen.append(classes[value if isinstance(value, str) else repr(value)])
        return cast(type[Base], chosen[0] if len(chosen) == 1 else _joined(self.base, *chosen))

    def validate(self, value: object) -> Base:
        """Turn plain values into the part they describe.

        Raises:
            ValueError: It is no mapping, a tag has an unknown value, or an option is not one of the chosen class.
        """
        if isinstance(value, self.base):
            return value
        if isinstance(value, Part):
            value = value.model_dump()
        if not isinstance(value, Mapping):
            raise ValueError("a group of settings is expected")
        return self.choose(value).model_validate(value)

    def classes(self) -> list[tuple[str, str, type[Part]]]:
        """List tag, value and class of every choice."""
        return [(tag, value, cls) for tag, known in self.choices.items() for value, cls in known.items()]

    def options(self) -> list[str]:
        """List every option that one of the classes has, once."""
        return list(dict.fromkeys(option for _, _, cls in self.classes() for option in cls.model_fields))

    def owners(self, option: str) -> list[str]:
        """Return the "tag=value" under which an option has an effect."""
        return [f"{tag}={value}" for tag, value, cls in self.classes() if option in cls.model_fields]


@cache
def _joined(base: type[Part], *classes: type[Part]) -> type[Part]:
    return create_model("".join(cls.__name__ for cls in classes), __base__=(*classes, base), __module__=__name__)
