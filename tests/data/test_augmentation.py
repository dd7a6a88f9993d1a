from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from kanscan.data.pictures.augmentation import AUGMENTATIONS, augment, derive_seed

#: Augmentations that move pixels without interpolating.
EXACT = ("flip_horizontal", "flips", "flip_rotate")


def pair(size: tuple[int, int] = (12, 16)) -> tuple[torch.Tensor, torch.Tensor]:
    label = torch.zeros(size, dtype=torch.int64)
    label[2:5, 3:9] = 1
    label[7:11, 1:4] = 2
    # The picture shows its label: whatever happens to one must happen to the other.
    return torch.stack([label * 100.0, label * 50.0, label * 10.0]), label


@pytest.mark.parametrize("name", EXACT)
def test_image_and_label_move_together(name: str):
    image, label = pair()
    augmentation = AUGMENTATIONS[name]()
    seen = set()
    for seed in range(40):
        changed, classes = augment(augmentation, image, label, seed)
        assert torch.equal(changed[0], classes * 100.0) and classes.dtype == torch.int64
        assert classes.bincount().tolist() if classes.ndim == 1 else (classes == 1).sum() == 18
        seen.add((tuple(classes.shape), classes.numpy().tobytes()))
    assert len(seen) == {"flip_horizontal": 2, "flips": 4, "flip_rotate": 8}[name]


def test_default_keeps_image_and_label_aligned_and_in_range():
    label = torch.zeros((64, 64), dtype=torch.int64)
    label[16:40, 20:50] = 1
    image = (label * 160.0 + 40)[None]
    augmentation = AUGMENTATIONS["default"]()
    for seed in range(25):
        changed, classes = augment(augmentation, image, label, seed)
        assert changed.min() >= 0 and changed.max() <= 255 and set(classes.unique().tolist()) <= {0, 1}
        middle = (changed[0].amin() + changed[0].amax()) / 2
        assert ((changed[0] > middle) != classes.bool()).float().mean() < 0.05, seed


def test_the_seed_decides_alone():
    image, label = pair((16, 16))
    one, other = AUGMENTATIONS["default"](), AUGMENTATIONS["default"]()
    augment(other, image, label, 99)
    torch.manual_seed(7)
    np.random.seed(7)
    for seed in range(5):
        a, b = augment(one, image, label, seed), augment(other, image, label, seed)
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_flip_rotate_has_the_probabilities_of_the_papers_code():
    image, label = pair((12, 12))
    augmentation = AUGMENTATIONS["flip_rotate"]()
    counts = Counter(augment(augmentation, image, label, seed)[1].numpy().tobytes() for seed in range(800))
    # Nothing moves if neither acts, or if the two undo each other: 5/8 * 1/2 + 1/8 * 1/6 = 1/3.
    unmoved = counts[label.numpy().tobytes()] / 800
    assert abs(unmoved - 1 / 3) < 0.06


def test_none_and_unknown():
    assert AUGMENTATIONS["none"]() is None
    with pytest.raises(ValueError, match="did you mean 'flips'"):
        AUGMENTATIONS["flip"]


def test_seeds_are_unrelated_for_neighbors():
    seeds = {derive_seed(a, b, c) for a in range(4) for b in range(4) for c in range(50)}
    assert len(seeds) == 800 and derive_seed(1, 2, 3) == derive_seed(1, 2, 3)
    assert derive_seed(1, 2) != derive_seed(2, 1)
