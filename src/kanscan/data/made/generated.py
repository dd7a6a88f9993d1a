"""A folder of pictures that kanscan drew itself: images/, masks/ and a manifest that says how they were made."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kanscan.files import atomic, read_json, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class GeneratedCase:
    """One picture with its label map, in memory.

    Attributes:
        id: Stem of both files.
        group: Cases of one group must not be split apart.
        image: Grey values, uint8, (height, width).
        label: Class indices, uint8, (height, width).
        facts: Whatever else the manifest should say about the case.
    """

    id: str
    group: str
    image: np.ndarray
    label: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)


def write_generated(
    root: str | Path, cases: Iterable[GeneratedCase], *, made_by: str, values: dict[str, int], **facts: object
) -> Path:
    """Write cases as PNG files with a manifest, replacing an earlier generated folder.

    The manifest is written last: a folder that has one is complete.

    Args:
        root: The folder; it must be missing, empty, or hold a manifest of the same maker.
        cases: The pictures.
        made_by: Name of the generator; a folder made by another one is left alone.
        values: Class name -> value stored in the mask files, in the order of the class indices.
        **facts: Settings of the generator, written into the manifest.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder holds something that this generator did not write.
    """
    root = Path(root)
    _clear(root, made_by)
    stored = np.array(list(values.values()), dtype=np.uint8)
    rows = []
    for case in cases:
        _write_png(root / "images" / f"{case.id}.png", case.image)
        _write_png(root / "masks" / f"{case.id}.png", stored[case.label])
        rows.append({"id": case.id, "group": case.group, **case.facts})
    write_json(root / MANIFEST, {"made_by": made_by, "values": values, **facts, "cases": rows})
    return root


def _clear(root: Path, made_by: str) -> None:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    manifest = root / MANIFEST
    if not manifest.is_file() or read_json(manifest).get("made_by") != made_by:
        raise FileExistsError(
            f"{root} already holds other files; only an empty folder or one made by {made_by} is written to"
        )
    manifest.unlink()
    for name in ("images", "masks"):
        shutil.rmtree(root / name, ignore_errors=True)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    with atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
