"""nnU-Net's raw data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanscan.data.case import Case, Survey
from kanscan.data.patterns import with_groups
from kanscan.data.pictures.search import IMAGE_SUFFIXES
from kanscan.data.readers.described import Described, dataset_json, has_regions, inside
from kanscan.data.readers.pairing import finish
from kanscan.data.volumes.formats import volume_files, volume_name
from kanscan.data.volumes.search import CHANNEL


class NNUNet(Described):
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
        """See whether dataset.json names channels and files carry their numbers, or cases are listed with channels."""
        if not (root / "dataset.json").is_file():
            return False
        content = dataset_json(root)
        if "channel_names" not in content and "modality" not in content:
            return False
        if isinstance(content.get("dataset"), Mapping):
            return True
        ending = _picture_ending(content)
        return any(CHANNEL.search(_stem(p, ending)) for p in _files(root / "imagesTr", ending)[:5])

    def survey(self, root: Path) -> Survey:
        """List the cases of both parts; a case that lacks a channel is named, one without label counted."""
        self._describe(root)
        content = dataset_json(root)
        ending = _picture_ending(content)
        if ending and ending not in (".tif", ".tiff"):
            self.spatial_dims = 2
        cases: list[Case] = []
        problems: list[str] = []
        if isinstance(content.get("dataset"), Mapping):
            self._listed(root, content["dataset"], cases, problems)
        else:
            for images, labels, subset in (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test")):
                self._numbered(root / images, root / labels, subset, ending, cases, problems)
        bare = [case.id for case in cases if not case.labels and case.subset == "train"]
        notes = [f"{len(bare)} cases have no label and are not learned from, first {bare[0]}"] if bare else []
        if (root / "splits_final.json").is_file():
            notes.append(f"{root / 'splits_final.json'} is there; use it with split.kind=nnunet")
        if has_regions(content):
            notes.append("regions that overlap are learned and scored as the parts that regions_class_order writes")
        if "ignore" in (content.get("labels") or {}):
            notes.append("voxels labelled ignore are left out of losses and scores")
        return finish(with_groups(cases, self.pattern), problems, notes)

    def _numbered(
        self, images: Path, labels: Path, subset: str, ending: str, cases: list[Case], problems: list[str]
    ) -> None:
        known = {_stem(p, ending): p for p in _files(labels, ending)}
        by_case: dict[str, dict[int, Path]] = {}
        for path in _files(images, ending):
            match = CHANNEL.search(_stem(path, ending))
            if match is None:
                problems.append(f"{path} has no channel number such as _0000 in its name")
                continue
            by_case.setdefault(_stem(path, ending)[: match.start()], {})[int(match[1])] = path
        for name, channels in by_case.items():
            # A color picture holds its channels in one file.
            wanted = 1 if self.spatial_dims == 2 and channels.keys() == {0} else self.channels
            missing = [c for c in range(wanted) if c not in channels]
            if missing:
                problems.append(f"case {name} lacks channel {missing[0]:04d} in {images}")
                continue
            found = (known.pop(name),) if name in known else ()
            cases.append(self._case(name, [channels[c] for c in sorted(channels)], found, subset))
        problems += [f"label {path} has no image in {images}" for path in known.values()]

    def _listed(self, root: Path, listed: Mapping[str, Any], cases: list[Case], problems: list[str]) -> None:
        """Take the cases that version 2 may list with their files, wherever in the data set they lie."""
        where = str(root / "dataset.json")
        for name, entry in listed.items():
            try:
                images = [inside(root, one, where) for one in entry["images"]]
                labels = [inside(root, entry["label"], where)] if entry.get("label") else []
            except (TypeError, KeyError, AttributeError):
                problems.append(f"{where} lists {name!r} without images and label")
                continue
            except ValueError as error:
                problems.append(f"case {name}: {error}")
                continue
            gone = [path for path in (*images, *labels) if not path.is_file()]
            if gone:
                problems.append(f"{where} lists {gone[0]}, which is not there")
            elif len(images) != self.channels:
                problems.append(f"case {name} lists {len(images)} images for {self.channels} channels")
            else:
                cases.append(self._case(str(name), images, labels, "train"))


def _picture_ending(content: Mapping[str, Any]) -> str:
    """Return the ending of data sets of pictures or TIFF stacks, "" for volumes."""
    ending = str(content.get("file_ending", "")).lower()
    return ending if ending in IMAGE_SUFFIXES else ""


def _files(folder: Path, ending: str) -> list[Path]:
    if not ending or not folder.is_dir():
        return volume_files(folder)
    return sorted(p for p in folder.iterdir() if p.name.lower().endswith(ending) and not p.name.startswith("."))


def _stem(path: Path, ending: str) -> str:
    return path.name[: -len(ending)] if ending else volume_name(path)
