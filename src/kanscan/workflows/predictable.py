"""What predicts: the folder of a run, or the folder it was exported to, which needs no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kanscan.data.case import Case
from kanscan.data.pictures.transforms import Preprocessing
from kanscan.inference import FILES, PicturePredictor, Predictor, VolumePredictor
from kanscan.inference.files import ImageFiles
from kanscan.run import Run
from kanscan.run.exported import Exported, is_exported
from kanscan.run.facts import GenerationFacts, PictureFacts, VolumeFacts
from kanscan.workflows.temperature import scaling_text, stored_temperature


class Predictable(ABC):
    """A folder that predictions are made from.

    Attributes:
        path: The folder.
        facts: What its network takes and tells apart.
    """

    path: Path
    facts: PictureFacts | VolumeFacts

    @property
    def files(self) -> ImageFiles:
        """How its images are found, read and labelled."""
        return FILES[self.facts.kind]

    @property
    @abstractmethod
    def fill_nan(self) -> float | None:
        """What NaN in a volume meant in training; None: NaN was refused."""

    def find(self, inputs: Sequence[str | Path], series: str | None = None) -> tuple[list[Case], list[str]]:
        """List the images that files and folders name; see `ImageFiles`."""
        cases, notes = self.files.find(inputs, self.facts.image_channels, series)
        return [replace(case, fill_nan=self.fill_nan) for case in cases], notes

    @abstractmethod
    def predictor(self, *, device: str = "auto", flips: bool | None = None) -> Predictor:
        """Build the predictor.

        Args:
            device: auto, cpu, cuda, cuda:N or mps.
            flips: Average over mirrorings; None: as the recipe's evaluation does.

        Raises:
            ValueError: The weights belong to another network, or there is no such device.
            FileNotFoundError: There are no weights yet.
        """

    @abstractmethod
    def temperature(self) -> tuple[float, str]:
        """Return the temperature to divide logits by, 1 where none was fitted, and what the user should know of it."""


class TrainedRun(Predictable):
    """A run; its network is built and computed by torch.

    Args:
        run: Of a network that labels images.

    Raises:
        ValueError: It generates pictures.
    """

    def __init__(self, run: Run) -> None:
        facts = run.facts
        if isinstance(facts, GenerationFacts):
            raise ValueError(f"{run.path} generates pictures and labels none: kanscan sample {run.path}")
        self.run, self.path, self.facts = run, run.path, facts

    @property
    def fill_nan(self) -> float | None:
        """What NaN meant; see `Predictable`."""
        return self.run.recipe.data.options.get("fill_nan")

    def predictor(self, *, device: str = "auto", flips: bool | None = None) -> Predictor:
        """Build the predictor; see `Predictable`."""
        from kanscan.pipelines import labeling_pipeline

        return labeling_pipeline(self.run).predictor(self.run, device=device, flips=flips)

    def temperature(self) -> tuple[float, str]:
        """Return the temperature that explain fitted; see `Predictable`."""
        return stored_temperature(self.run)


class ExportedRun(Predictable):
    """A folder that `export` wrote; its network is computed by ONNX Runtime.

    Args:
        exported: The folder.
    """

    def __init__(self, exported: Exported) -> None:
        self.exported, self.path, self.facts = exported, exported.path, exported.facts

    @property
    def fill_nan(self) -> float | None:
        """What NaN meant; see `Predictable`."""
        return self.exported.content.fill_nan

    def predictor(self, *, device: str = "auto", flips: bool | None = None) -> Predictor:
        """Build the predictor; see `Predictable`."""
        from kanscan.inference.onnx_network import OnnxNetwork

        kept, facts = self.exported.content, self.facts
        flips = kept.flips if flips is None else flips
        network = OnnxNetwork(self.exported.demand_model(), facts.stride, device=device)
        if isinstance(facts, PictureFacts):
            preprocessing = Preprocessing(**facts.preprocessing.model_dump())
            return PicturePredictor(network, preprocessing, facts.class_names, flips=flips)
        return VolumePredictor(network, facts.plan, facts.class_names, flips=flips, overlap=kept.overlap)

    def temperature(self) -> tuple[float, str]:
        """Return the temperature that was exported; see `Predictable`."""
        kept = self.exported.content.temperature
        return (1.0, "") if kept is None else (kept, scaling_text(kept))


def open_predictable(path: str | Path) -> Predictable:
    """Open a run, or a folder that `export` wrote.

    Raises:
        ValueError: The folder is neither, is damaged, or generates pictures.
    """
    return ExportedRun(Exported.open(path)) if is_exported(path) else TrainedRun(Run.open(path))


def load_predictor(path: str | Path, *, device: str = "auto", flips: bool | None = None) -> Predictor:
    """Open a run folder, or one that `export` wrote, and build its predictor; nothing else of the training is needed.

    Args:
        path: The folder that `train` or `export` wrote.
        device: auto, cpu, cuda, cuda:N or mps.
        flips: Average over mirrorings; None: as the recipe's evaluation does.

    Raises:
        ValueError: The folder is neither, or its weights belong to another network.
        FileNotFoundError: There are no weights yet.
    """
    return open_predictable(path).predictor(device=device, flips=flips)
