"""Which folder plays which part, told by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kanscan.data.folders import (
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    MANUAL_FOLDERS,
    SECOND_FOLDERS,
    child,
    children,
    folders,
    squeeze,
    subset_of,
)
from kanscan.data.pictures.search import pictures


@dataclass(frozen=True)
class Part:
    """A folder of images with its folder of labels.

    Attributes:
        images: The folder of images.
        labels: The folder of labels; None where there is none.
        subset: "train", "validation", "test", or None.
        place: Name of the folder that holds both, where there are several.
        note: What was left out beside the labels, or "".
    """

    images: Path
    labels: Path | None
    subset: str | None = None
    place: str | None = None
    note: str = ""


def find_parts(root: Path, masks: str | None = None) -> list[Part]:
    """Find the folders of images and labels of a data set.

    Met are `images/ masks/`, `train/images train/masks val/...`, `images/train masks/train ...` and `CLASS/images
    CLASS/masks ...`, with any of the synonyms; a label folder may be missing in a subset, and is None there.

    Args:
        root: The folder.
        masks: Name of the folders of labels, where names leave it open.

    Raises:
        ValueError: Two folders could hold the labels.
    """
    here = _part(root, masks)
    if here is not None and here.labels is not None:
        inner = [(subset_of(p.name), p) for p in folders(here.images)]
        if inner and not pictures(here.images) and all(subset for subset, _ in inner):
            names = {subset_of(p.name): p for p in folders(here.labels)}
            return [Part(folder, names.get(subset), subset, note=here.note) for subset, folder in inner]
        return [here]
    parts = [
        Part(part.images, part.labels, subset_of(folder.name), folder.name, part.note)
        for folder in folders(root)
        if (part := _part(folder, masks)) is not None
    ]
    if any(part.subset for part in parts):
        parts = [part for part in parts if part.subset]
    elif not all(part.labels for part in parts):
        return []
    return parts if any(part.labels for part in parts) else []


def clear_parts(root: Path) -> list[Part]:
    """Find the parts as `find_parts` does; none where it would have to ask which folder holds the labels."""
    try:
        return find_parts(root)
    except ValueError:
        return []


def _part(root: Path, masks: str | None) -> Part | None:
    images = child(root, IMAGE_FOLDERS)
    if images is None:
        return None
    labels, note = find_labels(root, masks)
    return Part(images, labels if labels != images else None, note=note)


def find_labels(root: Path, masks: str | None = None) -> tuple[Path | None, str]:
    """Find the folder of labels, and say what was left out.

    Args:
        root: Where it lies.
        masks: Its name, where names leave it open.

    Raises:
        ValueError: Two folders could hold the labels.
    """
    if masks is not None:
        return child(root, (squeeze(masks),)), ""
    first, general = children(root, MANUAL_FOLDERS), children(root, LABEL_FOLDERS)
    if first:
        fields = [folder for folder in general if squeeze(folder.name) in ("mask", "masks", "fov")]
        rest = [folder for folder in general if folder not in fields and _holds_pictures(folder)]
        chosen = _only([*first, *rest], root)
        left = [folder.name for folder in (*fields, *children(root, SECOND_FOLDERS))]
        note = f"labels are read from {chosen.name}/; {', '.join(f'{n}/' for n in left)} beside it is left out"
        return chosen, note if left else ""
    if not general:
        second = children(root, SECOND_FOLDERS)
        return (second[0] if second else None), ""
    # Folders of text files (YOLO) and of objects beside classes (VOC) are no second candidate.
    holding = [folder for folder in general if _holds_pictures(folder)]
    return (_only(holding, root) if holding else general[0]), ""


def _only(candidates: list[Path], root: Path) -> Path:
    if len(candidates) > 1:
        names = " and ".join(f"{folder.name}/" for folder in candidates)
        raise ValueError(
            f"{root} holds {names}, which could all be the labels; name the right one with the reader option masks, "
            f"for example masks={candidates[0].name}"
        )
    return candidates[0]


def _holds_pictures(folder: Path, depth: int = 2) -> bool:
    if next(iter(pictures(folder)), None) is not None:
        return True
    return depth > 0 and any(_holds_pictures(inner, depth - 1) for inner in folders(folder))
