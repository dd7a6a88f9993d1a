"""Which pictures somebody means by files, folders and patterns."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kanscan.data.pictures.search import find_pictures


def test_a_picture_named_twice_is_one_case(draw, tmp_path: Path):
    one = draw(tmp_path / "a.png")
    cases, notes = find_pictures([one, str(one), tmp_path / "*.png"])
    assert [(case.id, case.images) for case in cases] == [("a", (one,))] and not notes


def test_folders_inside_are_searched_and_named(draw, tmp_path: Path):
    for name in ("p1/s0.png", "p1/s1.png", "p2/s0.png", "top.png"):
        draw(tmp_path / name)
    cases, _ = find_pictures([tmp_path])
    assert [case.id for case in cases] == ["top", "p1_s0", "p1_s1", "p2_s0"]


def test_masks_are_left_out_by_their_name_and_by_that_of_their_folder(draw, tmp_path: Path):
    for name in ("a/x.png", "a/x_mask.png", "a/lone_mask.png", "set/images/y.png", "set/masks/y.png"):
        draw(tmp_path / name)
    cases, notes = find_pictures([tmp_path])
    assert [case.id for case in cases] == ["a_lone_mask", "a_x", "set_images_y"]
    assert notes == [f"2 files in {tmp_path} look like masks of others and were left out, first x_mask.png"]
    # What holds nothing else is taken at its word.
    assert len(find_pictures([tmp_path / "set" / "masks"])[0]) == 1


def test_nothing_to_find(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no picture or folder at"):
        find_pictures([tmp_path / "gone.png"])
    with pytest.raises(ValueError, match="no picture in the folder"):
        find_pictures([tmp_path])
    with pytest.raises(ValueError, match="no picture was named"):
        find_pictures([])


def test_the_time_grows_with_the_number_of_names_and_not_with_its_square(tmp_path: Path):
    def seconds(count: int) -> float:
        folder = tmp_path / str(count)
        folder.mkdir()
        for k in range(count):
            (folder / f"{k}.png").touch()
        began = time.perf_counter()
        assert len(find_pictures([folder])[0]) == count
        return time.perf_counter() - began

    assert seconds(8000) < 40 * max(seconds(500), 0.01)
