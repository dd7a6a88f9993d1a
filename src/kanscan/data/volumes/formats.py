"""Volume files (NIfTI, DICOM series, MHA, NRRD, TIFF stacks) become arrays that know their place in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kanscan.data.case import Case, LabelMap, Series
from kanscan.data.optional_imports import nibabel_module
from kanscan.data.pictures.array_files import ARRAY_SUFFIXES, in_file_axes, read_array, stack_slices
from kanscan.data.readable import readable
from kanscan.data.volume import Volume, check_grid
from kanscan.files import atomic

_NIFTI = (".nii.gz", ".nii")
_ITK = (".mha", ".mhd", ".nrrd", ".nhdr")
_TIFF = (".tiff", ".tif")
#: File endings that are taken for volumes wherever they lie; a TIFF stack is one only where a layout says so.
VOLUME_SUFFIXES = (*_NIFTI, *_ITK)
#: Label files saved as floating point may be off a whole number by this much.
_WHOLE = 1e-3


def is_volume_file(path: Path) -> bool:
    """Tell by its name whether a file is a volume; hidden files are not."""
    return path.name.lower().endswith(VOLUME_SUFFIXES) and not path.name.startswith(".")


def volume_files(folder: Path) -> list[Path]:
    """List the volume files directly in a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_file() and is_volume_file(p)) if folder.is_dir() else []


def volume_name(path: Path) -> str:
    """Return a file's name without its ending, both parts of `.nii.gz` included; a folder's name as it is."""
    lower = path.name.lower()
    ending = next((e for e in (*VOLUME_SUFFIXES, *_TIFF, *ARRAY_SUFFIXES) if lower.endswith(e)), "")
    return path.name[: len(path.name) - len(ending)] if ending else path.name


