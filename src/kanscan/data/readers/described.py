"""What layouts with a `dataset.json` share: classes, channels and codes stand there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanscan.data.case import Case, DatasetReader, LabelMap
from kanscan.data.readers.folder import compile_pattern
from kanscan.files import read_json
from kanscan.metrics import IGNORED
from kanscan.registry import unknown


def dataset_json(root: Path) -> dict[str, Any]:
    """Read the `dataset.json` of a folder; empty where there is none, or none that can be read."""
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


class Described(DatasetReader):
    """What the two layouts with a `dataset.json` share."""

    modality = "any"
    license = "that of the data set"
    spatial_dims = 3

    def __init__(self, group_pattern: str | None = None) -> None:
        self.pattern = compile_pattern(group_pattern)
        self.label_map = LabelMap()

    def _describe(self, root: Path) -> None:
        """Take classes and channels from `dataset.json`."""
        content = dataset_json(root)
        labels = content.get("labels")
        if not isinstance(labels, Mapping):
            raise ValueError(f'{root / "dataset.json"} has no "labels"; expected {{"background": 0, name: 1, ...}}')
        known = label_map_from_json(labels, str(root / "dataset.json"))
        self.label_map = replace(known, codes=read_codes(content.get("codes", {}), known, str(root / "dataset.json")))
        channels = content.get("channel_names") or content.get("modality") or {"0": ""}
        self.channel_names = tuple(str(channels[key]) for key in sorted(channels, key=lambda k: int(k)))
        self.channels = len(self.channel_names)

    def _case(self, name: str, images: Sequence[Path], labels: Sequence[Path] = (), subset: str | None = None) -> Case:
        match = self.pattern.search(name) if self.pattern else None
        group = match[1 if self.pattern and self.pattern.groups else 0] if match else None
        return Case(name, tuple(images), tuple(labels), "union", group, subset, is_volume=True)
