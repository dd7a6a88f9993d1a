from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kanscan.data import make_reader
from kanscan.data.case import Case, LabelMap
from kanscan.data.loading import CaseError, EpochSampler, make_loader
from kanscan.data.made.synthetic import write_ultrasound
from kanscan.data.pictures.dataset import (
    ConcatenatedDataset,
    PictureDataset,
    bare_pictures,
    estimate_cache_mib,
    labelled_pictures,
)
from kanscan.data.pictures.transforms import Preprocessing


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Case], LabelMap]:
    root = write_ultrasound(tmp_path_factory.mktemp("data") / "us", 7, image_size=(40, 48))
    reader = make_reader("auto", root)
    return reader.cases(root), reader.label_map


def dataset(source, **options) -> PictureDataset:
    options = {"augmentation": "default", "seed": 3} | options
    return labelled_pictures(source[0], Preprocessing(1, (32, 32)), source[1], **options)


def batches(source, epoch: int = 0, **options) -> list[dict]:
    loader = make_loader(dataset(source), batch_size=3, shuffle=True, seed=11, **options)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def same(one: list[dict], other: list[dict]) -> bool:
    return all(
        a["id"] == b["id"] and torch.equal(a["image"], b["image"]) and torch.equal(a["label"], b["label"])
        for a, b in zip(one, other, strict=True)
    )


def test_items_have_the_promised_shapes(source):
    item = dataset(source)[0]
    assert item["image"].shape == (1, 32, 32) and item["image"].dtype == torch.float32
    assert item["label"].shape == (32, 32) and item["label"].dtype == torch.int64
    assert item["id"] == source[0][0].id and item["index"] == 0


def test_the_same_batches_for_any_number_of_workers(source):
    assert same(batches(source), batches(source, num_workers=2))


def test_an_epoch_is_the_same_after_a_resume_and_differs_from_the_next(source):
    torch.manual_seed(0)
    first = batches(source, epoch=4)
    torch.manual_seed(99)
    np.random.seed(99)
    assert same(first, batches(source, epoch=4))
    other = batches(source, epoch=5)
    assert [b["id"] for b in first] != [b["id"] for b in other]


def test_the_cache_changes_nothing_but_reading(source):
    cached, plain = dataset(source), dataset(source, cache=False)
    for index in (0, 3, 0):
        assert torch.equal(cached[2, index]["image"], plain[2, index]["image"])
    assert not torch.equal(cached[2, 0]["image"], cached[3, 0]["image"])
    small = dataset(source, cache_limit_mib=0.001)
    assert small.memory is not None and not small.memory.fits and "read again each epoch" in str(small.memory)
    small.fill_cache()
    assert small[2, 0]["id"] == cached[2, 0]["id"] and cached.memory is not None and cached.memory.fits
    assert estimate_cache_mib(source[0], Preprocessing(1, (32, 32))) == pytest.approx(7 * 32 * 32 * 2 / 2**20)


def test_without_augmentation_the_item_is_the_prepared_picture(source):
    item = dataset(source, augmentation="none")[1]
    raw = np.asarray(Image.open(source[0][1].images[0]))
    assert np.array_equal(item["image"].numpy(), Preprocessing(1, (32, 32))(raw))


def test_joined_sets_serve_the_items_of_their_parts_in_a_row(source):
    cases, labels = source
    one, other = dataset((cases[:3], labels)), dataset((cases[3:], labels), seed=4)
    both = ConcatenatedDataset(one, other)
    assert len(both) == 7
    assert [both[i]["id"] for i in range(7)] == [case.id for case in cases]
    assert [both[5, i]["index"] for i in range(7)] == list(range(7))
    assert torch.equal(both[5, 2]["image"], one[5, 2]["image"])
    assert torch.equal(both[5, 3]["image"], other[5, 0]["image"])
    both.set_epoch(6)
    assert torch.equal(both[6]["image"], other[6, 3]["image"])
    assert both.memory is not None and both.memory.fits and "3 cases" in str(both.memory)
    small = ConcatenatedDataset(one, dataset((cases[3:], labels), cache_limit_mib=0))
    assert small.memory is not None and not small.memory.fits


def test_sampler_covers_every_index_once_and_shares_among_processes():
    sampler = EpochSampler(10, seed=1)
    assert sorted(i for _, i in sampler) == list(range(10))
    shares = [list(EpochSampler(10, seed=1, rank=r, world_size=3)) for r in range(3)]
    assert {len(s) for s in shares} == {4} and {i for s in shares for _, i in s} == set(range(10))
    assert [i for _, i in EpochSampler(4, shuffle=False)] == [0, 1, 2, 3]


def test_pictures_of_their_own_size_need_equal_sizes_in_a_batch(source, draw, tmp_path: Path):
    cases = [
        Case(n, (draw(tmp_path / f"{n}.png", "L", size=s),), (draw(tmp_path / f"{n}_m.png", "L", size=s, value=255),))
        for n, s in (("a", (24, 32)), ("b", (32, 24)))
    ]
    data = labelled_pictures(cases, Preprocessing(1, None), LabelMap())
    assert data[1]["image"].shape == (1, 32, 24)
    with pytest.raises(ValueError, match=r"24 x 32 \(a\), 32 x 24 \(b\); set data.image_size"):
        list(make_loader(data, batch_size=2))


def test_a_quarter_turn_of_a_wide_picture_keeps_the_batch_size(source):
    data = labelled_pictures(source[0], Preprocessing(1, (24, 32)), source[1], augmentation="flip_rotate", seed=1)
    for epoch in range(8):
        item = data[epoch, 0]
        assert item["image"].shape == (1, 24, 32) and item["label"].shape == (24, 32)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_file_is_one_sentence_even_from_a_worker(source, draw, tmp_path: Path, num_workers: int):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    case = Case("x", (broken,), (draw(tmp_path / "m.png", "L", value=255),))
    data = labelled_pictures([source[0][0], case], Preprocessing(1, (32, 32)), LabelMap(), cache=False)
    with pytest.raises(CaseError, match=r"^cannot read .*broken\.png: it is not an image") as raised:
        list(make_loader(data, batch_size=1, num_workers=num_workers))
    assert "\n" not in str(raised.value)


def test_nothing_to_load(source):
    with pytest.raises(ValueError, match="no case to load"):
        labelled_pictures([], Preprocessing(), LabelMap())
    bare = Case("a", source[0][0].images)
    with pytest.raises(ValueError, match="1 of 1 cases have no label file, first 'a'"):
        labelled_pictures([bare], Preprocessing(), LabelMap())
    item = bare_pictures([bare], Preprocessing(1, (8, 8)))[0]
    assert "label" not in item and item["image"].shape == (1, 8, 8)
