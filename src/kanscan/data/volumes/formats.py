"""Volume files (NIfTI, DICOM series, MHA, NRRD, TIFF stacks) become arrays that know their place in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kanscan.data.case import Case, LabelMap, Series
from kanscan.data.limits import check_voxels
from kanscan.data.pictures.array_files import ARRAY_SUFFIXES, in_file_axes, read_array, stack_slices
from kanscan.data.pictures.decoding import chained_pages
from kanscan.data.readable import readable
from kanscan.data.volume import Volume, check_grid, spacing_of
from kanscan.data.volumes.itk_files import ITK_SUFFIXES, read_itk
from kanscan.data.volumes.nifti import NIFTI_SUFFIXES, open_nifti, places_voxels, read_nifti
from kanscan.data.volumes.segments import names_of, read_named

_TIFF = (".tiff", ".tif")
#: File endings that are taken for volumes wherever they lie; a TIFF stack is one only where a layout says so.
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
#: Neighboring voxels of a patient do not lie farther apart, nor do slices.
_FARTHEST_MM = 250.0
#: Label files saved as floating point may be off a whole number by this much.
_WHOLE = 1e-3


def is_volume_file(path: Path) -> bool:
    """Tell by its name whether a file is a volume; hidden files are not, of an Analyze pair `.img` is."""
    lower = path.name.lower()
    if lower.startswith("."):
        return False
    if lower.endswith((".img", ".hdr")):
        return lower.endswith(".img") and path.with_suffix(".hdr" if path.suffix == ".img" else ".HDR").is_file()
    return lower.endswith(VOLUME_SUFFIXES)


def volume_files(folder: Path) -> list[Path]:
    """List the volume files directly in a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_file() and is_volume_file(p)) if folder.is_dir() else []


def volume_name(path: Path) -> str:
    """Return a file's name without its ending, both parts of `.nii.gz` included; a folder's name as it is."""
    lower = path.name.lower()
    ending = next((e for e in (*VOLUME_SUFFIXES, *_TIFF, *ARRAY_SUFFIXES) if lower.endswith(e)), "")
    return path.name[: len(path.name) - len(ending)] if ending else path.name


