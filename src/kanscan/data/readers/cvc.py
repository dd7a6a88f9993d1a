"""CVC-ClinicDB, frames of colonoscopy videos; the 29 sequences are the groups."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import child, contents
from kanscan.data.pictures.search import pictures
from kanscan.data.readers.pairing import case_id, finish, pair_folders

#: Number of the last frame of each video sequence among the 612 frames.
SEQUENCE_ENDS = (
    *(25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317),
    *(342, 363, 383, 408, 428, 447, 466, 478, 503, 528, 546, 571, 591, 612),
)
_FORMATS = ("png", "tif")
_IMAGES, _LABELS = ("original",), ("groundtruth",)


def sequence_of(name: str) -> str | None:
    """Name the video sequence of a frame by its number 1..612; None for any other name.

    Example:
        >>> sequence_of("25"), sequence_of("26"), sequence_of("613")
        ('sequence01', 'sequence02', None)
    """
    if not (name.isascii() and name.isdigit()) or not 1 <= int(name) <= SEQUENCE_ENDS[-1]:
        return None
    return f"sequence{bisect_left(SEQUENCE_ENDS, int(name)) + 1:02d}"


class CVC(DatasetReader):
    """Colonoscopy frames with polyps, 384 x 288.

    Neighboring frames are almost equal: a split that ignores the sequences leaks. The PNG masks are anti-aliased in
    138 of 612 cases, hence the threshold.

    Args:
        format: "png", "tif" (same pixels), or "auto": whichever folder holds more.
    """

    key = "cvc"
    title = "CVC-ClinicDB"
    modality = "colonoscopy"
    license = "research use with citation"
    citation = "Bernal et al., WM-DOVA maps for accurate polyp highlighting in colonoscopy, CMIG 43:99-111, 2015"
    expected = "folders Original/ and 'Ground Truth'/ (below PNG/ or TIF/) with frames 1..612"
    layout = """
        CVC-ClinicDB/
          PNG/  Original/1.png ...  Ground Truth/1.png ...
          TIF/  Original/1.tif ...  Ground Truth/1.tif ...        (either suffices; both folders may lie at the top)
    """

    def __init__(self, format: str = "auto") -> None:
        if format not in (*_FORMATS, "auto"):
            raise ValueError(f"format must be auto, png or tif, got {format!r}")
        self.format = format
        self.label_map = LabelMap(("background", "polyp"))

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether Original/ and Ground Truth/ are there, below PNG/ or TIF/ or at once."""
        return bool(_places(root))

    def survey(self, root: Path) -> Survey:
        """List the frames with their video sequence as group."""
        places = _places(root)
        if self.format != "auto":
            places = [place for place in places if _format_of(place) in (self.format, None)]
            if not places:
                raise ValueError(f"{root} has no folder {self.format.upper()}/; found {contents(root)}")
        chosen = max(places, key=lambda place: len(pictures(_part(place, _IMAGES))))
        pairs, problems = pair_folders(_part(chosen, _IMAGES), _part(chosen, _LABELS))
        cases = [Case(case_id(p.name), (p.image,), p.labels, group=sequence_of(p.name)) for p in pairs]
        notes = [f"read from {chosen.name}/"] if chosen != root else []
        unnumbered = sum(case.group is None for case in cases)
        if unnumbered:
            notes.append(f"{unnumbered} frames are not numbered 1..612, their video sequence is unknown")
        return finish(cases, problems, notes)


def _places(root: Path) -> list[Path]:
    places = [folder for folder in (child(root, (name,)) for name in _FORMATS) if folder] or [root]
    return [place for place in places if child(place, _IMAGES) and child(place, _LABELS)]


def _format_of(folder: Path) -> str | None:
    """Tell which format a folder's name promises, or None."""
    return folder.name.lower() if folder.name.lower() in _FORMATS else None


def _part(place: Path, names: tuple[str, ...]) -> Path:
    folder = child(place, names)
    assert folder is not None
    return folder
