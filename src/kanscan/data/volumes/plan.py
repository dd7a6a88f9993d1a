"""From a fingerprint to a plan by nnU-Net's rules: spacing, patch, stages, batch, normalization, each with its reason.

Source: F. Isensee et al., nnU-Net, Nature Methods 18, 203 (2021), supplementary note 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kanscan.data.volumes.fingerprint import Fingerprint
from kanscan.data.volumes.grid import ANISOTROPY
from kanscan.registry import unknown

#: Ways to normalize a volume's channel.
NORMALIZATIONS = ("auto", "ct", "zscore", "minmax", "none")
#: An axis is halved while it is at least this long, and alone only while it is half as long again.
_LEAST_SIZE, _LEAST_ALONE = 8, 12
#: Feature maps (numbers) of a plain U-Net that fit into 8 GB, and the batch they were counted for.
_REFERENCE = {2: (85_000_000, 12), 3: (560_000_000, 2)}
_FIRST_WIDTH, _WIDEST = 32, {2: 512, 3: 320}
#: A first patch has the volume of this cube or square.
_FIRST_SIDE = {2: 2048, 3: 256}
#: Share of all voxels that a batch may hold.
_BATCH_SHARE = 0.05


@dataclass(frozen=True)
class Topology:
    """The stages of a U for a patch.

    Attributes:
        patch_size: Rounded up so that every stage divides it.
        strides: Step of each stage, one number an axis; the first stage does not step.
        kernel_sizes: Kernel of each stage.
    """

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class VolumePlan:
    """How volumes reach a network; axes are D, H, W.

    Attributes:
        spacing_mm: All volumes are resampled to it; along `slice_axis` each keeps its own.
        median_size: Median size at that spacing.
        patch_size: What the network sees at once; 1 along `slice_axis`.
        strides: Step of each stage, one number for each axis the network has.
        kernel_sizes: Kernel of each stage.
        batch_size: Patches in a batch.
        normalization: Of each channel, an entry of `NORMALIZATIONS` except "auto".
        intensities: Statistics of each channel's labelled voxels, for "ct".
        nonzero_only: Take mean and deviation of "zscore" over voxels that are not 0, and leave those at 0.
        slice_axis: Axis along which volumes are cut into slices for a 2D network; None: a 3D network.
        copies: How often a lone channel is given to a network that takes color.
        reasons: Key -> why.
    """

    spacing_mm: tuple[float, float, float]
    median_size: tuple[int, int, int]
    patch_size: tuple[int, int, int]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    batch_size: int
    normalization: tuple[str, ...]
    intensities: tuple[dict[str, float], ...]
    nonzero_only: bool = False
    slice_axis: int | None = None
    copies: int = 1
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def spatial_dims(self) -> int:
        """Axes the network has."""
        return 3 if self.slice_axis is None else 2

    @property
    def network_size(self) -> tuple[int, ...]:
        """The patch as the network sees it."""
        return tuple(n for axis, n in enumerate(self.patch_size) if axis != self.slice_axis)

    @property
    def channels(self) -> int:
        """Channels of a volume."""
        return len(self.normalization)

    @property
    def network_channels(self) -> int:
        """Channels as the network sees them."""
        return self.channels * self.copies

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> VolumePlan:
        """Take what `to_json` gave, through JSON or not."""
        return cls(**{key: _tuples(value) if isinstance(value, list) else value for key, value in content.items()})

    def to_text(self) -> str:
        """Write a YAML page: each setting, and beside it why."""
        shown = {
            "spacing_mm": _times(self.spacing_mm),
            "median_size": _times(self.median_size),
            "patch_size": _times(self.patch_size),
            "strides": ", ".join(_times(s) for s in self.strides),
            "kernel_sizes": ", ".join(_times(k) for k in self.kernel_sizes),
            "batch_size": str(self.batch_size),
            "normalization": ", ".join(self.normalization),
            "nonzero_only": str(self.nonzero_only).lower(),
        }
        if self.slice_axis is not None:
            shown["slice_axis"] = "DHW"[self.slice_axis]
        lines = ["# How volumes reach the network. Axes: D foot to head, H back to front, W left to right."]
        for key, value in shown.items():
            lines += [f"{key}:", f'  value: "{value}"', f'  reason: "{self.reasons.get(key, "")}"']
        return "\n".join(lines) + "\n"


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{v:.4g}" for v in values)


def make_plan(
    fingerprint: Fingerprint,
    num_classes: int,
    *,
    channel_names: Sequence[str] = (),
    spacing_mm: Sequence[float] | None = None,
    patch_size: Sequence[int] | None = None,
    batch_size: int | None = None,
    normalization: str = "auto",
    slices: bool = False,
) -> VolumePlan:
    """Plan how volumes reach a network; what is given is kept, the rest follows from the data.

    Args:
        fingerprint: Of the training cases.
        num_classes: Background included.
        channel_names: What each channel is ("CT", "T1"), where known.
        spacing_mm: Wanted spacing along D, H, W.
        patch_size: Wanted patch; rounded up to what the stages divide.
        batch_size: Wanted patches in a batch.
        normalization: An entry of `NORMALIZATIONS`.
        slices: Plan for a 2D network that sees slices.

    Raises:
        ValueError: An option is not legal.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(unknown("volume.normalization", normalization, NORMALIZATIONS))
    reasons: dict[str, str] = {}
    target = _target_spacing(fingerprint, spacing_mm, reasons)
    axis = _slice_axis(target, patch_size, reasons) if slices else None
    sizes = np.array(
        [
            [n * s / t for n, s, t in zip(shape, spacing, target, strict=True)]
            for shape, spacing in zip(fingerprint.shapes, fingerprint.spacings_mm, strict=True)
        ]
    )
    median = tuple(int(v) for v in np.maximum(np.rint(np.median(sizes, axis=0)), 1))
    reasons["median_size"] = f"median of {len(sizes)} training cases at this spacing"
    axes = [a for a in range(3) if a != axis]
    topology, estimate = _plan_patch(
        [target[a] for a in axes], [median[a] for a in axes], num_classes, _given_patch(patch_size, axes), reasons
    )
    patch = [1, 1, 1]
    for a, size in zip(axes, topology.patch_size, strict=True):
        patch[a] = size
    batch = _batch_size(estimate, topology.patch_size, median, axes, len(sizes), batch_size, reasons)
    schemes = _normalizations(fingerprint, channel_names, normalization, reasons)
    nonzero = fingerprint.relative_size < 0.75 and "zscore" in schemes
    reasons["nonzero_only"] = f"cropping to what is not 0 keeps {fingerprint.relative_size:.0%} of a volume" + (
        ", less than 75 %" if fingerprint.relative_size < 0.75 else ""
    )
    return VolumePlan(
        spacing_mm=target,
        median_size=median,  # type: ignore[arg-type]
        patch_size=tuple(patch),  # type: ignore[arg-type]
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        batch_size=batch,
        normalization=schemes,
        intensities=fingerprint.intensities,
        nonzero_only=nonzero,
        slice_axis=axis,
        reasons=reasons,
    )


