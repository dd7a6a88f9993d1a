"""DICOM studies: to predict, or to learn from where segmentations or structure sets lie beside the images."""

from __future__ import annotations

from pathlib import Path

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import contents
from kanscan.data.readers.pairing import finish
from kanscan.data.readers.volumes import infer_volume_labels
from kanscan.data.volumes.search import dicom_cases, holds_dicom


class Dicom(DatasetReader):
    """DICOM series as a scanner or an archive delivers them, one a folder or several.

    Every folder below is searched; each series becomes a case. Segmentations (DICOM-SEG) and structure sets (RTSTRUCT)
    are the labels of the series they refer to, their names the classes.

    Args:
        channel_name: What the images are ("CT", "MR"): decides how they are normalized; None: as the files say.
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
          LABELS/  seg.dcm             (optional: DICOM-SEG or RTSTRUCT that refer to a series, anywhere below)
    """
    spatial_dims = 3
    channels = 1

    def __init__(self, channel_name: str | None = None) -> None:
        self.label_map = LabelMap()
        self.channel_name = channel_name
        self.channel_names = (channel_name or "",)

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether a DICOM file lies here or in a folder below."""
        return root.is_dir() and holds_dicom(root)

    def survey(self, root: Path) -> Survey:
        """List the series below a folder."""
        cases, notes = dicom_cases(root)
        if not cases:
            raise ValueError("; ".join([f"no DICOM image below {root}; found {contents(root)}", *notes]))
        if not any(case.labels for case in cases):
            notes = [*notes, "these DICOM series have no labels: they can be predicted, not trained on"]
        return finish(cases, (), notes)

    def inspect(self, survey: Survey) -> tuple[str, ...]:
        """Take the names in the segmentations as classes, and the modality."""
        cases = [case for case in survey.cases if case.labels]
        if cases:
            self.label_map = infer_volume_labels(path for case in cases for path in case.labels)
        if self.channel_name is None:
            self.channel_names = (_modality(cases),)
        return ()


def _modality(cases: list[Case]) -> str:
    found = {case.series.modality for case in cases if case.series is not None}
    return found.pop() if len(found) == 1 else ""
