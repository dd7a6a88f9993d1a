"""ImageFiles: how one kind of image is found and read, and what is written of its prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from kanscan.data.case import Case
from kanscan.files import atomic
from kanscan.inference.prediction import Prediction

Image = TypeVar("Image")


@dataclass(frozen=True)
class Output:
    """What is written of each case.

    Attributes:
        folder: Where.
        values: Class index -> value in the label map.
        overlays: NAME_overlay.png, the label map drawn over the image.
        probabilities: NAME_probabilities.npz.
        codes: Class name -> code for DICOM segmentations, see `kanscan.data.LabelMap`.
        shard: Which of several machines works here, "i/n"; each keeps a list of its own failures.
    """

    folder: Path
    values: tuple[int, ...]
    overlays: bool = False
    probabilities: bool = False
    codes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shard: str | None = None

    @property
    def failures_path(self) -> Path:
        """Where failures are listed."""
        part = "" if self.shard is None else f"-{self.shard.replace('/', '-of-')}"
        return self.folder / f"failures{part}.csv"

    def beside(self, case: Case) -> dict[str, Path]:
        """Name the files that lie beside a label map, by what they hold."""
        wanted = {"overlay": self.overlays, "probabilities": self.probabilities}
        endings = {"overlay": "_overlay.png", "probabilities": "_probabilities.npz"}
        return {what: self.folder / f"{case.id}{endings[what]}" for what, asked in wanted.items() if asked}


class ImageFiles(ABC, Generic[Image]):
    """Files of one kind of image; two final classes, `PictureFiles` and `VolumeFiles`.

    Type parameter: the image, an array `(H, W[, C])` or a `Volume`.
    """

    @abstractmethod
    def find(
        self, inputs: Sequence[str | Path], channels: int, series: str | None = None
    ) -> tuple[list[Case], list[str]]:
        """List the images that files and folders name.

        Args:
            inputs: Files, folders, patterns.
            channels: Channels of the images as the network's data have them.
            series: Of DICOM folders that hold several: number, description or UID of the one to take.

        Returns:
            Cases with distinct ids, and what was left out.

        Raises:
            FileNotFoundError: There is nothing at a path.
            ValueError: A folder holds no image, or two would have one name.
        """

    @abstractmethod
    def outputs(self, case: Case, output: Output) -> list[Path]:
        """List the files that are written of a case, the label map first."""

    @abstractmethod
    def read(self, case: Case) -> Image:
        """Read the image of a case.

        Raises:
            ValueError: It cannot be read; the sentence names the file.
        """

    def notes(self, image: Image) -> tuple[str, ...]:
        """List what was decided while an image was read."""
        return ()

    @abstractmethod
    def write(
        self, case: Case, image: Image, found: Prediction, class_names: Sequence[str], output: Output
    ) -> list[Path]:
        """Write what was asked for; the label map comes last: where it is, the rest is there too.

        Raises:
            ValueError: Something beside the label map could not be made; the sentence says what was written.
        """


def write_probabilities(path: Path, found: Prediction, class_names: Sequence[str]) -> None:
    """Write probabilities `(K, *S)`, background first, and the names of the classes."""
    assert found.probabilities is not None
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, probabilities=found.probabilities, names=np.array(class_names))
