"""The plan equals nnU-Net's on the same fingerprints; preparation and its way back equal its files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from conftest import ROOT
from data.made_volumes import box, make_msd
from kanscan.data.source import open_source
from kanscan.data.volume import Volume
from kanscan.data.volumes.fingerprint import STATISTICS, Fingerprint, take_fingerprint
from kanscan.data.volumes.grid import coarse_axis, resample_image, resample_label, resampled_shape
from kanscan.data.volumes.plan import VolumePlan, feature_numbers, make_plan, plan_topology
from kanscan.data.volumes.preparation import normalize_volume, prepare_label, prepare_volume, restore_label
from kanscan.inference.volumes import choose_classes, restored_slices

GOLDEN = ROOT / "tests" / "golden" / "nnunet"
PLANS = json.loads((GOLDEN / "plans.json").read_text())
SCHEMES = {"CTNormalization": "ct", "ZScoreNormalization": "zscore", "NoNormalization": "none"}
ONES = dict.fromkeys(STATISTICS, 1.0)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "volumes.npz") as file:
        return dict(file)


def fingerprint(row: dict) -> Fingerprint:
    spacing, shape = tuple(row["spacing"]), tuple(row["shape"])
    return Fingerprint((spacing,) * row["cases"], (shape,) * row["cases"], row["kept"], (ONES,) * len(row["channels"]))


@pytest.mark.parametrize("row", PLANS, ids=lambda row: "x".join(map(str, row["shape"])))
@pytest.mark.parametrize("dims", ["3d", "2d"])
def test_the_plan_of_a_fingerprint(row, dims):
    if dims not in row:
        pytest.skip("a single slice has no 3D plan")
    wanted = row[dims]
    names = list(row["channels"])
    plan = make_plan(fingerprint(row), row["classes"], channel_names=names, slices=dims == "2d")
    assert list(plan.network_size) == wanted["patch_size"]
    assert plan.batch_size == wanted["batch_size"]
    assert [list(s) for s in plan.strides] == wanted["strides"]
    assert [list(k) for k in plan.kernel_sizes] == wanted["kernel_sizes"]
    assert list(plan.normalization) == [SCHEMES[n] for n in wanted["normalization"]]
    assert plan.nonzero_only == (any(wanted["use_mask"]))


def test_feature_numbers_of_the_printed_plan():
    assert feature_numbers(plan_topology((1, 1), (320, 320)), 14) == 33_459_200


def test_a_plan_is_written_with_reasons_and_read_back():
    plan = make_plan(fingerprint(PLANS[0]), 14, channel_names=["CT"])
    again = VolumePlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    text = plan.to_text()
    assert text.count("reason:") == 8
    assert "CT has one scale" in text
    import yaml

    assert yaml.safe_load(text)["patch_size"]["value"] == "40 x 224 x 192"
    assert all(entry["reason"] for entry in yaml.safe_load(text).values())


def test_what_is_given_is_kept():
    plan = make_plan(
        fingerprint(PLANS[0]), 3, spacing_mm=(4, 2, 2), patch_size=(20, 50, 64), batch_size=3, normalization="minmax"
    )
    assert plan.spacing_mm == (4.0, 2.0, 2.0)
    assert plan.patch_size[0] >= 20
    assert all(n % s == 0 for n, s in zip(plan.patch_size, np.prod(plan.strides, axis=0), strict=True))
    assert (plan.batch_size, plan.normalization) == (3, ("minmax",))
    with pytest.raises(ValueError, match=r"volume.normalization 'zscor'.*'zscore'"):
        make_plan(fingerprint(PLANS[0]), 3, normalization="zscor")
    with pytest.raises(ValueError, match=r"volume.spacing_mm must be three positive numbers"):
        make_plan(fingerprint(PLANS[0]), 3, spacing_mm=(1, 1))


def test_a_coarse_axis_takes_the_tenth_percentile():
    spacings = tuple((s, 1.5, 1.5) for s in np.linspace(7, 13, 21))
    made = Fingerprint(spacings, ((9, 256, 216),) * 21, 1.0, (ONES,))
    plan = make_plan(made, 4)
    assert plan.spacing_mm[0] == pytest.approx(np.percentile([s[0] for s in spacings], 10))
    assert "10th percentile" in plan.reasons["spacing_mm"]


def test_resampling_equals_nnunet(golden):
    for k in (0, 1):
        x, now, new = (golden[f"resampling_{n}_{k}"] for n in ("x", "cur", "new"))
        shape = tuple(int(n) for n in golden[f"resampling_shape_{k}"])
        coarse = coarse_axis(now, new)
        assert np.abs(resample_image(x, shape, coarse=coarse) - golden[f"resampling_data_order3_{k}"]).max() < 1e-5
        linear = resample_image(x, shape, coarse=coarse, order=1)
        assert np.abs(linear - golden[f"resampling_prob_order1_{k}"]).max() < 1e-5
        label = golden[f"resampling_s_{k}"][0]
        ours = resample_label(np.maximum(label, 0), shape, 3, coarse=coarse)
        # Voxels where a class has exactly one half differ by rounding.
        assert (ours != np.maximum(golden[f"resampling_seg_order1_{k}"][0], 0)).mean() < 0.005


def test_preparation_and_the_way_back_equal_nnunet(golden):
    spacing = golden["case_spacing_zyx"]
    volume = Volume(np.transpose(golden["case_raw_image"], (2, 1, 0)), np.diag([*spacing[::-1], 1.0]))
    intensities = dict(zip(STATISTICS, golden["case_intensities"].tolist(), strict=True))
    plan = VolumePlan(tuple(golden["case_plan_spacing"]), (1, 1, 1), (1, 1, 1), (), (), 2, ("ct",), (intensities,))
    prepared = prepare_volume(volume, plan)
    assert [[s.start, s.stop] for s in prepared.box] == golden["case_bbox"].tolist()
    assert np.abs(prepared.image[:, ::2] - golden["case_data"]).max() < 1e-5
    label = prepare_label(np.transpose(golden["case_raw_label"], (2, 1, 0)), prepared, 3)
    assert np.array_equal(label, np.maximum(golden["case_seg"][0], 0))
    logits = golden["case_logits_float16"].astype(np.float32)
    slabs = np.split(logits, [1, 4, logits.shape[1] - 1], axis=1)
    chosen = choose_classes(restored_slices(slabs, prepared), prepared.box_size)
    written = np.transpose(restore_label(chosen, prepared), (2, 1, 0))
    assert np.array_equal(written, golden["case_exported_segmentation_from_float16_logits"])


def test_a_fingerprint_of_files_and_in_nnunets_words(tmp_path):
    source = open_source(make_msd(tmp_path / "d", 3))
    found = take_fingerprint(source.cases, source.label_map)
    assert found.spacings_mm == ((1.0, 1.0, 1.0),) * 3
    assert found.shapes == ((10, 16, 12),) * 3
    voxels = np.concatenate([image[label > 0] for image, label in (box(seed=k) for k in range(3))])
    assert found.intensities[0]["mean"] == pytest.approx(voxels.mean(), rel=0.02)
    assert found.intensities[0]["max"] <= voxels.max()
    content = json.loads(json.dumps(found.to_nnunet()))
    assert Fingerprint.from_nnunet(content) == found
    with pytest.raises(ValueError, match="the fingerprint has no"):
        Fingerprint.from_nnunet({})


def test_normalizations():
    image = np.arange(64, dtype=np.float32).reshape(1, 4, 4, 4)
    image[0, 0] = 0
    base = {"spacing_mm": (1, 1, 1), "median_size": (4, 4, 4), "patch_size": (4, 4, 4), "strides": (), "batch_size": 1}

    def made(scheme: str, **more) -> np.ndarray:
        plan = VolumePlan(**base, kernel_sizes=(), normalization=(scheme,), intensities=(ONES,), **more)
        return normalize_volume(image, plan)

    assert made("zscore").mean() == pytest.approx(0, abs=1e-6)
    masked = made("zscore", nonzero_only=True)
    assert (masked[0, 0] == 0).all()
    assert masked[0, 1:].std() == pytest.approx(1, abs=1e-5)
    assert (made("minmax").min(), made("minmax").max()) == (0, 1)
    assert np.array_equal(made("none"), image)


def test_resampled_shapes_are_never_empty():
    assert resampled_shape((1, 10, 10), (1, 1, 1), (5, 2, 3)) == (1, 5, 3)
