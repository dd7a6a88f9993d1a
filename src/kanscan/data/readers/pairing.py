"""Which mask belongs to which image, told by file names."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from kanscan.data.case import Case, Survey
from kanscan.data.pictures.search import IMAGE_SUFFIXES, pictures, pictures_below

#: Words that mark a mask, by who drew it: a first observer by hand, a second one, anybody.
_FIRST = r"(?:1st[ _-]?ho|1st[ _-]?manual|manual[ _-]?1?|ah|vessels?)"
_SECOND = r"(?:2nd[ _-]?ho|2nd[ _-]?manual|manual[ _-]?2|vk)"
_ANY = r"(?:masks?|segmentations?|seg|labels?|gt|ground[ _-]?truth|anno(?:tation)?s?|lesion)"
_PREDICTION = r"(?:pred(?:ict(?:ion|ed)?)?s?|outputs?)"
_LABEL_WORD = rf"(?:{_FIRST}|{_SECOND}|{_ANY}|{_PREDICTION})"
_IMAGE_WORD = r"(?:images?|imgs?|im|orig(?:inal)?|input|raw)"
_LABEL_AFFIX = re.compile(
    rf"[ _.-]+(?P<end>{_LABEL_WORD})(?:[ _.-]?\d+)?$|(?:^|(?<=/))(?P<start>{_LABEL_WORD})(?:[ _.-]+|(?=\d))",
    re.IGNORECASE,
)
_IMAGE_AFFIX = re.compile(
    rf"[ _.-]+(?:{_IMAGE_WORD}|training|test|{_PREDICTION})$|"
    rf"(?:^|(?<=/)){_IMAGE_WORD}(?:[ _.-]+|(?=\d))|_0000$",
    re.IGNORECASE,
)
#: Of two files with one stem the later ending is the mask: lossy and camera formats hold pictures.
_IMAGE_FIRST = (".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".npy", ".pgm", ".png", ".gif", ".mat")
_ORDER = {ending: place for place, ending in enumerate(_IMAGE_FIRST)}


class Mismatch(Enum):
    """Why a file has no place in a pair."""

    NO_MASK = "has no mask"
    NO_IMAGE = "has no image of its name"
    NAME_TAKEN = "has the name of another image"
    SEVERAL_KINDS = "has masks of several kinds"


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
        if self.kind is Mismatch.SEVERAL_KINDS:
            return (
                f"image {self.path} has masks of several kinds, {self.where}; keep one kind beside the images, or put "
                "each into a folder of its own"
            )
        return f"image {self.path} has the name of {self.where}, which is used; rename or remove one"


@dataclass(frozen=True)
class Pair:
    """An image with the label files found for it.

    Attributes:
        name: The image's path below its folder, without ending.
        image: The image.
        labels: Its masks.
        left_out: Masks of it that were not taken: of the field of view, or of a second observer.
    """

    name: str
    image: Path
    labels: tuple[Path, ...] = ()
    left_out: tuple[Path, ...] = ()


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
    names = _Names(named)
    found_labels: dict[str, list[Path]] = {}
    for path in masks:
        match = names.owner_of(_name(path, labels))
        if match:
            found_labels.setdefault(match, []).append(path)
        else:
            problems.append(PairingProblem(Mismatch.NO_IMAGE, path, f"in {images}"))
    if not found_labels:
        raise ValueError(
            f"no picture in {images} has a mask of its name in {labels}: the first image is "
            f"{next(iter(named.values())).name!a}, the first mask {masks[0].name!a}"
        )
    unmasked = [path for name, path in named.items() if name not in found_labels]
    problems += [PairingProblem(Mismatch.NO_MASK, path, f"in {labels}") for path in unmasked]
    pairs, more = _pairs(named, found_labels)
    return pairs, [*problems, *more]


class _Names:
    """Names of images, found again by those of masks: as they stand, then without marks, then however written."""

    def __init__(self, named: Iterable[str]) -> None:
        self._exact = {_composed(name): name for name in named}
        bare: dict[str, str] = {}
        for written, name in self._exact.items():
            bare.setdefault(_IMAGE_AFFIX.sub("", written), name)
        self._bare = bare
        # On other systems A1 and a1 are one file; where both are here they stay two.
        owners: dict[str, set[str]] = {}
        for written, owner in (*self._exact.items(), *bare.items()):
            owners.setdefault(written.casefold(), set()).add(owner)
        self._folded = {written: min(found) for written, found in owners.items() if len(found) == 1}

    def owner_of(self, mask: str) -> str:
        """Return the image that a mask's name belongs to, or ""."""
        name = _without_ending(_composed(mask))
        stripped = _LABEL_AFFIX.sub("", name)
        tries = (
            self._exact.get(name),
            self._exact.get(stripped),
            self._bare.get(stripped),
            self._bare.get(name),
            self._folded.get(name.casefold()),
            self._folded.get(stripped.casefold()),
        )
        return next((owner for owner in tries if owner), "")


