"""Axial slices of the MNI152 template with grey and white matter as labels, from the files inside nilearn's wheel.

The template is the average of 152 brains (Fonov et al., NeuroImage 54:313, 2011). It is one picture, not a population:
what is learned from some of its slices and tried on others shows that the machinery works, nothing about patients.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kanscan.data.made.generated import GeneratedCase, write_generated

CLASSES = ("background", "grey matter", "white matter")
#: Far apart, so that the mask files can be looked at.
VALUES = dict(zip(CLASSES, (0, 128, 255), strict=True))
MADE_BY = "kanscan MNI152 slices"

#: Lowest slice of the lowest slab and thickness of slab plus gap, in millimeters of MNI space (z = 0 is the anterior
#: commissure). Below -50 there is hardly any white matter, above 70 hardly any brain.
_LOWEST_MM = -50
_PITCH_MM = 10
_SLABS = 12
#: 2 mm steps inside a slab leave 4 mm between slabs, so that a test slice has no direct neighbor that was trained on.
_STEPS_MM = (0, 2, 4, 6)
#: The brain with a margin, in voxels of 1 mm: (anterior-posterior, left-right), 192 x 160 pixels.
_BOX = (slice(22, 214), slice(18, 178))


def mni152_volumes() -> tuple[np.ndarray, np.ndarray, int]:
    """Read the template and make its label map.

    Returns:
        Grey values 0..1 and class indices (0 background, 1 grey matter, 2 white matter), both in array order
        (left-right, posterior-anterior, inferior-superior) at 1 mm, and the index of the slice at z = 0.

    Raises:
        ValueError: nilearn is not installed; the sentence says how to install it.
    """
    try:
        from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
    except ImportError:
        raise ValueError(
            'the MNI152 template comes with nilearn, which is not installed; run: pip install "kanscan[demo]"'
        ) from None
    template = load_mni152_template(resolution=1)
    grey, white = (
        np.asarray(load(resolution=1).dataobj, dtype=np.float32)
        for load in (load_mni152_gm_template, load_mni152_wm_template)
    )
    # The two maps are probabilities; what they leave over is fluid and everything outside the brain.
    label = np.stack([1 - grey - white, grey, white]).argmax(0).astype(np.uint8)
    return np.asarray(template.dataobj, dtype=np.float32), label, round(-float(template.affine[2, 3]))


def mni152_cases() -> Iterator[GeneratedCase]:
    """Cut the template into 12 slabs of four axial slices; the slab is the group.

    Yields:
        48 cases of 192 x 160 pixels at 1 mm, front of the head up, left of the head on the left.

    Raises:
        ValueError: nilearn is not installed.
    """
    image, label, zero = mni152_volumes()
    for slab in range(_SLABS):
        for number, step in enumerate(_STEPS_MM, start=1):
            z_mm = _LOWEST_MM + slab * _PITCH_MM + step
            grey, tissue = (np.rot90(volume[:, :, zero + z_mm]) for volume in (image, label))
            group = f"slab{slab + 1:02d}"
            yield GeneratedCase(
                id=f"{group}_slice{number}",
                group=group,
                image=(np.clip(_crop(grey), 0, 1) * 255).astype(np.uint8),
                label=_crop(tissue),
                facts={"z_mm": z_mm},
            )


def _crop(picture: np.ndarray) -> np.ndarray:
    # rot90 turned the posterior-anterior axis upside down, which the box follows.
    rows, columns = _BOX
    height = picture.shape[0]
    return np.ascontiguousarray(picture[height - rows.stop : height - rows.start, columns])


def write_mni152(root: str | Path) -> Path:
    """Write the slices as images/, masks/ (0, 128, 255) and manifest.json.

    Args:
        root: The folder; missing, empty, or one that this function wrote before.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder holds something else.
        ValueError: nilearn is not installed.
    """
    license = "ICBM 152, (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, McGill University"
    return write_generated(root, mni152_cases(), made_by=MADE_BY, values=VALUES, spacing_mm=[1.0, 1.0], license=license)
