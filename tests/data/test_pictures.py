"""Pictures with or without labels: found, cut, served."""

import numpy as np
import pytest
import torch
from PIL import Image

from kanscan.data.loading import make_loader
from kanscan.data.made.synthetic import write_ultrasound
from kanscan.data.pictures.dataset import bare_pictures
from kanscan.data.pictures.transforms import NORMALIZATIONS, Preprocessing, cut_square
from kanscan.data.unlabelled import Pictures, open_pictures


def write(path, shape=(40, 60, 3), value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = np.broadcast_to(np.arange(shape[1], dtype=np.uint8).reshape(1, -1, *[1] * (len(shape) - 2)), shape)
    Image.fromarray(np.ascontiguousarray(columns if value is None else np.full(shape, value, np.uint8))).save(path)


def test_any_folder_of_images_is_a_data_set(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "deep" / "a.png", (20, 20, 3))
    write(tmp_path / "deep" / "b.jpg", (20, 20, 3))
    source = open_pictures(tmp_path)
    assert [case.id for case in source.cases] == ["a", "deep_a", "deep_b"]
    assert source.reader.channels == 3
    with pytest.raises(ValueError, match="no layout"):
        open_pictures(tmp_path, labelled=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is empty"):
        open_pictures(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_pictures(tmp_path / "nowhere")


def test_grey_pictures_and_names_that_differ_in_the_suffix_only(tmp_path):
    write(tmp_path / "a.png", (20, 30))
    write(tmp_path / "a.jpg", (20, 30))
    reader = Pictures()
    reader.inspect(reader.survey(tmp_path))
    assert [case.id for case in reader.cases(tmp_path)] == ["a.jpg", "a.png"]
    assert reader.channels == 1


def test_a_known_layout_gives_its_pictures_without_the_masks(tmp_path):
    root = write_ultrasound(tmp_path / "us", 4, image_size=(32, 40))
    assert len(open_pictures(root).cases) == len(open_pictures(root, labelled=True).cases) == 4


@pytest.mark.parametrize(("side", "shape"), [(30, (30, 30)), (400, (40, 40)), (None, (40, 60))])
def test_a_cut_from_the_middle_stays_inside_the_picture(side, shape):
    image = np.arange(40 * 60).reshape(40, 60)
    cut = cut_square(image, side)
    assert cut.shape == shape
    top, left = (40 - shape[0]) // 2, (60 - shape[1]) // 2
    np.testing.assert_array_equal(cut, image[top : top + shape[0], left : left + shape[1]])


def test_cuts_reach_every_corner():
    image = np.arange(20).reshape(4, 5)
    found = {cut_square(image, 4, (0.5, column))[0, 0] for column in (0.0, 0.49, 0.51, 0.999, 1.0)}
    assert found == {0, 1}


def test_picture_and_label_are_cut_alike_before_they_are_resized():
    preprocessing = Preprocessing(3, (10, 10), "symmetric", crop=20)
    label = np.zeros((40, 60), np.uint8)
    label[10:30, 20:40] = 1
    image = np.repeat(255 * label[..., None], 3, axis=2)
    assert preprocessing.prepare_label(label).all()
    tensor = preprocessing(image)
    assert tensor.shape == (3, 10, 10)
    assert np.array_equal(tensor, np.ones_like(tensor))
    with pytest.raises(ValueError, match="crop"):
        Preprocessing(3, crop=0)


def test_symmetric_pictures_fill_minus_one_to_one():
    values = NORMALIZATIONS["symmetric"](np.array([[[0.0, 127.5, 255.0]]], np.float32))
    assert values.flatten().tolist() == [-1, 0, 1]


def dataset(root, **options):
    source = open_pictures(root)
    preprocessing = Preprocessing(3, (16, 16), "symmetric", crop=16)
    return bare_pictures(source.cases, preprocessing, seed=3, **options)


def test_cuts_anywhere_change_with_the_epoch_and_come_back(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.png", (64, 90, 3))
    moving = dataset(tmp_path, crop_place="random")
    first, second = moving[0, 0]["image"], moving[1, 0]["image"]
    assert first.shape == (3, 16, 16)
    assert not torch.equal(first, second)
    assert torch.equal(first, dataset(tmp_path, crop_place="random", cache=False)[0, 0]["image"])
    fixed = dataset(tmp_path)
    assert torch.equal(fixed[0, 0]["image"], fixed[1, 0]["image"])


def test_pictures_without_labels_are_flipped_too(tmp_path):
    write(tmp_path / "a.png", (16, 16, 3))
    flipping = dataset(tmp_path, augmentation="flips")
    seen = {tuple(flipping[epoch, 0]["image"][0, 0, :2].tolist()) for epoch in range(12)}
    assert len(seen) == 2
    assert "label" not in flipping[0, 0]
    batch = next(iter(make_loader(flipping, batch_size=1)))
    assert batch["image"].shape == (1, 3, 16, 16)
