"""One file for each published layout, and the readers for everybody's own folders."""

from __future__ import annotations

from pathlib import Path

from kanscan.data.case import DatasetReader
from kanscan.data.folders import check_folder, contents, find_start
from kanscan.data.readers.busi import BUSI
from kanscan.data.readers.coco import Coco
from kanscan.data.readers.cvc import CVC
from kanscan.data.readers.dicom import Dicom
from kanscan.data.readers.dsb2018 import DSB2018
from kanscan.data.readers.folder import Folder
from kanscan.data.readers.generated import MNI152, Synthetic
from kanscan.data.readers.glas import GlaS
from kanscan.data.readers.isbi2012 import ISBI2012
from kanscan.data.readers.isic import ISIC
from kanscan.data.readers.kvasir import Kvasir
from kanscan.data.readers.label_studio import LabelStudio
from kanscan.data.readers.labelme import Labelme
from kanscan.data.readers.msd import MSD
from kanscan.data.readers.nnunet import NNUNet
from kanscan.data.readers.paired import Paired
from kanscan.data.readers.pannuke import PanNuke
from kanscan.data.readers.ph2 import PH2
from kanscan.data.readers.polyp import Polyp
from kanscan.data.readers.prepared import Prepared
from kanscan.data.readers.sliced import ACDC, Synapse
from kanscan.data.readers.table import Table
from kanscan.data.readers.volumes import Volumes
from kanscan.data.readers.yolo import Yolo
from kanscan.registry import Registry

#: Readers by key, the most specific layouts first: recognition takes the first that fits, but asks
#: readers added by others before all of these.
READERS: Registry[type[DatasetReader]] = Registry(
    "reader",
    {
        "synthetic": Synthetic,
        "mni152": MNI152,
        "msd": MSD,
        "nnunet": NNUNet,
        "busi": BUSI,
        "cvc": CVC,
        "glas": GlaS,
        "kvasir": Kvasir,
        "isic": ISIC,
        "ph2": PH2,
        "isbi2012": ISBI2012,
        "polyp": Polyp,
        "dsb2018": DSB2018,
        "pannuke": PanNuke,
        "coco": Coco,
        "yolo": Yolo,
        "labelme": Labelme,
        "label_studio": LabelStudio,
        "synapse": Synapse,
        "acdc": ACDC,
        "volumes": Volumes,
        "prepared": Prepared,
        "folder": Folder,
        "paired": Paired,
        "table": Table,
        "dicom": Dicom,
    },
)
_BUILT_IN = tuple(READERS)


def recognize(root: str | Path) -> str:
    """Tell from names alone which reader fits a folder, or the lone folder inside it.

    Args:
        root: The folder.

    Returns:
        A key of `READERS`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is empty, or no layout fits; the sentence shows what was expected and what was found.

    Example:
        >>> import tempfile
        >>> from kanscan.data.made.synthetic import write_ultrasound
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     recognize(write_ultrasound(f"{folder}/us", 2, image_size=(32, 32)))
        'synthetic'
    """
    return locate(Path(root))[0]


def locate(root: Path, key: str = "auto") -> tuple[str, Path]:
    """Find which reader fits a folder and where its layout begins, looking at each folder once.

    Args:
        root: The folder.
        key: A key of `READERS`, or "auto" for the first that fits.

    Returns:
        The reader's key, and the folder to give to its `survey`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The key is unknown, or the layout; the sentence shows what was expected and what was found.
    """
    if key != "auto":
        return key, READERS[key].start(root)
    # Readers that somebody added know their layout better than the general ones here.
    order = sorted(READERS, key=lambda key: key in _BUILT_IN)
    fitting: list[str] = []

    def accepts(folder: Path) -> bool:
        fitting[:] = [key] if (key := next((k for k in order if READERS[k].recognizes(folder)), "")) else []
        return bool(fitting)

    start = find_start(check_folder(root), accepts)
    if start is None:
        raise ValueError(
            f"{root} has no layout that is known: expected {READERS['folder'].expected}, {READERS['paired'].expected}, "
            f"{READERS['volumes'].expected}, {READERS['dicom'].expected}, "
            f"or a published data set ({', '.join(k for k in READERS if k not in _OWN)}); found {contents(root)}"
        )
    return fitting[0], start


_OWN = (
    "coco",
    "yolo",
    "labelme",
    "label_studio",
    "folder",
    "paired",
    "prepared",
    "synthetic",
    "mni152",
    "volumes",
    "table",
    "dicom",
)
