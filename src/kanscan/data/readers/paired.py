"""Images and masks in one folder, told apart by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanscan.data.case import DatasetReader, Survey
from kanscan.data.folders import folders, subset_of
from kanscan.data.patterns import group_notes
from kanscan.data.pictures.search import pictures
from kanscan.data.readers.folder import Folder
from kanscan.data.readers.options import PictureOptions, subset_cases, written_labels
from kanscan.data.readers.pairing import Mismatch, Pair, PairingProblem, finish, left_out_notes, pair_within


class Paired(DatasetReader):
    """Images and masks side by side in one folder, told apart by name (`a.png a_mask.png`) or ending (`a.bmp a.png`).

    Args:
        labels: As for the reader "folder".
        group_pattern: As for the reader "folder".
        channels: As for the reader "folder".
        labels_resize: As for the reader "folder".
    """

    key = "paired"
    title = "Images and masks together in one folder"
    license = "yours"
    expected = "pairs like a.png + a_mask.png, or a.bmp + a.png, in one folder"
    layout = """
        FOLDER/
          a.png  a_mask.png ...      (or _seg, _label, _gt, _segmentation; several masks a_mask_1.png are united)
        or
        FOLDER/
          001.bmp  001.png ...       (of two files with one name PNG is the mask)
        or the same below train/, valid/ and test/
    """

    def __init__(
        self,
        labels: object = "auto",
        group_pattern: str | None = None,
        channels: int | None = None,
        labels_resize: str | None = None,
    ) -> None:
        self.options = PictureOptions(labels, group_pattern, channels, labels_resize)
        self.label_map, self.channels = self.options.label_map, channels or 3

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether a picture and its mask lie in the folder or in a folder inside it."""
        if Folder.recognizes(root) or (len(folders(root)) == 1 and not pictures(root)):
            return False  # a lone folder is entered: its own name is no part of the cases' names
        for place in (root, *folders(root)):
            pairs, problems = pair_within(place, deep=False)
            if any(pair.labels for pair in pairs) or any(p.kind is Mismatch.SEVERAL_KINDS for p in problems):
                return True
        return False

    def survey(self, root: Path) -> Survey:
        """List the pairs in the folder and below it; folders named train, valid and test are the subsets."""
        inside = folders(root)
        parts = [(subset_of(folder.name), folder) for folder in inside]
        if not parts or pictures(root) or not all(subset for subset, _ in parts):
            parts = [(None, root)]
        rows: list[tuple[str | None, Pair]] = []
        problems: list[PairingProblem] = []
        for subset, folder in parts:
            pairs, found = pair_within(folder)
            problems += found
            rows += [(subset, pair) for pair in pairs]
        if self.options.is_open:
            self.options.labels = written_labels(root) or "auto"
        cases = subset_cases(rows, self.options.pattern)
        notes = left_out_notes([pair for _, pair in rows])
        return finish(cases, problems, [*notes, *group_notes(cases, self.options.pattern)])

    def inspect(self, survey: Survey) -> Sequence[str]:
        """Look into the mask files for their values, and into the images' headers for their channels."""
        self.label_map, self.channels, notes = self.options.settle(survey.cases)
        return notes
