from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kanscan.drawing.colors import class_color
from kanscan.drawing.images import contact_sheet, contour, overlay, png_bytes, save_png, to_rgb


def test_overlay_tints_the_class_and_leaves_the_rest():
    image = np.full((40, 50), 100, np.uint8)
    label = np.zeros((40, 50), np.uint8)
    label[10:30, 10:40] = 2
    drawn = overlay(image, label)
    assert np.array_equal(drawn[0, 0], [100, 100, 100])
    assert tuple(drawn[10, 10]) == class_color(2)
    inside = drawn[20, 25].astype(int)
    assert np.abs(inside - (0.65 * 100 + 0.35 * np.array(class_color(2)))).max() <= 1
    with_reference = overlay(image, label, reference=(label > 0).astype(np.uint8)[::-1])
    assert (with_reference != drawn).any()
    with pytest.raises(ValueError, match="they must agree"):
        overlay(image, label[:5])


def test_contour_lies_inside_the_mask():
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    border = contour(mask, 2)
    assert not (border & ~mask).any() and border.sum() == 100 - 36


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 2), (5, 6, 3), (5, 6, 4)])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.float32])
def test_anything_becomes_a_picture(shape: tuple[int, ...], dtype: type):
    image = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    shown = to_rgb(image)
    assert shown.shape == (5, 6, 3) and shown.dtype == np.uint8


def test_sheet_holds_every_tile_and_wastes_no_row():
    wide = [np.full((50, 200, 3), 200, np.uint8)] * 5
    sheet = contact_sheet(wide, ["a", "b"], columns=3, tile_size=100)
    assert sheet.shape[1] == 3 * 106 + 6 and sheet.shape[0] == 2 * (25 + 18 + 6) + 6
    assert (sheet[6:31, 6:106] == 200).all() and (sheet[55:80, 112:212] == 200).all()
    assert (sheet[50:, 213:] == 24).all()
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_png(tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(save_png(tmp_path / "new" / "a.png", image))), image)
    assert png_bytes(image).startswith(b"\x89PNG")
