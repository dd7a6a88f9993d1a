from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from kanscan.data.case import Case, LabelMap
from kanscan.data.label_map import apply_label_map
from kanscan.data.pictures.files import read_image, read_mode, read_reduced, read_size, read_stored_label, write_label
from kanscan.data.pictures.labels import read_case_image, read_label
from kanscan.data.pictures.search import is_image_file

DISC = 1 / 16 * np.pi


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_every_way_to_store_a_mask_gives_the_same_label(draw, tmp_path: Path, mode: str):
    expected = read_label(Case("a", (), (draw(tmp_path / "l.png", "L", value=255),)), LabelMap())
    path = draw(tmp_path / f"{mode}.png", mode, value=1 if mode == "P" else 255)
    found = read_label(Case("a", (), (path,)), LabelMap())
    assert np.array_equal(found, expected) and found.sum() > 0


@pytest.mark.parametrize(
    ("mode", "shape", "words"),
    [
        ("1", (24, 32), "1-bit"),
        ("L", (24, 32), "8-bit gray"),
        ("RGB", (24, 32, 3), "8-bit RGB"),
        ("RGBA", (24, 32, 3), "8-bit RGBA"),
        ("P", (24, 32, 3), "8-bit palette"),
        ("CMYK", (24, 32, 3), "8-bit CMYK"),
    ],
)
def test_pictures_of_every_mode(draw, tmp_path: Path, mode: str, shape: tuple[int, ...], words: str):
    path = draw(tmp_path / f"a.{'jpg' if mode == 'CMYK' else 'png'}", mode)
    image = read_image(path)
    assert image.shape == shape and image.dtype == np.uint8 and image.max() > 200
    assert read_mode(path) == words


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("ending", ["tif", "npy"])
def test_deep_pictures_keep_their_values(tmp_path: Path, dtype: type, ending: str):
    values = (np.arange(60).reshape(6, 10) * 4).astype(dtype)
    path = tmp_path / f"a.{ending}"
    tifffile.imwrite(path, values) if ending == "tif" else np.save(path, values)
    image = read_image(path)
    assert image.dtype == dtype and np.array_equal(image, values)
    assert read_size(path) == (6, 10)
    assert read_mode(path).endswith("gray")


def test_16_bit_png(tmp_path: Path):
    values = (np.arange(60).reshape(6, 10) * 1000).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), values)


def test_exif_orientation_is_applied(tmp_path: Path):
    picture = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (30, 20, 3)
    assert read_size(tmp_path / "a.jpg") == (30, 20)


def test_pages_of_a_stack(tmp_path: Path):
    stack = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    assert np.array_equal(read_image(tmp_path / "a.tif", frame=2), stack[2])
    with pytest.raises(ValueError, match="holds 3 pages, one was expected"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="3 pages, page 7 was asked for"):
        read_image(tmp_path / "a.tif", frame=7)


def test_modalities_become_channels(draw, tmp_path: Path):
    paths = tuple(draw(tmp_path / f"{k}.png", "L") for k in range(2))
    assert read_case_image(Case("a", paths)).shape == (24, 32, 2)
    other = draw(tmp_path / "other.png", "L", size=(10, 10))
    with pytest.raises(ValueError, match="the other modality"):
        read_case_image(Case("a", (*paths, other)))


def test_what_is_no_picture(tmp_path: Path):
    np.save(tmp_path / "volume.npy", np.zeros((4, 5, 6, 7)))
    with pytest.raises(ValueError, match=r"shape \(4, 5, 6, 7\)"):
        read_image(tmp_path / "volume.npy")
    with pytest.raises(ValueError, match="is a folder"):
        read_image(tmp_path)
    assert not is_image_file(Path("._a.png")) and not is_image_file(Path("a.txt")) and is_image_file(Path("a.PNG"))


