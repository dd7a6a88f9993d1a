"""Pictures to learn the look of: a data set with or without labels, or any folder of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.pictures.channels import stored_channels
from kanscan.data.pictures.search import pictures_below
from kanscan.data.source import Opened, open_folder
from kanscan.registry import unknown


class Pictures(DatasetReader):
    """Every image below a folder, without labels."""

    key: ClassVar[str] = "pictures"
    title: ClassVar[str] = "Folder of pictures"
    layout: ClassVar[str] = "any folder with image files"
    expected: ClassVar[str] = "image files"
    label_map = LabelMap()

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Tell whether there is an image."""
        return bool(pictures_below(root))

    def survey(self, root: Path) -> Survey:
        """List the images; what they are called below the folder becomes their name."""
        paths = pictures_below(root)
        if not paths:
            raise ValueError(f"{root} holds no image file")
        names = [path.relative_to(root).with_suffix("").as_posix().replace("/", "_") for path in paths]
        uses = Counter(names)
        named = [path.name if uses[name] > 1 else name for name, path in zip(names, paths, strict=True)]
        cases = sorted((Case(name, (path,)) for name, path in zip(named, paths, strict=True)), key=lambda case: case.id)
        return Survey(tuple(cases))

    def inspect(self, survey: Survey) -> Sequence[str]:
        """Take the channels of the pictures."""
        self.channels, notes = stored_channels(survey.cases)
        return notes


def open_pictures(
    root: str | Path, reader: str = "auto", options: Mapping[str, Any] | None = None, *, labelled: bool = False
) -> Opened:
    """Open a data set for its pictures.

    Args:
        root: Its folder.
        reader: A key of `READERS`, or "auto": a known layout, else every image below the folder.
        options: Keywords of the reader.
        labelled: Only cases with labels, which are learned too.

    Raises:
        ValueError: There is no picture, no label where one is needed, or the files are volumes.
        FileNotFoundError: There is no such folder.
    """
    opened = _open(Path(root), reader, dict(options or {}), labelled)
    if not opened.cases:
        raise ValueError(f"{root} holds no picture that its layout ({opened.reader.key}) knows of")
    if opened.reader.spatial_dims != 2:
        raise ValueError(f"{root} holds volumes ({opened.reader.key}); only pictures can be generated")
    if not labelled:
        return opened
    with_labels = tuple(case for case in opened.cases if case.labels)
    if not with_labels:
        raise ValueError(f"{root} holds {len(opened.cases)} pictures and no label; set diffusion.with_label=false")
    return replace(opened, cases=with_labels)


def _open(root: Path, reader: str, options: dict[str, Any], labelled: bool) -> Opened:
    try:
        return open_folder(root, reader, options)
    except ValueError:
        # Labels that cannot be understood do not matter where only pictures are wanted.
        if labelled or reader != "auto" or not root.is_dir() or not Pictures.recognizes(root):
            raise
    if options:
        raise ValueError(unknown("option of a folder of pictures", next(iter(options)), ()))
    pictures = Pictures()
    survey = pictures.survey(root)
    notes = pictures.inspect(survey)
    return Opened(root, pictures, replace(survey, notes=(*survey.notes, *notes)), survey.cases)
