"""NIfTI and its kin (Analyze pairs, FreeSurfer's MGH) as nibabel reads them; label maps written as NIfTI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kanscan.data.limits import check_voxels
from kanscan.data.optional_imports import nibabel_module
from kanscan.data.volume import Volume, same_grid
from kanscan.files import atomic

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

NIFTI_SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh", ".img", ".hdr")
#: Millimeters in NIfTI's units of length; files that name none mean millimeters.
_UNITS_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1e3, "micron": 1e-3}
#: Fields that say where voxels lie; all else in a header describes the picture or the patient.
_GEOMETRY = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


def open_nifti(path: Path) -> tuple[Any, np.ndarray, Any, tuple[str, ...]]:
    """Open a file without reading its voxels.

    Returns:
        nibabel's image, the affine in millimeters, the header for label maps in the same grid (None for what is no
        NIfTI), and notes.

    Raises:
        ValueError: It is larger than what is read.
    """
    nibabel = nibabel_module()
    image = nibabel.load(path)
    check_voxels(path, image.shape)
    if not isinstance(image.header, nibabel.Nifti1Header):
        analyze = isinstance(image, nibabel.AnalyzeImage)
        notes = (f"{path} is Analyze, which does not say where left is; taken as its readers commonly do",)
        return image, np.asarray(image.affine), None, notes if analyze else ()
    header, affine = image.header.copy(), np.asarray(image.affine)
    told: tuple[str, ...] = ()
    if header["sform_code"] > 0 and not places_voxels(affine):
        code = int(header["qform_code"])
        affine = header.get_qform() if code > 0 else header.get_base_affine()
        header.set_sform(None, code=0)
        told = (f"{path} has an sform that places no voxel; its {'qform' if code > 0 else 'voxel size'} is used",)
    unit = header.get_xyzt_units()[0]
    factor = _UNITS_MM.get(unit, 1.0)
    if factor != 1:
        told = (*told, f"{path} counts in units of {unit}; lengths are turned into millimeters")
    return image, np.diag([factor, factor, factor, 1.0]) @ affine, header, told


def places_voxels(affine: np.ndarray) -> bool:
    """Tell whether an affine is finite and folds no axis away, whatever its unit."""
    part = np.asarray(affine, dtype=np.float64)[:3, :3]
    if not np.isfinite(affine).all():
        return False
    lengths = np.sqrt((part**2).sum(axis=0))
    return bool(lengths.min() > 0 and abs(np.linalg.det(part / lengths)) > 1e-6)


def read_nifti(path: Path) -> Volume:
    """Read a file; scaled values become float32, unscaled ones keep their type.

    Raises:
        ValueError: Its voxels are colors.
    """
    image, affine, header, notes = open_nifti(path)
    if image.get_data_dtype().fields is not None:
        raise ValueError(f"cannot read {path}: colored voxels (RGB) are not supported")
    voxels = image.dataobj
    slope, offset = (float(getattr(voxels, name, plain)) for name, plain in (("slope", 1), ("inter", 0)))
    scaled = (slope, offset) != (1.0, 0.0)
    array = image.get_fdata(caching="unchanged", dtype=np.float32) if scaled else np.asanyarray(voxels)
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        array = array.astype(np.float32)
    step = abs(slope) if scaled and image.get_data_dtype().kind in "iu" else 0.0
    return Volume(array, affine, header, str(path), notes=notes, step=step)


def write_label_volume(
    path: str | Path, label: np.ndarray, affine: np.ndarray, header: Nifti1Header | None = None
) -> Path:
    """Write a label map as NIfTI, atomically; uint8 where the values allow it, else uint16.

    Args:
        path: Ends in `.nii` or `.nii.gz`.
        label: `(I, J, K)` non-negative integers.
        affine: As in `Volume`.
        header: NIfTI header of the image whose grid this is: its unit and both of its transforms with their codes are
            kept, and nothing else: what was said of the picture, or the patient, is no matter of a label.

    Returns:
        The path.
    """
    nibabel = nibabel_module()
    path = Path(path)
    if label.ndim != 3 or label.dtype.kind not in "biu":
        raise ValueError(f"cannot write {path}: a label map is an array of integers with three axes, got {label.shape}")
    if label.size and (label.min() < 0 or label.max() > 65535):
        raise ValueError(f"cannot write {path}: label values must lie in 0..65535, got {label.min()}..{label.max()}")
    stored = label.astype(np.uint8 if label.max(initial=0) <= 255 else np.uint16)
    large = (header is not None and int(header["sizeof_hdr"]) == 540) or max(stored.shape) > 32767
    image = (nibabel.Nifti2Image if large else nibabel.Nifti1Image)(stored, affine)
    if header is None:
        image.set_sform(affine, code="scanner")
        image.set_qform(affine, code="scanner")
        image.header.set_xyzt_units("mm")
    else:
        image.header.set_xyzt_units(header.get_xyzt_units()[0])
        image.header["pixdim"][:4] = header["pixdim"][:4]
        for name in _GEOMETRY:
            image.header[name] = header[name]
    image.header.set_intent("label")
    _drop_sheared_qform(image.header, stored.shape)
    # What is saved is what the header says, not what nibabel would make of the affine.
    image = type(image)(stored, None, image.header)
    with atomic(path) as temporary:
        nibabel.save(image, temporary)
    return path


def _drop_sheared_qform(header: Nifti1Header, shape: tuple[int, ...]) -> None:
    """Take back a qform that stands for a sheared sform: it cannot hold shear, and some readers prefer it."""
    if header["sform_code"] <= 0 or header["qform_code"] <= 0:
        return
    sform = header.get_sform()
    part = sform[:3, :3] / np.sqrt((sform[:3, :3] ** 2).sum(axis=0))
    sheared = np.abs(part.T @ part - np.eye(3)).max() > 1e-4
    if sheared and not same_grid(sform, header.get_qform(), shape):
        header["qform_code"] = 0
