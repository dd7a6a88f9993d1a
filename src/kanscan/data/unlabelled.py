"""Pictures to learn the look of: a data set with or without labels, or any folder of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.pictures.files import is_image_file, read_image
from kanscan.data.source import Source
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
        return any(is_image_file(path) for path in root.rglob("*") if path.is_file())

    def survey(self, root: Path) -> Survey:
        """List the images; what they are called below the folder becomes their name."""
        paths = sorted(path for path in root.rglob("*") if path.is_file() and is_image_file(path))
        if not paths:
            raise ValueError(f"{root} holds no image file")
        names = [path.relative_to(root).with_suffix("").as_posix().replace("/", "_") for path in paths]
        repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
        named = [path.name if name in repeated else name for name, path in zip(names, paths, strict=True)]
        cases = sorted((Case(name, (path,)) for name, path in zip(named, paths, strict=True)), key=lambda case: case.id)
        return Survey(tuple(cases))

    def inspect(self, root: Path) -> None:
        """Take the channels of the first picture."""
        first = read_image(self.survey(root).cases[0].images[0])
        self.channels = 1 if first.ndim == 2 else 3


def open_pictures(
    root: str | Path, reader: str = "auto", options: Mapping[str, Any] | None = None, *, labelled: bool = False
) -> Source:
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
    from kanscan.data.readers import make_reader

    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"no data folder at {root}")
    opened = _opened(root, make_reader, reader, dict(options or {}), labelled)
    cases = tuple(opened.cases(root))
    if not cases:
        raise ValueError(f"{root} holds no picture that its layout ({opened.key}) knows of")
    if getattr(opened, "spatial_dims", 2) != 2:
        raise ValueError(f"{root} holds volumes ({opened.key}); only pictures can be generated")
    if not labelled:
        return Source(root, opened, cases, 0)
    with_labels = tuple(case for case in cases if case.labels)
    if not with_labels:
        raise ValueError(f"{root} holds {len(cases)} pictures and no label; set diffusion.with_label=false")
    return Source(root, opened, with_labels, len(cases) - len(with_labels))


def _opened(root: Path, make_reader: Any, name: str, options: dict[str, Any], labelled: bool) -> DatasetReader:
    try:
        reader: DatasetReader = make_reader(name, root, **options)
        return reader
    except ValueError:
        # Labels that cannot be understood do not matter where only pictures are wanted.
        if labelled or name != "auto" or not Pictures.recognizes(root):
            raise
    if options:
        raise ValueError(unknown("option of a folder of pictures", next(iter(options)), ()))
    pictures = Pictures()
    pictures.inspect(root)
    return pictures