@pytest.mark.parametrize(
    ("stored", "rule", "expected"),
    [
        ([0, 1], LabelMap(), [0, 1]),
        ([0, 255], LabelMap(), [0, 1]),
        ([12, 127, 128, 255], LabelMap(), [0, 0, 1, 1]),
        ([0, 3, 255], LabelMap(rule="nonzero"), [0, 1, 1]),
        ([0, 128, 255], LabelMap(("a", "b", "c"), "values", {0: 0, 128: 1, 255: 2}), [0, 1, 2]),
        ([3, 120, 250], LabelMap(("a", "b", "c"), "values", {0: 0, 128: 1, 255: 2}, snap=True), [0, 1, 2]),
        ([0, 40000], LabelMap(), [0, 1]),
    ],
)
def test_label_rules(stored: list[int], rule: LabelMap, expected: list[int]):
    dtype = np.uint16 if max(stored) > 255 else np.uint8
    assert apply_label_map(np.array([stored], dtype), rule).tolist() == [expected]


@pytest.mark.parametrize(
    ("stored", "rule", "words"),
    [
        ([0, 7], LabelMap(("a", "b"), "values", {0: 0, 1: 1}), r"value 7, outside the map \{0 = a, 1 = b\}"),
        ([0, 5, 7], LabelMap(("a", "b"), "values", {0: 0, 1: 1}), "values 5, 7"),
        ([0, 255], LabelMap(("a", "b"), "values", {0: 0, 100: 1}, snap=True), "value 255"),
        ([0, 60], LabelMap(), "up to 60, outside the map"),
        ([0, 1], LabelMap(rule="magic"), "unknown label rule 'magic'"),
    ],
)
def test_values_outside_the_map_name_the_file(stored: list[int], rule: LabelMap, words: str):
    with pytest.raises(ValueError, match=words):
        apply_label_map(np.array([stored], np.uint8), rule, "mask.png")


def test_a_value_nobody_named_is_refused_where_it_fills_an_area_and_snapped_at_a_border():
    rule = LabelMap(("background", "lesion"), "values", {0: 0, 255: 1}, snap=True)
    stored = np.zeros((40, 40), np.uint8)
    stored[:, 20:] = 255
    # The border between two classes, blurred by resizing.
    stored[:, 19], stored[:, 20] = 77, 170
    assert apply_label_map(stored, rule).sum() == 40 * 20
    stored[5:15, 3:13] = 77
    with pytest.raises(ValueError, match=r"mask.png holds label value 77, outside the map"):
        apply_label_map(stored, rule, "mask.png")


def test_a_mask_in_one_color_and_a_picture_instead_of_a_label():
    red = np.zeros((2, 2, 3), np.uint8)
    red[0, 0, 0] = 255
    assert apply_label_map(red, LabelMap()).tolist() == [[1, 0], [0, 0]]
    with pytest.raises(ValueError, match="color picture"):
        apply_label_map(red, LabelMap(("a", "b"), "values", {0: 0, 255: 1}))


def test_labels_survive_being_written(tmp_path: Path):
    for label in (np.arange(12, dtype=np.int64).reshape(3, 4), np.full((2, 2), 999)):
        path = write_label(tmp_path / "a.png", label)
        assert np.array_equal(read_stored_label(path), label)
    for wrong in (np.zeros((2, 2)), np.zeros((2, 2, 1), int), np.full((1, 1), -1)):
        with pytest.raises(ValueError, match="cannot write"):
            write_label(tmp_path / "b.png", wrong)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_reduced_reading_knows_the_true_size(draw, tmp_path: Path):
    path = draw(tmp_path / "a.jpg", size=(160, 240))
    small, size = read_reduced(path)
    assert size == (160, 240) and small.shape == (20, 30, 3)


def test_pages_that_lead_back_to_one_another_end(tmp_path):
    """A damaged TIFF whose last page names the first as the next one would be read for ever."""
    import struct

    import tifffile

    from kanscan.data.pictures.files import read_image
    from kanscan.data.volumes.formats import read_volume

    path = tmp_path / "ring.tif"
    tifffile.imwrite(path, np.zeros((3, 8, 8), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as stack:
        first, last = stack.pages[0].offset, stack.pages[2].offset
    data = bytearray(path.read_bytes())
    (count,) = struct.unpack_from("<H", data, last)
    struct.pack_into("<I", data, last + 2 + 12 * count, first)
    path.write_bytes(data)
    for read in (read_image, read_volume):
        with pytest.raises(ValueError, match=r"ring\.tif"):
            read(path)
