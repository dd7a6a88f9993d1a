"""labelme's JSON files, one a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kanscan.data.folders import folders, inside, subset_of
from kanscan.data.pictures.search import pictures
from kanscan.data.readers.outlined import Drawing, Outlined, ShapeOf, box, json_files, mappings, parsed_json, polygon


class Labelme(Outlined):
    """labelme's JSON files, one beside each picture."""

    key = "labelme"
    title = "labelme JSON (polygons)"
    tool = "labelme"
    citation = "K. Wada, labelme: image polygonal annotation with Python"
    expected = "a.jpg with a.json of shapes beside it"
    layout = """
        FOLDER/
          a.jpg  a.json ...      (also in train/, val/ and test/)
    """

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether one of the first JSON files holds shapes of a picture."""
        return any(_is_labelme(path) for folder in (root, *folders(root)) for path in json_files(folder)[:3])

    def drawings(self, root: Path, problems: list[str]) -> Iterator[Drawing]:
        """Go through the JSON files in the folder and the folders below."""
        for source in sorted(root.rglob("*.json")):
            content = parsed_json(source)
            if not isinstance(content, dict) or "shapes" not in content:
                continue
            named = inside(source.parent, str(content.get("imagePath", "")))
            beside = [p for p in pictures(source.parent) if p.stem == source.stem]
            image = named if named is not None and named.is_file() else next(iter(beside), None)
            if image is None:
                problems.append(f"{source} belongs to {content.get('imagePath')!r}, which is not there")
                continue
            shapes = []
            for shape in mappings(content["shapes"]):
                try:
                    shapes.append((str(shape["label"]), _labelme_shape(shape)))
                except (KeyError, TypeError, ValueError, IndexError) as error:
                    problems.append(f"{source}: a shape cannot be read ({error})")
            size = (int(content.get("imageHeight") or 0), int(content.get("imageWidth") or 0))
            if 0 in size:
                problems.append(f"{source} does not say how large its picture is")
                continue
            subset = next((s for part in source.relative_to(root).parts[:-1] if (s := subset_of(part))), None)
            yield Drawing(image, source, tuple(shapes), size, subset)


def _is_labelme(path: Path) -> bool:
    content = parsed_json(path)
    return isinstance(content, dict) and "shapes" in content and "imagePath" in content


def _labelme_shape(shape: Mapping[str, Any]) -> ShapeOf:
    points = [(float(x), float(y)) for x, y in shape["points"]]
    kind = shape.get("shape_type", "polygon")
    if kind == "rectangle":
        (left, top), (right, bottom) = points
        return box(left, top, right - left, bottom - top)
    if kind == "circle":
        (x, y), (rim_x, rim_y) = points
        radius = float(np.hypot(rim_x - x, rim_y - y))
        turns = np.linspace(0, 2 * np.pi, 90, endpoint=False)
        return polygon([(x + radius * float(np.cos(a)), y + radius * float(np.sin(a))) for a in turns])
    if kind != "polygon":
        raise ValueError(f"it is a {kind}, which has no area")
    return polygon(points)