def read_volume(
    path: str | Path, *, series: str | None = None, array_name: str = "image", fill_nan: float | None = None
) -> Volume:
    """Read a volume.

    Args:
        path: `.nii`, `.nii.gz`, an Analyze pair, `.mgz`, `.mha`, `.mhd`, `.nrrd`, `.nhdr`, `.tif` (pages are slices),
            a folder of DICOM slices or one DICOM file; `.npz` and HDF5, which hold bare arrays (slices first) and no
            place in the patient.
        series: Which series of a DICOM folder, by its UID, number or description; None: the only one.
        array_name: Which array of an `.npz` or HDF5 file.
        fill_nan: What stands in place of NaN, which some tools write outside the patient; None: NaN is refused.

    Raises:
        FileNotFoundError: There is nothing at the path.
        ValueError: The file is unreadable, truncated, no volume, too large, or holds NaN; the sentence names it.

    Example:
        >>> import tempfile
        >>> from kanscan.data.volumes.nifti import write_label_volume
        >>> path = write_label_volume(tempfile.mkdtemp() + "/a.nii.gz", np.zeros((4, 5, 6), np.uint8), np.eye(4))
        >>> read_volume(path).shape
        (4, 5, 6)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file at {path}")
    lower = path.name.lower()
    if path.is_dir() or not lower.endswith((*VOLUME_SUFFIXES, *_TIFF, *ARRAY_SUFFIXES)):
        from kanscan.data.dicom.series import choose_series

        return _read_series(choose_series(path, series))
    with readable(path):
        if lower.endswith(ARRAY_SUFFIXES):
            array, affine = in_file_axes(read_array(path, array_name))
            found = Volume(array, affine, None, str(path))
        elif lower.endswith(NIFTI_SUFFIXES):
            found = read_nifti(path)
        else:
            found = _read_tiff(path) if lower.endswith(_TIFF) else read_itk(path)
        return _checked(found, fill_nan)
    raise AssertionError


def _read_series(series: Series, fill_nan: float | None = None) -> Volume:
    from kanscan.data.dicom.stack import read_series

    return _checked(read_series(series), fill_nan)


def read_grid(path: str | Path) -> tuple[tuple[int, int, int], np.ndarray, str]:
    """Read shape, affine and storage of a volume, of NIfTI from the header alone.

    Returns:
        Shape, `(4, 4)` affine, and the storage in words ("int16 NIfTI").

    Raises:
        FileNotFoundError: As `read_volume`.
        ValueError: As `read_volume`.
    """
    path = Path(path)
    if not path.name.lower().endswith(NIFTI_SUFFIXES) or not path.exists():
        found = read_volume(path)
        return found.shape, found.affine, f"{found.array.dtype} {format_name(path)}"
    with readable(path):
        image, affine, _, _ = open_nifti(path)
        shape = _three(tuple(image.shape))
        return shape, check_affine(path, affine, shape), f"{image.get_data_dtype()} {format_name(path)}"
    raise AssertionError


def format_name(path: Path) -> str:
    """Say in a word how a file stores a volume."""
    lower = path.name.lower()
    if lower.endswith(NIFTI_SUFFIXES):
        return "MGH" if lower.endswith((".mgz", ".mgh")) else "Analyze" if lower.endswith((".img", ".hdr")) else "NIfTI"
    if lower.endswith(_TIFF):
        return "TIFF"
    if lower.endswith(ARRAY_SUFFIXES):
        return "npz" if lower.endswith(".npz") else "HDF5"
    return "MetaImage" if lower.endswith((".mha", ".mhd")) else "NRRD" if lower.endswith(ITK_SUFFIXES) else "DICOM"


def _read_tiff(path: Path) -> Volume:
    import tifffile

    with tifffile.TiffFile(path) as stack:
        first = stack.pages.first
        if len(first.shape) != 2:
            raise ValueError(f"cannot read {path}: expected gray pages of one size, got {first.shape}")
        pages = chained_pages(stack)
        check_voxels(path, (*first.shape, len(pages)))
        array = np.empty((len(pages), *first.shape), first.dtype)
        for place, page in enumerate(pages):
            if page.shape != first.shape:
                raise ValueError(
                    f"cannot read {path}: expected gray pages of one size, got {first.shape} and {page.shape}"
                )
            array[place] = page.asarray()
    spacing = _tiff_spacing(path)
    return Volume(np.transpose(array, (2, 1, 0)), np.diag([*reversed(spacing), 1.0]), None, str(path))


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


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return (*shape, 1, 1)[:3]  # type: ignore[return-value]


def _checked(found: Volume, fill_nan: float | None = None) -> Volume:
    """Bring an array to three axes, or four with channels last; refuse what cannot be learned from."""
    array, path = found.array, found.path
    if array.ndim == 5 and array.shape[3] == 1:
        array = array[:, :, :, 0]  # NIfTI keeps its fourth axis for time and the fifth for channels
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim not in (3, 4):
        raise ValueError(f"cannot read {path}: expected three axes (and channels), got an array of shape {array.shape}")
    check_voxels(path, array.shape)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"cannot read {path}: voxels of type {array.dtype} are not supported")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        array = _filled(path, array, fill_nan)
    return replace(found, array=array, affine=check_affine(path, found.affine, array.shape))


def _filled(path: str, array: np.ndarray, fill_nan: float | None) -> np.ndarray:
    bad = int(array.size - np.isfinite(array).sum())
    if fill_nan is None or np.isinf(array).any():
        hint = "" if fill_nan is not None else ", or say what stands there instead of NaN with fill_nan"
        raise ValueError(
            f"{path} contains NaN or infinite values ({bad} of {array.size}); repair it, leave it out{hint}"
        )
    return np.where(np.isnan(array), array.dtype.type(fill_nan), array)


def check_affine(path: str | Path, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Refuse an affine that places no voxel, or places neighbors as nothing in a patient lies.

    Args:
        path: The file, for sentences.
        affine: `(4, 4)`.
        shape: Of the volume; a lone slice has no neighbor.

    Raises:
        ValueError: It is not finite, folds an axis away, or puts neighbors implausibly far apart.
    """
    affine = np.asarray(affine, dtype=np.float64)
    if not places_voxels(affine):
        raise ValueError(f"{path} has an affine that places no voxel (not finite, or an axis of length 0); repair it")
    spacing = spacing_of(affine)
    if any(size > 1 and step > _FARTHEST_MM for size, step in zip(shape, spacing, strict=False)):
        text = " x ".join(f"{s:g}" for s in spacing)
        raise ValueError(f"{path} says that its voxels lie {text} mm apart, which is implausible; repair its header")
    return affine


