"""How far the boundaries of two masks lie apart, measured on what surrounds them.

The boundary of HD95 is the pixels that an erosion removes. NSD weighs boundary elements by their length or area on the
dual grid (marching squares and cubes); S. Nikolov et al., J Med Internet Res 23(7), e26151 (2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
#: A tree is asked for each boundary pixel, a distance transform for every pixel of the box: where more than one pixel
#: in so many is boundary the transform is quicker.
_PIXELS_A_QUERY = 12


def hd95(prediction: Mask, label: Mask, spacing: Sequence[float]) -> float:
    """Return the larger of the two directed 95th percentiles of the distances between boundary pixels.

    Args:
        prediction: `(H, W)` or `(D, H, W)`, not empty; nothing beyond the arrays is set.
        label: The same.
        spacing: Size of a pixel along each axis.
    """
    ours, theirs = _edge(prediction), _edge(label)
    directed = (_distances(ours, theirs, spacing), _distances(theirs, ours, spacing))
    return max(float(np.percentile(found, 95)) for found in directed)


def nsd(prediction: Mask, label: Mask, spacing: Sequence[float], tolerance: float) -> float:
    """Return the share of both boundaries that lies within the tolerance of the other, 0..1 (surface Dice).

    Args:
        prediction: As for `hd95`.
        label: The same.
        spacing: Size of a pixel along each axis.
        tolerance: In the unit of `spacing`.
    """
    table, weights = _measures(tuple(spacing))
    ours, theirs = (_windows(mask, weights) for mask in (prediction, label))
    edge, other_edge = ((codes > 0) & (codes < len(table) - 1) for codes in (ours, theirs))
    near, all_ = 0.0, 0.0
    for codes, own, other in ((ours, edge, other_edge), (theirs, other_edge, edge)):
        measures = table[codes[own]]
        # Distances and tolerance are rounded alike, so that a boundary at exactly the tolerance is within it.
        within = _distances(own, other, spacing, most=tolerance) <= np.float32(tolerance)
        near += float(measures[within].sum())
        all_ += float(measures.sum())
    return near / all_


def _edge(mask: Mask) -> Mask:
    """Mark the pixels of a mask that have a neighbor along an axis outside of it."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        low, high = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
        inner[high] &= mask[low]
        inner[low] &= mask[high]
        for end in (0, -1):
            inner[(slice(None),) * axis + (end,)] = False
    return mask & ~inner


def _distances(start: Mask, goal: Mask, spacing: Sequence[float], most: float = np.inf) -> NDArray[np.float32]:
    """Measure the way from every pixel of `start` to the nearest of `goal`, in the order of `start`'s pixels.

    Args:
        start: Boundary pixels.
        goal: Boundary pixels of the other mask, not empty.
        spacing: Size of a pixel along each axis.
        most: Whatever is farther may be given as infinite.
    """
    from scipy.ndimage import distance_transform_edt
    from scipy.spatial import KDTree

    # Flat places: numpy finds those of sparse marks many times faster than rows and columns.
    places = np.flatnonzero(start)
    # Where two boundaries coincide, which is most of them where a prediction is good, there is nothing to search for.
    apart = ~goal.ravel()[places]
    count = int(np.count_nonzero(apart))
    found = np.zeros(len(places), np.float32)
    if count * _PIXELS_A_QUERY > start.size:
        found[:] = distance_transform_edt(~goal, sampling=spacing).ravel()[places]
    elif count:
        tree = KDTree(_points(np.flatnonzero(goal), goal.shape, spacing), leafsize=32, balanced_tree=False)
        # A hair more than is asked for: the tree leaves out what is exactly as far.
        farthest = most * (1 + 1e-6) + 1e-12
        found[apart] = tree.query(_points(places[apart], start.shape, spacing), distance_upper_bound=farthest)[0]
    return found


def _points(places: NDArray[np.intp], shape: tuple[int, ...], spacing: Sequence[float]) -> NDArray[np.float64]:
    points = np.empty((len(places), len(shape)))
    for axis, (along, step) in enumerate(zip(np.unravel_index(places, shape), spacing, strict=True)):
        np.multiply(along, step, out=points[:, axis])
    return points


@lru_cache(32)
def _measures(spacing: tuple[float, ...]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the measure of boundary in a window of two pixels a side by its code, and the corners' parts of it."""
    from monai.metrics.utils import get_code_to_measure_table

    table, kernel = get_code_to_measure_table(spacing)
    return table.numpy().astype(np.float32), kernel.numpy().astype(np.uint8).reshape((2,) * len(spacing))


def _windows(mask: Mask, weights: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the code of every window of two pixels a side, those that reach beyond the mask included."""
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros([n - 1 for n in padded.shape], np.uint8)
    for corner in product((0, 1), repeat=mask.ndim):
        codes += weights[corner] * padded[tuple(slice(c, c + n) for c, n in zip(corner, codes.shape, strict=True))]
    return codes
