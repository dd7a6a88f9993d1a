"""A Pipeline is one kind of work from file to file: what each kind answers, and what it is asked with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from kanscan.config.recipe import Recipe
from kanscan.data.case import Case, LabelMap
from kanscan.data.examination import CaseFacts
from kanscan.data.source import Opened
from kanscan.data.splits import Split
from kanscan.inference import Predictor
from kanscan.models.base import Network
from kanscan.run import Run
from kanscan.training.task import Task

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from kanscan.pipelines.planning import Planned
    from kanscan.run.facts import GenerationFacts, PictureFacts, VolumeFacts

Image = TypeVar("Image")


@dataclass(frozen=True)
class Preparation:
    """Everything a training needs, built and checked.

    Attributes:
        pipeline: Kind of work.
        recipe: The recipe, with the folder of the data made absolute.
        source: The data set.
        split: Who is trained on.
        options: All constructor options of the network.
        model: The network.
        task: The training step.
        train: Loader of the training cases.
        validation: Loader of the validation cases, None if there are none.
        notes: What the user should know.
        num_extra: Cases that joined the training ones.
        planned: Of volumes: how they reach the network.
    """

    pipeline: Pipeline
    recipe: Recipe
    source: Opened
    split: Split
    options: dict[str, object]
    model: Network
    task: Task
    train: DataLoader
    validation: DataLoader | None
    notes: tuple[str, ...]
    num_extra: int = 0
    planned: Planned | None = None


class Pipeline(ABC):
    """One kind of work; three final classes, listed in `kanscan.pipelines.PIPELINES`."""

    #: Written into run.json.
    kind: ClassVar[str]
    #: Recipe keys that have an effect; another one that is set is refused.
    reads: ClassVar[frozenset[str]]

    @abstractmethod
    def check(self, recipe: Recipe) -> None:
        """Refuse what does not suit this kind of work, before any file is read.

        Raises:
            ValueError: A name is unknown, or a setting does not suit.
        """

    @abstractmethod
    def prepare(
        self,
        recipe: Recipe,
        source: Opened,
        split: Split,
        resumed: PictureFacts | VolumeFacts | GenerationFacts | None = None,
    ) -> Preparation:
        """Build everything a recipe names; nothing is written.

        Args:
            recipe: What to do.
            source: The data set.
            split: Who is trained on.
            resumed: Facts of a run that goes on; its weights are in its state.

        Raises:
            ValueError: Something does not fit; the sentence says what.
        """

    @abstractmethod
    def facts(self, preparation: Preparation) -> PictureFacts | VolumeFacts | GenerationFacts:
        """Collect what a run needs beside its recipe, so that it works without the data."""

    def write_beside(self, run: Run, preparation: Preparation) -> None:  # noqa: B027  (most kinds write nothing more)
        """Write what else belongs into a new run."""


@dataclass(frozen=True)
class MaskPairs:
    """Predicted masks and their references.

    Attributes:
        pairs: Prediction and reference of each case; both are label files of a `Case`.
        prediction_map: What the stored values of the predictions mean.
        label_map: The same for the references.
        notes: What was left out.
    """

    pairs: tuple[tuple[Case, Case], ...]
    prediction_map: LabelMap
    label_map: LabelMap
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Masks(Generic[Image]):
    """The masks of one case.

    Attributes:
        image: What they are drawn over; None: on plain ground.
        prediction: Class indices in the grid of the reference.
        label: Class indices of the reference.
        spacing_mm: Of the reference, along the axes of its array; None: distances are counted in pixels.
    """

    image: Image | None
    prediction: NDArray[np.uint8]
    label: NDArray[np.uint8]
    spacing_mm: tuple[float, ...] | None


class LabelingPipeline(Pipeline, Generic[Image]):
    """Work that labels images: what predicting and judging ask of it.

    Type parameter: the image, an array `(H, W[, C])` or a `Volume`.
    """

    @abstractmethod
    def predictor(self, run: Run, *, device: str = "auto", flips: bool | None = None) -> Predictor[Image]:
        """Build the predictor of a run from its folder alone.

        Args:
            run: A run with weights.
            device: auto, cpu, cuda, cuda:N or mps.
            flips: Average over mirrorings; None: as the recipe's evaluation does.

        Raises:
            ValueError: The weights belong to another network.
            FileNotFoundError: There are no weights yet.
        """

    @abstractmethod
    def read_pair(self, case: Case, label_map: LabelMap) -> tuple[Image, NDArray[np.uint8]]:
        """Read image and label of a case.

        Raises:
            ValueError: They cannot be read, or do not fit together.
        """

    @abstractmethod
    def is_spaced(self, case: Case) -> bool:
        """Tell whether distances in a case are known in millimeters."""

    @abstractmethod
    def spacing_mm(self, case: Case, image: Image) -> tuple[float, ...] | None:
        """Return the spacing along the axes of the image's array, None where it is not known."""

    @abstractmethod
    def pair_masks(self, predictions: Path, references: Path, labels: object = "auto") -> MaskPairs:
        """Pair label files by name, and find out what they store.

        Args:
            predictions: A folder or a file.
            references: The same; leaving one without a prediction out would flatter the figures.
            labels: What the values mean, as the reader option of that name; "auto": told from what is stored.

        Raises:
            ValueError: A reference has no prediction, or the values do not explain each other.
            FileNotFoundError: There is nothing at a path.
        """

    @abstractmethod
    def read_masks(self, found: MaskPairs, pair: tuple[Case, Case]) -> Masks[Image]:
        """Read the masks of a case.

        Raises:
            ValueError: They cannot be read, or lie in different grids.
        """

    @abstractmethod
    def draw(self, image: Image | None, prediction: NDArray[np.uint8], label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw image, prediction and reference side by side, `(H, W, 3 or 4)`."""

    @abstractmethod
    def examine(self, case: Case, label_map: LabelMap) -> CaseFacts:
        """Read a case and say all that is wrong with it."""

    @abstractmethod
    def thumbnail(self, case: Case, label_map: LabelMap) -> tuple[NDArray[np.uint8], str]:
        """Draw a case for a contact sheet, its label over the image, with a caption."""
