"""Volumes prepared for 2D networks: training volumes cut into slices, test volumes whole, lists beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import folders, squeeze
from kanscan.data.pictures.array_files import ARRAY_SUFFIXES, is_array_file
from kanscan.data.readers.pairing import finish

#: What stands in the notes: nothing in the files says how large a voxel is.
_NO_SPACING = "the files do not say how large a voxel is: distances are counted in voxels"


class _Sliced(DatasetReader):
    """What both layouts share: slices are put together to volumes again, so that no patient is split."""

    spatial_dims = 3
    channels = 1
    #: Name of a slice: volume, number.
    slice_name: ClassVar[re.Pattern[str]]
    classes: ClassVar[tuple[str, ...]]

    def __init__(self, classes: Sequence[str] | None = None) -> None:
        names = tuple(map(str, classes)) if classes is not None else self.classes
        if len(names) < 2:
            raise ValueError(f"classes must name the background and at least one class, got {list(names)}")
        self.label_map = LabelMap(names, "values", {k: k for k in range(len(names))})
        self.channel_names = ("noNorm",)  # prepared files hold 0 to 1

    def _cases(
        self, slices: Iterable[Path], volumes: Iterable[Path], subsets: Mapping[str, str], groups: bool
    ) -> tuple[list[Case], list[str]]:
        by_volume: dict[str, dict[int, Path]] = {}
        problems: list[str] = []
        for path in slices:
            match = self.slice_name.fullmatch(bare_name(path))
            if match is None:
                problems.append(f"{path} is not named like a slice of this data set")
            else:
                by_volume.setdefault(match[1], {})[int(match[2])] = path
        whole = {bare_name(path): path for path in volumes}
        cases = []
        for name in sorted(by_volume.keys() | whole.keys()):
            found = by_volume.get(name, {})
            paths = (whole[name],) if name in whole else tuple(found[k] for k in sorted(found))
            missing = sorted(set(range(min(found), max(found) + 1)) - found.keys()) if name not in whole else []
            if missing:
                problems.append(f"volume {name} lacks {len(missing)} of its slices, first number {missing[0]}")
            cases.append(
                Case(
                    name,
                    paths,
                    paths,
                    group=name.split("_")[0] if groups else None,
                    subset=subsets.get(name),
                    is_volume=True,
                    stacked=name not in whole,
                    unspaced=True,
                )
            )
        return cases, problems


class Synapse(_Sliced):
    """Synapse multi-organ CT in the form that TransUNet's authors prepared: 18 volumes as slices, 12 whole.

    The files name no classes and published lists of the eight organs disagree, so they are numbered here.

    Args:
        classes: Class names in the order of the stored values, background first.
    """

    key = "synapse"
    title = "Synapse multi-organ CT (prepared slices)"
    modality = "CT"
    license = "registration with Synapse"
    citation = "Landman et al., MICCAI 2015 challenge; prepared as in Chen et al., TransUNet, arXiv 2102.04306"
    expected = "train_npz/case0005_slice000.npz ... and test_vol_h5/case0001.npy.h5 ..."
    layout = """
        Synapse/
          train_npz/    case0005_slice000.npz ...    (arrays "image" and "label" of a slice)
          test_vol_h5/  case0001.npy.h5 ...          (the same of a volume, slices first; extra `h5`)
          lists/        train.txt test_vol.txt       (optional, also in lists_Synapse/)
    """
    slice_name = re.compile(r"(case\d+)_slice(\d+)")
    classes = ("background", *(f"organ {k}" for k in range(1, 9)))

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether one of the two folders is there."""
        return bool(_named(root, "trainnpz") or _named(root, "testvolh5"))

    def survey(self, root: Path) -> Survey:
        """Put the slices together to volumes; where lists are there, only what they name is taken."""
        slices = [p for folder in _named(root, "trainnpz") for p in array_files(folder)]
        volumes = [p for folder in _named(root, "testvolh5") for p in array_files(folder)]
        problems = []
        for name in ("train.txt", "test_vol.txt"):
            listed = read_list(root, name)
            if listed is None:
                continue
            there = slices if name == "train.txt" else volumes
            wanted, present = set(listed), {bare_name(path) for path in there}
            gone = [one for one in listed if one not in present]
            problems += [f"{name} names {len(gone)} files that are not there, first {gone[0]}"] if gone else []
            kept = [path for path in there if bare_name(path) in wanted]
            slices, volumes = (kept, volumes) if name == "train.txt" else (slices, kept)
        subsets = {m[1]: "train" for p in slices if (m := self.slice_name.fullmatch(bare_name(p)))}
        subsets |= {bare_name(path): "test" for path in volumes}
        cases, more = self._cases(slices, volumes, subsets, groups=False)
        return finish(cases, problems + more, [_NO_SPACING])


