"""Bare arrays that others prepared: slices in `.npz`, volumes or slices in HDF5, each with "image" and "label"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanscan.data.limits import check_voxels

ARRAY_SUFFIXES = (".npy.h5", ".h5", ".hdf5", ".npz")


def is_array_file(path: Path) -> bool:
    """Tell by its name whether a file holds arrays; hidden files do not."""
    return path.name.lower().endswith(ARRAY_SUFFIXES) and not path.name.startswith(".")


def read_array(path: Path, key: str = "image") -> np.ndarray:
    """Read one array of a file: a slice `(H, W)` or a volume `(D, H, W)`.

    Args:
        path: `.npz` or HDF5.
        key: Its name in the file.

    Raises:
        ValueError: There is no array of that name, or HDF5 cannot be read here.
    """
    if path.name.lower().endswith(".npz"):
        with np.load(path, allow_pickle=False) as content:
            if key in content:
                check_voxels(path, _shape_in_archive(content, key) or (1,))
            return _named(path, key, content)
    try:
        import h5py
    except ImportError:
        raise ValueError(f"cannot read {path}: HDF5 needs h5py; install it with: pip install 'kanscan[h5]'") from None
    with h5py.File(path, "r") as content:
        link = content.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(f"{path} takes {key!r} from another file, {link.filename!r}; that is not followed")
        found = content.get(key)
        if isinstance(found, h5py.Dataset):
            if found.external or found.is_virtual:
                raise ValueError(f"{path} keeps the values of {key!r} in other files; that is not followed")
            check_voxels(path, found.shape or (1,))
        return _named(path, key, content)


def _shape_in_archive(content: Any, key: str) -> tuple[int, ...]:
    """Read the shape of an array in an `.npz` file from its header."""
    with content.zip.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return header(member)[0]


def _named(path: Path, key: str, content: Any) -> np.ndarray:
    if key not in content:
        raise ValueError(f"cannot read {path}: it holds {', '.join(content) or 'nothing'}, expected an array {key!r}")
    array = np.asarray(content[key])
    if array.ndim not in (2, 3):
        raise ValueError(f"cannot read {path}: expected a slice or a volume, got an array of shape {array.shape}")
    return array


def stack_slices(paths: Sequence[Path], key: str = "image") -> np.ndarray:
    """Read the slices of a volume, foot to head: `(D, H, W)`.

    Raises:
        ValueError: A file holds no slice, or one of another size.
    """
    slices = [read_array(path, key) for path in paths]
    for path, one in zip(paths, slices, strict=True):
        if one.ndim != 2 or one.shape != slices[0].shape:
            raise ValueError(
                f"{path} holds an array of shape {one.shape}, the first slice {paths[0].name} one of {slices[0].shape}"
            )
    return np.stack(slices)


def in_file_axes(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring `(D, H, W)` to the axes of a volume `(I, J, K)`; nothing is known of its place: 1 mm, not turned.

    Returns:
        The array, and an affine under which D, H and W are the network's axes as they stand.
    """
    volume = array[None] if array.ndim == 2 else array
    return np.transpose(volume, (2, 1, 0)), np.eye(4)
