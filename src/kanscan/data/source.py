"""A data set on disk, opened by the reader that knows its layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanscan.data.case import Case, DatasetReader, LabelMap
from kanscan.data.splits import Split
from kanscan.registry import unknown

#: Whom a run can be judged on.
PARTS = ("test", "validation", "train", "all")


@dataclass(frozen=True)
class Source:
    """A data set on disk, opened.

    Attributes:
        root: Its folder.
        reader: Knows its layout.
        cases: The labelled cases.
        num_unlabelled: Cases without a label, which are left out.
    """

    root: Path
    reader: DatasetReader
    cases: tuple[Case, ...]
    num_unlabelled: int

    @property
    def label_map(self) -> LabelMap:
        """How stored label values become classes."""
        return self.reader.label_map

    def only(self, ids: Iterable[str], where: str) -> tuple[Case, ...]:
        """Return the cases of these ids, in their order.

        Args:
            ids: Case ids.
            where: Who names them, for the sentence.

        Raises:
            ValueError: A case is not in the data set.
        """
        known = {case.id: case for case in self.cases}
        wanted = list(ids)
        missing = [i for i in wanted if i not in known]
        if missing:
            raise ValueError(
                f"{where} names {len(missing)} cases that {self.root} does not hold, first {missing[0]!r}; "
                "point data.root to the data the run was made with"
            )
        return tuple(known[i] for i in wanted)

    def select(self, part: str, split: Split, where: str) -> Selection:
        """Take the cases of one part of a split.

        Args:
            part: "test", "validation", "train", or "all" for every labelled case.
            split: The split.
            where: Whose split it is, for the sentences.

        Raises:
            ValueError: The part is unknown or empty, or one of its cases is not in the data set.
        """
        if part not in PARTS:
            raise ValueError(unknown("part", part, PARTS))
        if part == "all":
            return Selection(self, self.cases, part, split)
        ids = getattr(split, part)
        if not ids:
            raise ValueError(f"{where} has no {part} cases; choose another part")
        return Selection(self, self.only(ids, where), part, split)


@dataclass(frozen=True)
class Selection:
    """Cases chosen to be judged.

    Attributes:
        source: The data set, with reader and label map.
        cases: The chosen ones.
        part: See `PARTS`.
        split: The split they were chosen from, with its caveat and digest.
    """

    source: Source
    cases: tuple[Case, ...]
    part: str
    split: Split


def open_source(root: str | Path, reader: str = "auto", options: Mapping[str, Any] | None = None) -> Source:
    """Open a data set.

    Args:
        root: Its folder.
        reader: A key of `READERS`, or "auto" to recognize the layout.
        options: Keywords of the reader.

    Raises:
        ValueError: The layout is not known, an option is wrong, or no case has a label.
        FileNotFoundError: There is no such folder.
    """
    from kanscan.data.readers import make_reader

    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"no data folder at {root}")
    opened = make_reader(reader, root, **dict(options or {}))
    cases = opened.cases(root)
    labelled = tuple(case for case in cases if case.labels)
    if not labelled:
        raise ValueError(
            f"{root} holds {len(cases)} images and a label for none of them; nothing can be learned from it"
        )
    return Source(root, opened, labelled, len(cases) - len(labelled))
