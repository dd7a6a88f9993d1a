"""A data set on disk, opened by the reader that knows its layout."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.readers import READERS, locate
from kanscan.data.splits import Split
from kanscan.registry import unknown

#: Whom a run can be judged on.
PARTS = ("test", "validation", "train", "all")


class CaseNotHereError(ValueError):
    """A case that somebody names is not in the data set."""


@dataclass(frozen=True)
class Opened:
    """A data set on disk: looked at once, then handed on.

    Attributes:
        root: Its folder, as it was named.
        reader: Knows its layout; its label map and channels are settled.
        survey: All that was found, unlabelled cases and problems included.
        cases: Those that serve: the labelled ones, or all where labels are not asked for.
    """

    root: Path
    reader: DatasetReader
    survey: Survey
    cases: tuple[Case, ...]

    @property
    def label_map(self) -> LabelMap:
        """How stored label values become classes."""
        return self.reader.label_map

    @property
    def num_unlabelled(self) -> int:
        """Cases that are left out for want of a label."""
        return len(self.survey.cases) - len(self.cases)

    def only(self, ids: Iterable[str], where: str) -> tuple[Case, ...]:
        """Return the cases of these ids, in their order.

        Args:
            ids: Case ids.
            where: Who names them, for the sentence.

        Raises:
            CaseNotHereError: A case is not in the data set.
        """
        known = {case.id: case for case in self.cases}
        wanted = list(ids)
        missing = [i for i in wanted if i not in known]
        if missing:
            raise CaseNotHereError(
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

    source: Opened
    cases: tuple[Case, ...]
    part: str
    split: Split


def open_folder(root: str | Path, reader: str = "auto", options: Mapping[str, Any] | None = None) -> Opened:
    """Open a data set, labelled or not: recognize its layout, list its files and settle what its labels mean, once.

    Args:
        root: Its folder.
        reader: A key of `READERS`, or "auto" to recognize the layout.
        options: Keywords of the reader.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The layout is not known, or an option is wrong.

    Example:
        >>> import tempfile
        >>> from kanscan.data.made.synthetic import write_ultrasound
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     opened = open_folder(write_ultrasound(f"{folder}/us", 2, image_size=(32, 32)))
        >>> opened.reader.key, [case.id for case in opened.cases]
        ('synthetic', ['patient001_view1', 'patient001_view2'])
    """
    root = Path(root)
    key, start = locate(root, reader)
    built = _build(key, dict(options or {}))
    survey = built.survey(start)
    notes = built.inspect(survey)
    return Opened(root, built, replace(survey, notes=(*survey.notes, *notes)), survey.cases)


def _build(key: str, options: dict[str, Any]) -> DatasetReader:
    known = inspect.signature(READERS[key]).parameters
    for name in options:
        if name not in known:
            raise ValueError(unknown(f"option of reader {key!r}", name, known))
    return READERS[key](**options)


def make_reader(key: str, root: str | Path, **options: object) -> DatasetReader:
    """Build the reader of a folder, with everything settled that the folder decides; see `open_folder`.

    Args:
        key: A key of `READERS`, or "auto" to recognize the layout.
        root: The folder.
        **options: Keywords of the reader's constructor.
    """
    return open_folder(root, key, options).reader


def open_source(root: str | Path, reader: str = "auto", options: Mapping[str, Any] | None = None) -> Opened:
    """Open a data set for its labelled cases.

    Args:
        root: Its folder.
        reader: A key of `READERS`, or "auto" to recognize the layout.
        options: Keywords of the reader.

    Raises:
        ValueError: The layout is not known, an option is wrong, or no case has a label.
        FileNotFoundError: There is no such folder.
    """
    opened = open_folder(root, reader, options)
    labelled = tuple(case for case in opened.survey.cases if case.labels)
    if not labelled:
        raise ValueError(
            f"{root} holds {len(opened.cases)} images and a label for none of them; nothing can be learned from it"
        )
    return replace(opened, cases=labelled)
