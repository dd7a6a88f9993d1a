"""PictureFiles: pictures as files, their label maps as PNG files of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kanscan.data.case import Case
from kanscan.data.pictures.files import write_label
from kanscan.data.pictures.labels import read_case_image
from kanscan.data.pictures.search import find_pictures
from kanscan.drawing.images import overlay, save_png
from kanscan.inference.dicom_pictures import clip_label, clip_segmentation, segmentation_problem
from kanscan.inference.files import ImageFiles, Output, write_probabilities
from kanscan.inference.prediction import Prediction


class PictureFiles(ImageFiles[NDArray]):
    """Pictures of any format; arrays `(H, W)` or `(H, W, C)`."""

    def find(
        self, inputs: Sequence[str | Path], channels: int, series: str | None = None
    ) -> tuple[list[Case], list[str]]:
        """List pictures; see `ImageFiles`."""
        if series is not None:
            raise ValueError("--series chooses among series of DICOM slices; this network was trained on pictures")
        return find_pictures(inputs)

    def outputs(self, case: Case, output: Output) -> list[Path]:
        """List the files of a case; see `ImageFiles`."""
        segmentation = clip_segmentation(case, output)
        return [
            output.folder / f"{case.id}.png",
            *output.beside(case).values(),
            *([segmentation] if segmentation is not None else []),
        ]

    def read(self, case: Case) -> NDArray:
        """Read the picture of a case; see `ImageFiles`."""
        return read_case_image(case)

    def write(
        self, case: Case, image: NDArray, found: Prediction, class_names: Sequence[str], output: Output
    ) -> list[Path]:
        """Write PNG files; see `ImageFiles`."""
        label_path, *_ = written = self.outputs(case, output)
        beside = output.beside(case)
        if "overlay" in beside:
            save_png(beside["overlay"], overlay(image, found.label))
        if "probabilities" in beside:
            write_probabilities(beside["probabilities"], found, class_names)
        problem = ""
        segmentation = clip_segmentation(case, output)
        if segmentation is not None:
            label = found.label if case.frame is None else clip_label(case, output, found.label)
            problem = segmentation_problem(segmentation, case.images[0], label, class_names, output.codes)
        write_label(label_path, np.array(output.values, dtype=np.uint16)[found.label])
        if problem:
            raise ValueError(f"{label_path} is written, but no DICOM segmentation of {case.images[0]}: {problem}")
        return written
