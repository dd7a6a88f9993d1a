"""Volumes on disk: found, predicted one after the other, written in their own grid; broken ones are told at the end."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kanscan.data.case import Case
from kanscan.data.volume import Volume
from kanscan.data.volumes.formats import read_case_volume
from kanscan.data.volumes.grid import Arrangement
from kanscan.data.volumes.nifti import write_label_volume
from kanscan.files import atomic, write_text
from kanscan.inference.volumes import VolumePredictor


@dataclass(frozen=True)
class Output:
    """What is written of each volume.

    Attributes:
        folder: Where.
        values: Class index -> value in the label map.
        overlays: A PNG with three planes.
        probabilities: NAME_probabilities.npz.
        segmentation: Of DICOM input, a DICOM segmentation beside the NIfTI file.
        codes: For it, see `kanscan.data.LabelMap`.
        shard: Which of several machines works here, "i/n"; each keeps a list of its own failures.
    """

    folder: Path
    values: tuple[int, ...]
    overlays: bool = False
    probabilities: bool = False
    segmentation: bool = True
    codes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shard: str | None = None

    @property
    def failures_path(self) -> Path:
        """Where failures are listed."""
        part = "" if self.shard is None else f"-{self.shard.replace('/', '-of-')}"
        return self.folder / f"failures{part}.csv"

    def paths(self, case: Case) -> list[Path]:
        """List the files of a case, the label map first."""
        endings = [".nii.gz"]
        endings += [".dcm"] if self.segmentation and case.series is not None else []
        endings += ["_overlay.png"] if self.overlays else []
        endings += ["_probabilities.npz"] if self.probabilities else []
        return [self.folder / f"{case.id}{ending}" for ending in endings]


def take_shard(cases: Sequence[Case], shard: str | None) -> list[Case]:
    """Take the i-th of n parts of a list, written "i/n" from 1; all of it without.

    Raises:
        ValueError: It is not written so.
    """
    if shard is None:
        return list(cases)
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard is written i/n with 1 <= i <= n, for example 2/8; got {shard!r}")
    return list(cases)[int(match[1]) - 1 :: int(match[2])]


def predict_case(serve: VolumePredictor, case: Case, output: Output) -> Path:
    """Predict a volume and write what was asked for, the label map last; it is written even where DICOM cannot be.

    Raises:
        ValueError: The volume cannot be read or does not suit the network.
    """
    volume = read_case_volume(case)
    found = serve(volume, probabilities=output.probabilities)
    written, problem = output.paths(case)[0], ""
    if output.overlays:
        _write_overlay(written.with_name(f"{case.id}_overlay.png"), volume, found.label)
    if output.probabilities:
        with atomic(written.with_name(f"{case.id}_probabilities.npz")) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, probabilities=np.asarray(found.probabilities), names=np.array(serve.class_names))
    if output.segmentation and case.series is not None:
        target = written.with_name(f"{case.id}.dcm")
        problem = _segmentation_problem(target, volume, found.label, serve.class_names, output.codes)
    values = np.array(output.values, dtype=np.uint16)[found.label]
    write_label_volume(written, values, volume.affine, volume.header)
    if problem:
        raise ValueError(f"{written} is written, but no DICOM segmentation of {case.images[0]}: {problem}")
    return written


def _segmentation_problem(
    path: Path, volume: Volume, label: np.ndarray, class_names: Sequence[str], codes: Mapping[str, Sequence[str]]
) -> str:
    """Write a DICOM segmentation; say what hinders it, or "" if nothing does."""
    from kanscan.data.dicom.segmentation import write_segmentation

    try:
        write_segmentation(path, volume, label, class_names, codes)
    except Exception as error:  # highdicom raises many kinds on sources that break the standard
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _write_overlay(path: Path, volume: Volume, label: np.ndarray) -> None:
    from kanscan.data.volumes.slices import PLANES, shown_slice
    from kanscan.drawing.images import contact_sheet, overlay, save_png

    tiles, captions = [], []
    for plane, axis in PLANES.items():
        # A plane across which there is one voxel shows nothing.
        if min(n for a, n in enumerate(_sizes(volume)) if a != axis) > 1:
            image, (shown,), index = shown_slice(volume, label, plane=plane)
            tiles.append(overlay(image, shown))
            captions.append(f"{plane} {index}")
    save_png(path, contact_sheet(tiles, captions, columns=3, tile_size=320))


def _sizes(volume: Volume) -> tuple[int, ...]:
    return tuple(volume.shape[axis] for axis in Arrangement.of(volume.affine).order)


def predict_cases(
    serve: VolumePredictor,
    cases: Sequence[Case],
    output: Output,
    watch: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> tuple[list[Path], dict[str, str]]:
    """Predict volumes; what cannot be read is told and the others go on.

    Returns:
        Label maps that were written, and a sentence for each case that failed; these go to `failures.csv` too, which is
        removed where nothing failed this time.
    """
    files: list[Path] = []
    failures: dict[str, str] = {}
    for case in watch(cases):
        try:
            files.append(predict_case(serve, case, output))
        except (ValueError, OSError) as error:
            text = " ".join(str(error).split())
            failures[case.id] = text if str(case.images[0]) in text else f"{case.images[0]}: {text}"
    output.failures_path.unlink(missing_ok=True)
    if failures:
        text_file = io.StringIO()
        writer = csv.writer(text_file, lineterminator="\n")
        writer.writerow(["case", "error"])
        writer.writerows(failures.items())
        write_text(output.failures_path, text_file.getvalue())
    return files, failures


def finished(cases: Sequence[Case], output: Output) -> tuple[list[Case], list[Case]]:
    """Divide cases into those whose label map is there and those still to do."""
    done = [case for case in cases if output.paths(case)[0].is_file()]
    names = {case.id for case in done}
    return done, [case for case in cases if case.id not in names]
