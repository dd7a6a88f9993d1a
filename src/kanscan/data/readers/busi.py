"""BUSI, breast ultrasound images, in the layout it is published in."""

from __future__ import annotations

import re
from pathlib import Path

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import child
from kanscan.data.pictures.search import pictures
from kanscan.data.readers.pairing import finish, pair_within

_NAME = re.compile(r"(?:benign|malignant|normal) \(\d+\)", re.IGNORECASE)
_LESIONS = ("benign", "malignant")


class BUSI(DatasetReader):
    """Benign, malignant and normal breast ultrasound; several masks of one image are united.

    The papers use the 437 + 210 images with a lesion. 17 images have two or three mask files, and reading the first
    alone loses lesions. Two images, `benign (433)` and `malignant (145)`, are the same picture.

    Args:
        normal: Take the images without a lesion too; their masks are empty.
        kinds: Folders to take, of "benign" and "malignant".
    """

    key = "busi"
    title = "BUSI (Breast Ultrasound Images)"
    modality = "ultrasound"
    license = "article CC BY 4.0, terms of the data not stated"
    citation = "Al-Dhabyani et al., Dataset of breast ultrasound images, Data in Brief 28:104863, 2020"
    expected = "folders benign/ and malignant/ with files like 'benign (1).png' and 'benign (1)_mask.png'"
    layout = """
        Dataset_BUSI_with_GT/
          benign/     benign (1).png  benign (1)_mask.png  benign (4)_mask_1.png ...
          malignant/  malignant (1).png  malignant (1)_mask.png ...
          normal/     normal (1).png  normal (1)_mask.png ...      (optional, taken with normal=true)
    """

    def __init__(self, normal: bool = False, kinds: tuple[str, ...] = _LESIONS) -> None:
        self.kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        if not self.kinds or set(self.kinds) - set(_LESIONS):
            raise ValueError(f"kinds must be of {', '.join(_LESIONS)}, got {kinds!r}; normal=true adds the normal ones")
        if normal:
            self.kinds += ("normal",)
        self.label_map = LabelMap(("background", "lesion"))

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether benign/ or malignant/ holds files named as published."""
        inside = [child(root, (kind,)) for kind in _LESIONS]
        return any(any(_NAME.match(p.name) for p in pictures(folder)[:20]) for folder in inside if folder)

    def survey(self, root: Path) -> Survey:
        """List the lesion images, and the normal ones where asked for."""
        cases, problems, notes = [], [], []
        for kind in self.kinds:
            folder = child(root, (kind,))
            if folder is None:
                notes.append(f"there is no folder {kind}/ in {root}")
                continue
            pairs, found = pair_within(folder)
            problems += found
            cases += [Case(pair.name, (pair.image,), pair.labels) for pair in pairs]
        if not cases:
            raise ValueError(f"{root} holds no {' or '.join(self.kinds)} images; expected {self.expected}")
        several = sum(len(case.labels) > 1 for case in cases)
        if several:
            notes.append(f"{several} images have several mask files, which are united")
        left_out = child(root, ("normal",))
        if left_out and "normal" not in self.kinds:
            notes.append("normal/ is left out, as in the papers; take it with the reader option normal=true")
        return finish(cases, problems, notes)
