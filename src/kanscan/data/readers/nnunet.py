"""nnU-Net's raw data."""

from __future__ import annotations

from pathlib import Path

from kanscan.data.case import Case, Survey
from kanscan.data.readers.described import Described, dataset_json
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
        """See whether dataset.json names channels, or files carry channel numbers."""
        if not (root / "dataset.json").is_file() or not (root / "imagesTr").is_dir():
            return False
        content = dataset_json(root)
        numbered = [p for p in volume_files(root / "imagesTr")[:5] if CHANNEL.search(volume_name(p))]
        return bool(numbered) and ("channel_names" in content or "modality" in content)

    def survey(self, root: Path) -> Survey:
        """List the cases of both parts; a case that lacks a channel or a label is named."""
        self._describe(root)
        cases: list[Case] = []
        problems: list[str] = []
        for images, labels, subset in (("imagesTr", "labelsTr", None), ("imagesTs", "labelsTs", "test")):
            known = {volume_name(p): p for p in volume_files(root / labels)}
            by_case: dict[str, dict[int, Path]] = {}
            for path in volume_files(root / images):
                match = CHANNEL.search(volume_name(path))
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
        if "ignore" in (dataset_json(root).get("labels") or {}):
            notes.append("voxels labelled ignore are left out of losses and scores")
        return finish(cases, problems, notes)
