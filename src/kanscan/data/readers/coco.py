"""COCO JSON: one file for many pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kanscan.data.folders import folders, inside, subset_of
from kanscan.data.pictures.drawing_outlines import coco_counts
from kanscan.data.pictures.search import pictures_below
from kanscan.data.readers.outlined import Drawing, Outlined, ShapeOf, json_files, mappings, parsed_json, polygon, runs


class Coco(Outlined):
    """COCO JSON: polygons and runs of each object, as CVAT, Roboflow, Label Studio and many others export them."""

    key = "coco"
    title = "COCO JSON (polygons and runs)"
    tool = "COCO JSON"
    citation = "T.-Y. Lin et al., Microsoft COCO: Common objects in context, ECCV 2014"
    expected = "images/ and annotations/*.json with images, annotations and categories"
    layout = """
        FOLDER/
          images/       a.jpg ...                   (or images/train2017/ ...)
          annotations/  instances_default.json ...
        or
        FOLDER/
          train/  a.jpg ...  _annotations.coco.json      (likewise valid/ and test/)
    """

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether a JSON file of images, annotations and categories lies where tools put it."""
        return any(True for _ in _coco_files(root))

    def class_names(self, root: Path, drawings: Iterable[Drawing]) -> list[str]:
        """List the categories, in the order of their numbers."""
        found: dict[str, int] = {}
        for _, content in _coco_files(root):
            for category in mappings(content["categories"]):
                found.setdefault(str(category.get("name")), int(category.get("id", 0)))
        used = {name for drawing in drawings for name, _ in drawing.shapes}
        return [name for name in sorted(found, key=lambda n: found[n]) if name in used]

    def drawings(self, root: Path, problems: list[str]) -> Iterator[Drawing]:
        """Go through the images of all files."""
        by_name: dict[str, list[Path]] = {}
        for path in pictures_below(root):
            by_name.setdefault(path.name, []).append(path)
        for source, content in _coco_files(root):
            names = {c.get("id"): str(c.get("name")) for c in mappings(content["categories"])}
            objects: dict[Any, list[Mapping[str, Any]]] = {}
            for one in mappings(content["annotations"]):
                objects.setdefault(one.get("image_id"), []).append(one)
            subset = subset_of(source.parent.name) or _subset_in(source.stem)
            for image in mappings(content["images"]):
                file_name = str(image.get("file_name", ""))
                found = _named_image(source, root, file_name, by_name, subset)
                if found is None:
                    problems.append(f"{source} names {file_name!r}, which is not there or lies outside the data set")
                    continue
                try:
                    size = int(image["height"]), int(image["width"])
                    shapes = [
                        (names[one["category_id"]], shape)
                        for one in objects.get(image.get("id"), ())
                        for shape in _coco_shapes(one.get("segmentation"), size)
                    ]
                except (KeyError, TypeError, ValueError, IndexError) as error:
                    problems.append(f"{source}: the annotations of {file_name} cannot be read ({error})")
                    continue
                yield Drawing(found, source, tuple(shapes), size, subset)


def _coco_files(root: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    places = [root, *(p for p in folders(root) if p.name == "annotations" or subset_of(p.name))]
    for folder in places if root.is_dir() else ():
        for path in json_files(folder):
            content = parsed_json(path)
            if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
                yield path, content


def _subset_in(stem: str) -> str | None:
    parts = stem.replace("-", "_").split("_")
    return next((subset for part in reversed(parts) if (subset := subset_of(part.rstrip("0123456789")))), None)


def _named_image(
    source: Path, root: Path, name: str, by_name: Mapping[str, Sequence[Path]], subset: str | None
) -> Path | None:
    for place in (source.parent, root / "images", root):
        path = inside(place, name)
        if path is not None and path.is_file():
            return path
    if inside(root, name) is None:
        return None
    found = by_name.get(Path(name.replace("\\", "/")).name, ())
    fitting = [
        path for path in found if subset and any(subset_of(p.rstrip("0123456789")) == subset for p in path.parts)
    ]
    return next(iter(fitting or found), None)


def _coco_shapes(segmentation: Any, size: tuple[int, int]) -> Iterator[ShapeOf]:
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        height, width = map(int, segmentation.get("size", size))
        yield runs(coco_counts(counts) if isinstance(counts, str) else counts, (height, width), by_columns=True)
        return
    for flat in segmentation or ():
        yield polygon(zip(flat[0::2], flat[1::2], strict=True))
