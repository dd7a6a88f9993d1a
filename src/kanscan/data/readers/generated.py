"""Folders that kanscan wrote itself; the manifest says what the masks hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.made.generated import MANIFEST
from kanscan.data.made.mni152 import CLASSES
from kanscan.data.made.mni152 import MADE_BY as MNI152_MADE_BY
from kanscan.data.made.mni152 import VALUES as MNI152_VALUES
from kanscan.data.made.synthetic import MADE_BY as SYNTHETIC_MADE_BY
from kanscan.data.made.synthetic import VALUES as SYNTHETIC_VALUES
from kanscan.data.readers.pairing import finish
from kanscan.files import read_json

_LAYOUT = """
    FOLDER/
      images/NAME.png ...  masks/NAME.png ...  manifest.json
"""


class Synthetic(DatasetReader):
    """Synthetic breast ultrasound; the views of one patient are a group."""

    key = "synthetic"
    title = "Synthetic ultrasound (drawn by kanscan)"
    modality = "ultrasound (synthetic)"
    license = "free"
    expected = "images/, masks/ and a manifest.json written by kanscan"
    layout = _LAYOUT
    channels = 1

    def __init__(self) -> None:
        self.label_map = LabelMap(tuple(SYNTHETIC_VALUES), "values", _indices(SYNTHETIC_VALUES))

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether the manifest names the generator."""
        return _maker(root) == SYNTHETIC_MADE_BY

    def survey(self, root: Path) -> Survey:
        """List the pictures named in the manifest."""
        return _survey(root)


class MNI152(DatasetReader):
    """Slices of the MNI152 template with grey and white matter; a slab of slices is a group."""

    key = "mni152"
    title = "MNI152 template slices (written by kanscan)"
    modality = "MRI T1 (average of 152 brains)"
    license = "ICBM 152: free with its copyright notice"
    citation = "Fonov et al., Unbiased average age-appropriate atlases for pediatric studies, NeuroImage 54:313, 2011"
    expected = "images/, masks/ and a manifest.json written by kanscan"
    layout = _LAYOUT
    channels = 1

    def __init__(self) -> None:
        self.label_map = LabelMap(CLASSES, "values", _indices(MNI152_VALUES))

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether the manifest names the generator."""
        return _maker(root) == MNI152_MADE_BY

    def survey(self, root: Path) -> Survey:
        """List the slices named in the manifest."""
        return _survey(root)


def _indices(values: dict[str, int]) -> dict[int, int]:
    return {value: index for index, value in enumerate(values.values())}


def _manifest(root: Path) -> dict[str, Any]:
    content = read_json(root / MANIFEST) if (root / MANIFEST).is_file() else {}
    return content if isinstance(content, dict) else {}


def _maker(root: Path) -> str:
    return str(_manifest(root).get("made_by", ""))


def _survey(root: Path) -> Survey:
    manifest = _manifest(root)
    spacing = tuple(manifest["spacing_mm"]) if manifest.get("spacing_mm") else None
    cases, problems = [], []
    for row in manifest["cases"]:
        image, label = (root / folder / f"{row['id']}.png" for folder in ("images", "masks"))
        missing = [path for path in (image, label) if not path.is_file()]
        problems += [f"{path} is named in the manifest and missing" for path in missing]
        if not missing:
            cases.append(Case(row["id"], (image,), (label,), group=row["group"], spacing_mm=spacing))
    return finish(cases, problems)
