"""Any folder of images with a folder of masks beside it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import folders
from kanscan.data.pictures.files import read_image
from kanscan.data.pictures.label_values import infer_label_map, label_map_from_option, read_label_values
from kanscan.data.pictures.search import pictures
from kanscan.data.readers.cvc import SEQUENCE_ENDS, sequence_of
from kanscan.data.readers.layout import find_parts
from kanscan.data.readers.pairing import Pair, PairingProblem, case_id, finish, pair_folders, pair_within

Part = tuple[str | None, Path, Path | None]


class Folder(DatasetReader):
    """Images and masks in two folders with equal file names, at the top or in train, val and test folders.

    Args:
        labels: What the mask files store: "auto" (looked at: 0/1, 0/255, 0/128/255, 0..n), "threshold", "nonzero"
            (instance numbers), a list of class names, or a mapping of stored values to class names.
        group_pattern: Regular expression; what it matches in a case's name (its first bracket, if it has one) is the
            group, for example "^([^_]+)_" for names like patient7_slice3.
        channels: Channels the network is best given; None: 1 if the pictures are stored as grey, else 3.
    """

    key = "folder"
    title = "Folder of images and folder of masks"
    license = "yours"
    expected = "images/ and masks/ (or imgs, labels, gt, annotations ...), alone or below train/, val/ and test/"
    layout = """
        FOLDER/
          images/  a.png b.png ...          (or image, imgs, original, input ...)
          masks/   a.png b_mask.png ...     (or mask, labels, gt, annotations, segmentation ...)
        or
        FOLDER/
          train/  images/  masks/
          val/    images/  masks/
          test/   images/  masks/           (optional; images/train and masks/train are met too)
    """

    def __init__(self, labels: Any = "auto", group_pattern: str | None = None, channels: int | None = None) -> None:
        self.labels = labels
        self.pattern = compile_pattern(group_pattern)
        self.label_map, self.channels, self._open = _settings(labels, channels)

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether a folder of images stands beside a folder of masks."""
        return bool(find_parts(root))

    def survey(self, root: Path) -> Survey:
        """List the pairs; a subset without masks is named and left out."""
        rows: list[tuple[str | None, Pair]] = []
        problems: list[PairingProblem] = []
        notes: list[str] = []
        for subset, images, labels in find_parts(root):
            if labels is None:
                notes.append(f"{images} has no folder of masks and is left out")
                continue
            pairs, found = pair_folders(images, labels)
            problems += found
            rows += [(subset, pair) for pair in pairs]
        cases = subset_cases(rows, self.pattern)
        return finish(cases, problems, [*notes, *group_notes(cases, self.pattern)])

    def inspect(self, survey: Survey) -> None:
        """Look into the mask files for their values, and into an image for its channels."""
        self.label_map, self.channels = look(survey.cases, self.labels, self.channels, self._open)


class Prepared(DatasetReader):
    """A folder of images and one folder of masks for each class, as the U-KAN, U-NeXt and KM-UNet code wants it.

    A single class is read as 0/255 or 0/1; with several, a pixel in masks/k is class k + 1.

    Args:
        names: Names of the classes, background excluded.
        group_pattern: As for the reader "folder". The 612 frames of CVC-ClinicDB, in a folder with cvc in its name, are
            grouped by video sequence without it.
        channels: Channels the network is best given.
    """

    key = "prepared"
    title = "images/ with masks/0, masks/1 ... (a folder a class)"
    license = "yours"
    citation = "Layout of the code released with U-NeXt and U-KAN"
    expected = "images/ and masks/0/ (and masks/1/ ... for more classes) with equal file names"
    layout = """
        busi/
          images/  benign (1).png ...
          masks/
            0/     benign (1).png or benign (1)_mask.png ...
            1/     (one folder for each further class)
    """

    def __init__(self, names: Sequence[str] = (), group_pattern: str | None = None, channels: int = 3) -> None:
        self.names = (names,) if isinstance(names, str) else tuple(names)
        self.pattern = compile_pattern(group_pattern)
        self.channels = channels
        self.label_map = LabelMap(("background", *(self.names or ("foreground",))))

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether the folder of masks holds a folder 0."""
        parts = find_parts(root)
        return bool(parts) and all(labels is None or _class_folders(labels) for _, _, labels in parts)

    def survey(self, root: Path) -> Survey:
        """List the cases; a mask file missing in one class is named and will not be read over."""
        rows: list[tuple[str | None, Pair]] = []
        problems: list[PairingProblem] = []
        counts = set()
        for subset, images, labels in find_parts(root):
            if labels is None:
                continue
            classes = _class_folders(labels)
            counts.add(len(classes))
            pairs, found = _pair_classes(images, classes)
            problems += found
            rows += [(subset, pair) for pair in pairs]
        if len(counts) > 1:
            raise ValueError(f"the subsets of {root} have different numbers of class folders: {sorted(counts)}")
        self._name_classes(root, counts.pop())
        merge = "classes" if self.label_map.num_classes > 2 else "union"
        cases = _with_sequences(subset_cases(rows, self.pattern, merge), root)
        return finish(cases, problems, group_notes(cases, self.pattern))

    def _name_classes(self, root: Path, count: int) -> None:
        if self.names and len(self.names) != count:
            raise ValueError(f"names gives {len(self.names)} classes, {root} has {count} class folders below masks/")
        default = ("foreground",) if count == 1 else tuple(f"class {k + 1}" for k in range(count))
        self.label_map = LabelMap(("background", *(self.names or default)))


class Paired(DatasetReader):
    """Images and masks side by side in one folder, told apart by name (`a.png a_mask.png`) or ending (`a.bmp a.png`).

    Args:
        labels: As for the reader "folder".
        group_pattern: As for the reader "folder".
        channels: As for the reader "folder".
    """

    key = "paired"
    title = "Images and masks together in one folder"
    license = "yours"
    expected = "pairs like a.png + a_mask.png, or a.bmp + a.png, in one folder"
    layout = """
        FOLDER/
          a.png  a_mask.png ...      (or _seg, _label, _gt, _segmentation; several masks a_mask_1.png are united)
        or
        FOLDER/
          001.bmp  001.png ...       (of two files with one name PNG is the mask)
    """

    def __init__(self, labels: Any = "auto", group_pattern: str | None = None, channels: int | None = None) -> None:
        self.labels = labels
        self.pattern = compile_pattern(group_pattern)
        self.label_map, self.channels, self._open = _settings(labels, channels)

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether a picture and its mask lie in the folder or in a folder inside it."""
        if find_parts(root) or (len(folders(root)) == 1 and not pictures(root)):
            return False  # a lone folder is entered: its own name is no part of the cases' names
        return any(pair.labels for place in (root, *folders(root)) for pair in pair_within(place, deep=False)[0])

    def survey(self, root: Path) -> Survey:
        """List the pairs in the folder and below it."""
        pairs, problems = pair_within(root)
        cases = subset_cases([(None, pair) for pair in pairs], self.pattern)
        return finish(cases, problems, group_notes(cases, self.pattern))

    def inspect(self, survey: Survey) -> None:
        """Look into the mask files for their values, and into an image for its channels."""
        self.label_map, self.channels = look(survey.cases, self.labels, self.channels, self._open)


