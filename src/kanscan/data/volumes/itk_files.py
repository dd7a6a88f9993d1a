"""MetaImage and NRRD as ITK reads them; their headers are looked at first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from types import ModuleType
from typing import Any

import numpy as np

from kanscan.data.limits import check_voxels
from kanscan.data.volume import Volume

ITK_SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
#: Headers are text; what is longer is none.
_LONGEST_HEADER = 2**20


def read_itk(path: Path) -> Volume:
    """Read a file; several components or time points become channels.

    Raises:
        ValueError: ITK is not installed, the header names a file elsewhere, or the file is no volume.
    """
    try:
        import itk
    except ImportError:
        raise ValueError(
            f"cannot read {path}: MetaImage and NRRD need ITK; install it with: pip install 'kanscan[itk]'"
        ) from None
    fields = read_fields(path)
    _refuse_files_elsewhere(path, fields)
    try:
        return _read(path, itk)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"cannot read {path}: {_reason(error)}") from None


def _read(path: Path, itk: ModuleType) -> Volume:
    reader = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if reader is None:
        raise ValueError(f"cannot read {path}: it is damaged, or no MetaImage or NRRD")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    dims, components = reader.GetNumberOfDimensions(), reader.GetNumberOfComponents()
    sizes = [reader.GetDimensions(k) for k in range(dims)]
    check_voxels(path, [*sizes, components])
    if dims not in (3, 4):
        what = "a picture" if dims == 2 else f"{dims} axes"
        raise ValueError(f"cannot read {path}: it holds {what}, expected a volume")
    # ITK for Python knows vectors of any length as float32 alone; that holds 16-bit numbers exactly.
    image = _vectors(path, itk, dims) if components > 1 else itk.imread(str(path))
    array = itk.array_from_image(image)
    array = array if components > 1 else array[..., None]
    # ITK's arrays run (t,) z, y, x, channel and its millimeters x to the left, y to the back.
    if dims == 4:
        array = np.moveaxis(array, 0, -2).reshape(*array.shape[1:4], -1)
    array = np.moveaxis(array, (0, 1, 2), (2, 1, 0))
    affine = np.eye(4)
    direction = itk.array_from_matrix(image.GetDirection())[:3, :3]
    affine[:3, :3] = direction @ np.diag([float(s) for s in list(image.GetSpacing())[:3]])
    affine[:3, 3] = [float(o) for o in list(image.GetOrigin())[:3]]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return Volume(array[..., 0] if array.shape[-1] == 1 else array, affine, None, str(path))


def _vectors(path: Path, itk: ModuleType, dims: int) -> Any:
    if dims != 3:
        raise ValueError(f"cannot read {path}: it holds vectors at several times; keep one time, or one channel")
    reader = itk.ImageFileReader[itk.VectorImage[itk.F, 3]].New(FileName=str(path))
    reader.Update()
    return reader.GetOutput()


def _reason(error: Exception) -> str:
    """Take the sentence out of ITK's page of text."""
    text = str(error)
    found = re.search(r"(?:Description|Error): (?:ITK ERROR: )?(.+)", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (found[1] if found else lines[-1] if lines else type(error).__name__)[:300]


def read_fields(path: Path) -> dict[str, str]:
    """Read the text header of a MetaImage or NRRD: name in lower case -> value.

    Files that are listed on lines of their own stand under "list".
    """
    fields: dict[str, str] = {}
    listed: list[str] = []
    for line in _header_lines(path):
        match = re.match(r"([^:=]+?)\s*(?::=|=|:)\s*(.*)$", line)
        if "list" in fields:
            listed.append(line.strip())
        elif match:
            fields[match[1].strip().lower()] = match[2].strip()
            if match[2].strip().upper().startswith("LIST") and match[1].strip().lower() in _DATA_FIELDS:
                fields["list"] = ""
    if listed:
        fields["list"] = "\n".join(listed)
    return fields


_DATA_FIELDS = ("elementdatafile", "data file", "datafile")


def _header_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
    is_meta = path.suffix.lower() in (".mha", ".mhd")
    for raw in start.split(b"\n"):
        line = raw.decode("utf-8", "replace").rstrip("\r")
        if not is_meta and not line:
            return
        yield line
        # Behind this field a MetaImage goes on with its voxels.
        if is_meta and re.match(r"\s*ElementDataFile\s*=\s*LOCAL", line, re.IGNORECASE):
            return


def _refuse_files_elsewhere(path: Path, fields: dict[str, str]) -> None:
    named = [fields[key] for key in _DATA_FIELDS if key in fields] + fields.get("list", "").split("\n")
    for name in named:
        is_absolute = name.startswith(("/", "\\", "~")) or bool(PureWindowsPath(name).drive)
        if is_absolute or ".." in re.split(r"[/\\]", name):
            raise ValueError(f"{path} names voxels in {name!r}, outside its own folder; that is not followed")
