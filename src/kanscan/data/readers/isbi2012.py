"""ISBI 2012, neuronal membranes in electron microscopy: stacks of 30 slices."""

from __future__ import annotations

from pathlib import Path

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.folders import child
from kanscan.data.readers.pairing import case_id, finish, pair_folders

_VOLUMES = ("train-volume", "train-labels")


class ISBI2012(DatasetReader):
    """Serial sections of one block of tissue, 512 x 512; white is inside cells, black is membrane.

    Consecutive slices resemble each other. Groups are slabs of neighboring slices, so that a test slab touches the
    training slices at its two faces only; a random split would put every test slice between two training slices.

    Args:
        foreground: "cell" (as stored) or "membrane" (inverted).
        slab: Slices a group.
    """

    key = "isbi2012"
    title = "ISBI 2012 membranes (EM stack)"
    modality = "electron microscopy"
    license = "research, with citation"
    citation = (
        "Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for connectomics, "
        "Frontiers in Neuroanatomy 9:142, 2015"
    )
    expected = "files train-volume.tif and train-labels.tif, or train/image/ and train/label/ in a folder named ISBI..."
    layout = """
        ISBI2012/
          train-volume.tif  train-labels.tif          (30 pages each)
        or
        ISBI2012/
          train/  image/0.png ...  label/0.png ...
    """
    channels = 1

    def __init__(self, foreground: str = "cell", slab: int = 5) -> None:
        if foreground not in ("cell", "membrane"):
            raise ValueError(f"foreground must be cell or membrane, got {foreground!r}")
        if slab < 1:
            raise ValueError(f"slab must be at least 1, got {slab}")
        self.slab = slab
        inverted = LabelMap(("cell interior", "membrane"), "values", {0: 1, 255: 0}, snap=True)
        self.label_map = LabelMap(("membrane", "cell interior")) if foreground == "cell" else inverted

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether the two stacks, or the exported slices in a folder of that name, are there."""
        return all(_stack(root, name) for name in _VOLUMES) or _exported(root) is not None

    def survey(self, root: Path) -> Survey:
        """List the slices."""
        stacks = [_stack(root, name) for name in _VOLUMES]
        notes = [f"slices lie in one block of tissue: groups are slabs of {self.slab} neighboring slices"]
        if all(stacks):
            image, label = (path for path in stacks if path)
            counts = [_num_pages(path) for path in (image, label)]
            if counts[0] != counts[1]:
                raise ValueError(f"{image} has {counts[0]} pages, {label} has {counts[1]}; they must agree")
            cases = [Case(f"slice{k:02d}", (image,), (label,), group=self._group(k), frame=k) for k in range(counts[0])]
            return finish(cases, (), notes)
        parts = _exported(root)
        assert parts is not None
        pairs, problems = pair_folders(*parts)
        named = [
            Case(case_id(p.name), (p.image,), p.labels, group=self._group(int(p.name)) if p.name.isdigit() else None)
            for p in pairs
        ]
        return finish(named, problems, notes)

    def _group(self, number: int) -> str:
        return f"slab{number // self.slab + 1:02d}"


def _stack(root: Path, name: str) -> Path | None:
    return next((p for p in sorted(root.glob(f"{name}.tif*")) if p.is_file()), None)


def _exported(root: Path) -> tuple[Path, Path] | None:
    train = child(root, ("train",))
    if train is None or not any("isbi" in part.lower() for part in root.absolute().parts[-2:]):
        return None
    images, labels = child(train, ("image", "images")), child(train, ("label", "labels"))
    return (images, labels) if images and labels else None


def _num_pages(path: Path) -> int:
    import tifffile

    try:
        with tifffile.TiffFile(path) as stack:
            return len(stack.pages)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {' '.join(str(error).split())}") from None
