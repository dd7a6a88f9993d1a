"""One file for each published layout, and the readers for everybody's own folders."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from kanscan.data.case import DatasetReader
from kanscan.data.readers.busi import BUSI
from kanscan.data.readers.cvc import CVC
from kanscan.data.readers.dicom import Dicom
from kanscan.data.readers.folder import Folder, Paired, Prepared
from kanscan.data.readers.generated import MNI152, Synthetic
from kanscan.data.readers.glas import GlaS
from kanscan.data.readers.isbi2012 import ISBI2012
from kanscan.data.readers.isic import ISIC
from kanscan.data.readers.kvasir import Kvasir
from kanscan.data.readers.layout import check_folder, contents, home
from kanscan.data.readers.msd import MSD
from kanscan.data.readers.nnunet import NNUNet
from kanscan.data.readers.ph2 import PH2
from kanscan.data.readers.polyp import Polyp
from kanscan.data.readers.sliced import ACDC, Synapse
from kanscan.data.readers.table import Table
from kanscan.data.readers.volumes import Volumes
from kanscan.registry import Registry, unknown

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
    root = check_folder(Path(root))

    # Readers that somebody added know their layout better than the general ones here.
    order = sorted(READERS, key=lambda key: key in _BUILT_IN)

    def key_of(folder: Path) -> str | None:
        return next((key for key in order if READERS[key].recognizes(folder)), None)

    found = home(root, lambda folder: key_of(folder) is not None)
    if found is not None:
        key = key_of(found)
        assert key is not None
        return key
    raise ValueError(
        f"{root} has no layout that is known: expected {READERS['folder'].expected}, {READERS['paired'].expected}, "
        f"{READERS['volumes'].expected}, {READERS['dicom'].expected}, "
        f"or a published data set ({', '.join(k for k in READERS if k not in _OWN)}); found {contents(root)}"
    )


_OWN = ("folder", "paired", "prepared", "synthetic", "mni152", "volumes", "table", "dicom")


def make_reader(key: str, root: str | Path, **options: Any) -> DatasetReader:
    """Build the reader of a folder, with everything settled that the folder decides.

    Args:
        key: A key of `READERS`, or "auto" to recognize the layout.
        root: The folder.
        **options: Keywords of the reader's constructor.

    Returns:
        The reader; its `label_map` and `channels` hold.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The key or an option is unknown, or the folder has another layout.

    Example:
        >>> import tempfile
        >>> from kanscan.data.made.synthetic import write_ultrasound
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_ultrasound(f"{folder}/us", 2, image_size=(32, 32))
        ...     reader = make_reader("auto", root)
        ...     [case.id for case in reader.cases(root)]
        ['patient001_view1', 'patient001_view2']
    """
    if key != "auto":
        READERS[key]
    root = check_folder(Path(root))
    reader_class = READERS[recognize(root) if key == "auto" else key]
    known = inspect.signature(reader_class).parameters
    for name in options:
        if name not in known:
            raise ValueError(unknown(f"option of reader {reader_class.key!r}", name, known))
    reader = reader_class(**options)
    reader.inspect(root)
    return reader