def _target_spacing(
    fingerprint: Fingerprint, wanted: Sequence[float] | None, reasons: dict[str, str]
) -> tuple[float, float, float]:
    if wanted is not None:
        if len(wanted) != 3 or min(wanted) <= 0:
            raise ValueError(f"volume.spacing_mm must be three positive numbers (depth, height, width), got {wanted}")
        reasons["spacing_mm"] = "given as volume.spacing_mm"
        return tuple(float(s) for s in wanted)  # type: ignore[return-value]
    spacings = np.array(fingerprint.spacings_mm)
    target, size = np.median(spacings, axis=0), np.median(np.array(fingerprint.shapes), axis=0)
    coarse = int(np.argmax(target))
    others = [a for a in range(3) if a != coarse]
    reasons["spacing_mm"] = f"median of {len(spacings)} training cases along each axis"
    if target[coarse] > ANISOTROPY * target[others].max() and size[coarse] * ANISOTROPY < size[others].min():
        finer = max(float(np.percentile(spacings[:, coarse], 10)), float(target[others].max()))
        reasons["spacing_mm"] += f"; the coarse axis {'DHW'[coarse]} takes the 10th percentile, to lose few slices"
        target[coarse] = finer
    return tuple(float(s) for s in target)  # type: ignore[return-value]


