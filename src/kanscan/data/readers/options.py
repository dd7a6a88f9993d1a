"""What a folder of one's own leaves open, and the reader options that say it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kanscan.data.case import Case
from kanscan.data.label_map import LabelMap
from kanscan.data.patterns import check_pattern, with_groups
from kanscan.data.pictures.channels import stored_channels
from kanscan.data.pictures.label_meaning import BACKGROUND, infer_label_map, label_map_from_option, label_notes
from kanscan.data.pictures.label_values import read_label_values
from kanscan.data.pictures.search import is_segmentation
from kanscan.data.readers.pairing import Pair, case_id
from kanscan.data.volumes.segments import names_of
from kanscan.registry import unknown


class PictureOptions:
    """Options that readers of one's own pictures share.

    Args:
        labels: "auto", "threshold", "nonzero", a list of class names, or a mapping of stored values or colors to names.
        group_pattern: Regular expression whose match in a name is the group.
        channels: Channels the network is best given; None: those of the pictures.
        labels_resize: "nearest" takes masks of another size than their image; None refuses them.

    Raises:
        ValueError: An option is none of these.
    """

    def __init__(
        self,
        labels: object = "auto",
        group_pattern: str | None = None,
        channels: int | None = None,
        labels_resize: str | None = None,
    ) -> None:
        self.labels = labels
        self.pattern = check_pattern(group_pattern)
        self._channels = channels
        if labels_resize not in (None, "nearest"):
            raise ValueError(unknown("way to resize labels", str(labels_resize), ("nearest",)))
        self._resize = labels_resize is not None
        # A list of names and "auto" need the files; anything else is known, or refused, now.
        self.label_map = LabelMap()
        if isinstance(labels, list | tuple) and len(labels) >= 2:
            self.label_map = LabelMap(tuple(map(str, labels)))
        elif not self.is_open:
            self.label_map = label_map_from_option(labels)

    @property
    def is_open(self) -> bool:
        """Whether the meaning of the labels is to be told from the files."""
        return isinstance(self.labels, str) and self.labels == "auto"

    def settle(self, cases: Sequence[Case]) -> tuple[LabelMap, int, list[str]]:
        """Settle what names cannot tell.

        Returns:
            How label values become classes, the number of channels, and what a user may want to know.
        """
        notes: list[str] = []
        if self.is_open and (named := segments_named(cases)):
            self.label_map = LabelMap((BACKGROUND, *named), "values", {k: k for k in range(len(named) + 1)})
        elif self.is_open or isinstance(self.labels, list | tuple):
            found = read_label_values(cases)
            self.label_map = infer_label_map(found) if self.is_open else label_map_from_option(self.labels, found)
            notes = label_notes(self.label_map, found)
        elif not isinstance(self.labels, str):
            self.label_map = label_map_from_option(self.labels)
        if self._resize:
            self.label_map = replace(self.label_map, resize=True)
            notes.append(
                "masks of another size than their image are brought to it, each pixel taking the nearest value"
            )
        if self._channels is not None:
            return self.label_map, self._channels, notes
        channels, more = stored_channels(cases)
        return self.label_map, channels, notes + more


def segments_named(cases: Sequence[Case]) -> list[str]:
    """List the classes that DICOM segmentations name, in the order met; none where labels are anything else.

    Raises:
        ValueError: Some labels are DICOM segmentations and others are not.
    """
    paths = [path for case in cases for path in case.labels]
    segmentations = [path for path in paths if is_segmentation(path)]
    if segmentations and len(segmentations) < len(paths):
        other = next(path for path in paths if path not in set(segmentations))
        raise ValueError(f"{segmentations[0]} names its segments and {other} does not; keep labels of one kind")
    return list(dict.fromkeys(name for path in segmentations for name in names_of(path)))


def subset_cases(
    rows: Sequence[tuple[str | None, Pair]],
    pattern: str | None,
    merge: str = "union",
    subsets: Sequence[str | None] | None = None,
) -> list[Case]:
    """Make cases; where two parts use one name, the part's name begins every id.

    Args:
        rows: Name of the part (a subset, or a folder) and pair.
        pattern: The option `group_pattern`, tried on the pairs' names.
        merge: As in `Case`.
        subsets: Subset of each row; None: the names of the parts are the subsets.
    """
    counts = Counter(case_id(pair.name) for _, pair in rows)
    prefixed = any(count > 1 for count in counts.values())
    cases = []
    for number, (part, pair) in enumerate(rows):
        name = f"{part}_{pair.name}" if prefixed and part else pair.name
        subset = part if subsets is None else subsets[number]
        cases.append(Case(case_id(name), (pair.image,), pair.labels, merge, subset=subset))
    return with_groups(cases, pattern, [pair.name for _, pair in rows])


def written_labels(root: Path) -> dict[str | int, str] | None:
    """Read the classes from a table that annotation tools write beside their masks; None where there is none.

    Known are CVAT's `labelmap.txt` (`name:r,g,b::`) and Roboflow's `_classes.csv` (`Pixel Value, Class`).
    """
    for folder in (root, *sorted(p for p in root.iterdir() if p.is_dir())):
        colors, values = folder / "labelmap.txt", folder / "_classes.csv"
        if colors.is_file():
            return _labelmap_txt(colors)
        if values.is_file():
            return _classes_csv(values)
    return None


def _labelmap_txt(path: Path) -> dict[str | int, str]:
    found: dict[str | int, str] = {}
    for line in _lines(path):
        name, _, rest = line.partition(":")
        color = rest.split(":")[0].strip()
        if not line.startswith("#") and name.strip() and color:
            found[color] = BACKGROUND if name.strip().lower() == BACKGROUND else name.strip()
    if not found:
        raise ValueError(f"{path} names no class; expected lines such as lesion:250,50,83::")
    return found


def _classes_csv(path: Path) -> dict[str | int, str]:
    found: dict[str | int, str] = {}
    for row in csv.reader(_lines(path)[1:]):
        if len(row) >= 2 and row[0].strip().isdecimal():
            name = row[1].strip()
            found[int(row[0])] = BACKGROUND if name.lower() == BACKGROUND else name
    if not found:
        raise ValueError(f"{path} names no class; expected lines such as 1, lesion")
    return found


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"cannot read {path}: it is no text in UTF-8") from None
