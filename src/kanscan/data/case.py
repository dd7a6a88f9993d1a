"""What a data set is, before any pixel is read: cases, and the reader that finds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kanscan.data.folders import check_folder, contents, find_start
from kanscan.data.label_map import LabelMap as LabelMap
from kanscan.data.outlines import Outlines


@dataclass(frozen=True, slots=True)
class Series:
    """A DICOM series: its files, found once; all that is needed to read it without another search.

    Attributes:
        uid: SeriesInstanceUID, or "" where the files have none.
        number: SeriesNumber, or None.
        description: SeriesDescription, or "".
        modality: "MR", "CT" ..., or "unknown modality".
        files: Its image files, sorted by path.
        folder: Where they lie, for sentences (the file itself where one was named).
        voxels: Pixels of all its frames together, as the headers say.
        notes: What was left out of it, one sentence each.
    """

    uid: str
    number: int | None
    description: str
    modality: str
    files: tuple[Path, ...]
    folder: Path
    voxels: int = 0
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How the series is named in sentences."""
        number = "without number" if self.number is None else str(self.number)
        plural = "s" * (len(self.files) != 1)
        return f"{number} {self.description!r} ({self.modality}, {len(self.files)} file{plural})"

    def is_called(self, wanted: str) -> bool:
        """Tell whether somebody means this series by a UID, a number or a description."""
        return wanted in (self.uid, self.description) or (self.number is not None and wanted == str(self.number))


@dataclass(frozen=True, slots=True)
class Case:
    """One examined thing; nothing is loaded.

    Attributes:
        id: Unique within the data set; becomes the stem of output files.
        images: Image files, one per modality (a single RGB file is one).
        labels: Label files. None of them: an unlabelled case. Several: see `merge`.
        merge: How label files become one label map: "union" (any file's foreground is foreground; lesions drawn in
            separate files), "classes" (file k holds class k + 1, or the class that `classes` says) or "channels" (of
            one file, channel k holds class k + 1 and the last one the background).
        group: Cases of one group (patient, video sequence) must not be split apart; None if nothing is known.
        subset: The subset the folder layout assigns ("train", "validation", "test"), or None.
        spacing_mm: Pixel spacing in array order, or None where the format has none.
        frame: Page to take from multi-page files (a TIFF stack), counted from 0; None: the files hold one image.
        is_volume: The files are volumes (NIfTI, a folder of DICOM slices ...), not pictures.
        series: The DICOM series that the volume is read from; `images` names its folder then.
        stacked: The image files are the slices of one volume, foot to head, and so are the label files.
        fill_nan: What stands in a volume in place of NaN; None: NaN is refused.
        classes: With merge "classes": index of the class that each label file holds; empty: 1, 2, 3 ...
        outlines: The label as drawn shapes, where `labels` names the file that they were read from.
        unspaced: The files of a volume do not say how large a voxel is; distances are counted in voxels.
    """

    id: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...] = ()
    merge: str = "union"
    group: str | None = None
    subset: str | None = None
    spacing_mm: tuple[float, ...] | None = None
    frame: int | None = None
    is_volume: bool = False
    series: Series | None = None
    stacked: bool = False
    unspaced: bool = False
    fill_nan: float | None = None
    classes: tuple[int, ...] = ()
    outlines: Outlines | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """What a reader found below a folder, before any pixel is read.

    Attributes:
        cases: Sorted by id; ids are unique.
        problems: Files that cannot be used as they are (no partner, a name taken twice), one sentence each.
        notes: What was decided that a user may want to know, one sentence each.
    """

    cases: tuple[Case, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class DatasetReader(ABC):
    """Knows one folder layout: which files are images, which are labels, what the labels mean.

    Subclasses are final: facts as class attributes, options as constructor keywords.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    modality: ClassVar[str] = ""
    license: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    #: What the folder must look like, as a tree.
    layout: ClassVar[str] = ""
    #: The same in half a sentence, shown when a folder does not look like it.
    expected: ClassVar[str] = ""
    #: Channels the network is best given: 1 for data that is grey by nature, else 3.
    channels: int = 3
    #: 2 for pictures, 3 for volumes.
    spatial_dims: int = 2
    #: What each channel of a volume is ("CT", "T1"), where the layout says so; decides how it is normalized.
    channel_names: tuple[str, ...] = ()
    label_map: LabelMap

    @classmethod
    @abstractmethod
    def recognizes(cls, root: Path) -> bool:
        """Tell whether this very folder has the layout, from names alone."""

    @abstractmethod
    def survey(self, root: Path) -> Survey:
        """List what lies below `root`, the folder where the layout begins, problems included.

        Raises:
            ValueError: The folder lacks what the layout demands; the sentence shows what was expected and found.
        """

    @classmethod
    def start(cls, root: Path) -> Path:
        """Find where the layout begins: at `root`, or in the lone folder inside it.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: The layout is not there; the sentence shows what was expected and what was found.
        """
        found = find_start(check_folder(root), cls.recognizes)
        if found is None:
            raise ValueError(
                f"{root} does not have the layout {cls.key!r}: expected {cls.expected}; found {contents(root)}"
            )
        return found

    def cases(self, root: str | Path) -> list[Case]:
        """List the cases below `root`, sorted by id.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: The folder lacks what the layout demands; the sentence shows what was expected and found.
        """
        return list(self.survey(self.start(Path(root))).cases)

    def inspect(self, survey: Survey) -> Sequence[str]:
        """Settle from the files that were listed what names cannot tell, such as which values the labels hold.

        Returns:
            What was decided that a user may want to know, one sentence each.
        """
        return ()
