"""What the volumes of a data set are like: spacing, size and intensity, as nnU-Net records it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanscan.data.case import Case, LabelMap
from kanscan.data.volumes.formats import read_volume_pair
from kanscan.data.volumes.grid import canonical, content_box
from kanscan.metrics import IGNORED

#: Foreground voxels drawn over the whole data set for the statistics of intensity.
_MOST_VOXELS = 10_000_000
_SEED = 1234
STATISTICS = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")


@dataclass(frozen=True)
class Fingerprint:
    """What a data set's volumes are like; axes are D, H, W.

    Attributes:
        spacings_mm: One a case.
        shapes: One a case, after cropping to what is not 0.
        relative_size: Median share of a volume that the crop keeps.
        intensities: For each channel `STATISTICS` of the voxels that carry a label.
    """

    spacings_mm: tuple[tuple[float, ...], ...]
    shapes: tuple[tuple[int, ...], ...]
    relative_size: float
    intensities: tuple[dict[str, float], ...]

    def to_nnunet(self) -> dict[str, Any]:
        """Give the content of nnU-Net's `dataset_fingerprint.json`."""
        return {
            "spacings": [list(s) for s in self.spacings_mm],
            "shapes_after_crop": [list(s) for s in self.shapes],
            "median_relative_size_after_cropping": self.relative_size,
            "foreground_intensity_properties_per_channel": {
                str(channel): {name: one[name] for name in STATISTICS} for channel, one in enumerate(self.intensities)
            },
        }

    @classmethod
    def from_nnunet(cls, content: dict[str, Any]) -> Fingerprint:
        """Take the content of nnU-Net's `dataset_fingerprint.json`.

        Raises:
            ValueError: A key is missing.
        """
        try:
            intensities = (
                content.get("foreground_intensity_properties_per_channel")
                or content["foreground_intensity_properties_by_modality"]
            )
            return cls(
                tuple(tuple(float(v) for v in s) for s in content["spacings"]),
                tuple(tuple(int(v) for v in s) for s in content["shapes_after_crop"]),
                float(content["median_relative_size_after_cropping"]),
                tuple({name: float(one[name]) for name in STATISTICS} for one in intensities.values()),
            )
        except KeyError as error:
            raise ValueError(f"the fingerprint has no {error}; expected nnU-Net's dataset_fingerprint.json") from None


def take_fingerprint(
    cases: Sequence[Case], label_map: LabelMap, watch: Callable[[Sequence[Case]], Iterable[Case]] = iter
) -> Fingerprint:
    """Read all cases and describe them.

    Args:
        cases: Labelled volumes, of one number of channels.
        label_map: How stored values become classes.
        watch: Wraps the cases to show progress.

    Raises:
        ValueError: A case cannot be read, or the numbers of channels differ; the sentence names it.
    """
    random = np.random.RandomState(_SEED)
    each = max(1, _MOST_VOXELS // len(cases))
    spacings, shapes, shares = [], [], []
    drawn: list[np.ndarray] = []
    for case in watch(cases):
        volume, label = read_volume_pair(case, label_map)
        found = canonical(volume)
        if drawn and len(drawn[0]) != len(found.image):
            raise ValueError(f"case {case.id!r} has {len(found.image)} channels, the cases before it {len(drawn[0])}")
        box = content_box(found.image)
        cropped = found.image[(slice(None), *box)]
        spacings.append(found.spacing_mm)
        shapes.append(tuple(cropped.shape[1:]))
        shares.append(cropped[0].size / found.image[0].size)
        classes = found.arrangement.forward(label)
        inside = found.image[:, (classes > 0) & (classes != IGNORED)]
        if inside.shape[1]:
            drawn.append(inside[:, random.randint(0, inside.shape[1], min(each, max(inside.shape[1], 1)))])
    if not drawn:
        raise ValueError("no case has a labelled voxel besides the background; nothing can be learned")
    voxels = np.concatenate(drawn, axis=1)
    return Fingerprint(
        tuple(spacings), tuple(shapes), float(np.median(shares)), tuple(_statistics(channel) for channel in voxels)
    )


def _statistics(values: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(values, (0.5, 99.5))
    figures = (values.mean(dtype=np.float64), np.median(values), values.std(dtype=np.float64), values.min())
    return dict(zip(STATISTICS, map(float, (*figures, values.max(), low, high)), strict=True))
