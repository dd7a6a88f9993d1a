"""HD95 and NSD on boxes give what the straightforward way over the whole image gives."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from kanscan.metrics import case_scores
from kanscan.metrics.boundaries import _distances, _edge


def straightforward(a, b, spacing, tolerance):
    """Measure as a library does it, over the whole image."""
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    if not a.any() and not b.any():
        return {"hd95": math.nan, "nsd": math.nan}
    if not a.any() or not b.any():
        return {"hd95": math.hypot(*(n * s for n, s in zip(a.shape, spacing, strict=True))), "nsd": 0.0}
    masks = [torch.from_numpy(np.ascontiguousarray(m))[None, None] for m in (a, b)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing)
        nsd = compute_surface_dice(*masks, [tolerance], include_background=True, spacing=spacing, use_subvoxels=True)
    return {"hd95": float(hd95), "nsd": float(nsd)}


def check(a, b, spacing, tolerance, num_classes=2):
    scores = case_scores(a, b, num_classes, spacing_mm=spacing, tolerance=tolerance)
    for index in range(1, num_classes):
        expected = straightforward(a == index, b == index, spacing, tolerance)
        found = {name: scores[index][name] for name in expected}
        assert found == pytest.approx(expected, rel=2e-6, abs=1e-7, nan_ok=True), (index, spacing, tolerance)


@st.composite
def two_maps(draw):
    shape = draw(st.one_of(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9)))
    maps = hnp.arrays(np.uint8, shape, elements=st.integers(0, 2), fill=st.just(0))
    spacing = tuple(draw(st.sampled_from([0.5, 1.0, 0.7, 2.5, 3.0])) for _ in shape)
    return draw(maps), draw(maps), spacing, draw(st.sampled_from([0.0, 0.7, 1.0, 1.4, 2.0, 5.0]))


@settings(deadline=None, max_examples=150)
@given(two_maps())
def test_of_any_masks(drawn):
    check(*drawn, num_classes=3)


@pytest.mark.parametrize(("shape", "spacing"), [((61, 84), (1, 1)), ((61, 84), (0.7, 1.3)), ((9, 30, 28), (3, 1, 1))])
@pytest.mark.parametrize("seed", range(3))
def test_of_shapes_that_resemble_each_other(shape, spacing, seed):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(4, *shape)), (0, *[3] * len(shape)))
    noise = ndimage.gaussian_filter(np.random.default_rng(9).normal(size=field.shape), (0, *[3] * len(shape)))
    nearly = field + 0.3 * noise
    check(nearly.argmax(0), field.argmax(0), spacing, 2.0, num_classes=4)


def test_few_and_many_boundary_pixels_are_measured_alike():
    rng = np.random.default_rng(0)
    dense, sparse = rng.random((40, 50)) < 0.5, np.zeros((40, 50), bool)
    sparse[3, 4] = sparse[30, 41] = True
    for start, goal in ((dense, sparse), (sparse, dense), (dense, np.roll(dense, 3)), (sparse, sparse)):
        exact = ndimage.distance_transform_edt(~goal, sampling=(0.7, 1.1))[start]
        assert _distances(start, goal, (0.7, 1.1)) == pytest.approx(exact, rel=1e-6)
        near = _distances(start, goal, (0.7, 1.1), most=2.2)
        assert np.array_equal(near <= np.float32(2.2), exact.astype(np.float32) <= np.float32(2.2))


def test_edges_are_what_an_erosion_removes():
    mask = np.random.default_rng(1).random((7, 8, 6)) < 0.8
    mask[:3, :4, :3] = True
    assert np.array_equal(_edge(mask), mask & ~ndimage.binary_erosion(mask))


def test_a_boundary_at_exactly_the_tolerance_is_within_it():
    a, b = np.zeros((2, 20, 20), int)
    a[5:10, 5:10], b[7:12, 5:10] = 1, 1
    within, beyond = (case_scores(a, b, spacing_mm=(0.7, 1), tolerance=t)[1]["nsd"] for t in (1.4, 1.3999))
    assert within == 1 and beyond < 1
