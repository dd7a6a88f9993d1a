from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label as components

from kanscan.data.made.synthetic import KINDS, draw_lesion, draw_ultrasound, ultrasound_cases, write_ultrasound


def test_the_same_seed_draws_the_same_pictures_whatever_the_count():
    few = list(ultrasound_cases(3, image_size=(48, 64), seed=7))
    more = list(ultrasound_cases(5, image_size=(48, 64), seed=7))
    for a, b in zip(few, more, strict=False):
        assert np.array_equal(a.image, b.image) and np.array_equal(a.label, b.label) and a.id == b.id
    other = next(ultrasound_cases(1, image_size=(48, 64), seed=8))
    assert not np.array_equal(few[0].image, other.image)


@pytest.mark.parametrize("size", [(16, 16), (33, 70), (200, 96)])
def test_any_size_gives_pictures_with_contrast_and_one_connected_lesion(size: tuple[int, int]):
    for case in ultrasound_cases(6, image_size=size, views=1):
        assert case.image.shape == case.label.shape == size
        assert case.image.dtype == case.label.dtype == np.uint8
        assert case.image.std() > 15
        assert set(np.unique(case.label)) == {0, 1}
        assert 0.005 < case.label.mean() < 0.25
        if min(size) > 32:
            parts, count = components(case.label)
            assert np.bincount(parts.ravel())[1:].max() > 0.97 * case.label.sum(), count


def test_lesions_are_darker_than_the_gland_around_them():
    for case in ultrasound_cases(12, image_size=(128, 128)):
        inside = case.image[case.label == 1].mean()
        rows = np.flatnonzero(case.label.any(1))
        around = case.image[rows[0] : rows[-1]][case.label[rows[0] : rows[-1]] == 0].mean()
        assert inside < around - 15, case.facts


def test_a_cyst_brightens_what_lies_behind_it_and_a_malignant_lesion_shades_it():
    def behind(kind: str) -> float:
        ratios = []
        for seed in range(6):
            lesion = draw_lesion(np.random.default_rng([1, seed]), kind)
            with_lesion, label = draw_ultrasound(lesion, (128, 128), np.random.default_rng([2, seed]))
            without, _ = draw_ultrasound(None, (128, 128), np.random.default_rng([2, seed]))
            bottom, columns = np.flatnonzero(label.any(1))[-1] + 8, np.flatnonzero(label.any(0))
            strip = np.s_[bottom : bottom + 25, columns[0] + 5 : columns[-1] - 5]
            ratios.append(with_lesion[strip].mean() - without[strip].mean())
        return float(np.mean(ratios))

    assert behind("cyst") > 10
    assert behind("malignant") < -25


def test_malignant_borders_are_more_irregular_than_benign_ones():
    def compactness(kind: str) -> float:
        values = []
        for seed in range(12):
            lesion = draw_lesion(np.random.default_rng(seed), kind)
            values.append(float(np.abs(np.diff(lesion.border)).sum()))
        return float(np.mean(values))

    assert compactness("malignant") > 2 * compactness("benign") > 0


def test_views_of_a_patient_share_the_lesion_not_the_speckle():
    first, second, third = ultrasound_cases(3, image_size=(64, 64), views=2)
    assert first.group == second.group != third.group
    assert np.array_equal(first.label, second.label)
    assert not np.array_equal(first.image, second.image)


def test_the_folder_has_pairs_a_manifest_and_readable_masks(tmp_path: Path):
    root = write_ultrasound(tmp_path / "us", 6, image_size=(32, 48), normal_every=3)
    manifest = json.loads((root / "manifest.json").read_text())
    ids = [row["id"] for row in manifest["cases"]]
    assert (
        sorted(p.stem for p in (root / "images").iterdir())
        == sorted(ids)
        == sorted(p.stem for p in (root / "masks").iterdir())
    )
    values = {
        row["id"]: set(np.unique(np.asarray(Image.open(root / "masks" / f"{row['id']}.png"))))
        for row in manifest["cases"]
    }
    for row in manifest["cases"]:
        assert values[row["id"]] == ({0} if row["kind"] == "normal" else {0, 255})
    assert {row["kind"] for row in manifest["cases"]} == {*KINDS[:2], "normal"}


def test_writing_again_replaces_its_own_folder_only(tmp_path: Path):
    root = write_ultrasound(tmp_path / "us", 4, image_size=(32, 32))
    write_ultrasound(root, 2, image_size=(32, 32))
    assert len(list((root / "images").iterdir())) == 2
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="mine"):
        write_ultrasound(mine, 2, image_size=(32, 32))
    assert (mine / "notes.txt").read_text() == "keep"


def test_impossible_numbers_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="16 x 16"):
        write_ultrasound(tmp_path / "us", 2, image_size=(8, 64))
