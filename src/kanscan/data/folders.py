"""Folders by name alone: what lies inside, which part one plays, where a layout begins."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PureWindowsPath

#: Names of image folders, most telling first; compared without case, spaces, hyphens and underscores.
IMAGE_FOLDERS = (
    *("images", "image", "imgs", "img", "original", "originals", "input", "inputs", "pictures", "pics", "photos"),
    *("frames", "scans", "slices", "data", "x", "jpegimages", "cxrpng", "cxr", "stareimages"),
)
#: Names of label folders, likewise.
LABEL_FOLDERS = (
    *("masks", "mask", "labels", "label", "gt", "gts", "groundtruth", "groundtruths", "annotations", "annotation"),
    *("segmentations", "segmentation", "seg", "segs", "labelcol", "targets", "target", "y"),
    *("manualmask", "manualmasks", "masksmachine", "segmentationclass"),
)
#: Names of folders that a first observer drew. A folder called mask beside one of these shows the field of view.
MANUAL_FOLDERS = (
    *("1stmanual", "manual1", "manual", "firstmanual", "manuals", "manualsegmentation", "manualsegmentations"),
    *("labelsah", "vessels", "vessel", "1stho", "observer1"),
)
#: Names of folders that a second observer drew; left out where those of the first are there.
SECOND_FOLDERS = ("2ndmanual", "manual2", "secondmanual", "labelsvk", "2ndho", "observer2")
SUBSET_FOLDERS = {
    "train": ("train", "training", "trainfolder", "traindataset", "traindata", "trainset"),
    "validation": ("val", "valid", "validation", "valfolder", "valset", "dev"),
    "test": ("test", "testing", "testfolder", "testdataset", "testdata", "testset"),
}
#: How deep a lone folder inside a lone folder (as archives unpack) is followed.
_MOST_LEVELS = 4


def folders(root: Path) -> list[Path]:
    """List the visible folders in a folder, sorted by name."""
    hidden = (".", "__MACOSX")
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(hidden)) if root.is_dir() else []


def check_folder(root: Path) -> Path:
    """Refuse what is no folder with something in it.

    Raises:
        FileNotFoundError: There is nothing at the path; the sentence shows what lies beside it.
        NotADirectoryError: It is a file.
        ValueError: It is empty.
    """
    if not root.exists():
        parent = root.parent
        beside = f"; {parent} holds {contents(parent)}" if parent.is_dir() else ""
        raise FileNotFoundError(f"no folder at {root}{beside}")
    if root.suffix.lower() == ".csv" and root.is_file():
        return root  # a list of cases stands for its folder
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file, expected the folder of a data set")
    if not any(not p.name.startswith(".") for p in root.iterdir()):
        raise ValueError(f"the folder {root} is empty; expected images and masks")
    return root


def find_start(root: Path, accepts: Callable[[Path], bool]) -> Path | None:
    """Find the folder that `accepts` takes: `root`, or the lone folder inside it, and so on.

    Archives often unpack into a folder of their own, beside a readme or a table.
    """
    for _ in range(_MOST_LEVELS):
        if accepts(root):
            return root
        if root.is_file():
            return None
        inside = folders(root)
        if len(inside) != 1:
            return None
        root = inside[0]
    return None


def contents(root: Path, most: int = 6) -> str:
    """Say in words what a folder holds."""
    names = [f"{p.name}/" for p in folders(root)]
    endings = Counter(
        "".join(p.suffixes[-2:]) if p.name.endswith(".nii.gz") else p.suffix or "unnamed"
        for p in root.iterdir()
        if p.is_file() and not p.name.startswith(".")
    )
    parts = names[:most] + ([f"{len(names) - most} more folders"] if len(names) > most else [])
    parts += [f"{count} {ending} file{'s' * (count > 1)}" for ending, count in endings.most_common(most)]
    return ", ".join(parts) or "nothing"


def squeeze(name: str) -> str:
    """Lower a name and drop spaces, hyphens and underscores: "Ground Truth" equals "ground_truth"."""
    return re.sub(r"[\s_-]+", "", name.lower())


def child(root: Path, names: Iterable[str]) -> Path | None:
    """Return the folder in `root` that has one of the squeezed names, the first name winning."""
    present = {squeeze(p.name): p for p in reversed(folders(root))}
    return next((present[name] for name in names if name in present), None)


def children(root: Path, names: Iterable[str]) -> list[Path]:
    """List the folders in `root` that have one of the squeezed names."""
    return [folder for folder in folders(root) if squeeze(folder.name) in names]


def subset_of(name: str) -> str | None:
    """Tell which subset a folder name stands for, or None."""
    return next((subset for subset, names in SUBSET_FOLDERS.items() if squeeze(name) in names), None)


def inside(root: Path, name: str) -> Path | None:
    """Return the file that a list names, read from the folder of the list; None where it would lie outside.

    Args:
        root: The folder.
        name: As written in a table or an annotation file, with slashes of either kind.
    """
    path = Path(name.strip().replace("\\", "/"))
    if path.is_absolute() or str(path).startswith("~") or ".." in path.parts or PureWindowsPath(name).drive:
        return None
    return root / path
