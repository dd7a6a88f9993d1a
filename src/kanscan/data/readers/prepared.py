"""A folder of images with a folder of masks for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import folders
from kanscan.data.patterns import check_pattern, group_notes
from kanscan.data.pictures.search import pictures
from kanscan.data.readers.cvc import SEQUENCE_ENDS, sequence_of
from kanscan.data.readers.layout import Part, clear_parts, find_parts
from kanscan.data.readers.options import subset_cases
from kanscan.data.readers.pairing import Mismatch, Pair, PairingProblem, finish, pair_folders


class Prepared(DatasetReader):
    """A folder of images and one folder of masks for each class, as the U-KAN, U-NeXt and KM-UNet code wants it.

    A single class is read as 0/255 or 0/1; with several, a pixel in masks/k is class k + 1. Folders with names
    (masks/left, masks/right) are classes of these names; there an image without a file has none of that class.

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
        or
        FOLDER/
          images/  a.png ...
          masks/
            left/  a.png ...
            right/ a.png ...
    """

    def __init__(self, names: Sequence[str] = (), group_pattern: str | None = None, channels: int = 3) -> None:
        self.names = (names,) if isinstance(names, str) else tuple(names)
        self.pattern = check_pattern(group_pattern)
        self.channels = channels
        self.label_map = LabelMap(("background", *(self.names or ("foreground",))))

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether the folder of masks holds folders of numbers, or of names with masks of the same images."""
        parts = [part for part in clear_parts(root) if part.labels is not None]
        return bool(parts) and all(_numbered(part) or _named(part) for part in parts)

    def survey(self, root: Path) -> Survey:
        """List the cases; a mask file missing in a numbered class is named and will not be read over."""
        rows: list[tuple[str | None, Pair]] = []
        indices: list[tuple[int, ...]] = []
        problems: list[PairingProblem] = []
        found_names: list[tuple[str, ...]] = []
        for part in find_parts(root):
            if part.labels is None:
                continue
            classes = _numbered(part) or _named(part)
            found_names.append(tuple(folder.name for folder in classes))
            pairs, found = _pair_classes(part.images, classes, keep_places=bool(_numbered(part)))
            problems += found
            rows += [(part.subset or part.place, pair) for pair, _ in pairs]
            indices += [places for _, places in pairs]
        if len(set(found_names)) > 1:
            shown = " and ".join(", ".join(names) for names in sorted(set(found_names)))
            raise ValueError(f"the parts of {root} have different class folders: {shown}")
        self._name_classes(root, found_names[0])
        merge = "classes" if self.label_map.num_classes > 2 else "union"
        cases = subset_cases(rows, self.pattern, merge)
        if merge == "classes":
            cases = [replace(case, classes=places) for case, places in zip(cases, indices, strict=True)]
        cases = _with_sequences(cases, root)
        return finish(cases, problems, group_notes(cases, self.pattern))

    def _name_classes(self, root: Path, folder_names: Sequence[str]) -> None:
        count = len(folder_names)
        if self.names and len(self.names) != count:
            raise ValueError(f"names gives {len(self.names)} classes, {root} has {count} class folders below masks/")
        default = ("foreground",) if count == 1 else tuple(f"class {k + 1}" for k in range(count))
        if not folder_names[0].isdigit():
            default = tuple(folder_names)
        self.label_map = LabelMap(("background", *(self.names or default)))


def _numbered(part: Part) -> list[Path]:
    """List the class folders 0, 1, 2 ... of a part."""
    assert part.labels is not None
    numbered = {int(p.name): p for p in folders(part.labels) if p.name.isdigit()}
    return [numbered[k] for k in range(len(numbered))] if sorted(numbered) == [*range(len(numbered))] else []


def _named(part: Part) -> list[Path]:
    """List the class folders with names: at least two, which share images, and are no folders of patients."""
    assert part.labels is not None
    inner = [folder for folder in folders(part.labels) if pictures(folder)]
    same_as_images = {folder.name for folder in folders(part.images)} & {folder.name for folder in inner}
    if len(inner) < 2 or pictures(part.labels) or same_as_images:
        return []
    try:
        paired = [{pair.name for pair in pair_folders(part.images, folder)[0] if pair.labels} for folder in inner]
    except ValueError:
        return []  # a folder whose masks belong to no image
    return inner if set.union(*paired) and sum(map(len, paired)) > len(set.union(*paired)) else []


def _pair_classes(
    images: Path, classes: Sequence[Path], *, keep_places: bool
) -> tuple[list[tuple[Pair, tuple[int, ...]]], list[PairingProblem]]:
    """Pair images with their mask of each class.

    Args:
        images: Folder of images.
        classes: Folders of masks, in the order of the classes.
        keep_places: A missing file keeps its place, and reading it says that it is missing; else it has no such class.

    Returns:
        Pairs with the class index of each of their masks, and problems.
    """
    problems: list[PairingProblem] = []
    labels: dict[str, list[tuple[int, Path]]] = {}
    pairs: list[Pair] = []
    for index, folder in enumerate(classes, start=1):
        pairs, found = pair_folders(images, folder)
        problems += [p for p in found if p not in problems and (keep_places or p.kind is not Mismatch.NO_MASK)]
        for pair in pairs:
            if pair.labels:
                labels.setdefault(pair.name, []).append((index, pair.labels[0]))
            elif keep_places and len(classes) > 1:
                labels.setdefault(pair.name, []).append((index, folder / f"{pair.name}.png"))
    result = []
    for pair in pairs:
        found_labels = labels.get(pair.name, [])
        if not found_labels and not keep_places:
            problems.append(PairingProblem(Mismatch.NO_MASK, pair.image, f"in the folders beside {classes[0]}"))
        paths, places = tuple(path for _, path in found_labels), tuple(index for index, _ in found_labels)
        result.append((Pair(pair.name, pair.image, paths), places))
    return result, problems


def _with_sequences(cases: list[Case], root: Path) -> list[Case]:
    """Group CVC-ClinicDB by video sequence where the 612 frames kept their numbers."""
    numbers = {case.id for case in cases}
    whole = numbers == {str(k) for k in range(1, SEQUENCE_ENDS[-1] + 1)}
    if not whole or not any("cvc" in part.lower() for part in root.absolute().parts[-2:]):
        return cases
    return [replace(case, group=case.group or sequence_of(case.id)) for case in cases]
