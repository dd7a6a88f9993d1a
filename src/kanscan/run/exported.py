"""An exported folder: a network as ONNX or torch.export program, and beside it everything that is done around it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kanscan.files import read_json, write_json
from kanscan.run.facts import PictureFacts, VolumeFacts

#: Raised when what is written changes so that older versions would misread it.
EXPORT_VERSION = 1
_PIPELINE = "pipeline.json"

#: What is written for whom: ONNX Runtime, or C++ and AOTInductor.
MODEL_FILES = {"onnx": "model.onnx", "torch": "model.pt2"}


class ExportedPipeline(BaseModel):
    """Content of pipeline.json: all that is done around the network; plain values, no code.

    Attributes:
        export_version: Of the format.
        format: "onnx" or "torch".
        digests: BLAKE2b of each file of the network, by name.
        facts: What the network takes and tells apart: channels, normalization, spacing, patch, classes, colors, codes.
        flips: Whether predictions are averaged over mirrorings.
        overlap: Of neighboring windows in volumes.
        fill_nan: What NaN in a volume meant in training; None: it is refused.
        temperature: That explain fitted; None: none.
        dynamic: What of the network's input may vary: "batch" and "size".
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    export_version: int = EXPORT_VERSION
    format: Literal["onnx", "torch"] = "onnx"
    digests: dict[str, str]
    facts: Annotated[PictureFacts | VolumeFacts, Field(discriminator="kind")]
    flips: bool
    overlap: float = Field(default=0.5, ge=0, le=0.9)
    fill_nan: float | None = None
    temperature: float | None = Field(default=None, gt=0)
    dynamic: tuple[Literal["batch", "size"], ...] = ()


@dataclass(frozen=True)
class Exported:
    """A folder that `export` wrote.

    Attributes:
        path: The folder.
        content: Of its pipeline.json.
    """

    path: Path
    content: ExportedPipeline

    @property
    def facts(self) -> PictureFacts | VolumeFacts:
        """What the network takes and tells apart."""
        return self.content.facts

    @property
    def model_path(self) -> Path:
        """The network."""
        return self.path / MODEL_FILES[self.content.format]

    @property
    def readme_path(self) -> Path:
        """How to use the folder."""
        return self.path / "README.md"

    def write(self) -> None:
        """Write pipeline.json, last of all: a folder that has one is whole."""
        write_json(self.path / _PIPELINE, self.content.model_dump(mode="json"))

    @classmethod
    def open(cls, path: str | Path) -> Exported:
        """Take an exported folder.

        Raises:
            ValueError: pipeline.json is damaged, or a newer version wrote it.
        """
        path = Path(path)
        place = path / _PIPELINE
        content = read_json(place)
        version = content.get("export_version") if isinstance(content, dict) else None
        if version != EXPORT_VERSION:
            raise ValueError(f"{place} has export format {version}, this kanscan reads {EXPORT_VERSION}; export anew")
        try:
            return cls(path, ExportedPipeline.model_validate(content))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "its content"
            raise ValueError(f"{where} in {place}: {first['msg']}; export anew") from None

    def demand_model(self) -> Path:
        """Return the ONNX file, checked against what was exported.

        Raises:
            ValueError: The folder holds another format, or a file is missing or not the one that was exported.
        """
        if self.content.format != "onnx":
            raise ValueError(
                f"{self.path} holds a torch.export program; kanscan predicts from --format onnx, or from the run"
            )
        for name, digest in self.content.digests.items():
            # A name from a file of strangers must not lead out of the folder.
            file = self.path / Path(name).name
            if not file.is_file() or file_digest(file) != digest:
                what = "is not the file that was exported" if file.is_file() else "is missing"
                raise ValueError(f"{file} {what}; export anew")
        return self.model_path


def is_exported(path: str | Path) -> bool:
    """Tell whether a folder is an exported one."""
    return (Path(path) / _PIPELINE).is_file()


def file_digest(path: Path) -> str:
    """Return the BLAKE2b digest of a file, 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
