"""Everybody's own folders of volumes and label maps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import IMAGE_FOLDERS, LABEL_FOLDERS, child
from kanscan.data.patterns import check_pattern, with_groups
from kanscan.data.readers.described import label_map_from_json
from kanscan.data.readers.pairing import finish
from kanscan.data.volumes.formats import volume_files, volume_name
from kanscan.data.volumes.search import named_labels
from kanscan.data.volumes.segments import names_of

_LABEL_WORD = re.compile(r"[ _.-]+(?:masks?|seg(?:mentation)?|labels?|gt|anno(?:tation)?)$", re.IGNORECASE)


class Volumes(DatasetReader):
    """A folder of volumes with a folder of label maps beside it, or both together (`a.nii.gz a_seg.nii.gz`).

    Args:
        labels: Mapping of stored values to class names, or "auto": the whole numbers found, in their order.
        group_pattern: As for the reader "folder".
        channel_name: What the images are ("CT", "MR"): decides how they are normalized.
        fill_nan: What stands in place of NaN in the images; None: NaN is refused.
    """

    key = "volumes"
    title = "Folder of volumes and folder of label maps"
    license = "yours"
    expected = "images/ and labels/ with NIfTI, MHA or NRRD files of equal names"
    layout = """
        FOLDER/
          images/  a.nii.gz b.nii.gz ...     (or imagesTr, scans ...; .mha and .nrrd with the extra `itk`)
          labels/  a.nii.gz b_seg.nii.gz ... (or labelsTr, masks ...)
        or
        FOLDER/
          a.nii.gz  a_seg.nii.gz ...
    """
    spatial_dims = 3
    channels = 1

    def __init__(
        self,
        labels: object = "auto",
        group_pattern: str | None = None,
        channel_name: str = "",
        fill_nan: float | None = None,
    ) -> None:
        self.labels, self.fill_nan = labels, fill_nan
        self.pattern = check_pattern(group_pattern)
        self.channel_names = (channel_name,)
        self.label_map = LabelMap() if labels == "auto" else _map_from_option(labels)

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether volumes lie in a folder of images, or directly here."""
        return bool(_volume_parts(root)) or bool(volume_files(root))

    def survey(self, root: Path) -> Survey:
        """List the volumes with the label maps of their names."""
        problems: list[str] = []
        rows: list[tuple[str, tuple[Path, ...], Path | None]]
        parts = _volume_parts(root)
        if parts:
            folder, labels = parts
            known = {_bare(volume_name(p)): p for p in volume_files(labels)} if labels else {}
            rows = named_labels(volume_files(folder), known)
            used = {label for _, _, label in rows}
            problems += [
                f"label map {p} has no image of that name in {folder}" for p in known.values() if p not in used
            ]
            if labels:
                problems += [f"image {paths[0]} has no label map in {labels}" for _, paths, label in rows if not label]
        else:
            files = {volume_name(p): p for p in volume_files(root)}
            marked = {_bare(name): p for name, p in files.items() if _bare(name) != name}
            rows = [(name, (p,), marked.get(name)) for name, p in files.items() if _bare(name) == name]
            problems += [f"label map {p} has no image beside it" for n, p in marked.items() if n not in files]
        cases = []
        for name, images, label in rows:
            cases.append(Case(name, images, (label,) if label else (), is_volume=True, fill_nan=self.fill_nan))
        return finish(with_groups(cases, self.pattern), problems)

    def inspect(self, survey: Survey) -> Sequence[str]:
        """Look into the label maps for their values, and into an image for its channels."""
        from kanscan.data.volumes.formats import read_case_volume

        cases = survey.cases
        if self.labels == "auto":
            self.label_map = infer_volume_labels(path for case in cases for path in case.labels)
        for case in cases[:3]:
            try:
                self.channels = read_case_volume(case).channels
                break
            except (OSError, ValueError):
                continue
        return ()


def _bare(name: str) -> str:
    return _LABEL_WORD.sub("", name)


def _volume_parts(root: Path) -> tuple[Path, Path | None] | None:
    images = child(root, ("imagestr", *IMAGE_FOLDERS))
    if images is None or not volume_files(images):
        return None
    return images, child(root, ("labelstr", *LABEL_FOLDERS))


def infer_volume_labels(paths: Iterable[Path]) -> LabelMap:
    """Take the whole numbers in label maps as classes, in their order, or the names of segments where files name them.

    Unreadable files are passed over.

    Raises:
        ValueError: There are more than 255 values, negative ones, or files of both kinds.
    """
    from kanscan.data.pictures.label_values import value_counts
    from kanscan.data.volumes.formats import read_stored_volume

    found: set[int] = set()
    named: dict[str, Path] = {}
    bare: Path | None = None
    for path in paths:
        try:
            if names := names_of(path):
                named |= dict.fromkeys(names, path)
                continue
            stored = read_stored_volume(path).array
        except (OSError, ValueError):
            continue
        bare = path
        found |= set(value_counts(stored if stored.dtype.kind != "b" else stored.astype("uint8")))
    if named and bare:
        raise ValueError(f"{next(iter(named.values()))} names segments, {bare} holds bare numbers; keep one kind")
    if named:
        names_found = [name for name in named if name.lower() != "background"]
        return LabelMap(("background", *names_found), "values", {k: k for k in range(len(names_found) + 1)})
    return _map_of_values(found)


def _map_of_values(found: set[int]) -> LabelMap:
    from kanscan.data.pictures.label_meaning import named_values

    if len(found) > 255:
        raise ValueError(f"the label maps hold {len(found)} different values, too many for classes")
    if negative := sorted(v for v in found if v < 0):
        others = ", ".join(f"{v}: {'background' if v == 0 else 'NAME'}" for v in sorted(found - set(negative)))
        raise ValueError(
            f"the label maps hold the value {negative[0]}; if nobody labelled such voxels, say so with the option "
            f"labels={{{negative[0]}: ignore, {others}}}"
        )
    values = sorted(found | {0}) if len(found | {0}) > 1 else [0, 1]
    if len(values) == 2:
        return LabelMap(("background", "foreground"), "values", {values[0]: 0, values[1]: 1})
    return named_values(values, exact=True)


def _map_from_option(labels: object) -> LabelMap:
    if not isinstance(labels, Mapping):
        raise ValueError(f"labels must be auto or a mapping of stored values to class names, got {labels!r}")
    return label_map_from_json({str(value): name for value, name in labels.items()}, "the reader option labels")
