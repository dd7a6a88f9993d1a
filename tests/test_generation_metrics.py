"""Figures for generated pictures: by hand, against scipy, and that they rank what is known to be worse."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from kanscan.metrics.features import built_in, load_features
from kanscan.metrics.generation import frechet_distance, inception_score, nearest_neighbors


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_the_distance_of_two_normal_distributions():
    a, b = random(400, 6), random(300, 6, seed=1) @ random(6, 6, seed=2) + 0.5
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1])
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * np.real(root))
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(24, rel=1e-9)


def test_fewer_pictures_than_features_are_no_obstacle():
    assert frechet_distance(random(5, 40), random(7, 40, seed=1)) > 0


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (random(1, 3), random(5, 3), "two pictures"),
        (random(5, 3), random(5, 4), "two lengths"),
        (random(5, 3) * np.nan, random(5, 3), "NaN"),
    ],
)
def test_what_has_no_distance(a, b, words):
    with pytest.raises(ValueError, match=words):
        frechet_distance(a, b)


def test_inception_score_by_hand():
    sure = np.eye(4)[np.arange(40) % 4]
    assert inception_score(sure) == (pytest.approx(4), pytest.approx(0))
    assert inception_score(np.full((40, 4), 0.25)) == (pytest.approx(1), pytest.approx(0))
    # exp of the mean divergence from (0.5, 0.5).
    p = np.array([[0.9, 0.1], [0.1, 0.9]] * 10)
    divergence = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert inception_score(p, splits=10)[0] == pytest.approx(np.exp(divergence))
    with pytest.raises(ValueError, match="needs as many pictures"):
        inception_score(p[:5])
    with pytest.raises(ValueError, match="probabilities"):
        inception_score(random(20, 3))


def pictures(count=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def test_a_copy_is_found_even_when_mirrored():
    real = pictures()
    found = nearest_neighbors(real[[3, 7]][..., ::-1], real)
    assert found.indices.tolist() == [3, 7]
    assert found.distances == pytest.approx([0, 0], abs=1e-3)
    plain = nearest_neighbors(real[[3]][..., ::-1], real, mirrored=False)
    assert plain.distances[0] > 10
    brighter = np.clip(real.astype(int), 0, 245).astype(np.uint8)
    assert nearest_neighbors(brighter + np.uint8(10), brighter).distances == pytest.approx(np.full(12, 10.0), abs=1e-3)
    alone = nearest_neighbors(real, real, exclude_self=True)
    assert (alone.indices != np.arange(12)).all()
    with pytest.raises(ValueError, match="two sizes"):
        nearest_neighbors(real, real[..., :4])


def smooth(count, seed):
    """Blobs of light: nearby pixels agree, as in photographs."""
    stream = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32]
    sheets = []
    for _ in range(count):
        place, width = stream.uniform(8, 24, 2), stream.uniform(4, 9)
        sheets.append(np.exp(-((rows - place[0]) ** 2 + (columns - place[1]) ** 2) / (2 * width**2)))
    base = 40 + 180 * np.stack(sheets)[:, None]
    return np.clip(base * np.array([1.0, 0.6, 0.5])[:, None, None], 0, 255).astype(np.uint8)


def test_the_built_in_features_rank_noise_behind_pictures():
    features = built_in()
    real, probabilities = features(smooth(150, 0))
    assert real.shape == (150, 112)
    assert probabilities is None
    assert features.relative
    noise = np.random.default_rng(2).normal(0, 25, (150, 3, 32, 32))
    distances = [
        frechet_distance(features(np.clip(sheet, 0, 255).astype(np.uint8))[0], real)
        for sheet in (smooth(150, 1), smooth(150, 1) + noise, smooth(150, 1) + 4 * noise)
    ]
    assert distances[0] < distances[1] < distances[2]
    # The same filters in every process and version.
    grey = features(np.full((2, 1, 32, 32), 200, np.uint8))[0]
    assert grey[0].sum() == pytest.approx(grey[1].sum())


class Probe(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        means = x.float().mean((2, 3))
        return means, means / 10


class Official(torch.nn.Module):
    def forward(self, x: torch.Tensor, return_features: bool = False):
        means = x.float().mean((2, 3))
        return means if return_features else means.softmax(1)


@pytest.mark.parametrize("module", [Probe, Official])
def test_features_of_a_file(tmp_path, module):
    torch.jit.script(module()).save(str(tmp_path / "net.pt"))
    features = load_features(tmp_path / "net.pt")
    found, probabilities = features(pictures(), batch_size=5)
    np.testing.assert_allclose(found, pictures().mean((2, 3)), rtol=1e-5)
    assert probabilities.sum(1) == pytest.approx(np.ones(12))
    assert "net.pt, SHA-256" in features.about
    assert not features.relative


def test_feature_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no feature network"):
        load_features(tmp_path / "none.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match="no TorchScript"):
        load_features(tmp_path / "junk.pt")
    torch.jit.script(torch.nn.Linear(3, 3)).save(str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="cannot take pictures"):
        load_features(tmp_path / "other.pt")(pictures())
