"""Data Science Bowl 2018: nuclei, a file each."""

from __future__ import annotations

from pathlib import Path

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import folders, subset_of
from kanscan.data.pictures.search import pictures
from kanscan.data.readers.pairing import case_id, finish


class DSB2018(DatasetReader):
    """A folder a picture, with a mask file for each nucleus; the masks of one picture are united."""

    key = "dsb2018"
    title = "Data Science Bowl 2018 (nuclei)"
    modality = "microscopy"
    license = "CC0"
    citation = "Caicedo et al., Nucleus segmentation across imaging experiments, Nature Methods 16:1247-1253, 2019"
    expected = "ID/images/ID.png and ID/masks/*.png, one file a nucleus"
    layout = """
        stage1_train/
          ID/  images/ID.png  masks/HASH.png HASH.png ...
          ...
    """

    def __init__(self) -> None:
        self.label_map = LabelMap(("background", "nucleus"))

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether the first folders hold one picture of their own name, and masks of other names."""
        found = [folder for folder in folders(root)[:3] if (folder / "images").is_dir() and (folder / "masks").is_dir()]
        return bool(found) and all(_is_picture_folder(folder) for folder in found)

    def survey(self, root: Path) -> Survey:
        """List the pictures."""
        cases, problems = [], []
        for folder in folders(root):
            images, masks = pictures(folder / "images"), pictures(folder / "masks")
            if not images:
                if subset_of(folder.name) is None:
                    problems.append(f"{folder} holds no picture in images/")
                continue
            if not masks:
                problems.append(f"image {images[0]} has no mask in {folder / 'masks'}")
            cases.append(Case(case_id(folder.name), (images[0],), tuple(masks)))
        return finish(cases, problems, ["the masks of each picture, a nucleus each, are united"])


def _is_picture_folder(folder: Path) -> bool:
    images, masks = pictures(folder / "images"), pictures(folder / "masks")
    own = [path for path in masks if path.stem == folder.name]
    return len(images) == 1 and images[0].stem == folder.name and bool(masks) and not own
