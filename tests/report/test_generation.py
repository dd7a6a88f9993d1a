"""The comparison of generated with real pictures: what is worse gets the larger figure, copies are counted."""

import numpy as np
import pytest
import torch

from kanscan.metrics.features import FeatureNet, built_in
from kanscan.report.generation import generation_page, neighbor_sheet, score_generation


def blobs(count, seed, level=180):
    """Blobs of light on a dark ground, `(N, 3, 24, 24)`."""
    stream = np.random.default_rng(seed)
    rows, columns = np.mgrid[:24, :24]
    sheets = []
    for _ in range(count):
        place, width, strength = stream.uniform(6, 18, 2), stream.uniform(3, 7), stream.uniform(0.6, 1.2)
        sheets.append(strength * np.exp(-((rows - place[0]) ** 2 + (columns - place[1]) ** 2) / (2 * width**2)))
    base = 30 + level * np.stack(sheets)[:, None]
    return np.clip(base * np.array([1.0, 0.7, 0.5])[:, None, None], 0, 255).astype(np.uint8)


def noise(count):
    return np.random.default_rng(9).integers(0, 256, (count, 3, 24, 24), dtype=np.uint8)


def first(scores):
    return scores.distances[0].value


def test_noise_is_further_than_a_wrong_brightness_and_that_further_than_real_pictures():
    train, test = blobs(150, 0), blobs(60, 1)
    good, dark, bad = (
        score_generation(x, train, test, built_in()) for x in (blobs(60, 2), blobs(60, 2, level=120), noise(60))
    )
    assert first(good) < first(dark) < first(bad)
    floor = good.distances[2]
    assert (floor.num_one, floor.num_other) == (60, 150)
    assert first(good) < 3 * floor.value
    assert good.num_copies <= 3
    assert bad.sample_distance > 2 * good.held_out_distance


def test_copies_are_counted_and_shown_first():
    train, test = blobs(40, 0), blobs(20, 1)
    samples = blobs(12, 2)
    samples[5] = train[17][..., ::-1]
    scores = score_generation(samples, train, test, built_in())
    assert scores.num_copies >= 1
    assert scores.nearest[5] == (17, pytest.approx(0, abs=1e-3))
    assert score_generation(samples, train, test, built_in(), mirrored=False).nearest[5][1] > 1
    sheet = neighbor_sheet(samples, train, [f"case{i}" for i in range(40)], scores)
    text = generation_page("Pictures", "lead", sheet, None, {"seed": "0"}, scores, sheet)
    assert f"{scores.num_copies} of 12 samples are closer" in text
    assert "From noise" not in text


def test_features_of_a_network_keep_their_scale():
    class Means(torch.nn.Module):
        def forward(self, x):
            return x.float().mean((2, 3))

    features = FeatureNet("means", False, Means(), torch.device("cpu"))
    train = blobs(30, 0)
    brighter = train + np.uint8(10)
    empty = train[:0]
    scores = score_generation(brighter, train, empty, features)
    # Three channels, each ten grey levels apart, the same spread.
    assert first(scores) == pytest.approx(300, rel=0.05)
    assert len(scores.distances) == 1
    assert scores.inception is None
