"""VolumePredictor: a volume in any grid becomes a label map in that grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kanscan.data.sides import SIDES, names_sides
from kanscan.data.volume import Volume
from kanscan.data.volumes.grid import Triple, resample_image
from kanscan.data.volumes.plan import VolumePlan
from kanscan.data.volumes.preparation import Prepared, prepare_volume, restore_label
from kanscan.inference.network import Network
from kanscan.inference.prediction import Prediction, Predictor
from kanscan.inference.windows import Progress, sliding_slabs
from kanscan.metrics.logits import labels, probabilities


class VolumePredictor(Predictor[Volume]):
    """Volume in, label map out: axes, crop, normalization, resampling, windows, mirroring and the whole way back.

    Windows go from foot to head. Slices that no window will change any more are brought back to the volume's grid, each
    voxel takes the class with the largest logit, and the logits are dropped: memory holds those of a slab of a window's
    depth, however many slices there are.

    Args:
        network: Maps arrays to logits, such as a `TorchNetwork` or an `OnnxNetwork`. A 2D network sees slices.
        plan: As in training.
        class_names: One a class, background first; two for a network with one logit.
        flips: Average the logits over all mirrorings, but not of left and right where class names tell them apart.
        overlap: Of neighboring windows.

    Raises:
        ValueError: Network, plan and class names do not fit.
    """

    def __init__(
        self,
        network: Network,
        plan: VolumePlan,
        class_names: Sequence[str],
        *,
        flips: bool = False,
        overlap: float = 0.5,
    ) -> None:
        if network.spatial_dims != plan.spatial_dims or network.in_channels != plan.network_channels:
            raise ValueError(
                f"the network takes {network.in_channels} channels of {network.spatial_dims}D images, the plan gives "
                f"{plan.network_channels} of {plan.spatial_dims}D images"
            )
        super().__init__(network, class_names, flips)
        self.plan, self.overlap = plan, overlap

    def __call__(self, volume: Volume, *, probabilities: bool = False, progress: Progress | None = None) -> Prediction:
        """Predict one volume.

        Args:
            volume: As `kanscan.data.volumes.formats.read_volume` gives it.
            probabilities: Return them too; all classes are then held in memory.
            progress: See `sliding_slabs`.

        Raises:
            ValueError: The volume has another number of channels than the network.
        """
        prepared = prepare_volume(volume, self.plan)
        slabs = sliding_slabs(
            prepared.image,
            self.plan.patch_size,
            self._logits,
            overlap=self.overlap,
            # Slices are small: several go through together.
            batch_size=1 if self.plan.slice_axis is None else 8,
            progress=progress,
        )
        back = restored_slices(slabs, prepared)
        if not probabilities:
            label = restore_label(choose_classes(back, prepared.box_size), prepared)
            return Prediction(label, None, label)
        logits = np.stack([plane.copy() for plane in back], axis=1)
        chosen = choose_classes((logits[:, k] for k in range(logits.shape[1])), prepared.box_size)
        label = restore_label(chosen, prepared)
        return Prediction(label, self._probabilities(logits, prepared), label)

    @property
    def takes(self) -> tuple[object, ...]:
        """What of the plan decides how volumes reach the network."""
        plan = self.plan
        return plan.channels, plan.spacing_mm, plan.patch_size, plan.normalization, plan.slice_axis

    def scored_label(self, label: np.ndarray) -> np.ndarray:
        """Give it back: the papers judge volumes in their own grid."""
        return label

    def _logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        axis = self.plan.slice_axis
        if axis is not None:
            x = x.squeeze(axis + 2)
        x = x.repeat(self.plan.copies, axis=1)  # several only of a lone channel
        dims = tuple(range(2, x.ndim))
        mirrored = [dims[:0]]
        if self.flips:
            # The last axis runs from left to right.
            allowed = dims[:-1] if axis != SIDES and names_sides(self.class_names) else dims
            mirrored = [c for n in range(len(allowed) + 1) for c in itertools.combinations(allowed, n)]
        seen = (np.flip(self.network(np.ascontiguousarray(np.flip(x, axes))), axes) for axes in mirrored)
        logits: NDArray[np.float32] = next(seen).copy()
        for one in seen:
            logits += one
        logits /= len(mirrored)
        return logits if axis is None else np.expand_dims(logits, axis + 2)

    def _probabilities(self, logits: np.ndarray, prepared: Prepared) -> np.ndarray:
        inside = probabilities(logits / np.float32(self.temperature), axis=0)
        out = [restore_label(one, prepared) for one in inside]
        outside = restore_label(np.ones(prepared.box_size, np.uint8), prepared) == 0
        out[0][outside] = 1
        return np.stack(out)


def restored_slices(slabs: Iterable[np.ndarray], prepared: Prepared) -> Iterator[np.ndarray]:
    """Bring logits to the box of the volume, linearly, along a coarse axis by the nearest slice.

    Args:
        slabs: `(K, n, H, W)` of the prepared image, one after the other along D.
        prepared: Says where the image came from.

    Yields:
        `(K, h, w)` for each slice of the box.
    """
    depth, *plane = prepared.box_size
    count = prepared.image.shape[1]
    # Half-voxel centers, the border repeated, as everywhere.
    places = np.clip((np.arange(depth) + 0.5) * count / depth - 0.5, 0, count - 1)
    if prepared.coarse == 0:
        places = np.minimum(((np.arange(depth) + 0.5) * count / depth).astype(int), count - 1).astype(float)
    before, index, number = None, 0, 0
    for slab in slabs:
        for k in range(slab.shape[1]):
            now = resample_image(slab[:, k : k + 1], (1, plane[0], plane[1]), coarse=prepared.coarse, order=1)[:, 0]
            while index < depth and places[index] <= number:
                share = np.float32(places[index] - (number - 1))
                yield now if share == 1 or before is None else before + share * (now - before)
                index += 1
            before, number = now, number + 1


def choose_classes(slices: Iterable[np.ndarray], size: Triple) -> np.ndarray:
    """Take the class with the largest logit; a lone logit says foreground above 0.

    Args:
        slices: Logits `(K, h, w)` of each slice along D.
        size: `(d, h, w)` of all slices.

    Returns:
        `(d, h, w)` uint8 class indices.
    """
    chosen = np.zeros(size, np.uint8)
    for target, logits in zip(chosen, slices, strict=True):
        target[:] = labels(logits, axis=0)
    return chosen