class ACDC(_Sliced):
    """ACDC cardiac cine MR in HDF5, as semi-supervised work passes it on: slices, volumes and lists of both.

    Two phases of one patient stay together.

    Args:
        classes: Class names in the order of the stored values, background first.
    """

    key = "acdc"
    title = "ACDC cardiac MR (prepared HDF5)"
    modality = "MR"
    license = "research, with citation"
    citation = "Bernard et al., IEEE Transactions on Medical Imaging 37(11), 2018"
    expected = "patient001_frame01_slice_1.h5 ... or patient001_frame01.h5 ... in the folder or in the folders below"
    layout = """
        ACDC/
          data/         patient001_frame01.h5 ...    (arrays "image" and "label" of a volume, slices first; extra `h5`)
          data/slices/  patient001_frame01_slice_1.h5 ...
          train.list (or train_slices.list)  val.list  test.list     (optional)
        or
        ACDC/
          ACDC_training_volumes/  ACDC_training_slices/
    """
    slice_name = re.compile(r"(patient\d+_frame\d+)_slice_?(\d+)")
    classes = ("background", "right ventricle", "myocardium", "left ventricle")

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether HDF5 files of patients and frames are there."""
        places = _acdc_folders(root)
        return any(re.match(r"patient\d+_frame\d+", p.name) for place in places for p in array_files(place)[:5])

    def survey(self, root: Path) -> Survey:
        """List the volumes, whole where they are there and put together from slices elsewhere."""
        files = [path for place in _acdc_folders(root) for path in array_files(place)]
        slices = [path for path in files if "_slice" in path.name]
        volumes = [path for path in files if "_slice" not in path.name]
        subsets: dict[str, str] = {}
        problems, notes = [], [_NO_SPACING]
        names = {m[1] for p in slices if (m := self.slice_name.fullmatch(bare_name(p)))} | set(map(bare_name, volumes))
        for subset, lists in _ACDC_LISTS.items():
            listed = {re.sub(r"_slice_?\d+$", "", one) for name in lists for one in read_list(root, name) or ()}
            subsets |= dict.fromkeys(listed & names, subset)
            gone = len(listed - names)
            notes += [f"{gone} of {len(listed)} volumes listed for {subset} are not there"] if gone else []
        if subsets and (unlisted := sorted(names - subsets.keys())):
            problems.append(f"{len(unlisted)} volumes are in no list, first {unlisted[0]}")
        cases, more = self._cases(slices, volumes, subsets, groups=True)
        return finish(cases, problems + more, notes)


_ACDC_LISTS = {
    "train": ("train.list", "train_slices.list"),
    "validation": ("val.list", "val_slices.list"),
    "test": ("test.list",),
}


def bare_name(path: Path) -> str:
    """Return a file's name without any of the endings of array files."""
    ending = next((e for e in ARRAY_SUFFIXES if path.name.lower().endswith(e)), "")
    return path.name[: len(path.name) - len(ending)]


def array_files(folder: Path) -> list[Path]:
    """List the files of arrays directly in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if is_array_file(path))


def read_list(root: Path, name: str) -> list[str] | None:
    """Read the names in a text file in a folder or the folders below; None if there is no such file."""
    found = sorted(root.rglob(name), key=lambda path: len(path.parts))
    if not found:
        return None
    lines = found[0].read_text(encoding="utf-8").splitlines()
    return [bare_name(Path(line.strip())) for line in lines if line.strip()]


def _named(root: Path, start: str) -> list[Path]:
    return [folder for folder in folders(root) if squeeze(folder.name).startswith(start) and array_files(folder)]


def _acdc_folders(root: Path) -> list[Path]:
    below = [inner for folder in folders(root) for inner in (folder, *folders(folder))]
    return [place for place in (root, *below) if place.is_dir()]
