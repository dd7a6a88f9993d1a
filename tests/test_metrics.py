import math

import numpy as np
import pytest
from scipy import ndimage, stats

from golden.figures import HERE, figures
from kanscan.metrics import (
    IGNORED,
    METRICS,
    adjust_p_values,
    batch_pooled_scores,
    calibration_error,
    case_scores,
    confusion_matrix,
    missing_from,
    overlap_scores,
    paired_difference,
    pixel_pooled_scores,
    reliability_sums,
    summarize,
)


def blobs(shape, seed, share=0.25):
    """Smooth random masks: several components, some touching the border."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    return field > np.quantile(field, 1 - share)


def boundary_scores(a, b, spacing=None, tolerance=2.0):
    scores = case_scores(a, b, spacing_mm=spacing, tolerance=tolerance)[1]
    return {name: scores[name] for name in ("hd95", "nsd")}


def edge_distances(a, b, spacing):
    """From every boundary pixel of `a` to the boundary of `b`, by an exact distance transform."""
    edge_a, edge_b = (m & ~ndimage.binary_erosion(np.pad(m, 1))[tuple(slice(1, -1) for _ in m.shape)] for m in (a, b))
    return ndimage.distance_transform_edt(~edge_b, sampling=spacing)[edge_a]


def plain_hd95(a, b, spacing):
    return max(np.percentile(edge_distances(a, b, spacing), 95), np.percentile(edge_distances(b, a, spacing), 95))


def contour(mask, spacing):
    """Length of the marching-squares contour inside every 2 x 2 window, on the grid of window corners."""
    padded = np.pad(mask, 1).astype(int)
    corners = [padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]]
    count = sum(corners)
    diagonal = math.hypot(*spacing) / 2
    rows_alike, columns_alike = corners[0] == corners[1], corners[0] == corners[2]
    straight = np.where(rows_alike, spacing[1], np.where(columns_alike, spacing[0], 2 * diagonal))
    return np.select([(count == 1) | (count == 3), count == 2], [diagonal, straight], 0.0)


def plain_nsd(a, b, spacing, tolerance):
    lengths = [contour(m, spacing) for m in (a, b)]
    within = 0.0
    for own, other in (lengths, lengths[::-1]):
        distance = ndimage.distance_transform_edt(other == 0, sampling=spacing)
        within += own[(own > 0) & (distance <= tolerance)].sum()
    return within / (lengths[0].sum() + lengths[1].sum())


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 2.1)])
@pytest.mark.parametrize("seed", range(4))
def test_boundaries_agree_with_a_distance_transform_in_2d(seed, spacing):
    a, b = blobs((41, 52), seed), blobs((41, 52), seed + 100)
    scores = boundary_scores(a, b, spacing=spacing, tolerance=3.0)
    assert scores["hd95"] == pytest.approx(plain_hd95(a, b, spacing), rel=1e-5)
    assert scores["nsd"] == pytest.approx(plain_nsd(a, b, spacing, 3.0), rel=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.8, 0.9)])
def test_boundaries_agree_with_a_distance_transform_in_3d(spacing):
    a, b = blobs((14, 22, 19), 1), blobs((14, 22, 19), 2)
    scores = boundary_scores(a, b, spacing=spacing)
    assert scores["hd95"] == pytest.approx(plain_hd95(a, b, spacing), rel=1e-5)
    shifted = boundary_scores(np.roll(a, 1, axis=0), a, spacing=spacing, tolerance=spacing[0])
    assert shifted["nsd"] > boundary_scores(np.roll(a, 1, axis=0), a, spacing=spacing, tolerance=0.5)["nsd"]


def test_surface_dice_of_the_released_organ_evaluation():
    golden = np.load(HERE / "u_kan" / "metrics_boundary.npz")
    spacing = golden["spacing_mm"]
    for volume in (0, 1):
        # Organs 5, 6 and 10 are scored on part of the slices there.
        for organ in (1, 2, 3, 4, 7, 8, 9, 11, 12, 13):
            scores = case_scores(
                golden["organ_prediction"][volume] == organ,
                golden["organ_label"][volume] == organ,
                spacing_mm=spacing,
                tolerance=golden["tolerance_mm"][organ - 1],
            )[1]
            assert scores["dice"] == pytest.approx(golden["organ_dice"][volume, organ - 1], abs=6e-5)
            assert scores["nsd"] == pytest.approx(golden["organ_nsd"][volume, organ - 1], abs=6e-5)


def test_hd95_is_the_larger_directed_percentile_where_medpy_pools_both():
    golden = np.load(HERE / "u_kan" / "metrics_boundary.npz")
    scores = case_scores(golden["prediction"], golden["label"], 4)
    np.testing.assert_allclose([scores[c]["dice"] for c in (1, 2)], golden["dice_hd95"][:2, 0], rtol=1e-6)
    # The two definitions agree on the second class; on the first a few far pixels weigh less once pooled.
    assert scores[2]["hd95"] == pytest.approx(golden["dice_hd95"][1, 1], rel=1e-6)
    assert scores[1]["hd95"] > golden["dice_hd95"][0, 1]
    # Found where the reference has none: they count Dice 1, we count 0 and the diagonal.
    assert scores[3]["dice"] == 0
    assert scores[3]["hd95"] == pytest.approx(math.sqrt(3**2 + 20**2 + 24**2))


def test_ratios_by_hand():
    prediction, label = np.zeros((4, 5), int), np.zeros((4, 5), int)
    prediction[1:3, 1:4], label[1:3, 2:5] = 1, 1  # 4 shared, 2 false positives, 2 false negatives, 12 true negatives
    scores = case_scores(prediction, label)[1]
    expected = {
        "dice": 8 / 12, "iou": 4 / 8, "sensitivity": 4 / 6, "specificity": 12 / 14, "precision": 4 / 6,
        "accuracy": 16 / 20, "hd95": 1.0, "nsd": 1.0, "size_error": 0.0, "relative_size_error": 0.0,
    }  # fmt: skip
    assert set(scores) == set(METRICS)
    assert scores == pytest.approx(expected)


def test_sizes_and_distances_follow_the_spacing():
    prediction, label = np.zeros((20, 20), int), np.zeros((20, 20), int)
    prediction[5:9, 5:15], label[5:7, 5:15] = 1, 1
    scores = case_scores(prediction, label, spacing_mm=(0.5, 2.0))[1]
    assert scores["size_error"] == pytest.approx(20.0)
    assert scores["relative_size_error"] == pytest.approx(1.0)
    assert scores["hd95"] == pytest.approx(1.0)


@pytest.mark.parametrize("spacing", [None, (0.5, 2.0)])
def test_missing_classes(spacing):
    empty, full = np.zeros((6, 8), int), np.ones((6, 8), int)
    lesion = empty.copy()
    lesion[2:4, 2:5] = 1
    diagonal = math.hypot(6, 8) if spacing is None else math.hypot(3, 16)
    both = case_scores(empty, empty, spacing_mm=spacing)[1]
    for name in ("dice", "iou", "sensitivity", "precision", "hd95", "nsd", "relative_size_error"):
        assert math.isnan(both[name]), name
    assert (both["specificity"], both["accuracy"], both["size_error"]) == (1, 1, 0)
    for prediction, label in ((lesion, empty), (empty, lesion)):
        one = case_scores(prediction, label, spacing_mm=spacing)[1]
        assert (one["dice"], one["iou"], one["nsd"]) == (0, 0, 0)
        assert one["hd95"] == pytest.approx(diagonal)
    assert case_scores(empty, lesion)[1]["sensitivity"] == 0
    assert math.isnan(case_scores(lesion, empty)[1]["sensitivity"])
    assert math.isnan(case_scores(full, full)[1]["specificity"])
    assert case_scores(full, full)[1]["hd95"] == 0
    states = [missing_from(confusion_matrix(a, b), 1) for a in (empty, lesion) for b in (empty, lesion)]
    assert states == ["both", "prediction", "reference", ""]


def test_classes_are_scored_apart():
    label = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 2]])
    scores = case_scores(np.where(label == 2, 1, label), label, 3)
    assert scores[1]["precision"] == pytest.approx(0.5)
    assert scores[1]["sensitivity"] == 1
    assert scores[2]["dice"] == 0


def test_wrong_input_is_one_sentence():
    with pytest.raises(ValueError, match=r"shape \(2, 2\).*\(2, 3\)"):
        confusion_matrix(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="reference holds values 0 to 255, expected 0 to 1"):
        confusion_matrix(np.zeros(3, int), np.array([0, 0, 255]))
    with pytest.raises(ValueError, match="does not fit the 2 axes"):
        case_scores(np.zeros((2, 2), int), np.zeros((2, 2), int), spacing_mm=(1, 1, 1))


def batch_of(logits, label):
    return [confusion_matrix(p[0] > 0, t[0]) for p, t in zip(logits.numpy(), label.numpy(), strict=True)]


def test_batch_pooled_scores_are_the_released_ones():
    golden = figures("u_kan", "metrics_batch_pooled")
    logits, labels = golden["u_kan_logits"], golden["u_kan_label"]
    nothing = np.full_like(logits.numpy(), -5.0)
    cases = [
        batch_of(logits, labels[0]),
        batch_of(logits, labels[1]),
        [confusion_matrix(p[0] > 0, t[0]) for p, t in zip(nothing, labels[0].numpy(), strict=True)],
        [confusion_matrix(p[0] > 0, np.zeros_like(p[0], int)) for p in nothing],
    ]
    for confusions, row in zip(cases, golden["u_kan_iou_f1"].numpy(), strict=True):
        scores = batch_pooled_scores(confusions)
        np.testing.assert_allclose([scores["iou"], scores["f1"]], row, rtol=1e-9)
    for i in range(3):
        scores = batch_pooled_scores(batch_of(golden[f"km_unet_logits_{i}"], golden[f"km_unet_label_{i}"]))
        np.testing.assert_allclose([scores["iou"], scores["f1"]], golden[f"km_unet_iou_f1_{i}"].numpy(), rtol=1e-9)


def test_batch_pooled_scores_weigh_batches_by_size_and_depend_on_them():
    cases = [confusion_matrix(blobs((16, 16), i), blobs((16, 16), i + 50)) for i in range(11)]
    whole, last = batch_pooled_scores(cases[:8]), batch_pooled_scores(cases[8:])
    together = batch_pooled_scores(cases)
    assert together["f1"] == pytest.approx((8 * whole["f1"] + 3 * last["f1"]) / 11)
    assert together["f1"] < 2 * together["iou"] / (1 + together["iou"])
    assert batch_pooled_scores(cases, batch_size=4)["iou"] != pytest.approx(together["iou"], abs=1e-6)
    assert math.isnan(batch_pooled_scores([])["iou"])


def test_pixel_pooled_scores_are_the_released_ones():
    golden = figures("u_kan", "metrics_pixel_pooled")
    cases = [
        confusion_matrix(p[0] >= 0.5, t[0])
        for p, t in zip(golden["probabilities"].numpy(), golden["label"].numpy(), strict=True)
    ]
    scores = pixel_pooled_scores(cases)
    names = ("dice", "iou", "sensitivity", "specificity", "accuracy")
    np.testing.assert_allclose([scores[n] for n in names], golden["scores"].numpy(), rtol=1e-12)
    mean = np.nanmean([overlap_scores(c)["dice"] for c in cases])
    assert mean == pytest.approx(golden.meta["mean_dice"])
    assert pixel_pooled_scores([confusion_matrix(np.zeros(4, int), np.zeros(4, int))])["dice"] == 0


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(150):
        found = summarize(rng.beta(5, 2, size=40), samples=400, seed=i)
        hits += found.low <= 5 / 7 <= found.high
    assert 132 <= hits <= 149  # 95 % of 150 is 142.5, standard deviation 2.7


def test_interval_equals_scipy_without_groups():
    values = np.random.default_rng(3).beta(4, 2, size=25)
    found = summarize(values, samples=999, seed=7)
    direct = stats.bootstrap(
        (values,), np.mean, n_resamples=999, method="BCa", rng=np.random.default_rng(7), batch=500
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((direct.low, direct.high))
    assert (found.mean, found.sd, found.median) == pytest.approx((values.mean(), values.std(ddof=1), np.median(values)))
    assert (found.num_cases, found.num_groups, found.method) == (25, 25, "BCa")


def test_groups_are_drawn_whole():
    rng = np.random.default_rng(1)
    level = rng.normal(0.7, 0.1, size=10)
    values = np.repeat(level, 20) + rng.normal(0, 0.01, size=200)
    groups = [f"video {i // 20}" for i in range(200)]
    alone, grouped = summarize(values), summarize(values, groups)
    assert grouped.num_groups == 10
    assert grouped.mean == alone.mean
    assert grouped.high - grouped.low > 2.5 * (alone.high - alone.low)
    assert summarize(values, [None] * 200).low == alone.low


def test_small_and_constant_samples():
    assert summarize([math.nan, math.nan]) is None
    one = summarize([0.5])
    assert (one.mean, one.sd, one.low, one.method) == (0.5, None, None, "none")
    constant = summarize([0.3, 0.3, 0.3])
    assert (constant.low, constant.high, constant.method) == (0.3, 0.3, "constant")
    two = summarize([0.0, 1.0])
    assert two.low == 0 and two.high == 1
    missing = summarize([0.2, math.nan, 0.4])
    assert missing.num_cases == 2 and missing.mean == pytest.approx(0.3)
    assert summarize([0.1, 0.2, 0.4], samples=0).low is None
    with pytest.raises(ValueError, match="one group a case"):
        summarize([0.1, 0.2], ["a"])


def test_paired_difference():
    rng = np.random.default_rng(5)
    first = rng.beta(6, 2, size=30)
    better = paired_difference(first, first - 0.05 + rng.normal(0, 0.02, size=30))
    assert better.difference.low > 0 and better.p_value < 0.001
    same = paired_difference(first, first)
    assert (same.difference.mean, same.p_value) == (0, 1)
    second = first.copy()
    second[0], second[1:3] = math.nan, first[1:3] - 0.1
    partly = paired_difference(first, second)
    assert partly.num_left_out == 1 and partly.difference.num_cases == 29
    few = paired_difference(first, first - 0.05, [f"patient {i % 5}" for i in range(30)])
    assert few.p_value is None and few.difference.num_groups == 5
    assert paired_difference([math.nan], [0.5]) is None


def test_false_discovery_rate():
    adjusted = adjust_p_values({"a": 0.01, "b": 0.04, "c": 0.9})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.9})
    assert adjust_p_values({}) == {}


def test_ignored_voxels_count_nowhere():
    label = np.zeros((6, 8, 8), np.uint8)
    label[2:5, 2:6, 2:6] = 1
    prediction = label.copy()
    prediction[:, :, :2] = 1
    ignoring = label.copy()
    ignoring[:, :, :2] = IGNORED
    assert case_scores(prediction, label)[1]["dice"] < 0.8
    scores = case_scores(prediction, ignoring, spacing_mm=(2, 1, 1))[1]
    assert scores["dice"] == scores["accuracy"] == scores["nsd"] == 1
    assert scores["hd95"] == scores["size_error"] == 0
    assert confusion_matrix(prediction, ignoring).sum() == label.size - 6 * 8 * 2


def test_reliability_of_known_pixels_and_none_of_what_is_ignored():
    sure = np.array([0.9, 0.9, 0.9, 0.7, 0.7, 0.7])
    probabilities = np.stack([1 - sure, sure]).reshape(2, 2, 3)
    label = np.array([1, 1, 0, 1, 0, IGNORED]).reshape(2, 3)
    sums = reliability_sums(probabilities, label, bins=10)
    assert sums[0].sum() == 5
    assert sorted(sums[0])[-2:] == [2, 3]
    expected = (abs(2.7 - 2) + abs(1.4 - 1)) / 5
    assert calibration_error(sums) == pytest.approx(expected)
    assert calibration_error(sums + sums) == pytest.approx(expected)
    assert calibration_error(np.zeros((3, 10))) == 0
