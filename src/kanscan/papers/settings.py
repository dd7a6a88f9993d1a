"""What papers print about their trainings, as values that can be compared."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Settings(_Part):
    """What a paper prints about a training; None: it prints nothing.

    Attributes:
        num_cases: Pictures or volumes of the data set.
        num_training: Those trained on.
        num_test: Those reported.
        split: "random" or "fixed" (the data set's own parts).
        test_share: Share of the cases that is reported.
        image_size: What the network sees, height x width or depth x height x width.
        augmentation: Operations, in alphabetical order.
        loss: Its terms; two of them are added.
        loss_weights: Their weights.
        optimizer: Which one.
        learning_rate: The initial one, of all parameters.
        momentum: Of SGD; of Adam the decay of the mean of gradients.
        weight_decay: As printed.
        schedule: Course of the learning rate.
        lowest_rate: Where it ends.
        half_period: Epochs of half a period of the cosine.
        epochs: Passes, or nnU-Net's epochs of 250 batches.
        batch_size: Pictures or patches at once.
    """

    num_cases: int | None = None
    num_training: int | None = None
    num_test: int | None = None
    split: Literal["random", "fixed"] | None = None
    test_share: float | None = None
    image_size: tuple[int, ...] | None = None
    augmentation: tuple[Literal["center_crop", "flips", "rotation"], ...] | None = None
    loss: tuple[Literal["bce", "ce", "dice"], ...] | None = None
    loss_weights: tuple[float, ...] | None = None
    optimizer: Literal["adam", "adamw", "sgd"] | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: Literal["constant", "cosine", "polynomial"] | None = None
    lowest_rate: float | None = None
    half_period: int | None = None
    epochs: int | None = None
    batch_size: int | None = None

    def printed(self) -> dict[str, Any]:
        """Return what is printed."""
        return self.model_dump(exclude_none=True)


class DatasetSettings(_Part):
    """Where the settings of one data set differ from the common ones.

    Attributes:
        recipe: The recipe that trains the paper's own network on it as printed; empty where there is none.
        settings: What differs.
        departs: Setting -> why the recipe is not as printed.
    """

    recipe: str = ""
    settings: Settings = Settings()
    departs: dict[str, str] = Field(default_factory=dict)


class Experiment(_Part):
    """One training that a paper describes, on one data set or several.

    Attributes:
        common: What is printed for all of them.
        datasets: Data set -> what differs.
        seeds: Of the splits or runs behind a mean.
        words: Setting -> how it is worded, and how it is read here.
        departs: Setting -> why the recipes are not as printed.
    """

    common: Settings
    datasets: dict[str, DatasetSettings]
    seeds: tuple[int, ...] = ()
    words: dict[str, str] = Field(default_factory=dict)
    departs: dict[str, str] = Field(default_factory=dict)

    @field_validator("words", "departs")
    @classmethod
    def _names_settings(cls, value: dict[str, str]) -> dict[str, str]:
        known = {*Settings.model_fields, "network", "seeds"}
        assert value.keys() <= known, f"{sorted(value.keys() - known)} are no settings"
        return value

    def settings(self, dataset: str) -> Settings:
        """Return all that is printed about a data set; of one that the text does not describe, what all share."""
        own = self.datasets[dataset].settings if dataset in self.datasets else Settings()
        return self.common.model_copy(update=own.printed())

    def departures(self, dataset: str) -> dict[str, str]:
        """Return setting -> why the recipe of a data set is not as printed."""
        return self.departs | (self.datasets[dataset].departs if dataset in self.datasets else {})

    def lines(self) -> list[tuple[str, str, str]]:
        """Write every setting that is printed or spoken of: name, value with those of single sets, words."""
        lines = [(name.replace("_", " "), self._values(name), self._notes(name)) for name in Settings.model_fields]
        lines += [
            ("network", "", self._notes("network")),
            ("seeds", ", ".join(map(str, self.seeds)), self._notes("seeds")),
        ]
        return [line for line in lines if any(line[1:])]

    def _values(self, name: str) -> str:
        common = getattr(self.common, name)
        single = {dataset: getattr(known.settings, name) for dataset, known in self.datasets.items()}
        values = [] if common is None else [setting_words(common)]
        values += [f"{dataset} {setting_words(value)}" for dataset, value in single.items() if value is not None]
        return "; ".join(values)

    def _notes(self, name: str) -> str:
        return " ".join(filter(None, (self.words.get(name), self.departs.get(name))))


def setting_words(value: object) -> str:
    """Write a setting as one reads it: 256 x 256, flips + rotation, 0.0001."""
    if isinstance(value, list | tuple):
        return (" x " if all(isinstance(v, int) for v in value) else " + ").join(map(setting_words, value)) or "none"
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
