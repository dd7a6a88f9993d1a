"""Packages that only some files need and that take long to import."""

from __future__ import annotations

import logging
import threading
from types import ModuleType

_SILENT = logging.NullHandler()
_IMPORTING = threading.Lock()


def nibabel_module() -> ModuleType:
    """Import nibabel when it is first needed."""
    # It imports pydicom, whose modules import each other in a circle: two threads at once would see half of them.
    with _IMPORTING:
        import nibabel
    return nibabel


def pydicom_module() -> ModuleType:
    """Import pydicom.

    Raises:
        ValueError: It is not installed; the sentence says how to get it.
    """
    with _IMPORTING:
        try:
            import pydicom
        except ImportError:
            raise ValueError("DICOM needs pydicom; install it with: pip install 'kanscan[clinical]'") from None
    # It logs each decoder that failed with a page of text; what could not be read is said in a sentence of ours.
    logging.getLogger("pydicom").addHandler(_SILENT)
    return pydicom
