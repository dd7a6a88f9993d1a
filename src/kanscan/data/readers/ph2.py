"""PH2, dermoscopy of 200 melanocytic lesions."""

from __future__ import annotations

import re
from pathlib import Path

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import folders
from kanscan.data.pictures.search import pictures
from kanscan.data.readers.pairing import finish

_NAME = re.compile(r"IMD\d+$", re.IGNORECASE)


class PH2(DatasetReader):
    """A folder a lesion, with the image, the lesion mask and color-class masks (`_roi`, not read).

    Masks are 1-bit BMP files, one of them RGB; sizes vary around 767 x 576.
    """

    key = "ph2"
    title = "PH2"
    modality = "dermoscopy"
    license = "research and benchmarking"
    citation = "Mendonca et al., PH2: A dermoscopic image database for research and benchmarking, EMBC 2013:5437-5440"
    expected = "folders IMD002/IMD002_Dermoscopic_Image/ and IMD002/IMD002_lesion/"
    layout = """
        PH2Dataset/
          PH2 Dataset images/
            IMD002/  IMD002_Dermoscopic_Image/IMD002.bmp  IMD002_lesion/IMD002_lesion.bmp  IMD002_roi/ (not read)
            ...
    """

    def __init__(self) -> None:
        self.label_map = LabelMap(("background", "lesion"))

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether there are folders IMD..., one a lesion."""
        return any(_NAME.match(folder.name) and _inside(folder, "image") for folder in folders(root)[:5])

    def survey(self, root: Path) -> Survey:
        """List the lesions."""
        cases, problems = [], []
        for folder in folders(root):
            if not _NAME.match(folder.name):
                continue
            images, labels = (_inside(folder, part) for part in ("image", "lesion"))
            if not images:
                problems.append(f"{folder} has no picture in {folder.name}_Dermoscopic_Image/")
                continue
            if not labels:
                problems.append(f"image {images[0]} has no mask in {folder.name}_lesion/")
            # Some copies hold the mask twice, as BMP and JPEG; the lossless one counts.
            labels.sort(key=lambda path: path.suffix.lower() in (".jpg", ".jpeg"))
            cases.append(Case(folder.name, (images[0],), tuple(labels[:1])))
        return finish(cases, problems)


def _inside(folder: Path, ending: str) -> list[Path]:
    return [p for part in folders(folder) if part.name.lower().endswith(f"_{ending}") for p in pictures(part)]
