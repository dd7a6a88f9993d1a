"""Volumes found on disk and named: files, channels in files of their own, DICOM series in folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kanscan.data.case import Case, Series, Survey
from kanscan.data.dicom.archive import is_archive, members
from kanscan.data.dicom.series import Header, find_series, is_dicom_file, series_names
from kanscan.data.folders import folders
from kanscan.data.pictures.array_files import is_array_file
from kanscan.data.volumes.formats import is_volume_file, volume_name

#: How nnU-Net numbers the channels of a case.
CHANNEL = re.compile(r"_(\d{4})$")


def find_volumes(inputs: Iterable[str | Path], channels: int = 1, series: str | None = None) -> list[Case]:
    """List the volumes that files and folders name; `survey_volumes` without its notes."""
    return list(survey_volumes(inputs, channels, series).cases)


def survey_volumes(inputs: Iterable[str | Path], channels: int = 1, series: str | None = None) -> Survey:
    """List the volumes that files and folders name, in the order they are named.

    A folder may hold volume files, with several channels as nnU-Net names them (`CASE_0000.nii.gz CASE_0001.nii.gz`),
    or DICOM slices, in itself or in the folders below; each DICOM series is a case.

    Args:
        inputs: Files and folders.
        channels: Of the network.
        series: Number, description or UID of the DICOM series to take from each folder; None: all.

    Returns:
        The cases, and notes about what was left out.

    Raises:
        FileNotFoundError: There is nothing at a path.
        ValueError: A folder holds no volume, a channel is missing, or two cases have one name.
    """
    cases: list[Case] = []
    notes: list[str] = []
    loose: dict[Path, list[Path]] = {}
    for path in map(Path, inputs):
        if not path.exists():
            raise FileNotFoundError(f"no volume or folder at {path}")
        if path.is_dir() or is_archive(path):
            found, told = _in_folder(path, channels, series)
        elif path.name.upper() == "DICOMDIR":
            found, told = _in_folder(path.parent, channels, series)
        elif is_volume_file(path) or is_array_file(path) or path.suffix.lower() in (".tif", ".tiff"):
            loose.setdefault(path.parent, []).append(path)
            continue
        else:
            found, told = _lone_dicom(path)
        cases += found
        notes += told
    for files in loose.values():
        cases += by_channels(files, channels)
    _refuse_equal_names(cases)
    return Survey(tuple(cases), notes=tuple(dict.fromkeys(notes)))


def _refuse_equal_names(cases: Sequence[Case]) -> None:
    seen: dict[str, Case] = {}
    for case in cases:
        if case.id in seen:
            raise ValueError(
                f"{seen[case.id].images[0]} and {case.images[0]} would both become {case.id}.nii.gz; predict them "
                "separately"
            )
        seen[case.id] = case


def _in_folder(folder: Path, channels: int, series: str | None) -> tuple[list[Case], list[str]]:
    inside = sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
    files = [p for p in inside if is_volume_file(p)] or [p for p in inside if is_array_file(p)]
    if files:
        return by_channels(files, channels), []
    cases, notes = dicom_cases(folder, series)
    if not cases:
        below = sorted(p.name for p in folders(folder))
        hint = f"; it holds the folders {', '.join(below[:5])}: name one of them" if below else ""
        what = f"no series {series!r}" if series is not None else "no volume"
        told = "".join(f"; {note}" for note in notes)
        raise ValueError(f"{what} in the folder {folder} (looked for NIfTI, MHA, NRRD and DICOM){hint}{told}")
    return cases, notes


def by_channels(files: Sequence[Path], channels: int) -> list[Case]:
    """Make cases of volume files; those that number the channels of one case become one.

    Raises:
        ValueError: The files are named like another number of channels than the network takes.
    """
    sets = channel_sets(files)
    sizes = Counter(len(paths) for paths in sets.values())
    # A lone set of several may as well be the patients 0, 1, 2 of one study.
    several = [size for size in sizes if size > 1 and sizes[size] > 1]
    if several and len(sizes) == 1 and several[0] != channels:
        name = next(iter(sets))
        raise ValueError(
            f"case {name} has {several[0]} channel files, the network takes {channels}: {name}_0000 ... "
            f"{name}_{channels - 1:04d}"
        )
    taken = {path: name for name, paths in sets.items() if len(paths) in (1, channels) for path in paths}
    cases: dict[str, list[Path]] = {}
    for path in files:
        cases.setdefault(taken.get(path) or volume_name(path), []).append(path)
    return [Case(name, tuple(paths), is_volume=True) for name, paths in cases.items()]


def channel_sets(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Group files named `NAME_0000 ... NAME_000n`, complete from 0, by their name; others are no channels.

    A name that ends in four digits (`amos_0007`) is a name unless the numbers of its like begin with 0 and have no gap.
    """
    numbered: dict[str, dict[int, Path]] = {}
    for path in files:
        name = volume_name(path)
        if match := CHANNEL.search(name):
            numbered.setdefault(name[: match.start()], {})[int(match[1])] = path
    return {
        name: [found[k] for k in range(len(found))]
        for name, found in numbered.items()
        if found.keys() == set(range(len(found)))
    }