def _composed(name: str) -> str:
    """Write accents in one way; macOS and Linux disagree about it."""
    return unicodedata.normalize("NFC", name)


def _without_ending(name: str) -> str:
    """Drop the image's own ending from a mask called `a.jpg.png`."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending.lower()}" in IMAGE_SUFFIXES else name


def _pairs(named: Mapping[str, Path], labels: Mapping[str, Sequence[Path]]) -> tuple[list[Pair], list[PairingProblem]]:
    """Choose among the masks of each image; several of one kind are united later."""
    pairs: list[Pair] = []
    problems: list[PairingProblem] = []
    for name, image in named.items():
        kinds: dict[str, list[Path]] = {}
        for path in labels.get(name, ()):
            kinds.setdefault(_kind(path), []).append(path)
        # What a first observer drew counts before all, a second one and predictions only where nothing else is.
        others = sorted(kinds.keys() - {"first", "second", "prediction"})
        others = [kind for kind in others if kind or len(others) != 2]  # beside marked ones it is the picture itself
        if "first" not in kinds and len(others) > 1:
            names = " and ".join(kinds[other][0].name for other in others)
            problems.append(PairingProblem(Mismatch.SEVERAL_KINDS, image, names))
            pairs.append(Pair(name, image))
            continue
        chosen = next((kind for kind in ("first", *others, "second", "prediction") if kind in kinds), None)
        left = [path for kind, paths in kinds.items() if kind != chosen for path in paths]
        pairs.append(Pair(name, image, tuple(kinds[chosen]) if chosen is not None else (), tuple(left)))
    return pairs, problems


def _kind(path: Path) -> str:
    """Tell of what kind a mask is by the word in its name: "first", "second", "prediction", another word, or ""."""
    match = _LABEL_AFFIX.search(_without_ending(path.with_suffix("").name))
    word = re.sub(r"[ _-]", "", (match["end"] or match["start"]).lower()) if match else ""
    for kind, pattern in (("first", _FIRST), ("second", _SECOND), ("prediction", _PREDICTION)):
        if re.fullmatch(pattern, word):
            return kind
    return word.rstrip("s")


def left_out_notes(pairs: Sequence[Pair]) -> list[str]:
    """Say which masks were not taken."""
    left = [path for pair in pairs for path in pair.left_out]
    if not left:
        return []
    return [f"{len(left)} masks of the field of view or of a second observer are left out, first {left[0].name}"]


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
        paths.sort(key=lambda p: _ORDER.get(p.suffix.lower(), -1))
    marked = {name for name in by_name if _LABEL_AFFIX.search(_without_ending(name))}
    names = _Names([name for name in by_name if name not in marked])
    labels: dict[str, list[Path]] = {}
    orphans: dict[str, list[Path]] = {}
    for name, paths in by_name.items():
        if name not in marked:
            owner = names.owner_of(name) if _without_ending(name) != name else name
            labels.setdefault(owner or name, []).extend(paths if owner not in ("", name) else paths[1:])
        elif owner := names.owner_of(name):
            labels.setdefault(owner, []).extend(paths)
        else:
            orphans[name] = paths
    used = {path for found in labels.values() for path in found}
    images = {name: paths[0] for name, paths in by_name.items() if name not in marked and paths[0] not in used}
    pairs, problems = _pairs(images, labels)
    problems += [PairingProblem(Mismatch.NO_IMAGE, path, "beside it") for paths in orphans.values() for path in paths]
    problems += [
        PairingProblem(Mismatch.NO_MASK, path, "beside it") for name, path in images.items() if not labels.get(name)
    ]
    return pairs, problems


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


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
    """Turn a path below a folder into an id that can be a file name and be printed.

    Bytes that are no UTF-8 and control characters, which would move a terminal's cursor, are written as %XX.
    """
    return "".join(
        f"%{ord(c) & 0xFF:02X}" if unicodedata.category(c) in ("Cc", "Cs") else c for c in name.replace("/", "_")
    )


def finish(cases: Iterable[Case], problems: Sequence[str | PairingProblem] = (), notes: Sequence[str] = ()) -> Survey:
    """Sort cases by id and see that no two have the same.

    Raises:
        ValueError: Two cases have one id.
    """
    ordered = sorted(cases, key=lambda case: case.id)
    for one, other in itertools.pairwise(ordered):
        if one.id == other.id:
            raise ValueError(
                f"two cases would be called {one.id!r}: {one.images[0]} and {other.images[0]}; rename one (in a table, "
                "add a column id)"
            )
    return Survey(tuple(ordered), tuple(map(str, problems)), tuple(notes))