def read_case_volume(case: Case) -> Volume:
    """Read a case's image; several files (modalities) become channels in their order.

    Raises:
        ValueError: A file cannot be read, or the modalities lie in different grids.
    """
    if case.stacked:
        return _read_stack(case.images, "image")
    if case.series is not None:
        return _read_series(case.series, case.fill_nan)
    parts = [read_volume(path, fill_nan=case.fill_nan) for path in case.images]
    for part in parts[1:]:
        check_grid(parts[0], part)
    if len(parts) == 1:
        return parts[0]
    planes = [part.array[..., None] if part.array.ndim == 3 else part.array for part in parts]
    notes = tuple(note for part in parts for note in part.notes)
    return replace(parts[0], array=np.concatenate(planes, axis=-1), notes=notes)


def _read_stack(paths: Sequence[Path], array_name: str) -> Volume:
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no file at {path}")
    with readable(paths[0]):
        array, affine = in_file_axes(stack_slices(paths, array_name))
    return _checked(Volume(array, affine, None, str(paths[0].parent / volume_name(paths[0]))))


def read_stored_volume(path: str | Path, fill_nan: float | None = None) -> Volume:
    """Read the whole numbers a label file stores, also where they are saved as floating point or scaled.

    Raises:
        ValueError: It has channels, or values that are no whole numbers.
    """
    return _whole_numbers(read_volume(path, array_name="label", fill_nan=fill_nan), path)


def stored_labels(case: Case, label_map: LabelMap, image: Volume | None = None) -> list[Volume]:
    """Read the whole numbers of each label file of a case; slices of one volume are one label map.

    Args:
        case: With labels.
        label_map: Numbers the segments of files that give them names.
        image: Of the case, where it is read already; such files are brought to its voxels.

    Raises:
        ValueError: As `read_stored_volume`, or a segment has no class of its name.
    """
    if case.stacked:
        return [_whole_numbers(_read_stack(case.labels, "label"), case.labels[0])]
    found = []
    for path in case.labels:
        if names_of(path):
            image = image or read_case_volume(case)
            found.append(read_named(path, label_map.names, image))
        else:
            # Where NaN is filled in images, their labels hold NaN for what nobody labelled: background.
            found.append(read_stored_volume(path, None if case.fill_nan is None else 0.0))
    return found


def _whole_numbers(found: Volume, path: str | Path) -> Volume:
    if found.array.ndim != 3:
        raise ValueError(f"{path} holds {found.channels} channels, expected one label map")
    if found.array.dtype.kind != "f":
        return found
    whole = np.rint(found.array)
    off = float(np.abs(found.array - whole).max(initial=0))
    # A scale factor moves every stored number by less than half of what one is worth.
    if off > max(_WHOLE, found.step / 2):
        raise ValueError(
            f"{path} holds label values between whole numbers (off by up to {off:.2g}): resampled or a probability "
            "map? store one whole number a voxel"
        )
    return replace(found, array=whole.astype(np.int32), step=0.0)


def read_label_volume(case: Case, label_map: LabelMap, image: Volume | None = None) -> Volume:
    """Read a case's label file as class indices `(I, J, K)` uint8.

    Args:
        case: With labels.
        label_map: How stored values, or names, become classes.
        image: Of the case, where it is read already.

    Raises:
        ValueError: There is no label file, or a value is outside the map.
    """
    from kanscan.data.pictures.labels import merge_labels

    if not case.labels:
        raise ValueError(f"case {case.id!r} has no label file, only the image {case.images[0]}")
    stored = stored_labels(case, label_map, image)
    if case.stacked:
        case = replace(case, labels=case.labels[:1])
    for other in stored[1:]:
        check_grid(stored[0], other)
    # For pictures a third axis is color.
    flat = [one.array.reshape(one.shape[0], -1) for one in stored]
    merged = merge_labels(case, flat, label_map).reshape(stored[0].shape)
    return replace(stored[0], array=merged)


def read_volume_pair(case: Case, label_map: LabelMap) -> tuple[Volume, np.ndarray]:
    """Read image and label of a case and check that they lie in one grid.

    Returns:
        The image, and class indices of its shape.
    """
    image = read_case_volume(case)
    label = read_label_volume(case, label_map, image)
    check_grid(image, label)
    return image, label.array