def read_volume(path: str | Path, *, series: str | None = None, array_name: str = "image") -> Volume:
    """Read a volume.

    Args:
        path: `.nii`, `.nii.gz`, `.mha`, `.mhd`, `.nrrd`, `.nhdr`, `.tif` (pages are slices), a folder of DICOM slices
            or one DICOM file; `.npz` and HDF5, which hold bare arrays (slices first) and no place in the patient.
        series: Which series of a DICOM folder, by its UID, number or description; None: the only one.
        array_name: Which array of an `.npz` or HDF5 file.

    Raises:
        FileNotFoundError: There is nothing at the path.
        ValueError: The file is unreadable, truncated, no volume, or holds NaN; the sentence names it.

    Example:
        >>> import tempfile
        >>> path = write_label_volume(tempfile.mkdtemp() + "/a.nii.gz", np.zeros((4, 5, 6), np.uint8), np.eye(4))
        >>> read_volume(path).shape
        (4, 5, 6)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file at {path}")
    lower = path.name.lower()
    if not path.is_dir() and lower.endswith(ARRAY_SUFFIXES):
        with readable(path):
            array, affine = in_file_axes(read_array(path, array_name))
        header = None
    elif path.is_dir() or lower.endswith(".dcm") or not lower.endswith((*VOLUME_SUFFIXES, *_TIFF)):
        from kanscan.data.dicom.series import choose_series

        return _read_series(choose_series(path, series))
    else:
        with readable(path):
            reader = _read_nifti if lower.endswith(_NIFTI) else _read_tiff if lower.endswith(_TIFF) else _read_itk
            array, affine, header = reader(path)
    return Volume(_checked(path, array), check_affine(path, affine), header, str(path))


def _read_series(series: Series) -> Volume:
    from kanscan.data.dicom.stack import read_series

    found = read_series(series)
    return replace(found, array=_checked(Path(found.path), found.array), affine=check_affine(found.path, found.affine))


def read_grid(path: str | Path) -> tuple[tuple[int, int, int], np.ndarray, str]:
    """Read shape, affine and storage of a volume, of NIfTI from the header alone.

    Returns:
        Shape, `(4, 4)` affine, and the storage in words ("int16 NIfTI").

    Raises:
        FileNotFoundError: As `read_volume`.
        ValueError: As `read_volume`.
    """
    path = Path(path)
    if not path.name.lower().endswith(_NIFTI) or not path.exists():
        found = read_volume(path)
        return found.shape, found.affine, f"{found.array.dtype} {format_name(path)}"
    nibabel = nibabel_module()
    with readable(path):
        image: Any = nibabel.load(path)
        shape = _three(path, tuple(image.shape))
        return shape, check_affine(path, image.affine), f"{image.get_data_dtype()} NIfTI"


def format_name(path: Path) -> str:
    """Say in a word how a file stores a volume."""
    lower = path.name.lower()
    if lower.endswith(_NIFTI):
        return "NIfTI"
    if lower.endswith(_TIFF):
        return "TIFF"
    if lower.endswith(ARRAY_SUFFIXES):
        return "npz" if lower.endswith(".npz") else "HDF5"
    return "MetaImage" if lower.endswith((".mha", ".mhd")) else "NRRD" if lower.endswith(_ITK) else "DICOM"


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray, Any]:
    nibabel = nibabel_module()
    image: Any = nibabel.load(path)
    if image.get_data_dtype().fields is not None:
        raise ValueError(f"cannot read {path}: colored voxels (RGB) are not supported")
    # asanyarray applies scl_slope and scl_inter and keeps integers where there is nothing to apply.
    return np.asanyarray(image.dataobj), image.affine, image.header.copy()


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray, Any]:
    try:
        import itk
    except ImportError:
        raise ValueError(
            f"cannot read {path}: {format_name(path)} needs ITK; install it with: pip install 'kanscan[itk]'"
        ) from None
    image = itk.imread(str(path))
    array = itk.array_from_image(image)
    dims = image.GetImageDimension()
    if dims == 2:
        raise ValueError(f"cannot read {path}: it holds a picture, expected a volume")
    # ITK's arrays run z, y, x and its millimeters x to the left, y to the back.
    array = np.moveaxis(array, (0, 1, 2), (2, 1, 0))
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) @ np.diag([float(s) for s in image.GetSpacing()])
    affine[:3, 3] = [float(o) for o in image.GetOrigin()]
    return array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, None


def _read_tiff(path: Path) -> tuple[np.ndarray, np.ndarray, Any]:
    import tifffile

    with tifffile.TiffFile(path) as stack:
        pages = [page.asarray() for page in stack.pages]
    if len({page.shape for page in pages}) > 1 or pages[0].ndim != 2:
        raise ValueError(f"cannot read {path}: expected grey pages of one size, got {pages[0].shape} and others")
    spacing = _tiff_spacing(path)
    array = np.transpose(np.stack(pages), (2, 1, 0))
    return array, np.diag([*reversed(spacing), 1.0]), None


def _tiff_spacing(path: Path) -> Sequence[float]:
    """Read (slice, row, column) spacing from the JSON file that nnU-Net lays beside a TIFF stack; 1 mm without."""
    from kanscan.files import read_json

    beside = path.with_suffix(".json")
    if not beside.is_file():
        return (1.0, 1.0, 1.0)
    spacing = read_json(beside).get("spacing")
    if not isinstance(spacing, list) or len(spacing) != 3:
        raise ValueError(f'{beside} must hold {{"spacing": [slice, row, column]}} in millimeters')
    return [float(s) for s in spacing]


def _three(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    shape = (*shape, 1, 1)[:3] if len(shape) < 3 else shape[:3]
    if 0 in shape:
        raise ValueError(f"cannot read {path}: a volume of {' x '.join(map(str, shape))} voxels is empty")
    return shape  # type: ignore[return-value]


def _checked(path: Path, array: np.ndarray) -> np.ndarray:
    """Bring an array to three axes, or four with channels last."""
    if array.ndim == 5 and array.shape[3] == 1:
        array = array[:, :, :, 0]  # NIfTI keeps its fourth axis for time and the fifth for channels
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim not in (3, 4):
        raise ValueError(f"cannot read {path}: expected three axes (and channels), got an array of shape {array.shape}")
    _three(path, array.shape)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"cannot read {path}: voxels of type {array.dtype} are not supported")
    if array.dtype.kind == "f":
        bad = int(array.size - np.isfinite(array).sum())
        if bad:
            raise ValueError(f"{path} contains NaN or infinite values ({bad} of {array.size}); repair or leave it out")
    return array


def check_affine(path: str | Path, affine: np.ndarray) -> np.ndarray:
    """Refuse an affine that places no voxel.

    Raises:
        ValueError: It is not finite, or folds an axis away.
    """
    affine = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError(f"{path} has an affine that places no voxel (not finite, or an axis of length 0); repair it")
    return affine


def read_case_volume(case: Case) -> Volume:
    """Read a case's image; several files (modalities) become channels in their order.

    Raises:
        ValueError: A file cannot be read, or the modalities lie in different grids.
    """
    if case.stacked:
        return _read_stack(case.images, "image")
    if case.series is not None:
        return _read_series(case.series)
    parts = [read_volume(path) for path in case.images]
    for part in parts[1:]:
        check_grid(parts[0], part)
    if len(parts) == 1:
        return parts[0]
    planes = [part.array[..., None] if part.array.ndim == 3 else part.array for part in parts]
    return Volume(np.concatenate(planes, axis=-1), parts[0].affine, parts[0].header, parts[0].path)


def _read_stack(paths: Sequence[Path], array_name: str) -> Volume:
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no file at {path}")
    with readable(paths[0]):
        array, affine = in_file_axes(stack_slices(paths, array_name))
    return Volume(_checked(paths[0], array), affine, None, str(paths[0].parent / volume_name(paths[0])))


def read_stored_volume(path: str | Path) -> Volume:
    """Read the whole numbers a label file stores, also where they are saved as floating point or scaled.

    Raises:
        ValueError: It has channels, or values that are no whole numbers.
    """
    return _whole_numbers(read_volume(path, array_name="label"), path)


def stored_labels(case: Case) -> list[Volume]:
    """Read the whole numbers of each label map of a case; slices of one volume are one label map.

    Raises:
        ValueError: As `read_stored_volume`.
    """
    if case.stacked:
        return [_whole_numbers(_read_stack(case.labels, "label"), case.labels[0])]
    return [read_stored_volume(path) for path in case.labels]


def _whole_numbers(found: Volume, path: str | Path) -> Volume:
    if found.array.ndim != 3:
        raise ValueError(f"{path} holds {found.channels} channels, expected one label map")
    if found.array.dtype.kind == "f":
        whole = np.rint(found.array)
        off = np.abs(found.array - whole).max(initial=0)
        if off > _WHOLE:
            raise ValueError(
                f"{path} holds label values between whole numbers (off by up to {off:.2g}): resampled or a probability "
                "map? store one whole number a voxel"
            )
        found = Volume(whole.astype(np.int32), found.affine, found.header, found.path)
    return found


def read_label_volume(case: Case, label_map: LabelMap) -> Volume:
    """Read a case's label file as class indices `(I, J, K)` uint8.

    Raises:
        ValueError: There is no label file, or a value is outside the map.
    """
    from kanscan.data.pictures.labels import merge_labels

    if not case.labels:
        raise ValueError(f"case {case.id!r} has no label file, only the image {case.images[0]}")
    stored = stored_labels(case)
    if case.stacked:
        case = replace(case, labels=case.labels[:1])
    for other in stored[1:]:
        check_grid(stored[0], other)
    # For pictures a third axis is color.
    flat = [one.array.reshape(one.shape[0], -1) for one in stored]
    merged = merge_labels(case, flat, label_map).reshape(stored[0].shape)
    return Volume(merged, stored[0].affine, stored[0].header, stored[0].path)


def read_volume_pair(case: Case, label_map: LabelMap) -> tuple[Volume, np.ndarray]:
    """Read image and label of a case and check that they lie in one grid.

    Returns:
        The image, and class indices of its shape.
    """
    image, label = read_case_volume(case), read_label_volume(case, label_map)
    check_grid(image, label)
    return image, label.array


def write_label_volume(path: str | Path, label: np.ndarray, affine: np.ndarray, header: Any = None) -> Path:
    """Write a label map as NIfTI, atomically; uint8 where the values allow it, else uint16.

    Args:
        path: Ends in `.nii` or `.nii.gz`.
        label: `(I, J, K)` non-negative integers.
        affine: As in `Volume`.
        header: NIfTI header of the image whose grid this is: its codes, units and both of its transforms are kept.

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
    if header is None:
        image = nibabel.Nifti1Image(stored, affine)
        image.set_sform(affine, code="scanner")
        image.set_qform(affine, code="scanner")
        image.header.set_xyzt_units("mm")
    else:
        header = header.copy()
        # What described the picture's grey values would distort the label's.
        header.set_data_dtype(stored.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        kind = nibabel.Nifti2Image if header["sizeof_hdr"] == 540 else nibabel.Nifti1Image
        image = kind(stored, None, header)
    with atomic(path) as temporary:
        nibabel.save(image, temporary)
    return path
