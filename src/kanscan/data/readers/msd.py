"""Tasks of the Medical Segmentation Decathlon."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kanscan.data.case import Survey
from kanscan.data.patterns import with_groups
from kanscan.data.readers.described import Described, dataset_json, inside
from kanscan.data.readers.pairing import finish
from kanscan.data.volumes.formats import volume_files, volume_name


class MSD(Described):
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
        """See whether dataset.json lists the cases by files of these very names; nnU-Net's version 1 adds numbers."""
        training = dataset_json(root).get("training")
        if not isinstance(training, list):
            return False
        first = next((str(one.get("image", "")) for one in training if isinstance(one, Mapping)), "")
        name = volume_name(Path(first))
        return not (root / "imagesTr" / Path(first).name.replace(name, f"{name}_0000")).is_file()

    def survey(self, root: Path) -> Survey:
        """List the cases as dataset.json does; files that are not there are named."""
        self._describe(root)
        content = dataset_json(root)
        cases, problems = [], []
        where = str(root / "dataset.json")
        for entry in content["training"]:
            if not isinstance(entry, Mapping) or "image" not in entry or "label" not in entry:
                problems.append(f"{where} lists {entry!r} for training; expected image and label")
                continue
            try:
                image, label = (inside(root, entry[key], where) for key in ("image", "label"))
            except ValueError as error:
                problems.append(str(error))
                continue
            gone = [p for p in (image, label) if not p.is_file()]
            if gone:
                problems.append(f"{where} lists {gone[0]}, which is not there")
            else:
                cases.append(self._case(volume_name(image), [image], [label]))
        for item in content.get("test") or []:
            try:
                path = inside(root, item.get("image", "") if isinstance(item, Mapping) else item, where)
            except ValueError as error:
                problems.append(str(error))
                continue
            if path.is_file():
                cases.append(self._case(volume_name(path), [path], (), "test"))
        listed = {path for case in cases for path in case.images}
        left = [p for p in volume_files(root / "imagesTr") if p not in listed]
        problems += [f"{path} is not listed in dataset.json" for path in left]
        return finish(with_groups(cases, self.pattern), problems)
