"""Which mask belongs to which image, told by file names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from kanscan.data.case import Case, Survey
from kanscan.data.pictures.search import pictures, pictures_below

_LABEL_WORD = r"(?:masks?|segmentations?|seg|labels?|gt|ground[ _-]?truth|anno(?:tation)?s?|lesion|manual)"
_IMAGE_WORD = r"(?:images?|imgs?|im|orig(?:inal)?|input|raw)"
_LABEL_AFFIX = re.compile(rf"[ _.-]+{_LABEL_WORD}(?:[ _.-]?\d+)?$|(?:^|(?<=/)){_LABEL_WORD}[ _.-]+", re.IGNORECASE)
_IMAGE_AFFIX = re.compile(rf"[ _.-]+{_IMAGE_WORD}$|(?:^|(?<=/)){_IMAGE_WORD}[ _.-]+|_0000$", re.IGNORECASE)
#: Of two files with one stem the later ending is the mask: lossy and camera formats hold pictures.
_IMAGE_FIRST = (".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".npy", ".pgm", ".png", ".gif")


class Mismatch(Enum):
    """Why a file has no place in a pair."""

    NO_MASK = "has no mask"
    NO_IMAGE = "has no image of its name"
    NAME_TAKEN = "has the name of another image"


@dataclass(frozen=True)
class PairingProblem:
    """A file that has no place in a pair; as text, the sentence about it.

    Attributes:
        kind: Why.
        path: The file.
        where: In words: where its partner was looked for, or which file has its name.
    """

    kind: Mismatch
    path: Path
    where: str

    def __str__(self) -> str:
        if self.kind is Mismatch.NO_IMAGE:
            return f"mask {self.path} has no image of that name {self.where}"
        if self.kind is Mismatch.NO_MASK:
            return f"image {self.path} has no mask {self.where}"
        return f"image {self.path} has the name of {self.where}, which is used; rename or remove one"


@dataclass(frozen=True)
class Pair:
    """An image with the label files found for it; `name` is its path below the image folder, without ending."""

    name: str
    image: Path
    labels: tuple[Path, ...] = ()


def pair_folders(
    images: Path, labels: Path, *, skip: Callable[[str], bool] = lambda name: False
) -> tuple[list[Pair], list[PairingProblem]]:
    """Pair the pictures of two folders by name.

    A mask has the name of its image, or that name with a word such as `_mask`, `_mask_1`, `_segmentation` or `label_`
    added; an image may carry such a word of its own (`img_`, `_image`).

    Args:
        images: Folder of images, searched through its own folders.
        labels: Folder of masks, likewise.
        skip: Names (without ending) of files in the image folder that are no images.

    Returns:
        Pairs sorted by name, images without a mask among them, and a problem for each file without a partner.

    Raises:
        ValueError: There are no pictures, or not one pair.
    """
    named, problems = _by_name(images, skip)
    masks = pictures_below(labels)
    for folder, found in ((images, list(named)), (labels, masks)):
        if not found:
            raise ValueError(f"the folder {folder} holds no pictures; expected PNG, JPEG, BMP or TIFF files")
    bare = {_IMAGE_AFFIX.sub("", name): name for name in reversed(named)}
    found_labels: dict[str, list[Path]] = {}
    for path in masks:
        name = _name(path, labels)
        stripped = _LABEL_AFFIX.sub("", name)
        match = next((m for m in (_in(named, name), _in(named, stripped), bare.get(stripped), bare.get(name)) if m), "")
        if match:
            found_labels.setdefault(match, []).append(path)
        else:
            problems.append(PairingProblem(Mismatch.NO_IMAGE, path, f"in {images}"))
    if not found_labels:
        raise ValueError(
            f"no picture in {images} has a mask of its name in {labels}: the first image is "
            f"{next(iter(named.values())).name!r}, the first mask {masks[0].name!r}"
        )
    unmasked = [path for name, path in named.items() if name not in found_labels]
    problems += [PairingProblem(Mismatch.NO_MASK, path, f"in {labels}") for path in unmasked]
    return [Pair(name, path, tuple(found_labels.get(name, ()))) for name, path in named.items()], problems


def pair_within(folder: Path, *, deep: bool = True) -> tuple[list[Pair], list[PairingProblem]]:
    """Pair pictures that lie together: `a.png a_mask.png`, or `a.bmp a.png`, where PNG is the mask.

    Args:
        folder: Where they lie.
        deep: Look into the folders inside it too.

    Returns:
        Pairs sorted by name, images without a mask among them, and a problem for each file without a partner.
    """
    by_name: dict[str, list[Path]] = {}
    for path in pictures_below(folder) if deep else pictures(folder):
        by_name.setdefault(_name(path, folder), []).append(path)
    for paths in by_name.values():
        paths.sort(key=lambda p: _IMAGE_FIRST.index(p.suffix.lower()))
    bare = {_IMAGE_AFFIX.sub("", name): name for name in reversed(by_name) if not _LABEL_AFFIX.search(name)}
    labels: dict[str, list[Path]] = {}
    orphans: dict[str, list[Path]] = {}
    for name, paths in by_name.items():
        stripped = _LABEL_AFFIX.sub("", name)
        if stripped == name:
            labels.setdefault(name, []).extend(paths[1:])
        elif owner := (stripped if stripped in by_name else bare.get(stripped)):
            labels.setdefault(owner, []).extend(paths)
        else:
            orphans[name] = paths
    pairs = [Pair(n, by_name[n][0], tuple(labels.get(n, ()))) for n in by_name if _LABEL_AFFIX.sub("", n) == n]
    problems = [PairingProblem(Mismatch.NO_IMAGE, path, "beside it") for paths in orphans.values() for path in paths]
    problems += [PairingProblem(Mismatch.NO_MASK, pair.image, "beside it") for pair in pairs if not pair.labels]
    return pairs, problems


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _in(named: dict[str, Path], name: str) -> str:
    return name if name in named else ""


def _by_name(folder: Path, skip: Callable[[str], bool]) -> tuple[dict[str, Path], list[PairingProblem]]:
    named: dict[str, Path] = {}
    problems: list[PairingProblem] = []
    for path in pictures_below(folder):
        name = _name(path, folder)
        if skip(name):
            continue
        if name in named:
            problems.append(PairingProblem(Mismatch.NAME_TAKEN, path, named[name].name))
        else:
            named[name] = path
    return named, problems


def case_id(name: str) -> str:
    """Turn a path below a folder into an id that can be a file name."""
    return name.replace("/", "_")


def finish(cases: Iterable[Case], problems: Sequence[str | PairingProblem] = (), notes: Sequence[str] = ()) -> Survey:
    """Sort cases by id and see that no two have the same.

    Raises:
        ValueError: Two cases have one id.
    """
    ordered = sorted(cases, key=lambda case: case.id)
    for one, other in itertools.pairwise(ordered):
        if one.id == other.id:
            raise ValueError(f"two cases would be called {one.id!r}: {one.images[0]} and {other.images[0]}; rename one")
    return Survey(tuple(ordered), tuple(map(str, problems)), tuple(notes))
