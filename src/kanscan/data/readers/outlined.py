"""What readers of outlines share: shapes by class become cases that are drawn when they are read."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.outlines import Outlines, Polygon, Runs
from kanscan.data.patterns import check_pattern, group_notes, with_groups
from kanscan.data.pictures.channels import stored_channels
from kanscan.data.readers.pairing import case_id, finish
from kanscan.metrics import IGNORED

#: A larger file is no list of annotations that should be parsed to see what it is (bytes).
_MOST_BYTES = 2**30
_BACKGROUND = ("background", "_background_")
_IGNORE = ("ignore", "__ignore__")
#: A shape that waits for the value of its class.
ShapeOf = Callable[[int], Polygon | Runs]
#: Values 1..250 are classes.
_MOST_CLASSES = 250


@dataclass(frozen=True)
class Drawing:
    """The shapes of one picture.

    Attributes:
        image: The picture.
        source: The file that describes it.
        shapes: Name of the class, and the shape whose value is still open.
        size: (height, width) that the shapes are counted in; None: they are shares of the picture's own.
        subset: As in `Case`.
    """

    image: Path
    source: Path
    shapes: tuple[tuple[str, ShapeOf], ...]
    size: tuple[int, int] | None
    subset: str | None = None


class Outlined(DatasetReader):
    """What readers of outlines share: classes by name, shapes drawn one over the other.

    Args:
        names: Classes to take, background excluded, in this order; empty: all, in the order of their names.
        group_pattern: As for the reader "folder".
        channels: Channels the network is best given; None: those of the pictures.
    """

    license = "yours"
    tool: ClassVar[str]

    def __init__(
        self, names: Sequence[str] = (), group_pattern: str | None = None, channels: int | None = None
    ) -> None:
        self.names = (names,) if isinstance(names, str) else tuple(map(str, names))
        self.pattern = check_pattern(group_pattern)
        self._channels = channels
        self.channels = channels or 3
        self.label_map = LabelMap(("background", *(self.names or ("foreground",))))

    @abstractmethod
    def drawings(self, root: Path, problems: list[str]) -> Iterator[Drawing]:
        """Go through the annotated pictures; what cannot be used becomes a problem."""

    def class_names(self, root: Path, drawings: Iterable[Drawing]) -> list[str]:
        """List the classes, in the order of their names."""
        return sorted({name for drawing in drawings for name, _ in drawing.shapes})

    def survey(self, root: Path) -> Survey:
        """List the annotated pictures."""
        problems: list[str] = []
        drawings = list(self.drawings(root, problems))
        known = [n for n in self.class_names(root, drawings) if n.lower() not in (*_BACKGROUND, *_IGNORE)]
        names = list(self.names) or known
        unknown = [name for name in names if name not in known]
        if not known:
            raise ValueError("; ".join([f"{root} annotates no class", *problems[:3]]))
        if unknown:
            raise ValueError(f"{root} annotates the classes {', '.join(known)}, not {', '.join(unknown)}")
        if len(names) > _MOST_CLASSES:
            raise ValueError(
                f"{root} annotates {len(names)} classes, more than {_MOST_CLASSES}; choose some with names"
            )
        value_of = {name: k for k, name in enumerate(names, start=1)}
        value_of |= {name: IGNORED for name in _IGNORE}
        values = {k: k for k in range(len(names) + 1)}
        if any(name.lower() in _IGNORE for drawing in drawings for name, _ in drawing.shapes):
            values[IGNORED] = IGNORED
        self.label_map = LabelMap(("background", *names), "values", values)
        cases = []
        for drawing in drawings:
            shapes = tuple(
                shape_of(value_of[name.lower() if name.lower() in _IGNORE else name])
                for name, shape_of in drawing.shapes
                if name in value_of or name.lower() in _IGNORE
            )
            name = case_id(_name(drawing.image, root))
            outlines = Outlines(shapes, drawing.size)
            cases.append(Case(name, (drawing.image,), (drawing.source,), subset=drawing.subset, outlines=outlines))
        cases = with_groups(_shortly_named(cases), self.pattern)
        notes = [f"labels are drawn from the outlines of {self.tool}, later ones over earlier ones"]
        return finish(cases, problems, [*notes, *group_notes(cases, self.pattern)])

    def inspect(self, survey: Survey) -> Sequence[str]:
        """Look into the images' headers for their channels."""
        if self._channels is not None:
            return ()
        self.channels, notes = stored_channels(survey.cases)
        return notes


def _name(image: Path, root: Path) -> str:
    return image.relative_to(root).with_suffix("").as_posix()


def _shortly_named(cases: Sequence[Case]) -> list[Case]:
    """Name cases after their file alone where that tells them apart."""
    stems = [case_id(case.images[0].stem) for case in cases]
    if len(set(stems)) < len(stems):
        return list(cases)
    return [replace(case, id=stem) for case, stem in zip(cases, stems, strict=True)]


def polygon(points: Iterable[Sequence[float]]) -> ShapeOf:
    """Make a filled outline of corners (x, y), its value still open."""
    corners = tuple((float(x), float(y)) for x, y in points)
    return lambda value: Polygon(value, corners)


def box(x: float, y: float, width: float, height: float) -> ShapeOf:
    """Make a filled box, its value still open."""
    return polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])


def runs(counts: Sequence[int], size: tuple[int, int], *, by_columns: bool) -> ShapeOf:
    """Make a mask of runs, its value still open."""
    kept = tuple(map(int, counts))
    return lambda value: Runs(value, kept, size, by_columns)


@lru_cache(maxsize=8)
def _parsed(path: Path, changed: int) -> Any:
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None


def parsed_json(path: Path) -> Any:
    """Parse a JSON file; None where it is none."""
    try:
        return _parsed(path, path.stat().st_mtime_ns)
    except OSError:
        return None


def json_files(folder: Path) -> list[Path]:
    """List the JSON files directly in a folder, sorted by name."""
    return sorted(p for p in folder.glob("*.json") if p.is_file() and not p.name.startswith("."))


def mappings(items: Any) -> list[Mapping[str, Any]]:
    """Take the mappings of a list; none of anything else."""
    return [one for one in items if isinstance(one, Mapping)] if isinstance(items, list) else []
