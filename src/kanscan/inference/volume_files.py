"""VolumeFiles: volumes as files, their label maps as NIfTI in their own grids, of DICOM as a DICOM segmentation too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kanscan.data.case import Case
from kanscan.data.volume import Volume
from kanscan.data.volumes.formats import read_case_volume
from kanscan.data.volumes.grid import Arrangement
from kanscan.data.volumes.nifti import write_label_volume
from kanscan.data.volumes.search import survey_volumes
from kanscan.data.volumes.slices import PLANES, shown_slice
from kanscan.drawing.images import contact_sheet, overlay, save_png
from kanscan.inference.files import ImageFiles, Output, write_probabilities
from kanscan.inference.prediction import Prediction


class VolumeFiles(ImageFiles[Volume]):
    """NIfTI, MHA, NRRD and DICOM."""

    def find(
        self, inputs: Sequence[str | Path], channels: int, series: str | None = None
    ) -> tuple[list[Case], list[str]]:
        """List volumes; see `ImageFiles`."""
        found = survey_volumes(inputs, channels, series)
        return list(found.cases), list(found.notes)

    def outputs(self, case: Case, output: Output) -> list[Path]:
        """List the files of a case: NIfTI, of DICOM also a DICOM segmentation; see `ImageFiles`."""
        segmentation = [] if case.series is None else [output.folder / f"{case.id}.dcm"]
        return [output.folder / f"{case.id}.nii.gz", *segmentation, *output.beside(case).values()]

    def read(self, case: Case) -> Volume:
        """Read the volume of a case; see `ImageFiles`."""
        return read_case_volume(case)

    def notes(self, image: Volume) -> tuple[str, ...]:
        """List what was decided while the volume was read; see `ImageFiles`."""
        return image.notes

    def write(
        self, case: Case, image: Volume, found: Prediction, class_names: Sequence[str], output: Output
    ) -> list[Path]:
        """Write NIfTI, and a DICOM segmentation of DICOM input; see `ImageFiles`."""
        label_path, *rest = self.outputs(case, output)
        beside, problem = output.beside(case), ""
        if "overlay" in beside:
            save_png(beside["overlay"], _three_planes(image, found.label))
        if "probabilities" in beside:
            write_probabilities(beside["probabilities"], found, class_names)
        if image.source is not None:
            problem = _segmentation_problem(label_path.with_name(f"{case.id}.dcm"), image, found, class_names, output)
        values = np.array(output.values, dtype=np.uint16)[found.label]
        write_label_volume(label_path, values, image.affine, image.header)
        if problem:
            raise ValueError(f"{label_path} is written, but no DICOM segmentation of {case.images[0]}: {problem}")
        return [label_path, *rest]


def _segmentation_problem(
    path: Path, volume: Volume, found: Prediction, class_names: Sequence[str], output: Output
) -> str:
    """Write a DICOM segmentation; say what hinders it, or "" if nothing does."""
    from kanscan.data.dicom.segmentation import write_segmentation

    try:
        write_segmentation(path, volume, found.label, class_names, output.codes)
    except Exception as error:  # highdicom raises many kinds on sources that break the standard
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _three_planes(volume: Volume, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    sizes = [volume.shape[axis] for axis in Arrangement.of(volume.affine).order]
    tiles, captions = [], []
    for plane, axis in PLANES.items():
        # A plane across which there is one voxel shows nothing.
        if min(n for a, n in enumerate(sizes) if a != axis) > 1:
            image, (shown,), index = shown_slice(volume, label, plane=plane)
            tiles.append(overlay(image, shown))
            captions.append(f"{plane} {index}")
    return contact_sheet(tiles, captions, columns=3, tile_size=320)
