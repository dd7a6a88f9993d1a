"""A CSV list of images and masks, pictures or volumes, wherever they lie."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.pictures.search import is_image_file
from kanscan.data.readers.described import label_map_from_json
from kanscan.data.readers.folder import look
from kanscan.data.readers.pairing import finish
from kanscan.data.readers.volumes import infer_volume_labels
from kanscan.data.volumes.formats import is_volume_file, read_volume, volume_name

_IMAGE, _MASK = ("image", "images", "img"), ("mask", "label", "masks", "labels", "seg")
_GROUP, _SPLIT, _ID = ("group", "patient", "subject"), ("split", "subset", "part"), ("id", "case", "name")
_SUBSETS = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
_SUBSETS |= {"validation": "validation", "test": "test", "testing": "test"}


class Table(DatasetReader):
    """A list: one row a case, columns image, mask, group, split; only image is needed.

    Paths are relative to the file. Several images of one case (modalities) are parted by semicolons.

    Args:
        file: The CSV file inside the folder; None: the only one.
        labels: As for the readers "folder" (pictures) and "volumes".
    """

    key = "table"
    title = "List of images and masks (CSV)"
    license = "yours"
    expected = "a CSV file with the columns image and mask (and group, split)"
    layout = """
        FOLDER/
          cases.csv      image,mask,group,split
                         scans/a.nii.gz,labels/a.nii.gz,patient1,train
    """

    def __init__(self, file: str | None = None, labels: Any = "auto") -> None:
        self.file, self.labels = file, labels
        self.label_map = LabelMap()

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether there is one CSV file with a column of images."""
        found = [root] if root.is_file() else sorted(root.glob("*.csv"))
        return sum(_has_images(path) for path in found) == 1

    def survey(self, root: Path) -> Survey:
        """List the rows; files that are not there are named."""
        path = self._path(root)
        cases: list[Case] = []
        problems: list[str] = []
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        for number, row in enumerate(rows, start=2):
            cells = {(key or "").strip().lower(): (value or "").strip() for key, value in row.items() if key}
            images = [path.parent / part.strip() for part in _cell(cells, _IMAGE).split(";") if part.strip()]
            mask = _cell(cells, _MASK)
            labels = (path.parent / mask,) if mask else ()
            gone = [p for p in (*images, *labels) if not p.exists()]
            if not images or gone:
                what = f"lists {gone[0]}, which is not there" if gone else "names no image"
                problems.append(f"line {number} of {path} {what}")
                continue
            split = _cell(cells, _SPLIT).lower()
            if split and split not in _SUBSETS:
                problems.append(f"line {number} of {path}: split is {split!r}, expected train, val or test")
                continue
            cases.append(
                Case(
                    _cell(cells, _ID) or volume_name(images[0]).rsplit(".", 1)[0],
                    tuple(images),
                    labels,
                    group=_cell(cells, _GROUP) or None,
                    subset=_SUBSETS.get(split),
                    is_volume=not is_image_file(images[0]) or is_volume_file(images[0]),
                )
            )
        return finish(cases, problems)

    def inspect(self, survey: Survey) -> None:
        """Tell pictures from volumes, and look into the label files for their values."""
        cases = survey.cases
        kinds = {case.is_volume for case in cases}
        if len(kinds) > 1:
            raise ValueError(f"the table with {cases[0].images[0]} lists pictures and volumes; keep them in two lists")
        if kinds != {True}:
            self.spatial_dims = 2
            self.label_map, self.channels = look(cases, self.labels, self.channels, True)
            return
        self.spatial_dims = 3
        if isinstance(self.labels, Mapping):
            named = {str(value): name for value, name in self.labels.items()}
            self.label_map = label_map_from_json(named, "the reader option labels")
        else:
            self.label_map = infer_volume_labels(p for case in cases for p in case.labels)
        first = cases[0]
        self.channels = sum(read_volume(p).channels for p in first.images) if cases else 1

    def _path(self, root: Path) -> Path:
        if root.is_file():
            return root
        if self.file is not None:
            if not (root / self.file).is_file():
                raise FileNotFoundError(f"no file {self.file} in {root}")
            return root / self.file
        found = [path for path in sorted(root.glob("*.csv")) if _has_images(path)]
        if len(found) != 1:
            raise ValueError(f"{root} holds {len(found)} CSV files with a column image; name one with the option file")
        return found[0]


def _has_images(path: Path) -> bool:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    names = {name.strip().lower() for name in header}
    return bool(names & set(_IMAGE)) and bool(names & {*_MASK, *_GROUP, *_SPLIT})


def _cell(cells: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((cells[name] for name in names if cells.get(name)), "")
