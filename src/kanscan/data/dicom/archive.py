"""DICOM files inside a ZIP archive are read where they are: nothing is unpacked, and no name in it becomes a path."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from kanscan.data.limits import most_voxels

ARCHIVE_SUFFIX = ".zip"
#: Bytes of a voxel at most, by which the limit on voxels limits what is inflated.
_BYTES = 4


def is_archive(path: Path) -> bool:
    """Tell whether a path is a ZIP archive."""
    return path.suffix.lower() == ARCHIVE_SUFFIX and path.is_file() and zipfile.is_zipfile(path)


def members(archive: Path) -> list[Path]:
    """List the files of an archive, each as the archive's path and its name in it.

    Raises:
        ValueError: They would inflate to more than is read.
    """
    try:
        inside = [one for one in _opened(archive, archive.stat().st_mtime_ns).infolist() if not one.is_dir()]
    except Exception as error:  # zipfile raises many kinds on damaged archives
        raise ValueError(f"cannot read {archive}: {str(error) or type(error).__name__}") from None
    size, most = sum(one.file_size for one in inside), _BYTES * most_voxels()
    if size > most:
        raise ValueError(f"{archive} would inflate to {size:.3g} bytes, more than the {most:.3g} that are read")
    return sorted(archive / one.filename.lstrip("/") for one in inside)


def open_file(path: Path) -> BinaryIO:
    """Open a file, or one inside an archive.

    Raises:
        OSError: There is no such file.
    """
    archive = next((parent for parent in path.parents if parent.suffix.lower() == ARCHIVE_SUFFIX), None)
    if archive is None or not archive.is_file():
        return path.open("rb")
    try:
        opened = _opened(archive, archive.stat().st_mtime_ns)
        name = path.relative_to(archive).as_posix()
        found = next(one for one in (name, f"/{name}") if one in opened.NameToInfo)
        return io.BytesIO(opened.read(found))
    except (zipfile.BadZipFile, StopIteration, RuntimeError) as error:
        raise OSError(f"cannot read {path}: {error}") from None


@lru_cache(maxsize=1)
def _opened(archive: Path, changed: int) -> zipfile.ZipFile:
    """Keep the last archive open: its directory is read once, not once a file."""
    return zipfile.ZipFile(archive)
