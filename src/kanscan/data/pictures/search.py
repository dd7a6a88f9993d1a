"""Pictures by name: which files are pictures, and what files, folders and patterns name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from kanscan.data.case import Case
from kanscan.data.folders import LABEL_FOLDERS, folders, squeeze

#: File endings that are taken for pictures.
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm", ".ppm", ".npy"})
#: How a mask that lies beside its picture is called.
_MASK_NAME = re.compile(r"[ _-](?:mask|segmentation|seg|label|anno|gt)(?:[ _-]?\d+)?$", re.IGNORECASE)


def is_image_file(path: Path) -> bool:
    """Tell by its name whether a file is a picture; hidden files (`._x.png` from macOS) are not."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def pictures(root: Path) -> list[Path]:
    """List the pictures directly in a folder, sorted by name."""
    return sorted(p for p in root.iterdir() if is_image_file(p) and p.is_file()) if root.is_dir() else []


def pictures_below(root: Path) -> list[Path]:
    """List the pictures in a folder and all visible folders inside it, sorted by path."""
    found = pictures(root)
    for folder in folders(root):
        # A link to a folder above would be entered for ever.
        if not (folder.is_symlink() and root.resolve().is_relative_to(folder.resolve())):
            found += pictures_below(folder)
    return found


def find_pictures(inputs: Iterable[str | Path]) -> tuple[list[Case], list[str]]:
    """List the pictures that files, folders and patterns (`*.png`) name, in their order, folders sorted by name.

    A picture in a folder inside a named one gets that folder's name in front of its id (`patient1_slice3`).

    Returns:
        The pictures as cases without labels, and what was left out: masks that lie beside their pictures.

    Raises:
        FileNotFoundError: There is nothing at a path.
        ValueError: A folder holds no picture, or nothing was named.
    """
    found: dict[Path, str] = {}
    notes: list[str] = []
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            inside = pictures_below(path)
            if not inside:
                endings = ", ".join(sorted(IMAGE_SUFFIXES))
                raise ValueError(f"no picture in the folder {path} or the folders inside it (looked for {endings})")
            masks = _masks_among(path, inside)
            if masks:
                notes.append(
                    f"{len(masks)} files in {path} look like masks of others and were left out, first {masks[0].name}"
                )
            left_out = set(masks)
            for picture in inside:
                if picture not in left_out:
                    found.setdefault(picture, "_".join(picture.relative_to(path).with_suffix("").parts))
        elif path.exists():
            found.setdefault(path, path.stem)
        elif matches := sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
            for match in matches:
                found.setdefault(match, match.stem)
        else:
            raise FileNotFoundError(f"no picture or folder at {path}")
    if not found:
        raise ValueError("no picture was named; give files or a folder of pictures")
    return [Case(name, (path,)) for path, name in found.items()], notes


def _masks_among(folder: Path, paths: Sequence[Path]) -> list[Path]:
    """Tell which of a folder's pictures are masks of others, by their names or by that of their folder."""
    names = {(path.parent, path.stem) for path in paths}
    in_folders = {p for p in paths if any(squeeze(n) in LABEL_FOLDERS for n in p.relative_to(folder).parent.parts)}
    if len(in_folders) == len(paths):
        in_folders = set()  # nothing else is there that they could be masks of

    def is_mask(path: Path) -> bool:
        bare = _MASK_NAME.sub("", path.stem)
        return path in in_folders or (bare != path.stem and (path.parent, bare) in names)

    return [path for path in paths if is_mask(path)]
