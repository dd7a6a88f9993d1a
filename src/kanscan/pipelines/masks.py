"""Folders of masks against folders of references: paired by name, and what their values mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanscan.data.case import Case, LabelMap
from kanscan.data.pictures.label_coding import agree_on_labels
from kanscan.data.pictures.label_meaning import label_map_from_option
from kanscan.data.readers.described import label_map_from_json
from kanscan.data.readers.pairing import Mismatch, pair_folders
from kanscan.data.readers.volumes import infer_volume_labels
from kanscan.data.volumes.formats import is_volume_file, volume_name
from kanscan.files import read_json
from kanscan.pipelines.base import MaskPairs

Pairs = Sequence[tuple[Case, Case]]


def pair_pictures(predictions: Path, references: Path, labels: object = "auto") -> MaskPairs:
    """Pair pictures of masks; see `LabelingPipeline.pair_masks`."""
    pairs, notes = _picture_pairs(predictions, references)
    ours, theirs = ([pair[k] for pair in pairs] for k in (0, 1))
    prediction_map, label_map, note = agree_on_labels(ours, theirs, labels)
    return MaskPairs(tuple(pairs), prediction_map, label_map, (*notes, *([note] if note else [])))


def pair_volumes(predictions: Path, references: Path, labels: object = "auto") -> MaskPairs:
    """Pair label volumes; see `LabelingPipeline.pair_masks`."""
    ours, theirs = _named_volumes(predictions), _named_volumes(references)
    if predictions.is_file() and references.is_file():
        theirs = dict(zip(ours, theirs.values(), strict=True))
    _demand_all([path.name for name, path in theirs.items() if name not in ours], len(theirs), predictions)
    pairs = [(_case(name, ours[name]), _case(name, theirs[name])) for name in theirs]
    found = _volume_labels(pairs, references) if labels == "auto" else label_map_from_option(labels)
    return MaskPairs(tuple(pairs), found, found, _unjudged(len(ours) - len(theirs)))


def _case(name: str, *labels: Path) -> Case:
    return Case(name, (), labels)


def _named_volumes(path: Path) -> dict[str, Path]:
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if is_volume_file(p))
    return {volume_name(p): p for p in files}


def _demand_all(missing: Sequence[str], count: int, predictions: Path) -> None:
    """Refuse references without a prediction: leaving them out would flatter the figures."""
    if missing:
        raise ValueError(
            f"{len(missing)} of {count} references have no prediction of their name in {predictions}, first "
            f"{missing[0]}; leaving them out would flatter the figures"
        )


def _unjudged(count: int) -> tuple[str, ...]:
    return (f"{count} predictions have no reference and were left out",) if count else ()


def _volume_labels(pairs: Pairs, references: Path) -> LabelMap:
    """Take the classes from a dataset.json in or above the references, else the values found in both folders."""
    folder = references.parent if references.is_file() else references
    for place in (folder / "dataset.json", folder.resolve().parent / "dataset.json"):
        if place.is_file():
            return label_map_from_json(read_json(place).get("labels", {}), str(place))
    return infer_volume_labels(path for pair in pairs for case in pair for path in case.labels)


def _picture_pairs(predictions: Path, references: Path) -> tuple[list[tuple[Case, Case]], list[str]]:
    if predictions.is_file() and references.is_file():
        name = predictions.stem
        return [(_case(name, predictions), _case(name, references))], []
    for path in (predictions, references):
        if not path.is_dir():
            raise NotADirectoryError(f"{path} is a file, the other is a folder; give two folders or two files")
    # `predict --overlays` writes pictures beside the label maps.
    found, problems = pair_folders(predictions, references, skip=lambda name: name.endswith("_overlay"))
    judged = [pair for pair in found if pair.labels]
    missing = [str(problem.path) for problem in problems if problem.kind is Mismatch.NO_IMAGE]
    _demand_all(missing, len(missing) + len(judged), predictions)
    taken = (str(problem) for problem in problems if problem.kind is Mismatch.NAME_TAKEN)
    notes = [*_unjudged(len(found) - len(judged)), *taken]
    return [(_case(p.name, p.image), _case(p.name, *_masks_only(p.labels, p.image))) for p in judged], notes


def _masks_only(references: Sequence[Path], prediction: Path) -> tuple[Path, ...]:
    """Drop the picture itself where a folder holds pictures and masks together (`a.png a_mask.png`)."""
    masks = tuple(path for path in references if path.stem != prediction.stem)
    return masks or tuple(references)
