"""ISIC 2016, 2017 and 2018, skin lesion boundary segmentation (Task 1), in the folders the challenges publish."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import contents, folders
from kanscan.data.readers.pairing import PairingProblem, case_id, finish, pair_folders

_SUBSET = re.compile(r"training|validation|test", re.IGNORECASE)
_OTHER_TASK = re.compile(r"part[23]|task[23]_", re.IGNORECASE)
_YEAR = re.compile(r"20(16|17|18)")


@dataclass(frozen=True)
class _Role:
    year: int
    subset: str
    is_label: bool


class ISIC(DatasetReader):
    """Dermoscopy with lesion masks; superpixel files beside the images are left out.

    Images reach 6,688 x 4,439 pixels. Masks were drawn in varying styles.

    Args:
        year: 2016, 2017 or 2018, where a folder holds several years; None: the one that is there.
    """

    key = "isic"
    title = "ISIC 2016/2017/2018 lesion segmentation"
    modality = "dermoscopy"
    license = "CC-0 (2016, 2017), CC BY-NC 4.0 (2018)"
    citation = "Codella et al., Skin lesion analysis toward melanoma detection, ISBI 2018 and arXiv:1902.03368"
    expected = "folders like ISIC-2017_Training_Data/ and ISIC-2017_Training_Part1_GroundTruth/"
    layout = """
        ISIC2017/
          ISIC-2017_Training_Data/  ISIC_0000000.jpg ...
          ISIC-2017_Training_Part1_GroundTruth/  ISIC_0000000_segmentation.png ...
          (likewise Validation and Test_v2)
        or
        ISIC2018/
          ISIC2018_Task1-2_Training_Input/  ISIC_0000000.jpg ...
          ISIC2018_Task1_Training_GroundTruth/  ISIC_0000000_segmentation.png ...
    """

    def __init__(self, year: int | None = None) -> None:
        if year is not None and year not in (2016, 2017, 2018):
            raise ValueError(f"year must be 2016, 2017 or 2018, got {year!r}")
        self.year = year
        self.label_map = LabelMap(("background", "lesion"))

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether a challenge folder of images and one of masks is there."""
        roles = [role for role in map(_role, folders(root)) if role]
        return any(role.is_label for role in roles) and any(not role.is_label for role in roles)

    def survey(self, root: Path) -> Survey:
        """List the images of each subset; a subset without masks is named and left out."""
        found = {role: folder for folder in folders(root) if (role := _role(folder))}
        years = sorted({role.year for role in found})
        year = self.year or years[0]
        if (self.year is None and len(years) > 1) or year not in years:
            raise ValueError(f"{root} holds ISIC {' and '.join(map(str, years))}; choose with the reader option year")
        cases: list[Case] = []
        problems: list[PairingProblem] = []
        notes: list[str] = []
        for subset in ("train", "validation", "test"):
            images, labels = (found.get(_Role(year, subset, is_label)) for is_label in (False, True))
            if images and labels:
                pairs, troubles = pair_folders(images, labels, skip=lambda name: name.endswith("_superpixels"))
                problems += troubles
                cases += [Case(case_id(p.name), (p.image,), p.labels, subset=subset) for p in pairs]
            elif images or labels:
                notes.append(f"{(images or labels)} has no {'masks' if images else 'images'} and is left out")
        if not cases:
            raise ValueError(f"{root} holds no subset with both images and masks; found {contents(root)}")
        return finish(cases, problems, notes)


def _role(folder: Path) -> _Role | None:
    name = folder.name
    year, subset = _YEAR.search(name), _SUBSET.search(name)
    is_label = "groundtruth" in name.lower()
    is_image = re.search(r"(data|input)$", name, re.IGNORECASE) is not None
    if "isic" not in name.lower() or not year or not subset or is_label == is_image:
        return None
    if is_label and _OTHER_TASK.search(name):
        return None
    return _Role(int(year[0]), {"training": "train"}.get(subset[0].lower(), subset[0].lower()), is_label)
