"""Volumes as researchers and hospitals keep them: nnU-Net, Medical Segmentation Decathlon, folders, DICOM studies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.readers.folder import compile_pattern
from kanscan.data.readers.layout import IMAGE_FOLDERS, LABEL_FOLDERS, child, contents, find_home, folders
from kanscan.data.readers.pairing import finish
from kanscan.data.volumes.formats import is_volume_file, volume_name
from kanscan.files import read_json
from kanscan.metrics import IGNORED
from kanscan.registry import unknown

_CHANNEL = re.compile(r"_(\d{4})$")
_LABEL_WORD = re.compile(r"[ _.-]+(?:masks?|seg(?:mentation)?|labels?|gt|anno(?:tation)?)$", re.IGNORECASE)


def volume_files(folder: Path) -> list[Path]:
    """List the volume files directly in a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_file() and is_volume_file(p)) if folder.is_dir() else []


def _dataset_json(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    if not path.is_file():
        return {}
    try:
        found = read_json(path)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def label_map_from_json(labels: Mapping[str, Any], where: str) -> LabelMap:
    """Read the classes of a `dataset.json`, written either way round ({"0": name} or {name: 0}).

    Voxels labelled "ignore" are left out of losses and scores.

    Raises:
        ValueError: The entry is no such mapping, or names regions made of several labels.
    """
    values: dict[int, str] = {}
    for key, value in labels.items():
        if isinstance(value, list | tuple):
            raise ValueError(f"{where}: region {key!r} is made of the labels {list(value)}; regions are not supported")
        number, name = (key, value) if str(key).lstrip("-").isdigit() else (value, key)
        try:
            values[int(number)] = str(name)
        except (TypeError, ValueError):
            raise ValueError(f"{where}: labels must map names to whole numbers, got {key!r}: {value!r}") from None
    if len(values) < 2:
        raise ValueError(f"{where}: labels must name at least 2 classes, background included, got {dict(labels)}")
    names = [values[v] for v in sorted(values) if values[v] != "ignore"]
    if len(names) < 2:
        raise ValueError(f"{where}: labels must name a class besides background and ignore, got {dict(labels)}")
    index = {v: (IGNORED if values[v] == "ignore" else names.index(values[v])) for v in sorted(values)}
    return LabelMap(tuple(names), "values", index)


def read_codes(content: Any, label_map: LabelMap, where: str) -> dict[str, tuple[str, str, str]]:
    """Read the codes that a `dataset.json` may give its classes for DICOM, which nnU-Net passes over.

    Args:
        content: Class name -> {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}.
        label_map: The classes.
        where: The file, for the sentence.

    Raises:
        ValueError: It is written otherwise, or names a class that is not there.
    """
    wanted = ("value", "scheme", "meaning")
    codes: dict[str, tuple[str, str, str]] = {}
    for name, code in content.items() if isinstance(content, Mapping) else ((None, content),):
        if not isinstance(code, Mapping) or not all(isinstance(code.get(key), str) and code[key] for key in wanted):
            raise ValueError(
                f'{where}: codes must map class names to {{"value": ..., "scheme": ..., "meaning": ...}}, got '
                f"{name!r}: {code!r}"
            )
        if name not in label_map.names[1:]:
            raise ValueError(f"{where}: {unknown('class in codes', str(name), label_map.names[1:])}")
        codes[name] = (code["value"], code["scheme"], code["meaning"])
    return codes


class _Described(DatasetReader):
    """What the two layouts with a `dataset.json` share."""

    modality = "any"
    licence = "that of the data set"
    spatial_dims = 3

    def __init__(self, group_pattern: str | None = None) -> None:
        self.pattern = compile_pattern(group_pattern)
        self.label_map = LabelMap()

    def inspect(self, root: Path) -> None:
        """Take classes and channels from `dataset.json`."""
        home = find_home(type(self), root)
        content = _dataset_json(home)
        labels = content.get("labels")
        if not isinstance(labels, Mapping):
            raise ValueError(f'{home / "dataset.json"} has no "labels"; expected {{"background": 0, name: 1, ...}}')
        known = label_map_from_json(labels, str(home / "dataset.json"))
        self.label_map = replace(known, codes=read_codes(content.get("codes", {}), known, str(home / "dataset.json")))
        channels = content.get("channel_names") or content.get("modality") or {"0": ""}
        self.channel_names = tuple(str(channels[key]) for key in sorted(channels, key=lambda k: int(k)))
        self.channels = len(self.channel_names)

    def _case(self, name: str, images: Sequence[Path], labels: Sequence[Path] = (), subset: str | None = None) -> Case:
        match = self.pattern.search(name) if self.pattern else None
        group = match[1 if self.pattern and self.pattern.groups else 0] if match else None
        return Case(name, tuple(images), tuple(labels), "union", group, subset, is_volume=True)


class NNUNet(_Described):
    """nnU-Net's raw data: imagesTr with a file for each channel, labelsTr, dataset.json.

    Args:
        group_pattern: As for the reader "folder".
    """

    key = "nnunet"
    title = "nnU-Net raw data set"
    citation = "F. Isensee et al., Nature Methods 18, 203 (2021); layout of version 2"
    expected = "dataset.json with channel_names, imagesTr/CASE_0000.nii.gz and labelsTr/CASE.nii.gz"
    layout = """
        Dataset001_NAME/
          dataset.json            {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, ...}
          imagesTr/  CASE_0000.nii.gz CASE_0001.nii.gz ...   (a file for each channel)
          labelsTr/  CASE.nii.gz
          imagesTs/  (optional)   labelsTs/ (optional)
    """

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether dataset.json names channels, or files carry channel numbers."""
        if not (root / "dataset.json").is_file() or not (root / "imagesTr").is_dir():
            return False
        content = _dataset_json(root)
        numbered = [p for p in volume_files(root / "imagesTr")[:5] if _CHANNEL.search(volume_name(p))]
        return bool(numbered) and ("channel_names" in content or "modality" in content)

    def survey(self, root: Path) -> Survey:
        """List the cases of both parts; a case that lacks a channel or a label is named."""
        root = find_home(NNUNet, root)
        cases: list[Case] = []
        problems: list[str] = []
        for images, labels, subset in (("imagesTr", "labelsTr", None), ("imagesTs", "labelsTs", "test")):
            known = {volume_name(p): p for p in volume_files(root / labels)}
            by_case: dict[str, dict[int, Path]] = {}
            for path in volume_files(root / images):
                match = _CHANNEL.search(volume_name(path))
                if match is None:
                    problems.append(f"{path} has no channel number such as _0000 in its name")
                    continue
                by_case.setdefault(volume_name(path)[: match.start()], {})[int(match[1])] = path
            for name, channels in by_case.items():
                missing = [c for c in range(self.channels) if c not in channels]
                if missing:
                    problems.append(f"case {name} lacks channel {missing[0]:04d} in {root / images}")
                    continue
                found = (known.pop(name),) if name in known else ()
                if not found and subset is None:
                    problems.append(f"case {name} has no label in {root / labels}")
                cases.append(self._case(name, [channels[c] for c in sorted(channels)], found, subset))
            problems += [f"label {path} has no image in {root / images}" for path in known.values()]
        notes = (
            [f"{root / 'splits_final.json'} is there; use it with split.kind=nnunet"]
            if (root / "splits_final.json").is_file()
            else []
        )
        if "ignore" in (_dataset_json(root).get("labels") or {}):
            notes.append("voxels labelled ignore are left out of losses and scores")
        return finish(cases, problems, notes)


class MSD(_Described):
    """A task of the Medical Segmentation Decathlon: dataset.json lists image and label of each case.

    Args:
        group_pattern: As for the reader "folder".
    """

    key = "msd"
    title = "Medical Segmentation Decathlon"
    citation = "M. Antonelli et al., Nature Communications 13, 4128 (2022)"
    expected = 'dataset.json with "training": [{"image": ..., "label": ...}], imagesTr/ and labelsTr/'
    layout = """
        Task04_Hippocampus/
          dataset.json            {"labels": {"0": "background", ...}, "training": [{"image": ..., "label": ...}]}
          imagesTr/  NAME.nii.gz ...
          labelsTr/  NAME.nii.gz ...
          imagesTs/  (optional)
    """

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether dataset.json lists the cases."""
        return isinstance(_dataset_json(root).get("training"), list)

    def survey(self, root: Path) -> Survey:
        """List the cases as dataset.json does; files that are not there are named."""
        root = find_home(MSD, root)
        content = _dataset_json(root)
        cases, problems = [], []
        for entry in content["training"]:
            if not isinstance(entry, Mapping) or "image" not in entry or "label" not in entry:
                problems.append(f"{root / 'dataset.json'} lists {entry!r} for training; expected image and label")
                continue
            image, label = (root / str(entry[key]) for key in ("image", "label"))
            gone = [p for p in (image, label) if not p.is_file()]
            if gone:
                problems.append(f"{root / 'dataset.json'} lists {gone[0]}, which is not there")
            else:
                cases.append(self._case(volume_name(image), [image], [label]))
        for item in content.get("test", []):
            path = root / str(item["image"] if isinstance(item, Mapping) else item)
            if path.is_file():
                cases.append(self._case(volume_name(path), [path], (), "test"))
        listed = {path for case in cases for path in case.images}
        left = [p for p in volume_files(root / "imagesTr") if p not in listed]
        problems += [f"{path} is not listed in dataset.json" for path in left]
        return finish(cases, problems)


class Volumes(DatasetReader):
    """A folder of volumes with a folder of label maps beside it, or both together (`a.nii.gz a_seg.nii.gz`).

    Args:
        labels: Mapping of stored values to class names, or "auto": the whole numbers found, in their order.
        group_pattern: As for the reader "folder".
        channel_name: What the images are ("CT", "MR"): decides how they are normalized.
    """

    key = "volumes"
    title = "Folder of volumes and folder of label maps"
    licence = "yours"
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

    def __init__(self, labels: Any = "auto", group_pattern: str | None = None, channel_name: str = "") -> None:
        self.labels = labels
        self.pattern = compile_pattern(group_pattern)
        self.channel_names = (channel_name,)
        self.label_map = LabelMap() if labels == "auto" else _map_from_option(labels)

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether volumes lie in a folder of images, or directly here."""
        return bool(_volume_parts(root)) or bool(volume_files(root))

    def survey(self, root: Path) -> Survey:
        """List the volumes with the label maps of their names."""
        root = find_home(Volumes, root)
        problems: list[str] = []
        rows: list[tuple[str, Path, Path | None]] = []
        parts = _volume_parts(root)
        if parts:
            images, labels = parts
            known = {_bare(volume_name(p)): p for p in volume_files(labels)} if labels else {}
            for path in volume_files(images):
                name = _CHANNEL.sub("", volume_name(path))
                rows.append((name, path, known.pop(name, None)))
            problems += [f"label map {p} has no image of that name in {images}" for p in known.values()]
            if labels:
                problems += [f"image {image} has no label map in {labels}" for _, image, label in rows if not label]
        else:
            files = {volume_name(p): p for p in volume_files(root)}
            marked = {_bare(name): p for name, p in files.items() if _bare(name) != name}
            rows = [(name, p, marked.get(name)) for name, p in files.items() if _bare(name) == name]
            problems += [f"label map {p} has no image beside it" for n, p in marked.items() if n not in files]
        cases = []
        for name, image, label in rows:
            match = self.pattern.search(name) if self.pattern else None
            group = match[1 if self.pattern and self.pattern.groups else 0] if match else None
            cases.append(Case(name, (image,), (label,) if label else (), group=group, is_volume=True))
        return finish(cases, problems)

    def inspect(self, root: Path) -> None:
        """Look into the label maps for their values, and into an image for its channels."""
        from kanscan.data.volumes.formats import read_volume

        cases = self.survey(root).cases
        if self.labels == "auto":
            self.label_map = infer_volume_labels(path for case in cases for path in case.labels)
        for case in cases[:3]:
            try:
                self.channels = read_volume(case.images[0]).channels
                break
            except (OSError, ValueError):
                continue


def _bare(name: str) -> str:
    return _LABEL_WORD.sub("", name)


def _volume_parts(root: Path) -> tuple[Path, Path | None] | None:
    images = child(root, ("imagestr", *IMAGE_FOLDERS))
    if images is None or not volume_files(images):
        return None
    return images, child(root, ("labelstr", *LABEL_FOLDERS))


def infer_volume_labels(paths: Iterable[Path]) -> LabelMap:
    """Take the whole numbers in label maps as classes, in their order; unreadable files are passed over.

    Raises:
        ValueError: There are more than 255 of them.
    """
    from kanscan.data.pictures.label_values import named_values, value_counts
    from kanscan.data.volumes.formats import read_stored_volume

    found: set[int] = set()
    for path in paths:
        try:
            stored = read_stored_volume(path).array
        except (OSError, ValueError):
            continue
        found |= set(value_counts(stored if stored.dtype.kind != "b" else stored.astype("uint8")))
    if len(found) > 255:
        raise ValueError(f"the label maps hold {len(found)} different values, too many for classes")
    values = sorted(found | {0}) if len(found | {0}) > 1 else [0, 1]
    if len(values) == 2:
        return LabelMap(("background", "foreground"), "values", {values[0]: 0, values[1]: 1})
    return named_values(values, exact=True)


def _map_from_option(labels: Any) -> LabelMap:
    if not isinstance(labels, Mapping):
        raise ValueError(f"labels must be auto or a mapping of stored values to class names, got {labels!r}")
    return label_map_from_json({str(value): name for value, name in labels.items()}, "the reader option labels")


class Dicom(DatasetReader):
    """DICOM series as a scanner or an archive delivers them, one a folder or several; without labels, for predict.

    Every folder below is searched; each series becomes a case.
    """

    key = "dicom"
    title = "DICOM series"
    modality = "any"
    licence = "yours"
    expected = "folders of DICOM slices"
    layout = """
        STUDY/
          SERIES/  1.dcm 2.dcm ...     (names and their order do not matter; slices are sorted by position)
          SERIES/  IM000001 ...
    """
    spatial_dims = 3
    channels = 1

    def __init__(self) -> None:
        self.label_map = LabelMap()

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether a DICOM file lies here or in a folder below."""
        return any(_is_dicom(path) for folder in _all_folders(root) for path in _first_files(folder))

    def survey(self, root: Path) -> Survey:
        """List the series below a folder."""
        from kanscan.data.dicom.series import find_series

        cases: list[Case] = []
        problems: list[str] = []
        for folder in _all_folders(root):
            if not any(_is_dicom(path) for path in _first_files(folder)):
                continue
            series = find_series(folder)
            place = "_".join(folder.relative_to(root).parts) or folder.resolve().name
            for one in series:
                suffix = f"_{one.number if one.number is not None else one.uid}" if len(series) > 1 else ""
                patient = folder.relative_to(root).parts
                group = patient[0] if len(patient) > 1 else None
                name = re.sub(r"[^\w.-]+", "-", f"{place}{suffix}")
                cases.append(Case(name, (folder,), group=group, is_volume=True, series=one.uid))
        if not cases:
            raise ValueError(f"no DICOM image below {root}; found {contents(root)}")
        return finish(cases, problems, ["DICOM series have no labels: they can be predicted, not trained on"])


def _all_folders(root: Path) -> list[Path]:
    found = [root]
    for folder in folders(root):
        if not folder.is_symlink():
            found += _all_folders(folder)
    return found


def _first_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))[:3]


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
