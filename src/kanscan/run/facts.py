"""What a run found in its data and a recipe leaves open: typed, one kind of facts for each kind of work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError

from kanscan.data.case import LabelMap
from kanscan.data.volumes.plan import VolumePlan

#: Raised when what is written changes so that older versions would misread it.
FORMAT_VERSION = 2


class _Part(BaseModel):
    # What a later version adds does not hinder an older one; the format version tells what does.
    model_config = ConfigDict(frozen=True, extra="ignore")


class NetworkFacts(_Part):
    """Which network: its key in `kanscan.MODELS` and all its constructor options."""

    name: str
    options: dict[str, Any]


class DatasetFacts(_Part):
    """Which data: the reader's key and title, labelled cases, and cases that joined the training ones."""

    reader: str = ""
    title: str = ""
    num_cases: int = 0
    num_extra: int = 0


class PreprocessingFacts(_Part):
    """How pictures reach the network; fields as in `kanscan.data.pictures.transforms.Preprocessing`."""

    channels: int
    image_size: tuple[int, int] | None
    normalization: str
    crop: int | None = None


class ProcessFacts(_Part):
    """How noise was added; fields as in `kanscan.training.process.NoiseProcess`."""

    num_steps: int
    schedule: str
    beta_start: float
    beta_end: float


class _Facts(_Part):
    kanscan: str = ""
    model: NetworkFacts
    num_parameters: int
    stride: tuple[int, ...]
    data: DatasetFacts = DatasetFacts()
    #: Share of the KAN edges that was removed from the network.
    pruned_share: float | None = None


class PictureFacts(_Facts):
    """Of a run that labels pictures."""

    kind: Literal["pictures"] = "pictures"
    preprocessing: PreprocessingFacts
    class_names: tuple[str, ...]
    label_map: LabelMap | None = None

    @property
    def image_channels(self) -> int:
        """Channels of the pictures that the network learned from."""
        return self.preprocessing.channels


class VolumeFacts(_Facts):
    """Of a run that labels volumes."""

    kind: Literal["volumes"] = "volumes"
    plan: Annotated[
        VolumePlan,
        BeforeValidator(lambda value: VolumePlan.from_json(value) if isinstance(value, Mapping) else value),
        PlainSerializer(VolumePlan.to_json),
    ]
    class_names: tuple[str, ...]
    label_map: LabelMap | None = None

    @property
    def image_channels(self) -> int:
        """Channels of the volumes that the network learned from."""
        return self.plan.channels


class GenerationFacts(_Facts):
    """Of a run that generates pictures; without class names it learned no labels."""

    kind: Literal["generation"] = "generation"
    preprocessing: PreprocessingFacts
    class_names: tuple[str, ...] = ()
    diffusion: ProcessFacts


RunFacts = Annotated[PictureFacts | VolumeFacts | GenerationFacts, Field(discriminator="kind")]

_FACTS: TypeAdapter[PictureFacts | VolumeFacts | GenerationFacts] = TypeAdapter(RunFacts)


def parse_facts(content: object, where: str) -> PictureFacts | VolumeFacts | GenerationFacts:
    """Read the facts of a run, also those that an older version wrote.

    Args:
        content: Values of run.json.
        where: Name of the file, for the sentence.

    Raises:
        ValueError: Something is missing or is not what it should be, or a newer version wrote it.
    """
    try:
        return _FACTS.validate_python(upgrade(content, where))
    except ValidationError as error:
        first = error.errors()[0]
        # The first part of the place names the member of the union.
        place = ".".join(str(part) for part in first["loc"][1:]) or "its content"
        raise ValueError(f"{place} in {where}: {first['msg']}; the run is damaged") from None
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{where} is damaged: {type(error).__name__} {' '.join(str(error).split())}") from None


def upgrade(content: object, where: str) -> Mapping[str, Any]:
    """Bring what an older version wrote to today's format.

    Args:
        content: Values of run.json.
        where: Name of the file, for the sentence.

    Raises:
        ValueError: It is no run.json, or a newer version wrote it.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds no facts of a run: expected keys and values, got a {type(content).__name__}")
    version = content.get("format_version")
    if version == 1:
        # Version 0.1.0 told the kinds of work apart by the keys that each alone has.
        kind = "volumes" if "plan" in content else "generation" if "diffusion" in content else "pictures"
        return {"kind": kind, **content, "format_version": FORMAT_VERSION}
    if version != FORMAT_VERSION:
        raise ValueError(f"{where} has run format {version}, this kanscan reads 1 to {FORMAT_VERSION}; update kanscan")
    return content
