"""DICOM studies, to predict."""

from __future__ import annotations

from pathlib import Path

from kanscan.data.case import DatasetReader, LabelMap, Survey
from kanscan.data.folders import contents
from kanscan.data.readers.pairing import finish
from kanscan.data.volumes.search import dicom_cases, holds_dicom


class Dicom(DatasetReader):
    """DICOM series as a scanner or an archive delivers them, one a folder or several; without labels, for predict.

    Every folder below is searched; each series becomes a case.
    """

    key = "dicom"
    title = "DICOM series"
    modality = "any"
    license = "yours"
    expected = "folders of DICOM slices"
    layout = """
        STUDY/
          SERIES/  1.dcm 2.dcm ...     (names and their order do not matter; slices are sorted by position)
          SERIES/  IM000001 ...
    """
    spatial_dims = 3
    channels = 1

    def __init__(self) -> None:
        self.label_map = LabelMap()

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether a DICOM file lies here or in a folder below."""
        return root.is_dir() and holds_dicom(root)

    def survey(self, root: Path) -> Survey:
        """List the series below a folder."""
        cases, notes = dicom_cases(root)
        if not cases:
            raise ValueError("; ".join([f"no DICOM image below {root}; found {contents(root)}", *notes]))
        return finish(cases, (), [*notes, "DICOM series have no labels: they can be predicted, not trained on"])