def _settings(labels: Any, channels: int | None) -> tuple[LabelMap, int, bool]:
    # A list of names and "auto" need the files; anything else is known, or refused, now.
    if isinstance(labels, str) and labels == "auto":
        label_map = LabelMap()
    elif isinstance(labels, list | tuple) and len(labels) >= 2:
        label_map = LabelMap(tuple(map(str, labels)))
    else:
        label_map = label_map_from_option(labels)
    return label_map, channels or 3, channels is None


def look(cases: Sequence[Case], labels: Any, channels: int, channels_open: bool) -> tuple[LabelMap, int]:
    """Settle what names cannot tell: the meaning of the label values and the number of channels."""
    if isinstance(labels, str) and labels == "auto":
        label_map = infer_label_map(read_label_values(cases))
    elif isinstance(labels, list | tuple):
        label_map = label_map_from_option(labels, read_label_values(cases))
    else:
        label_map = label_map_from_option(labels)
    return label_map, _stored_channels(cases) if channels_open else channels


def _stored_channels(cases: Sequence[Case]) -> int:
    for case in cases[:5]:
        try:
            return 1 if read_image(case.images[0], frame=case.frame).ndim == 2 else 3
        except (OSError, ValueError):
            continue
    return 3


def compile_pattern(pattern: str | None) -> re.Pattern[str] | None:
    """Compile the option `group_pattern`.

    Raises:
        ValueError: It is no regular expression.
    """
    try:
        return re.compile(pattern) if pattern else None
    except re.error as error:
        raise ValueError(f"group_pattern {pattern!r} is no regular expression: {error}") from None


def subset_cases(
    rows: Sequence[tuple[str | None, Pair]], pattern: re.Pattern[str] | None, merge: str = "union"
) -> list[Case]:
    """Make cases; where two subsets use one name, the subset's name begins every id."""
    counts = Counter(pair.name for _, pair in rows)
    prefixed = any(count > 1 for count in counts.values())
    cases = []
    for subset, pair in rows:
        name = f"{subset}_{pair.name}" if prefixed and subset else pair.name
        match = pattern.search(pair.name) if pattern else None
        group = match[1 if pattern and pattern.groups else 0] if match else None
        cases.append(Case(case_id(name), (pair.image,), pair.labels, merge, group, subset))
    return cases


def group_notes(cases: Sequence[Case], pattern: re.Pattern[str] | None) -> list[str]:
    """Say what the option `group_pattern` did not match."""
    without = [case.id for case in cases if case.group is None]
    if pattern is None or not without:
        return []
    return [f"group_pattern matches no part of {len(without)} of {len(cases)} names, first {without[0]!r}"]


def _class_folders(labels: Path) -> list[Path]:
    numbered = {int(p.name): p for p in folders(labels) if p.name.isdigit()}
    return [numbered[k] for k in range(len(numbered))] if sorted(numbered) == [*range(len(numbered))] else []


def _pair_classes(images: Path, classes: Sequence[Path]) -> tuple[list[Pair], list[PairingProblem]]:
    problems: list[PairingProblem] = []
    labels: dict[str, list[Path]] = {}
    pairs: list[Pair] = []
    for folder in classes:
        pairs, found = pair_folders(images, folder)
        problems += [problem for problem in found if problem not in problems]
        for pair in pairs:
            # The position is the class: a missing file keeps its place, and reading it says that it is missing.
            labels.setdefault(pair.name, []).append(pair.labels[0] if pair.labels else folder / f"{pair.name}.png")
    kept = {name: tuple(paths) for name, paths in labels.items() if len(classes) > 1 or paths[0].is_file()}
    return [Pair(pair.name, pair.image, kept.get(pair.name, ())) for pair in pairs], problems


def _with_sequences(cases: list[Case], root: Path) -> list[Case]:
    """Group CVC-ClinicDB by video sequence where the 612 frames kept their numbers."""
    numbers = {case.id for case in cases}
    whole = numbers == {str(k) for k in range(1, SEQUENCE_ENDS[-1] + 1)}
    if not whole or not any("cvc" in part.lower() for part in root.absolute().parts[-2:]):
        return cases
    return [replace(case, group=case.group or sequence_of(case.id)) for case in cases]
