"""VolumePredictor: a volume in any grid becomes a label map in that grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from kanscan.data.grid import Triple, resample_image
from kanscan.data.plan import VolumePlan
from kanscan.data.preparation import Prepared, prepare_volume, restore_label
from kanscan.data.volumes import Volume
from kanscan.models.base import SegmentationModel
from kanscan.predictor.windows import MEMORY_LIMIT, sliding_logits


@dataclass(frozen=True)
class VolumePrediction:
    """What the network says about one volume.

    Attributes:
        label: `(I, J, K)` uint8 class indices in the volume's own grid.
        probabilities: `(classes, I, J, K)` float32, background first, where they were asked for.
    """

    label: np.ndarray
    probabilities: np.ndarray | None = None

    @property
    def network_label(self) -> np.ndarray:
        """The label map once more: the papers judge volumes in their own grid."""
        return self.label


class VolumePredictor:
    """Volume in, label map out: axes, crop, normalization, resampling, windows, mirroring and the whole way back.

    Logits are brought back to the volume's grid one class at a time, and each voxel keeps the largest so far; memory
    does not grow with the number of classes.

    Args:
        model: Network; put into evaluation mode. A 2D network sees slice after slice.
        plan: As in training.
        class_names: One a class, background first; two for a network with one logit.
        device: "cpu", "cuda", "cuda:1", "mps".
        flips: Average the logits over all mirrorings.
        overlap: Of neighboring windows.
        memory_limit: Bytes of logits that may be held in memory; more go through a temporary file.

    Raises:
        ValueError: Network, plan and class names do not fit.
    """

    def __init__(
        self,
        model: SegmentationModel,
        plan: VolumePlan,
        class_names: Sequence[str],
        *,
        device: str | torch.device = "cpu",
        flips: bool = False,
        overlap: float = 0.5,
        memory_limit: int = MEMORY_LIMIT,
    ) -> None:
        if model.spatial_dims != plan.spatial_dims or model.in_channels != plan.network_channels:
            raise ValueError(
                f"the network takes {model.in_channels} channels of {model.spatial_dims}D images, the plan gives "
                f"{plan.network_channels} of {plan.spatial_dims}D images"
            )
        if len(class_names) != max(2, model.out_channels):
            raise ValueError(
                f"a network with {model.out_channels} output channels tells {max(2, model.out_channels)} classes "
                f"apart, got {len(class_names)} names: {', '.join(class_names)}"
            )
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.plan, self.class_names = plan, tuple(class_names)
        self.flips, self.overlap, self.memory_limit = flips, overlap, memory_limit
        #: What a report asks of a predictor of pictures; volumes are judged in their own grid.
        self.preprocessing = SimpleNamespace(image_size=None, prepare_label=lambda label: label)

    def __call__(self, volume: Volume, *, probabilities: bool = False) -> VolumePrediction:
        """Predict one volume.

        Args:
            volume: As `kanscan.data.volumes.read_volume` gives it.
            probabilities: Return them too; all classes are then held in memory.

        Raises:
            ValueError: The volume has another number of channels than the network.
        """
        prepared = prepare_volume(volume, self.plan)
        with torch.inference_mode():
            logits = sliding_logits(
                prepared.image,
                self.plan.patch_size,
                self._logits,
                overlap=self.overlap,
                # Slices are small: several go through together.
                batch_size=1 if self.plan.slice_axis is None else 8,
                device=self.device,
                memory_limit=self.memory_limit,
            )
        label = restore_label(choose_classes(logits, prepared), prepared)
        return VolumePrediction(label, self._probabilities(logits, prepared) if probabilities else None)

    def _logits(self, x: Tensor) -> Tensor:
        axis = self.plan.slice_axis
        if axis is not None:
            x = x.squeeze(axis + 2)
        x = x.repeat(1, self.plan.copies, *[1] * (x.ndim - 2))
        dims = tuple(range(2, x.ndim))
        mirrored = [dims[:0]]
        if self.flips:
            mirrored = [c for n in range(len(dims) + 1) for c in itertools.combinations(dims, n)]
        logits = torch.stack([self.model(x.flip(axes)).flip(axes) for axes in mirrored]).mean(0)
        return logits if axis is None else logits.unsqueeze(axis + 2)

    def _probabilities(self, logits: np.ndarray, prepared: Prepared) -> np.ndarray:
        size = prepared.box_size
        back = torch.from_numpy(np.stack([_resampled(one, size, prepared.coarse) for one in logits]))
        if len(back) > 1:
            inside = back.softmax(dim=0).numpy()
        else:
            foreground = back.sigmoid().numpy()
            inside = np.concatenate([1 - foreground, foreground])
        out = [restore_label(one, prepared) for one in inside]
        outside = restore_label(np.ones(size, np.uint8), prepared) == 0
        out[0][outside] = 1
        return np.stack(out)


def choose_classes(logits: np.ndarray, prepared: Prepared) -> np.ndarray:
    """Bring logits `(K, D, H, W)` to the box of the volume, class by class, and keep the largest: `(d, h, w)` uint8."""
    size = prepared.box_size
    if len(logits) == 1:
        return (_resampled(logits[0], size, prepared.coarse) > 0).astype(np.uint8)
    best = _resampled(logits[0], size, prepared.coarse).copy()
    chosen = np.zeros(size, np.uint8)
    for index in range(1, len(logits)):
        one = _resampled(logits[index], size, prepared.coarse)
        larger = one > best
        best[larger], chosen[larger] = one[larger], index
    return chosen


def _resampled(channel: np.ndarray, size: Triple, coarse: int | None) -> np.ndarray:
    return resample_image(np.asarray(channel)[None], size, coarse=coarse, order=1)[0]
