from __future__ import annotations

import numpy as np
import pytest
import torch

from kanscan.data.pictures import resizing
from kanscan.data.pictures.resizing import resize_image, resize_label
from kanscan.data.pictures.transforms import NORMALIZATIONS, Preprocessing

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def picture(seed: int = 0, size: tuple[int, int] = (7, 9)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_imagenet_and_release_by_hand():
    image = picture()
    plain = Preprocessing(image_size=None)(image)
    by_hand = (image / 255 - MEAN) / STD
    assert np.allclose(plain, by_hand.transpose(2, 0, 1), atol=1e-5)
    # The released recipe: channels in BGR order, the RGB figures, and a second division by 255.
    released = Preprocessing(image_size=None, normalization="release")(image)
    by_hand = (image[..., ::-1] / 255 - MEAN) / STD / 255
    assert np.allclose(released, by_hand.transpose(2, 0, 1), atol=1e-6)
    scale = Preprocessing(image_size=None, normalization="release")
    extremes = [scale(np.full((2, 2, 3), value, np.uint8)) for value in (0, 255)]
    assert min(e.min() for e in extremes) > -0.0084 and max(e.max() for e in extremes) < 0.0105


@pytest.mark.parametrize("name", sorted(NORMALIZATIONS))
@pytest.mark.parametrize("channels", [1, 3])
def test_normalizations_are_finite_even_on_a_constant_picture(name: str, channels: int):
    preprocessing = Preprocessing(channels, (8, 8), name)
    for image in (picture(), np.full((7, 9), 80, np.uint8), np.zeros((7, 9, 3), np.uint8)):
        out = preprocessing(image)
        assert out.shape == (channels, 8, 8) and out.dtype == np.float32 and np.isfinite(out).all()


def test_minmax_zscore_and_vmkla():
    image = picture().transpose(2, 0, 1).astype(np.float32)
    stretched = NORMALIZATIONS["minmax"](image)
    assert (stretched.min(), stretched.max()) == (0, 1)
    scored = NORMALIZATIONS["zscore"](image)
    assert abs(scored.mean()) < 1e-5 and abs(scored.std() - 1) < 1e-5
    # That recipe standardizes first; the stretch undoes it.
    standardized = (image - 159.922) / 28.871
    stretched = (standardized - standardized.min()) / (standardized.max() - standardized.min()) * 255
    assert np.allclose(NORMALIZATIONS["release_vmkla"](image), stretched, atol=1e-3)


def test_unknown_normalization_and_wrong_sizes():
    with pytest.raises(ValueError, match="did you mean 'imagenet'"):
        Preprocessing(normalization="imagnet")
    with pytest.raises(ValueError, match="channels"):
        Preprocessing(channels=0)
    with pytest.raises(ValueError, match="image_size"):
        Preprocessing(image_size=(0, 4))


def test_deep_pictures_are_brought_to_the_8_bit_scale():
    deep = (np.arange(20).reshape(4, 5) * 3000).astype(np.uint16)
    prepared = Preprocessing(1, None).prepare(deep)
    assert prepared.dtype == np.float32 and prepared.min() == 0 and np.isclose(prepared.max(), 255)
    unit = np.linspace(0, 0.5, 20, dtype=np.float32).reshape(4, 5)
    assert np.isclose(Preprocessing(1, None).prepare(unit).max(), 127.5)
    eight = picture()
    assert Preprocessing(3, None).prepare(eight).dtype == np.uint8


def test_channels_are_repeated_averaged_or_refused():
    grey = picture()[..., 0]
    repeated = Preprocessing(3, None).prepare(grey)
    assert all(np.array_equal(plane, grey) for plane in repeated)
    assert np.array_equal(Preprocessing(1, None).prepare(picture())[0], np.rint(picture().mean(-1)))
    with pytest.raises(ValueError, match="has 2 channels, the network takes 3"):
        Preprocessing(3, None).prepare(picture()[..., :2])


def test_bilinear_resize_against_a_literal_loop():
    image = picture(size=(5, 7)).transpose(2, 0, 1)
    found = resize_image(image, (8, 6)).astype(int)
    for i in range(8):
        for j in range(6):
            y, x = (i + 0.5) * 5 / 8 - 0.5, (j + 0.5) * 7 / 6 - 0.5
            y, x = min(max(y, 0), 4), min(max(x, 0), 6)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, 4), min(x0 + 1, 6)
            a, b = y - y0, x - x0
            value = (1 - a) * ((1 - b) * image[:, y0, x0] + b * image[:, y0, x1])
            value = value + a * ((1 - b) * image[:, y1, x0] + b * image[:, y1, x1])
            assert np.abs(found[:, i, j] - value).max() <= 0.51


@pytest.mark.parametrize(("old", "new"), [((50, 71), (80, 63)), ((1, 4), (5, 4)), ((64, 64), (128, 128))])
def test_numpy_resizes_as_torch_does(old: tuple[int, int], new: tuple[int, int]):
    image = np.random.default_rng(0).random((3, *old), dtype=np.float32) * 255
    assert np.abs(resizing._by_numpy(image, new) - resizing._by_torch(image, new)).max() < 1e-3
    eight = np.random.default_rng(0).integers(0, 256, (3, *old)).astype(np.float32)
    ours, theirs = (by(eight, new) for by in (resizing._by_numpy, resizing._by_torch))
    differ = np.rint(ours) != np.rint(theirs)
    # Only values halfway between two grey levels may fall on either.
    assert np.abs(theirs[differ] % 1 - 0.5).max(initial=0) < 1e-3 and differ.mean() < 0.01


def test_normalizing_an_array_gives_what_torch_would_to_the_bit():
    image = picture(size=(64, 65)).transpose(2, 0, 1).astype(np.float32)
    x, (mean, std) = torch.from_numpy(image), (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (MEAN, STD))
    expected = {
        "imagenet": (x / 255 - mean) / std,
        "release": (x.flip(0) / 255 - mean) / std / 255,
        "minmax": (x - x.min()) / (x.max() - x.min()),
        "unit": x / 255,
        "symmetric": x / 127.5 - 1,
    }
    for name, theirs in expected.items():
        assert np.array_equal(NORMALIZATIONS[name](image), theirs.numpy()), name


@pytest.mark.parametrize(("old", "new"), [((5, 7), (8, 6)), ((6, 6), (3, 12)), ((1, 4), (5, 4))])
def test_nearest_resize_of_labels_mixes_no_classes(old: tuple[int, int], new: tuple[int, int]):
    label = np.random.default_rng(0).integers(0, 4, old, dtype=np.uint8)
    found = resize_label(label, new)
    assert found.shape == new and set(np.unique(found)) <= set(np.unique(label))
    for i in range(new[0]):
        for j in range(new[1]):
            assert found[i, j] == label[i * old[0] // new[0], j * old[1] // new[1]]


def test_image_and_label_stay_aligned_through_the_resize():
    label = np.zeros((90, 120), np.uint8)
    label[30:60, 40:100] = 1
    preprocessing = Preprocessing(1, (64, 64))
    image = preprocessing.prepare(label * 255)[0]
    assert ((image > 127) != preprocessing.prepare_label(label).astype(bool)).mean() < 0.02
