"""Patches: repeatable draws, foreground often enough, volumes smaller than the patch, augmentations that keep pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.made_volumes import make_msd, make_sparse
from kanscan.data import make_reader
from kanscan.data.examination import examine_volume
from kanscan.data.source import open_source
from kanscan.data.volumes.augmentation import VOLUME_AUGMENTATIONS, augment_patch
from kanscan.data.volumes.cache import cache_cases
from kanscan.data.volumes.fingerprint import take_fingerprint
from kanscan.data.volumes.formats import read_volume_pair
from kanscan.data.volumes.patches import PatchDataset, WholeDataset, cut, draw_center
from kanscan.data.volumes.plan import make_plan
from kanscan.metrics import IGNORED


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("msd")
    source = open_source(make_msd(root / "d", 3))
    plan = make_plan(take_fingerprint(source.cases, source.label_map), 3, patch_size=(8, 8, 8), batch_size=3)
    cache = root / "cache"
    return cache_cases(source.cases, plan, source.label_map, cache), plan, source, cache


def test_prepared_cases_are_found_again(prepared):
    cases, plan, source, cache = prepared
    files = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(files) == 9
    again = cache_cases(source.cases, plan, source.label_map, cache)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == files
    assert isinstance(again[0].image, np.memmap)
    assert np.array_equal(again[0].image, cases[0].image)
    assert sorted(cases[0].places) == [1, 2]
    assert (cases[0].label[tuple(cases[0].places[2].T)] == 2).all()
    from dataclasses import replace

    other = replace(plan, normalization=("minmax",))
    cache_cases(source.cases[:1], other, source.label_map, cache)
    assert len(list(cache.iterdir())) == 12


def test_a_draw_depends_on_seed_epoch_and_index_alone(prepared):
    cases, plan, *_ = prepared
    one = PatchDataset(cases, plan, batches=4, seed=5)
    two = PatchDataset(cases, plan, batches=4, seed=5)
    assert len(one) == 12
    torch.manual_seed(3)
    for key in ((0, 1), (2, 7)):
        a, b = one[key], two[key]
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["label"], b["label"])
        assert a["image"].shape == (1, 8, 8, 8) and a["label"].shape == (8, 8, 8)
    assert not torch.equal(one[(0, 1)]["image"], one[(1, 1)]["image"])


def test_the_last_third_of_a_batch_holds_foreground(prepared):
    cases, plan, *_ = prepared
    data = PatchDataset(cases, plan, batches=10, augmentation="none")
    assert [data.is_centered(k) for k in range(6)] == [False, False, True] * 2
    assert all((data[k]["label"] > 0).any() for k in range(len(data)) if data.is_centered(k))


def test_patches_beyond_a_volume_are_filled_with_background(prepared):
    cases, *_ = prepared
    image, label = cut(cases[0], (5, 8, 6), (14, 8, 20))
    assert image.shape == (1, 14, 8, 20)
    assert (image[:, :2] == 0).all() and (image[..., :4] == 0).all()
    assert torch.equal(label[2:12, :, 4:16], torch.from_numpy(np.array(cases[0].label[:, 4:12])).long())


def test_slices_for_a_2d_network(prepared):
    cases, _, source, _ = prepared
    plan = make_plan(take_fingerprint(source.cases, source.label_map), 3, slices=True, batch_size=2)
    assert plan.slice_axis == 0
    item = PatchDataset(cases, plan, batches=2)[1]
    assert item["image"].shape[1:] == item["label"].shape == plan.network_size


def test_a_case_is_always_validated_on_the_same_patch(prepared):
    cases, plan, *_ = prepared
    data = WholeDataset(cases, plan)
    assert torch.equal(data[0]["image"], data[(7, 0)]["image"])
    assert (data[0]["label"] > 0).any()


@pytest.mark.parametrize("size", [(10, 12, 14), (3, 16, 16), (12, 12)])
def test_image_and_label_are_changed_together(size):
    """An image that is its own label stays so through turns, zooms and mirrorings."""
    how = VOLUME_AUGMENTATIONS["nnunet"]
    from dataclasses import replace

    only_places = replace(how, intensity=0.0, turn=1.0, zoom=1.0)
    larger = [round(n * 1.4) + 1 for n in size]
    label = torch.zeros(larger, dtype=torch.long)
    label[tuple(slice(n // 4, n // 2 + 1) for n in larger)] = 1
    for seed in range(5):
        image, changed = augment_patch(only_places, label[None].float(), label, size, seed)
        assert image.shape[1:] == changed.shape == torch.Size(size)
        assert ((image[0] > 0.5) == (changed == 1)).float().mean() > 0.93


def test_intensities_change_the_image_alone():
    from dataclasses import replace

    how = replace(VOLUME_AUGMENTATIONS["nnunet"], turn=0.0, zoom=0.0, flips=False, intensity=10.0)
    image, label = torch.randn(2, 10, 10, 10), torch.randint(0, 3, (10, 10, 10))
    changed, kept = augment_patch(how, image, label, (10, 10, 10), 1)
    assert torch.equal(kept, label)
    assert not torch.allclose(changed, image)
    assert torch.isfinite(changed).all()


def test_ignored_voxels_stay_ignored_and_draw_no_patch(tmp_path):
    root = make_sparse(tmp_path / "d")
    reader = make_reader("auto", root)
    cases = reader.cases(root)
    fingerprint = take_fingerprint(cases, reader.label_map)
    plan = make_plan(fingerprint, reader.label_map.num_classes, spacing_mm=(0.8, 1, 1), patch_size=(4, 4, 4))
    (case,) = cache_cases(cases, plan, reader.label_map, tmp_path / "cache")
    assert set(np.unique(case.label)) == {0, 1, 2, IGNORED}
    assert set(case.places) == {1, 2}
    assert (case.label[tuple(case.labelled.T)] != IGNORED).all()
    assert np.mean(case.label == IGNORED) > 0.7
    random = np.random.default_rng(0)
    for _ in range(20):
        assert case.label[draw_center(case, plan.patch_size, random, False)] != IGNORED
    # What nobody labelled says nothing about the intensities of organs.
    image, label = read_volume_pair(cases[0], reader.label_map)
    inside = image.array[(label == 1) | (label == 2)]
    assert fingerprint.intensities[0]["min"] >= inside.min()
    assert fingerprint.intensities[0]["mean"] == pytest.approx(inside.mean(), rel=0.1)
    facts = examine_volume(cases[0], reader.label_map)
    assert facts.errors == ()
    assert len(facts.class_pixels) == 3
