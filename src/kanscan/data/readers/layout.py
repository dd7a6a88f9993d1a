"""Which folder plays which part, told by its name."""

from __future__ import annotations

from pathlib import Path

from kanscan.data.folders import IMAGE_FOLDERS, LABEL_FOLDERS, child, folders, subset_of
from kanscan.data.pictures.search import pictures


def find_parts(root: Path) -> list[tuple[str | None, Path, Path | None]]:
    """Find the (subset, image folder, label folder) triples of a folder.

    Met are `images/ masks/`, `train/images train/masks val/...` and `images/train masks/train ...`, with any of the
    synonyms; a label folder may be missing in a subset, and is None there.
    """
    images, labels = child(root, IMAGE_FOLDERS), child(root, LABEL_FOLDERS)
    if images and labels:
        inner = [(subset_of(p.name), p) for p in folders(images)]
        if inner and not pictures(images) and all(subset for subset, _ in inner):
            names = {subset_of(p.name): p for p in folders(labels)}
            return [(subset, folder, names.get(subset)) for subset, folder in inner]
        return [(None, images, labels)]
    parts: list[tuple[str | None, Path, Path | None]] = []
    for folder in folders(root):
        subset = subset_of(folder.name)
        images, labels = child(folder, IMAGE_FOLDERS), child(folder, LABEL_FOLDERS)
        if subset and images:
            parts.append((subset, images, labels))
    return parts if any(labels for _, _, labels in parts) else []
