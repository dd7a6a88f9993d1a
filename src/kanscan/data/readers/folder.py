"""Any folder of images with a folder of masks beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanscan.data.case import DatasetReader, Survey
from kanscan.data.dicom.series import is_named_like_dicom, read_header
from kanscan.data.patterns import group_notes
from kanscan.data.pictures.search import pictures
from kanscan.data.readers.clips import expand_clips
from kanscan.data.readers.layout import find_parts
from kanscan.data.readers.options import PictureOptions, subset_cases, written_labels
from kanscan.data.readers.pairing import Pair, PairingProblem, finish, left_out_notes, pair_folders


class Folder(DatasetReader):
    """Images and masks in two folders with equal file names, at the top or in train, val and test folders.

    Args:
        labels: What the mask files store: "auto" (looked at: 0/1, 0/255, 0/128/255, 0..n), "threshold", "nonzero"
            (instance numbers), a list of class names, or a mapping of stored values or colors ("#ff0000") to class
            names. The class named background is index 0; what is named ignore counts in no loss and no score.
        group_pattern: Regular expression; what it matches in a case's name (its first bracket, if it has one) is the
            group, for example "^([^_]+)_" for names like patient7_slice3.
        channels: Channels the network is best given; None: 1 if all pictures are stored as gray, else 3.
        masks: Name of the folder of labels, where two could hold them.
        labels_resize: "nearest" brings masks of another size to that of their image.
    """

    key = "folder"
    title = "Folder of images and folder of masks"
    license = "yours"
    expected = "images/ and masks/ (or imgs, labels, gt, annotations ...), alone or below train/, val/ and test/"
    layout = """
        FOLDER/
          images/  a.png b.png ...          (or image, imgs, original, input ...)
          masks/   a.png b_mask.png ...     (or mask, labels, gt, annotations, segmentation ...)
        or
        FOLDER/
          train/  images/  masks/
          val/    images/  masks/
          test/   images/  masks/           (optional; images/train and masks/train are met too)
        or
        FOLDER/
          COVID/   images/  masks/          (folders of any names)
          Normal/  images/  masks/
        or
        DRIVE/
          training/  images/  1st_manual/  mask/   (mask/ beside manual labels is the field of view, left out)
    """

    def __init__(
        self,
        labels: object = "auto",
        group_pattern: str | None = None,
        channels: int | None = None,
        masks: str | None = None,
        labels_resize: str | None = None,
    ) -> None:
        self.options = PictureOptions(labels, group_pattern, channels, labels_resize)
        self.masks = masks
        self.label_map, self.channels = self.options.label_map, channels or 3

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether a folder of images stands beside a folder of masks."""
        try:
            parts = find_parts(root)
        except ValueError:
            return True  # two folders could be the masks; the survey asks which
        return bool(parts) and not any(_is_study(part.images, part.labels) for part in parts)

    def survey(self, root: Path) -> Survey:
        """List the pairs; a subset without masks is named and left out."""
        rows: list[tuple[str | None, Pair]] = []
        subsets: list[str | None] = []
        problems: list[PairingProblem] = []
        notes: list[str] = []
        for part in find_parts(root, self.masks):
            if part.labels is None:
                notes.append(f"{part.images} has no folder of masks and is left out")
                continue
            pairs, found = pair_folders(part.images, part.labels)
            problems += found
            notes += [part.note] if part.note and part.note not in notes else []
            rows += [(part.subset or part.place, pair) for pair in pairs]
            subsets += [part.subset] * len(pairs)
        if not rows:
            raise ValueError(f"{root} has no folder of masks {self.masks or ''!r} beside its images")
        if self.options.is_open:
            self.options.labels = written_labels(root) or "auto"
        cases, told = expand_clips(subset_cases(rows, self.options.pattern, subsets=subsets))
        notes += told
        notes += left_out_notes([pair for _, pair in rows])
        return finish(cases, problems, [*notes, *group_notes(cases, self.options.pattern)])

    def inspect(self, survey: Survey) -> Sequence[str]:
        """Look into the mask files for their values, and into the images' headers for their channels."""
        self.label_map, self.channels, notes = self.options.settle(survey.cases)
        return notes


def _is_study(images: Path, labels: Path | None) -> bool:
    """Tell slices of a patient with segmentations of their series from pictures with a mask each."""
    first = next(iter(pictures(images)), None)
    head = read_header(first) if first is not None and is_named_like_dicom(first) else None
    if head is None or not head.is_placed or labels is None:
        return False
    return all(is_named_like_dicom(path) for path in pictures(labels))
