"""The polyp benchmark: one training set, several named test sets."""

from __future__ import annotations

from pathlib import Path

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import IMAGE_FOLDERS, LABEL_FOLDERS, child, folders, subset_of
from kanscan.data.readers.pairing import case_id, finish, pair_folders
from kanscan.registry import unknown


class Polyp(DatasetReader):
    """Training polyps in one folder, and a folder for each data set that is reported, as VMKLA-UNet's Table 3 does.

    Args:
        datasets: Held-out data sets to take, by folder name; empty: all.
    """

    key = "polyp"
    title = "Polyp benchmark (one training set, several test sets)"
    modality = "colonoscopy"
    license = "that of each data set"
    citation = "Fan et al., PraNet: Parallel reverse attention network for polyp segmentation, MICCAI 2020"
    expected = "train/images/, train/masks/ and val/NAME/images/, val/NAME/masks/ for each test set"
    layout = """
        polyp/
          train/  images/  masks/
          val/    CVC-ClinicDB/images/  CVC-ClinicDB/masks/   Kvasir/...   CVC-ColonDB/...   ETIS-LaribPolypDB/...
        (TrainDataset/ and TestDataset/, image/ and mask/ are met too)
    """

    def __init__(self, datasets: tuple[str, ...] = ()) -> None:
        self.datasets = (datasets,) if isinstance(datasets, str) else tuple(datasets)
        self.label_map = LabelMap(("background", "polyp"))

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether a held-out folder holds named data sets instead of images."""
        return any(subset == "train" for subset, _ in _sets(root)) and any(name for _, name in _sets(root))

    def survey(self, root: Path) -> Survey:
        """List training cases and the held-out ones; the data set's name begins their ids."""
        found = _sets(root)
        names = sorted({name for _, name in found if name})
        for name in self.datasets:
            if name not in names:
                raise ValueError(unknown(f"test set of {root}", name, names))
        cases, problems = [], []
        for (subset, name), (images, labels) in found.items():
            if name and self.datasets and name not in self.datasets:
                continue
            pairs, troubles = pair_folders(images, labels)
            problems += troubles
            prefix = name or subset
            cases += [Case(f"{prefix}_{case_id(p.name)}", (p.image,), p.labels, subset=subset) for p in pairs]
        return finish(cases, problems, [f"held-out sets: {', '.join(names)}"])


def _sets(root: Path) -> dict[tuple[str, str], tuple[Path, Path]]:
    """Map (subset, name of the data set or "") to its two folders."""
    found: dict[tuple[str, str], tuple[Path, Path]] = {}
    for folder in folders(root):
        subset = subset_of(folder.name)
        if subset is None:
            continue
        for place, name in [(folder, ""), *((inner, inner.name) for inner in folders(folder))]:
            images, labels = child(place, IMAGE_FOLDERS), child(place, LABEL_FOLDERS)
            if images and labels:
                found[subset, name] = images, labels
    return found
