"""A CSV list of images and masks, pictures or volumes, wherever they lie."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import inside, squeeze
from kanscan.data.pictures.search import is_image_file
from kanscan.data.readers.described import label_map_from_json
from kanscan.data.readers.options import PictureOptions
from kanscan.data.readers.pairing import case_id, finish
from kanscan.data.readers.volumes import infer_volume_labels
from kanscan.data.volumes.formats import is_volume_file, read_case_volume, volume_name

_COLUMNS = {
    "image": ("image", "images", "img", "imagepath", "imagefile", "imagename", "filename", "filepath", "path", "file"),
    "mask": (
        "mask",
        "label",
        "masks",
        "labels",
        "seg",
        "segmentation",
        "maskpath",
        "labelpath",
        "maskfile",
        "labelfile",
    ),
    "group": ("group", "patient", "subject", "patientid", "subjectid", "groupid", "caseid", "video"),
    "split": ("split", "subset", "part", "fold", "set"),
    "id": ("id", "case", "name", "uid"),
}
_SUBSETS = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
_SUBSETS |= {"validation": "validation", "test": "test", "testing": "test"}


class Table(DatasetReader):
    """A list: one row a case, columns image, mask, group, split, id; only image is needed.

    Columns may be parted by commas, semicolons or tabs. Paths are relative to the file and stay inside its folder.
    Several images of one case (modalities) are parted by semicolons, or by | where semicolons part the columns.

    Args:
        file: The CSV file inside the folder; None: the only one.
        labels: As for the readers "folder" (pictures) and "volumes".
        labels_resize: As for the reader "folder".
        outside: Take files outside the table's folder too.
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

    def __init__(
        self, file: str | None = None, labels: object = "auto", labels_resize: str | None = None, outside: bool = False
    ) -> None:
        self.file, self.labels, self.labels_resize, self.outside = file, labels, labels_resize, outside
        self.label_map = LabelMap()

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether there is one CSV file with a column of images."""
        found = [root] if root.is_file() else sorted(root.glob("*.csv"))
        return sum(_has_images(path) for path in found) == 1

    def survey(self, root: Path) -> Survey:
        """List the rows; files that are not there are named."""
        path = self._path(root)
        delimiter, rows = _rows(path)
        cases: list[Case] = []
        problems: list[str] = []
        for number, row in enumerate(rows, start=2):
            try:
                cases.append(self._case(path, row, "|" if delimiter == ";" else ";"))
            except ValueError as error:
                problems.append(f"line {number} of {path} {error}")
        return finish(_with_names(cases, path.parent), problems)

    def _case(self, path: Path, row: Mapping[str, str], between: str) -> Case:
        images = [self._file(path, part) for part in row.get("image", "").split(between) if part.strip()]
        if not images:
            raise ValueError("names no image")
        labels = (self._file(path, row["mask"]),) if row.get("mask") else ()
        split = row.get("split", "").lower()
        if split and split not in _SUBSETS:
            raise ValueError(f"has the split {split!r}, expected train, val or test")
        return Case(
            row.get("id", ""),
            tuple(images),
            labels,
            group=row.get("group") or None,
            subset=_SUBSETS.get(split),
            is_volume=not is_image_file(images[0]) or is_volume_file(images[0]),
        )

    def _file(self, path: Path, name: str) -> Path:
        found = path.parent / name.strip().replace("\\", "/") if self.outside else inside(path.parent, name)
        if found is None:
            raise ValueError(
                f"lists {name.strip()}, which lies outside its folder; add the reader option outside=true if that is "
                "meant"
            )
        if not found.exists():
            raise ValueError(f"lists {found}, which is not there")
        return found

    def inspect(self, survey: Survey) -> Sequence[str]:
        """Tell pictures from volumes, and look into the label files for their values."""
        cases = survey.cases
        kinds = {case.is_volume for case in cases}
        if len(kinds) > 1:
            raise ValueError(f"the table with {cases[0].images[0]} lists pictures and volumes; keep them in two lists")
        if kinds != {True}:
            self.spatial_dims = 2
            options = PictureOptions(self.labels, labels_resize=self.labels_resize)
            self.label_map, self.channels, notes = options.settle(cases)
            return notes
        self.spatial_dims = 3
        if isinstance(self.labels, Mapping):
            named = {str(value): name for value, name in self.labels.items()}
            self.label_map = label_map_from_json(named, "the reader option labels")
        else:
            self.label_map = infer_volume_labels(p for case in cases for p in case.labels)
        self.channels = read_case_volume(cases[0]).channels
        return ()

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


def _rows(path: Path) -> tuple[str, list[dict[str, str]]]:
    """Read a table: the letter between its columns, and each row by our names of the columns."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"cannot read {path}: it is no text in UTF-8") from None
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        lines = list(csv.reader(text.splitlines(), delimiter=delimiter))
    except csv.Error as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    columns = _columns(lines[0]) if lines else {}
    rows = [{ours: line[k].strip() for ours, k in columns.items() if k < len(line)} for line in lines[1:] if any(line)]
    return delimiter, rows


def _columns(header: Sequence[str]) -> dict[str, int]:
    """Find our columns among those of a table: place of each."""
    names = [squeeze(name) for name in header]
    found = {ours: [names.index(name) for name in known if name in names] for ours, known in _COLUMNS.items()}
    return {ours: places[0] for ours, places in found.items() if places}


def _has_images(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline(10_000)
    except (OSError, UnicodeDecodeError):
        return False
    columns = _columns(header.strip().split(max(",;\t", key=header.count)))
    return "image" in columns and bool(columns.keys() & {"mask", "group", "split"})


def _with_names(cases: Sequence[Case], root: Path) -> list[Case]:
    """Name the cases without an id after their image; where names repeat, the folders come in front."""
    stems = [volume_name(case.images[0]).rsplit(".", 1)[0] for case in cases]
    repeated = len({case.id or stem for case, stem in zip(cases, stems, strict=True)}) < len(cases)
    named = []
    for case, stem in zip(cases, stems, strict=True):
        image = case.images[0]
        folders = image.relative_to(root).parent.parts if repeated and image.is_relative_to(root) else ()
        named.append(replace(case, id=case_id(case.id or "_".join([*folders, stem]))))
    return named
