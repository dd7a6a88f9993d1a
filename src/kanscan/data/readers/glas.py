"""GlaS, glands in colon histology, as published and in the img/labelcol layout."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import squeeze
from kanscan.data.pictures.search import pictures
from kanscan.data.readers.layout import Part, clear_parts
from kanscan.data.readers.pairing import Pair, PairingProblem, case_id, finish, pair_folders, pair_within

_OFFICIAL = re.compile(r"(train|testA|testB)_\d+(_anno)?\.(bmp|png|tiff?)$", re.IGNORECASE)
_SETS = ("train", "testA", "testB")


class GlaS(DatasetReader):
    """Gland segmentation in H&E-stained colon sections; labels number the glands, any of them is foreground.

    Published are 85 training and 60 + 20 test images (A and B); the papers pool all 165. Where `Grade.csv` lies with
    the images, the patient is the group.

    Args:
        sets: Parts to take, of "train", "testA" and "testB"; the img/labelcol layout does not tell A from B.
    """

    key = "glas"
    title = "GlaS (Gland Segmentation in Colon Histology)"
    modality = "histology"
    license = "research only, non-commercial"
    citation = "Sirinukunwattana et al., Gland segmentation in colon histology images, MedIA 35:489-502, 2017"
    expected = "files train_1.bmp and train_1_anno.bmp, or Train_Folder/ and Test_Folder/ with img/ and labelcol/"
    layout = """
        Warwick QU Dataset (Released 2016_07_08)/
          train_1.bmp  train_1_anno.bmp ...  testA_1.bmp ...  testB_1.bmp ...  Grade.csv (optional)
        or
        GlaS/
          Train_Folder/  img/1.jpg ...  labelcol/1.png ...
          Test_Folder/   img/1.jpg ...  labelcol/1.png ...
    """

    def __init__(self, sets: tuple[str, ...] = _SETS) -> None:
        self.sets = (sets,) if isinstance(sets, str) else tuple(sets)
        if not self.sets or set(self.sets) - set(_SETS):
            raise ValueError(f"sets must be of {', '.join(_SETS)}, got {sets!r}")
        self.label_map = LabelMap(("background", "gland"), rule="nonzero")

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether the published names, or labelcol folders, are there."""
        parts = clear_parts(root)
        in_folders = bool(parts) and all(part.labels and squeeze(part.labels.name) == "labelcol" for part in parts)
        return in_folders or any(_OFFICIAL.match(path.name) for path in pictures(root)[:50])

    def survey(self, root: Path) -> Survey:
        """List the images with their subset."""
        parts = clear_parts(root)
        if parts:
            return self._from_folders(parts)
        pairs, found = pair_within(root)
        problems: list[str | PairingProblem] = list(found)
        patients = _patients(root)
        cases = [self._official(pair, patients) for pair in pairs if _kind(pair.name) in self.sets]
        others = [pair.name for pair in pairs if not _kind(pair.name)]
        if others:
            problems.append(f"{root} holds {len(others)} pictures without a GlaS name, first {others[0]!r}")
        notes = [] if patients else ["Grade.csv is not there: which images share a patient is unknown"]
        return finish(cases, problems, notes)

    def _official(self, pair: Pair, patients: dict[str, str]) -> Case:
        subset = "train" if _kind(pair.name) == "train" else "test"
        return Case(pair.name, (pair.image,), pair.labels, group=patients.get(pair.name.lower()), subset=subset)

    def _from_folders(self, parts: list[Part]) -> Survey:
        cases, problems = [], []
        for part in parts:
            subset = part.subset
            wanted = self.sets if subset is None else [s for s in self.sets if s.startswith(subset)]
            if not wanted:
                continue
            assert part.labels is not None
            pairs, found = pair_folders(part.images, part.labels)
            problems += found
            prefix = f"{subset}_" if subset else ""
            cases += [Case(prefix + case_id(p.name), (p.image,), p.labels, subset=subset) for p in pairs]
        return finish(cases, problems, ["which images share a patient is unknown in this layout"])


def _kind(name: str) -> str:
    kind = name.partition("_")[0].lower()
    return next((known for known in _SETS if known.lower() == kind), "")


def _patients(root: Path) -> dict[str, str]:
    """Read image name -> patient from Grade.csv, whose header has spaces after its commas."""
    table = next((p for p in root.iterdir() if p.name.lower() == "grade.csv"), None)
    if table is None:
        return {}
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = [{squeeze(k or ""): (v or "").strip() for k, v in row.items()} for row in csv.DictReader(file)]
    known = [row for row in rows if row.get("name") and row.get("patientid")]
    return {row["name"].lower(): f"patient{row['patientid']}" for row in known}
