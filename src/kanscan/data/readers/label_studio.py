"""Label Studio's export of brush strokes and polygons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kanscan.data.pictures.drawing_outlines import label_studio_mask
from kanscan.data.pictures.search import pictures_below
from kanscan.data.readers.outlined import (
    Drawing,
    Outlined,
    ShapeOf,
    box,
    json_files,
    mappings,
    parsed_json,
    polygon,
    runs,
)


class LabelStudio(Outlined):
    """Label Studio's JSON export: brush strokes and polygons."""

    key = "label_studio"
    title = "Label Studio JSON (brush strokes and polygons)"
    tool = "Label Studio"
    citation = "Label Studio, JSON export"
    expected = "an exported JSON list of tasks, with the pictures in a folder beside it"
    layout = """
        FOLDER/
          project.json      (export "JSON")
          images/  a.png ...
    """

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether a JSON file holds a list of annotated tasks."""
        return root.is_dir() and any(_is_tasks(parsed_json(path)) for path in json_files(root)[:3])

    def drawings(self, root: Path, problems: list[str]) -> Iterator[Drawing]:
        """Go through the tasks; the last annotation of each counts."""
        by_name = {path.name: path for path in pictures_below(root)}
        for source in json_files(root):
            tasks = parsed_json(source)
            for task in mappings(tasks) if _is_tasks(tasks) else ():
                data = task.get("data") if isinstance(task.get("data"), Mapping) else {}
                name = Path(str(data.get("image", "")).replace("\\", "/")).name if data else ""
                # Uploads get eight letters and a hyphen in front of their name.
                image = by_name.get(name) or by_name.get(name.partition("-")[2])
                annotations = mappings(task.get("annotations"))
                if image is None or not annotations:
                    problems.append(f"{source}: the picture {name!r} is not there or not annotated")
                    continue
                try:
                    results = mappings(annotations[-1].get("result"))
                    shapes = [found for one in results if (found := _studio_shape(one)) is not None]
                    size = next((_studio_size(one) for one in results), None)
                except (KeyError, TypeError, ValueError, IndexError) as error:
                    problems.append(f"{source}: the annotation of {name} cannot be read ({error})")
                    continue
                yield Drawing(image, source, tuple(shapes), size)


def _is_tasks(content: Any) -> bool:
    return bool(mappings(content)) and {"data", "annotations"} <= mappings(content)[0].keys()


def _studio_size(result: Mapping[str, Any]) -> tuple[int, int]:
    return int(result["original_height"]), int(result["original_width"])


def _studio_shape(result: Mapping[str, Any]) -> tuple[str, ShapeOf] | None:
    value, kind = result.get("value"), str(result.get("type"))
    if not isinstance(value, Mapping) or kind not in ("brushlabels", "polygonlabels", "rectanglelabels"):
        return None
    height, width = _studio_size(result)
    label = str(value[kind][0])
    if kind == "brushlabels":
        mask = label_studio_mask(value["rle"], (height, width)).ravel()
        edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]))).tolist()
        counts = np.diff([0, *edges, mask.size]).tolist()
        return label, runs(counts, (height, width), by_columns=False)
    if kind == "rectanglelabels":
        place = [float(value[key]) / 100 for key in ("x", "y", "width", "height")]
        return label, box(place[0] * width, place[1] * height, place[2] * width, place[3] * height)
    return label, polygon([(x * width / 100, y * height / 100) for x, y in value["points"]])
