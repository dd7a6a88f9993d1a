"""What layouts with a `dataset.json` share: classes, channels and codes stand there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanscan.data import folders
from kanscan.data.case import Case, DatasetReader, LabelMap
from kanscan.data.patterns import check_pattern
from kanscan.files import read_json
from kanscan.metrics import IGNORED
from kanscan.registry import unknown


def dataset_json(root: Path, *, strict: bool = False) -> dict[str, Any]:
    """Read the `dataset.json` of a folder; empty where there is none, or none that can be read.

    Args:
        root: The folder.
        strict: Refuse one that cannot be read.

    Raises:
        ValueError: With `strict`: the file is no JSON, or holds no mapping.
    """
    path = root / "dataset.json"
    if not path.is_file():
        return {}
    try:
        found = read_json(path)
    except (ValueError, RecursionError) as error:
        if strict:
            raise ValueError(f"{path} is not valid JSON: {' '.join(str(error).split())}") from None
        return {}
    if strict and not isinstance(found, dict):
        raise ValueError(f"{path} must hold a mapping with labels and channel_names")
    return found if isinstance(found, dict) else {}


def label_map_from_json(labels: Mapping[str, Any], where: str, order: Sequence[int] = ()) -> LabelMap:
    """Read the classes of a `dataset.json`, written either way round ({"0": name} or {name: 0}).

    Voxels labelled "ignore" are left out of losses and scores. A class called background comes first, whatever its
    value. Regions, nnU-Net's classes made of several labels, become what `order` makes of them when they are written:
    each label belongs to the last region that holds it.

    Args:
        labels: The entry.
        where: The file, for sentences.
        order: `regions_class_order`: the value that is written for each region, in their order.

    Raises:
        ValueError: The entry is no such mapping.
    """
    if any(isinstance(value, list | tuple) for value in labels.values()):
        labels = _parted(labels, where, order)
    values: dict[int, str] = {}
    for key, value in labels.items():
        number, name = (key, value) if str(key).lstrip("-").isdigit() else (value, key)
        try:
            values[int(number)] = str(name)
        except (TypeError, ValueError):
            raise ValueError(f"{where}: labels must map names to whole numbers, got {key!r}: {value!r}") from None
    if len(values) < 2:
        raise ValueError(f"{where}: labels must name at least 2 classes, background included, got {dict(labels)}")
    named = list(dict.fromkeys(values[v] for v in sorted(values) if values[v] != "ignore"))
    names = sorted(named, key=lambda name: name.lower() != "background")
    if len(names) < 2:
        raise ValueError(f"{where}: labels must name a class besides background and ignore, got {dict(labels)}")
    wrong = [v for v in values if values[v] != "ignore" and not 0 <= v <= 65535]
    if wrong:
        raise ValueError(
            f"{where}: the value {wrong[0]} of {values[wrong[0]]!r} cannot be written; expected 0..65535, or the name "
            "ignore for voxels that nobody labelled"
        )
    index = {v: (IGNORED if values[v] == "ignore" else names.index(values[v])) for v in sorted(values)}
    return LabelMap(tuple(names), "values", index)


def _parted(labels: Mapping[str, Any], where: str, order: Sequence[int]) -> dict[str, Any]:
    """Turn overlapping regions into labels that do not overlap, the way nnU-Net writes them."""
    regions = {
        name: [int(v) for v in (value if isinstance(value, list | tuple) else [value])]
        for name, value in labels.items()
        if name not in ("background", "ignore")
    }
    if len(order) != len(regions):
        raise ValueError(
            f"{where}: labels name {len(regions)} regions, regions_class_order {len(order)}; one value is due to each"
        )
    owner: dict[int, str] = {}
    for name, parts in regions.items():
        owner |= dict.fromkeys(parts, name)
    kept = {name: labels[name] for name in ("background", "ignore") if name in labels}
    return {**{str(value): name for name, value in kept.items()}, **{str(v): owner[v] for v in sorted(owner)}}


def has_regions(content: Mapping[str, Any]) -> bool:
    """Tell whether a `dataset.json` names classes that are made of several labels."""
    labels = content.get("labels")
    return isinstance(labels, Mapping) and any(isinstance(value, list | tuple) for value in labels.values())


def inside(root: Path, name: object, where: str) -> Path:
    """Return the place of a file that a `dataset.json` names.

    Raises:
        ValueError: It lies outside the data set.
    """
    found = folders.inside(root, str(name))
    if found is None:
        raise ValueError(f"{where} names {str(name)!r}, outside the data set; that is not followed")
    return found


def read_codes(content: object, label_map: LabelMap, where: str) -> dict[str, tuple[str, str, str]]:
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


class Described(DatasetReader):
    """What the two layouts with a `dataset.json` share."""

    modality = "any"
    license = "that of the data set"
    spatial_dims = 3

    def __init__(self, group_pattern: str | None = None, fill_nan: float | None = None) -> None:
        self.pattern, self.fill_nan = check_pattern(group_pattern), fill_nan
        self.label_map = LabelMap()

    def _describe(self, root: Path) -> None:
        """Take classes and channels from `dataset.json`."""
        content = dataset_json(root, strict=True)
        labels = content.get("labels")
        if not isinstance(labels, Mapping):
            raise ValueError(f'{root / "dataset.json"} has no "labels"; expected {{"background": 0, name: 1, ...}}')
        order = content.get("regions_class_order") or ()
        if not isinstance(order, list | tuple) or not all(isinstance(v, int) for v in order):
            raise ValueError(
                f"{root / 'dataset.json'}: regions_class_order must be a list of whole numbers, got {order!r}"
            )
        known = label_map_from_json(labels, str(root / "dataset.json"), order)
        self.label_map = replace(known, codes=read_codes(content.get("codes", {}), known, str(root / "dataset.json")))
        channels = content.get("channel_names") or content.get("modality") or {"0": ""}
        if not isinstance(channels, Mapping) or not all(str(key).isdecimal() for key in channels):
            raise ValueError(f'{root / "dataset.json"}: channel_names must be {{"0": name, ...}}, got {channels!r}')
        self.channel_names = tuple(str(channels[key]) for key in sorted(channels, key=int))
        self.channels = len(self.channel_names)

    def _case(self, name: str, images: Sequence[Path], labels: Sequence[Path] = (), subset: str | None = None) -> Case:
        return Case(
            name,
            tuple(images),
            tuple(labels),
            subset=subset,
            is_volume=self.spatial_dims == 3,
            fill_nan=self.fill_nan,
        )
