"""Masks made apart are brought to one set of classes, or a question is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kanscan.data.case import Case
from kanscan.data.pictures.label_coding import agree_on_labels
from kanscan.data.pictures.labels import read_label
from kanscan.metrics import IGNORED


def cases(folder: Path, array: np.ndarray) -> list[Case]:
    folder.mkdir(parents=True)
    Image.fromarray(array).save(folder / "a.png")
    return [Case("a", (), (folder / "a.png",))]


@pytest.fixture
def label() -> np.ndarray:
    label = np.zeros((24, 32), np.uint8)
    label[4:20, 4:28], label[9:15, 10:20] = 1, 2
    return label


def classes_of(tmp_path: Path, ours: np.ndarray, theirs: np.ndarray, **options: object):
    found = cases(tmp_path / "ours", ours), cases(tmp_path / "theirs", theirs)
    prediction_map, label_map, note = agree_on_labels(*found, **options)
    return read_label(found[0][0], prediction_map), read_label(found[1][0], label_map), note


def test_a_class_that_no_reference_holds_is_counted_apart(tmp_path: Path, label: np.ndarray):
    ours, theirs, note = classes_of(tmp_path, label, np.minimum(label, 1))
    assert np.array_equal(ours, label) and np.array_equal(theirs, np.minimum(label, 1))
    assert "no reference holds" in note


def test_named_values_hold_for_both_and_background_is_index_0(tmp_path: Path, label: np.ndarray):
    stored = np.array([255, 128, 0], np.uint8)[label]
    option = {255: "background", 128: "disc", 0: "cup"}
    ours, theirs, _ = classes_of(tmp_path, stored, stored, labels=option)
    assert np.array_equal(ours, np.array([0, 2, 1])[label]) and np.array_equal(ours, theirs)


def test_exchanged_colors_are_exchanged_classes(tmp_path: Path, label: np.ndarray):
    colors = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
    swapped = colors[np.where(label > 0, 3 - label, 0)]
    with pytest.raises(ValueError, match=r"the references are color pictures.*labels=\{"):
        classes_of(tmp_path / "one", swapped, colors[label])
    option = {"#000000": "background", "#ff0000": "tumor", "#00ff00": "stroma"}
    ours, theirs, _ = classes_of(tmp_path / "two", swapped, colors[label], labels=option)
    assert not ((ours == theirs) & (theirs > 0)).any() and np.array_equal(theirs, label)


def test_what_nobody_labelled_in_the_references_is_left_out(tmp_path: Path, label: np.ndarray):
    reference = np.minimum(label, 1)
    reference[:, :3] = 255
    ours, theirs, _ = classes_of(tmp_path, np.minimum(label, 1), reference)
    assert (theirs[:, :3] == IGNORED).all() and ours.max() == 1


def test_values_that_explain_nothing_are_a_question(tmp_path: Path, label: np.ndarray):
    with pytest.raises(ValueError, match=r"predictions hold the values 0, 7, 200, .*labels=\{0: background"):
        classes_of(tmp_path, np.array([0, 7, 200], np.uint8)[label], np.array([0, 128, 255], np.uint8)[label])
