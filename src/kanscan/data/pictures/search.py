"""Pictures by name: which files are pictures, and what files, folders and patterns name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from kanscan.data.case import Case
from kanscan.data.dicom.series import SEGMENTATIONS, is_named_like_dicom, read_header
from kanscan.data.folders import LABEL_FOLDERS, folders, squeeze

#: File endings that are taken for pictures.
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm", ".ppm", ".npy", ".mat"}
)
#: How a mask that lies beside its picture is called.
_MASK_NAME = re.compile(r"[ _-](?:mask|segmentation|seg|label|anno|gt)(?:[ _-]?\d+)?$", re.IGNORECASE)


def is_image_file(path: Path) -> bool:
    """Tell by its name whether a file is a picture; hidden files (`._x.png` from macOS) are not.

    DICOM files may have no ending; these are told by their first bytes.
    """
    if path.name.startswith("."):
        return False
    return path.suffix.lower() in IMAGE_SUFFIXES or (path.is_file() and is_named_like_dicom(path))


def pictures(root: Path) -> list[Path]:
    """List the pictures directly in a folder, sorted by name."""
    found = sorted(p for p in root.iterdir() if is_image_file(p) and p.is_file()) if root.is_dir() else []
    others = {path.stem for path in found if path.suffix.lower() in IMAGE_SUFFIXES}
    # What is written beside a label map for viewers is not a second one.
    return [path for path in found if path.stem not in others or not is_segmentation(path)]


def is_segmentation(path: Path) -> bool:
    """Tell by its header whether a file is a DICOM segmentation."""
    head = read_header(path) if is_named_like_dicom(path) else None
    return head is not None and head.kind in SEGMENTATIONS


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
    named: set[Path] = set()
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
                    found.setdefault(picture, "_".join((*picture.relative_to(path).parent.parts, _stem(picture))))
        elif path.exists():
            named.add(path)
            found.setdefault(path, _stem(path))
        elif matches := sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
            for match in matches:
                named.add(match)
                found.setdefault(match, _stem(match))
        else:
            raise FileNotFoundError(f"no picture or folder at {path}")
    if not found:
        raise ValueError("no picture was named; give files or a folder of pictures")
    cases: list[Case] = []
    for path, name in found.items():
        inside_folder = path not in named
        cases += _frames(path, name, notes, forgiving=inside_folder)
    return cases, notes


def _frames(path: Path, name: str, notes: list[str], *, forgiving: bool) -> list[Case]:
    """Make a case of a picture, of a DICOM clip one for each frame.

    Args:
        path: The file.
        name: Its id.
        notes: Where it is told what was left out.
        forgiving: Leave out DICOM that is no picture instead of refusing it later.
    """
    head = read_header(path) if is_named_like_dicom(path) else None
    if head is None or (head.kind and not forgiving):
        return [Case(name, (path,))]
    if head.kind:
        notes.append(f"{path} is no picture but a DICOM {head.kind} and was left out")
        return []
    if head.frames == 1:
        return [Case(name, (path,))]
    notes.append(f"{path} is a clip: each of its {head.frames} frames is a picture")
    return [Case(frame_id(name, k), (path,), frame=k) for k in range(head.frames)]


def frame_id(name: str, frame: int) -> str:
    """Name a frame of a clip, counted from 0."""
    return f"{name}_frame{frame + 1:04d}"


def _stem(path: Path) -> str:
    # The last number of a UID is no ending.
    return path.name if path.suffix[1:].isdecimal() else path.stem


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
