"""Kvasir-SEG, polyps from many colonoscopies."""

from __future__ import annotations

import re
from pathlib import Path

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import child
from kanscan.data.pictures.search import pictures
from kanscan.data.readers.pairing import case_id, finish, pair_folders

#: File names are 25 characters that a collision-resistant id generator made.
_NAME = re.compile(r"c[a-z0-9]{24}\.jpe?g$")


class Kvasir(DatasetReader):
    """1,000 polyp images of 332 to 1,920 pixels; masks are JPEG files and are cut at 127."""

    key = "kvasir"
    title = "Kvasir-SEG"
    modality = "colonoscopy"
    license = "research and education, with citation"
    citation = "Jha et al., Kvasir-SEG: A segmented polyp dataset, MMM 2020, LNCS 11962:451-462"
    expected = "folders images/ and masks/ with JPEG files like cju0qkwl35piu0993l0dewei2.jpg"
    layout = """
        Kvasir-SEG/
          images/  cju0qkwl35piu0993l0dewei2.jpg ...
          masks/   cju0qkwl35piu0993l0dewei2.jpg ...
    """

    def __init__(self) -> None:
        self.label_map = LabelMap(("background", "polyp"))

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether images/ and masks/ hold files with Kvasir's generated names."""
        parts = [child(root, (name,)) for name in ("images", "masks")]
        return all(part and any(_NAME.match(p.name) for p in pictures(part)[:5]) for part in parts)

    def survey(self, root: Path) -> Survey:
        """List the pairs."""
        pairs, problems = pair_folders(root / "images", root / "masks")
        return finish([Case(case_id(p.name), (p.image,), p.labels) for p in pairs], problems)