def _slice_axis(target: Sequence[float], patch: Sequence[int] | None, reasons: dict[str, str]) -> int:
    if patch is not None and list(patch).count(1) == 1:
        reasons["slice_axis"] = "the axis along which volume.patch_size is 1"
        return list(patch).index(1)
    axis = int(np.argmax(target))
    reasons["slice_axis"] = (
        "slices lie across the coarsest axis" if target[axis] > min(target) else "equal spacing: axial slices"
    )
    return axis


def _given_patch(patch: Sequence[int] | None, axes: Sequence[int]) -> list[int] | None:
    if patch is None:
        return None
    if len(patch) != 3 or min(patch) < 1:
        raise ValueError(f"volume.patch_size must be three positive numbers (depth, height, width), got {patch}")
    return [int(patch[a]) for a in axes]


def plan_topology(spacing: Sequence[float], size: Sequence[int]) -> Topology:
    """Choose stages for a patch: axes are halved together once their spacings are within a factor of two.

    Args:
        spacing: Of the patch, one number an axis.
        size: Of the patch.
    """
    dims = len(size)
    now, left = [float(s) for s in spacing], [int(n) for n in size]
    strides, kernels = [(1,) * dims], [[1] * dims]
    pooled = [0] * dims
    grown = [1] * dims
    while True:
        finest = min(now)
        for axis in range(dims):
            # Once an axis has come near the finest one it keeps its kernel of 3.
            if grown[axis] == 3 or now[axis] / finest < 2:
                grown[axis] = 3
        kernels[-1] = list(grown)
        can = [axis for axis in range(dims) if left[axis] >= _LEAST_SIZE]
        if not can:
            break
        finest = min(now[axis] for axis in can)
        can = [axis for axis in can if now[axis] / finest < 2]
        if len(can) == 1 and left[can[0]] < _LEAST_ALONE:
            break
        strides.append(tuple(2 if axis in can else 1 for axis in range(dims)))
        kernels.append([])
        for axis in can:
            now[axis] *= 2
            left[axis] = math.ceil(left[axis] / 2)
            pooled[axis] += 1
    kernels[-1] = [3] * dims
    patch = tuple(math.ceil(n / 2**p) * 2**p for n, p in zip(size, pooled, strict=True))
    return Topology(patch, tuple(strides), tuple(tuple(k) for k in kernels))