def _lone_dicom(path: Path) -> tuple[list[Case], list[str]]:
    found = find_series(path)
    if not found.series:
        told = "".join(f"; {note}" for note in found.notes)
        raise ValueError(f"{path} is no volume; expected NIfTI, MHA, NRRD, a TIFF stack or DICOM{told}")
    return [Case(path.stem, (path,), is_volume=True, series=found.series[0])], list(found.notes)


def dicom_cases(root: Path, wanted: str | None = None) -> tuple[list[Case], list[str]]:
    """List the DICOM series in a folder and the folders below; each becomes a case named after its folder.

    Segmentations and structure sets anywhere below become the labels of the series that they were drawn on.

    Args:
        root: The folder.
        wanted: UID, number or description of the series to take from each folder; None: all.

    Returns:
        Cases in the order of their folders, grouped by the first folder below the root, and notes.
    """
    cases: list[Case] = []
    notes: list[str] = []
    labels: dict[str, list[Header]] = {}
    for folder in _folders_of_series(root):
        found = find_series(folder, deep=(folder / "DICOMDIR").is_file())
        notes += found.notes
        for head in found.labels:
            for uid in head.refers_to:
                labels.setdefault(uid, []).append(head)
        parts = folder.relative_to(root).parts
        place = "_".join(parts) or folder.resolve().name
        place = place.removesuffix(folder.suffix) if folder.is_file() else place
        for name, one in zip(series_names(found.series, place), found.series, strict=True):
            if wanted is None or one.is_called(wanted):
                cases.append(_case(name, folder, one, parts[0] if len(parts) > 1 else None))
    cases = [_labelled(case, labels.get(case.series.uid, []), notes) if case.series else case for case in cases]
    return cases, notes


def _labelled(case: Case, found: Sequence[Header], notes: list[str]) -> Case:
    """Give a series its labels; of two that mark the same thing neither is taken."""
    names = Counter(name for head in found for name in head.segments)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        files = ", ".join(str(head.path) for head in found if twice in head.segments)
        notes.append(f"{case.id}: {twice!r} is marked more than once ({files}); keep one of them to have labels")
        return case
    return replace(case, labels=tuple(head.path for head in found))


def _case(name: str, folder: Path, series: Series, group: str | None) -> Case:
    return Case(re.sub(r"[^\w.-]+", "-", name), (folder,), group=group, is_volume=True, series=series)


def _folders_of_series(root: Path) -> list[Path]:
    """List the folders and archives to search; below a DICOMDIR, whose series lie across folders, all is one place."""
    if root.is_file() or (root / "DICOMDIR").is_file():
        return [root]
    found = [root, *sorted(path for path in root.iterdir() if is_archive(path))]
    for folder in folders(root):
        if not folder.is_symlink():
            found += _folders_of_series(folder)
    return found


def holds_dicom(root: Path) -> bool:
    """Tell from the first files of each folder whether DICOM lies in a folder or below it."""
    for place in _folders_of_series(root):
        if (place / "DICOMDIR").is_file():
            return True
        inside = members(place) if place.is_file() else [p for p in place.iterdir() if p.is_file()]
        files = sorted(path for path in inside if not path.name.startswith("."))
        if any(path.suffix.lower() == ".dcm" or is_dicom_file(path) for path in files[:3]):
            return True
    return False


def named_labels(images: Sequence[Path], labels: Mapping[str, Path]) -> list[tuple[str, tuple[Path, ...], Path | None]]:
    """Pair images with label maps by name; a label map named without channel numbers has all channels as its image.

    Returns:
        Name, images and label map of each case, sorted by name.
    """
    sets = {name: paths for name, paths in channel_sets(images).items() if name in labels or len(paths) == 1}
    taken = {path: name for name, paths in sets.items() for path in paths if volume_name(path) not in labels}
    cases: dict[str, list[Path]] = {}
    for path in images:
        cases.setdefault(taken.get(path) or volume_name(path), []).append(path)
    return [(name, tuple(paths), labels.get(name)) for name, paths in sorted(cases.items())]
