"""YOLO's text files of polygons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import yaml

from kanscan.data.folders import child, folders, subset_of
from kanscan.data.pictures.search import pictures, pictures_below
from kanscan.data.readers.outlined import Drawing, Outlined, ShapeOf, polygon


class Yolo(Outlined):
    """YOLO's text files of polygons, one a picture, in shares of its width and height."""

    key = "yolo"
    title = "YOLO polygons (text files)"
    tool = "YOLO text files"
    citation = "Layout of Ultralytics YOLO segmentation data sets"
    expected = "train/images/ and train/labels/*.txt (or images/train/ and labels/train/), and data.yaml"
    layout = """
        FOLDER/
          data.yaml              names: [lesion, ...]        (optional)
          train/  images/a.jpg   labels/a.txt                (likewise val/ and test/; a line an object: 0 x y x y x y)
        or
        FOLDER/
          images/train/a.jpg     labels/train/a.txt
    """

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether a folder of images stands beside a folder of text files."""
        return bool(_yolo_parts(root))

    def class_names(self, root: Path, drawings: Iterable[Drawing]) -> list[str]:
        """List the classes of data.yaml, else those met."""
        used = {name for drawing in drawings for name, _ in drawing.shapes}
        return [name for name in _yolo_names(root).values() if name in used] + sorted(
            (name for name in used if name.startswith("class ")), key=lambda name: int(name.removeprefix("class "))
        )

    def drawings(self, root: Path, problems: list[str]) -> Iterator[Drawing]:
        """Go through the pictures that have a text file; without one nothing is said about a picture."""
        names = _yolo_names(root)
        for images, labels, subset in _yolo_parts(root):
            for path in pictures_below(images):
                source = labels / path.relative_to(images).with_suffix(".txt")
                if not source.is_file():
                    problems.append(f"image {path} has no text file {source}")
                    continue
                try:
                    shapes = [
                        _yolo_line(line, names) for line in source.read_text("utf-8").splitlines() if line.strip()
                    ]
                except (ValueError, UnicodeDecodeError) as error:
                    problems.append(f"{source}: {error}")
                    continue
                yield Drawing(path, source, tuple(shapes), None, subset)


def _yolo_parts(root: Path) -> list[tuple[Path, Path, str | None]]:
    images, labels = child(root, ("images",)), child(root, ("labels",))
    if images and labels:
        inner = [(images / p.name, labels / p.name, subset_of(p.name)) for p in folders(images)]
        parts = inner if inner and not pictures(images) else [(images, labels, None)]
    else:
        parts = [(f / "images", f / "labels", subset_of(f.name)) for f in folders(root) if (f / "labels").is_dir()]
    return [
        p for p in parts if p[0].is_dir() and p[1].is_dir() and next(p[1].glob("*.txt"), None) and not pictures(p[1])
    ]


def _yolo_names(root: Path) -> dict[int, str]:
    path = next((p for p in (root / "data.yaml", root / "data.yml", root / "dataset.yaml") if p.is_file()), None)
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"cannot read {path}: it is no YAML") from None
    names = content.get("names") if isinstance(content, Mapping) else None
    items = names.items() if isinstance(names, Mapping) else enumerate(names) if isinstance(names, list) else ()
    return {int(number): str(name) for number, name in items}


def _yolo_line(line: str, names: Mapping[int, str]) -> tuple[str, ShapeOf]:
    parts = line.split()
    numbers = [float(part) for part in parts[1:]]
    if len(numbers) == 4:
        raise ValueError("it holds boxes, not outlines; export the data set for segmentation")
    if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise ValueError(f"expected a class and at least three corners in each line, got {line[:60]!r}")
    number = int(parts[0])
    return names.get(number, f"class {number}"), polygon(zip(numbers[0::2], numbers[1::2], strict=True))