def feature_numbers(topology: Topology, num_classes: int) -> int:
    """Count the numbers in the feature maps of a plain U-Net with these stages, as nnU-Net estimates memory."""
    dims = len(topology.patch_size)
    size = list(topology.patch_size)
    total = 0
    for stage, stride in enumerate(topology.strides):
        size = [n // s for n, s in zip(size, stride, strict=True)]
        width = min(_FIRST_WIDTH * 2**stage, _WIDEST[dims])
        numbers = width * math.prod(size)
        # Two convolutions down; two convolutions and an upsampling on the way up, where there is one.
        total += 2 * numbers + (3 * numbers if stage < len(topology.strides) - 1 else 0)
    return total + num_classes * math.prod(topology.patch_size)


def _plan_patch(
    spacing: Sequence[float],
    median: Sequence[int],
    num_classes: int,
    given: list[int] | None,
    reasons: dict[str, str],
) -> tuple[Topology, int]:
    dims = len(spacing)
    reference, reference_batch = _REFERENCE[dims]
    inverse = [1 / s for s in spacing]
    scale = (_FIRST_SIDE[dims] ** dims / math.prod(inverse)) ** (1 / dims)
    patch = given or [min(max(1, round(i * scale)), m) for i, m in zip(inverse, median, strict=True)]
    topology = plan_topology(spacing, patch)
    estimate = feature_numbers(topology, num_classes)
    shrunk = 0
    while given is None and 2 * estimate / reference_batch > reference:
        shares = [p / m for p, m in zip(topology.patch_size, median, strict=True)]
        longest = max(range(dims), key=lambda axis: (shares[axis], axis))  # of equal ones the last
        patch = list(topology.patch_size)
        trial = list(patch)
        steps = math.prod(s[longest] for s in topology.strides)
        trial[longest] = max(1, trial[longest] - steps)
        # Fewer stages after the cut ask for a smaller step.
        after = plan_topology(spacing, trial)
        steps = math.prod(s[longest] for s in after.strides)
        patch[longest] = max(1, patch[longest] - steps)
        topology = plan_topology(spacing, patch)
        estimate = feature_numbers(topology, num_classes)
        shrunk += 1
    reasons["patch_size"] = (
        "given as volume.patch_size, rounded up to what the stages divide"
        if given
        else "the median size, rounded up to what the stages divide"
        if not shrunk
        else f"the median size, cut {shrunk} times until a plain U-Net of this patch fits into 8 GB"
    )
    reasons["strides"] = (
        f"an axis is halved while it has {_LEAST_SIZE} voxels or more and its spacing is within a factor of 2 of the "
        "finest"
    )
    reasons["kernel_sizes"] = "1 along an axis until its spacing is within a factor of 2 of the finest, then 3"
    return topology, estimate


def _batch_size(
    estimate: int,
    patch: Sequence[int],
    median: Sequence[int],
    axes: Sequence[int],
    num_cases: int,
    given: int | None,
    reasons: dict[str, str],
) -> int:
    if given is not None:
        reasons["batch_size"] = "given as volume.batch_size"
        return given
    reference, reference_batch = _REFERENCE[len(axes)]
    fits = round(reference / estimate * reference_batch)
    # Slices of one volume count as cases of their own only in the number of their voxels.
    share = round(_BATCH_SHARE * num_cases * math.prod(median) / math.prod(patch))
    batch = max(2, min(fits, share))
    reasons["batch_size"] = (
        f"a plain U-Net in 8 GB takes {fits} patches, {_BATCH_SHARE:.0%} of all voxels are {share}; at least 2"
    )
    return batch


def _normalizations(
    fingerprint: Fingerprint, names: Sequence[str], wanted: str, reasons: dict[str, str]
) -> tuple[str, ...]:
    count = len(fingerprint.intensities)
    if wanted != "auto":
        reasons["normalization"] = "given as volume.normalization"
        return (wanted,) * count
    known = [*names, *([""] * (count - len(names)))][:count]
    schemes = tuple(_scheme(name) for name in known)
    texts = {
        "ct": "CT has one scale in all scanners: clipped to 0.5..99.5 % of the labelled voxels, then their mean and SD",
        "zscore": "no common scale (MR and others): mean 0 and SD 1 of each case",
        "none": "named noNorm",
        "minmax": "named rescale_to_0_1",
    }
    called = f" (channels: {', '.join(n or 'not named' for n in known)})"
    reasons["normalization"] = "; ".join(texts[s] for s in dict.fromkeys(schemes)) + called
    return schemes


def _scheme(name: str) -> str:
    special = {"ct": "ct", "nonorm": "none", "rescale_to_0_1": "minmax", "rescale_0_1": "minmax"}
    return special.get(name.strip().lower(), "zscore")
