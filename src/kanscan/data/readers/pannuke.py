"""PanNuke: nuclei of five kinds, pictures and masks in stacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import contents, folders
from kanscan.data.readers.pairing import case_id, finish

_CLASSES = ("neoplastic", "inflammatory", "connective", "dead", "epithelial")


class PanNuke(DatasetReader):
    """Stacks of pictures, and of masks with a channel for each kind of nucleus; the last channel is the background.

    The folds are groups: pictures of one slide lie in one fold.
    """

    key = "pannuke"
    title = "PanNuke (nuclei, stacks of arrays)"
    modality = "histology"
    license = "CC BY-NC-SA 4.0"
    citation = "Gamper et al., PanNuke: an open pan-cancer histology dataset, ECDP 2019, LNCS 11435:11-19"
    expected = "images/fold1/images.npy and masks/fold1/masks.npy"
    layout = """
        PanNuke/
          images/  fold1/images.npy ...      (N, 256, 256, 3)
          masks/   fold1/masks.npy ...       (N, 256, 256, 6)
        (also below folders such as Fold 1/)
    """

    def __init__(self) -> None:
        self.label_map = LabelMap(("background", *_CLASSES), "values", {k: k for k in range(len(_CLASSES) + 1)})

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether a stack of images has its stack of masks."""
        return bool(_stacks(root))

    def survey(self, root: Path) -> Survey:
        """List the pictures of all stacks."""
        cases: list[Case] = []
        problems: list[str] = []
        for images, masks in _stacks(root):
            fold = images.parent.name
            try:
                counts = [np.load(path, mmap_mode="r", allow_pickle=False).shape[0] for path in (images, masks)]
            except (OSError, ValueError, IndexError) as error:
                problems.append(f"cannot read {images} or {masks}: {' '.join(str(error).split())}")
                continue
            if counts[0] != counts[1]:
                problems.append(f"{images} holds {counts[0]} pictures, {masks} {counts[1]} masks; they must agree")
                continue
            cases += [
                Case(case_id(f"{fold}_{k:04d}"), (images,), (masks,), "channels", group=fold, frame=k)
                for k in range(counts[0])
            ]
        if not cases:
            raise ValueError("; ".join([f"{root} holds no stack that can be read; found {contents(root)}", *problems]))
        return finish(cases, problems, ["pictures of one fold stay together"])


def _stacks(root: Path) -> list[tuple[Path, Path]]:
    found = []
    for place in (root, *folders(root)):
        for fold in folders(place / "images"):
            pair = fold / "images.npy", place / "masks" / fold.name / "masks.npy"
            if all(path.is_file() for path in pair):
                found.append(pair)
    return found
