"""What the values, colors and transparency in masks mean, file by file and over a whole folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from kanscan.data import open_folder
from kanscan.data.case import Case
from kanscan.data.examination import doubtful, examine
from kanscan.data.label_map import LabelMap
from kanscan.data.pictures.files import read_image, read_stored_label
from kanscan.data.pictures.label_meaning import parse_color
from kanscan.data.pictures.labels import read_label, read_pair
from kanscan.metrics import IGNORED

SIZE = (24, 32)


def classes(number: int = 2, seed: int = 0) -> np.ndarray:
    """A disc of class 1, a smaller one of class 2 in it."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = (rows - 12 - seed % 3) ** 2 + (columns - 16) ** 2
    label = (distance < 64).astype(np.uint8)
    return np.where(distance < 16, np.uint8(2), label) if number == 2 else label


def folder(root: Path, masks: dict[str, np.ndarray | Image.Image], ending: str = "png") -> Path:
    """Write images/ and masks/ with these masks."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for k, (name, mask) in enumerate(masks.items()):
        image = np.random.default_rng(k).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        if isinstance(mask, np.ndarray) and ending == "npy":
            np.save(root / "masks" / f"{name}.npy", mask)
        else:
            picture = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
            picture.save(root / "masks" / f"{name}.{ending}", **({"quality": 95} if ending == "jpg" else {}))
    return root


def label_of(root: Path, name: str = "a", **options: object) -> np.ndarray:
    opened = open_folder(root, options=options)
    return read_pair(next(case for case in opened.cases if case.id == name), opened.label_map)[1]


def test_colors_are_classes_and_never_brightness(tmp_path: Path):
    colors = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
    root = folder(tmp_path, {"a": colors[classes()], "b": colors[classes(1)]})
    with pytest.raises(
        ValueError, match=r"#000000 \(\d+ %\), #ff0000 \(\d+ %\), #00ff00 \([\d.]+ %\).*labels=\{"
    ) as said:
        open_folder(root)
    assert '"#ff0000": class 1' in str(said.value)
    named = {"#000000": "background", "#00ff00": "stroma", "#ff0000": "tumor"}
    assert np.array_equal(label_of(root, labels=named), np.array([0, 2, 1])[classes()])
    assert np.array_equal(label_of(root, "b", labels=named), 2 * classes(1))
    # Another color that fills an area is not snapped to the nearest.
    with pytest.raises(ValueError, match=r"a\.png holds the color #00ff00, outside the map"):
        label_of(root, labels={"#000000": "background", "#ff0000": "tumor"})
    assert set(np.unique(label_of(root, labels=named | {"#00ff00": "ignore"}))) == {0, 1, IGNORED}


def test_one_dark_color_and_two_colors_without_black_are_asked_about(tmp_path: Path):
    for name, colors in (("dark", [(0, 0, 0), (0, 0, 100)]), ("blue", [(0, 0, 255), (255, 0, 0)])):
        root = folder(tmp_path / name, {"a": np.array(colors, np.uint8)[classes(1)]})
        with pytest.raises(ValueError, match="are color pictures"):
            open_folder(root)
        option = {f"#{r:02x}{g:02x}{b:02x}": name for (r, g, b), name in zip(colors, ("background", "x"), strict=True)}
        assert np.array_equal(label_of(root, labels=option), classes(1))
    assert parse_color("255, 0,16") == parse_color("#ff0010") == 0xFF0010 and parse_color("12") is None


def test_classes_that_annotation_tools_write_beside_the_masks(tmp_path: Path):
    colors = np.array([(0, 0, 0), (250, 50, 83)], np.uint8)
    root = folder(tmp_path, {"a": colors[classes(1)]})
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nBackground:0,0,0::\nlesion:250,50,83::\n")
    opened = open_folder(root)
    assert opened.label_map.names == ("background", "lesion")
    assert np.array_equal(label_of(root), classes(1))
    # CVAT writes the same masks with a palette.
    indexed = Image.fromarray(classes(1))
    indexed.putpalette([0, 0, 0, 250, 50, 83])
    indexed.save(root / "masks" / "a.png")
    assert np.array_equal(label_of(root), classes(1))


@pytest.mark.parametrize("ending", ["png", "gif", "bmp"])
def test_a_palette_of_grays_is_read_through_the_palette(tmp_path: Path, ending: str):
    white_first = Image.fromarray(1 - classes(1))
    white_first.putpalette([255, 255, 255, 0, 0, 0])
    root = folder(tmp_path, {"a": white_first}, ending)
    Image.fromarray(255 * classes(1)).save(root / "masks" / f"b.{ending}")
    Image.fromarray(classes(1)).save(root / "images" / "b.png")
    for name in "ab":
        assert np.array_equal(label_of(root, name), classes(1))


def test_a_palette_with_colors_gives_its_indices(tmp_path: Path):
    # VOC's entry 7 is a gray: with the colors around it the index is meant.
    voc = Image.fromarray(7 * classes(1))
    voc.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128, 0, 128, 128, 128, 128, 128])
    voc.save(tmp_path / "a.png")
    assert set(np.unique(read_stored_label(tmp_path / "a.png"))) == {0, 7}


@pytest.mark.parametrize("number", [1, 2])
def test_255_beside_class_indices_is_not_labelled(tmp_path: Path, number: int):
    masks = {name: classes(number) for name in "abc"}
    for mask in masks.values():
        mask[:3] = 255
    opened = open_folder(folder(tmp_path, masks))
    assert opened.label_map.num_classes == number + 1 and opened.label_map.values[255] == IGNORED
    label = label_of(tmp_path)
    assert (label[:3] == IGNORED).all() and np.array_equal(label[3:], classes(number)[3:])
    assert any("255 marks pixels that nobody labelled" in note for note in opened.survey.notes)
    facts = examine(opened.cases[0], opened.label_map)
    assert facts.ignored_pixels == 3 * SIZE[1] and sum(facts.class_pixels) == 21 * SIZE[1]
    foreground = {0: "background", 1: "object", 2: "object", 255: "object"}
    assert (label_of(tmp_path, labels=foreground)[:3] == 1).all()


def test_files_of_0_and_1_beside_files_of_0_and_255_are_a_question(tmp_path: Path):
    root = folder(tmp_path, {"a": classes(1), "b": 255 * classes(1)})
    with pytest.raises(ValueError, match="1 of the masks hold class indices up to 1, 1 others hold 0 and 255"):
        open_folder(root)
    both = {0: "background", 1: "object", 255: "object"}
    assert all(np.array_equal(label_of(root, name, labels=both), classes(1)) for name in "ab")


def test_a_blurred_white_mask_with_a_dark_frame_is_no_set_of_indices(tmp_path: Path):
    mask = 255 * classes(1)
    mask[0], mask[-1] = 11, 21
    opened = open_folder(folder(tmp_path, {name: mask for name in "ab"}))
    assert opened.label_map.rule == "threshold" and np.array_equal(label_of(tmp_path), classes(1))


def test_the_class_named_background_has_index_0_whatever_its_value(tmp_path: Path):
    root = folder(tmp_path, {"a": np.array([255, 128, 0], np.uint8)[classes()]})
    for option in ({255: "background", 128: "disc", 0: "cup"}, ["cup", "disc", "background"]):
        opened = open_folder(root, options={"labels": option})
        assert opened.label_map.names[0] == "background"
        wanted = [opened.label_map.names.index(name) for name in ("background", "disc", "cup")]
        assert np.array_equal(label_of(root, labels=option), np.array(wanted)[classes()])
    assert any("most corners hold the value 255" in note for note in open_folder(root).survey.notes)
    two = folder(tmp_path / "two", {"a": 255 * classes(1)})
    assert np.array_equal(label_of(two, labels=["lesion", "background"]), 1 - classes(1))


def test_negative_values_are_not_labelled_or_refused_and_never_background(tmp_path: Path):
    mask = classes(1).astype(np.int64)
    mask[:2] = -1
    opened = open_folder(folder(tmp_path / "one", {"a": mask}, "npy"))
    assert (label_of(tmp_path / "one")[:2] == IGNORED).all()
    assert any("-1 marks pixels" in note for note in opened.survey.notes)
    mask[0] = -7
    with pytest.raises(ValueError, match="negative values -7, -1"):
        open_folder(folder(tmp_path / "two", {"a": mask}, "npy"))
    with pytest.raises(ValueError, match="holds the negative label value -7"):
        read_label(Case("a", (), (tmp_path / "two" / "masks" / "a.npy",)), LabelMap())


@pytest.mark.parametrize("under", [0, 255])
def test_what_is_drawn_in_transparency_is_read_from_there(tmp_path: Path, under: int):
    mask = np.full((*SIZE, 4), under, np.uint8)
    mask[..., 3] = 255 * classes(1)
    assert np.array_equal(label_of(folder(tmp_path, {"a": mask})), classes(1))


def test_color_and_transparency_that_disagree_are_refused(tmp_path: Path):
    mask = np.zeros((*SIZE, 4), np.uint8)
    mask[classes(1) == 0] = (255, 255, 255, 0)
    mask[..., 3] = np.where(classes(1), 255, 0)
    mask[0, 0] = (9, 9, 9, 255)
    Image.fromarray(mask).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is drawn in color and in transparency"):
        read_stored_label(tmp_path / "a.png")


def test_jpeg_masks_of_indices_are_refused_and_of_grays_snapped(tmp_path: Path):
    with pytest.raises(ValueError, match=r"are JPEG files with the values 0\.\."):
        open_folder(folder(tmp_path / "one", {name: 2 * classes() for name in "ab"}, "jpg"))
    large = np.kron(np.array([0, 127, 255], np.uint8)[classes()], np.ones((8, 8), np.uint8))
    opened = open_folder(folder(tmp_path / "two", {"a": large}, "jpg"))
    assert opened.label_map.num_classes == 3 and any("JPEG" in note for note in opened.survey.notes)


def test_masks_of_another_size_are_taken_where_asked_for(tmp_path: Path):
    root = folder(tmp_path, {"a": np.kron(255 * classes(1), np.ones((2, 2), np.uint8))})
    with pytest.raises(ValueError, match=r"64 x 48 pixels.*labels_resize=nearest"):
        label_of(root)
    assert np.array_equal(label_of(root, labels_resize="nearest"), classes(1))
    with pytest.raises(ValueError, match="did you mean 'nearest'"):
        open_folder(root, options={"labels_resize": "nearst"})


def test_foreground_everywhere_and_turned_images_are_doubted(tmp_path: Path):
    root = folder(tmp_path, {name: np.full(SIZE, 255, np.uint8) for name in "ab"})
    opened = open_folder(root)
    facts = [examine(case, opened.label_map) for case in opened.cases]
    assert "100 % of all labelled pixels are foreground" in doubtful(facts)[0]
    exif = Image.Exif()
    exif[274] = 3
    for name in "ab":
        Image.open(root / "images" / f"{name}.png").save(root / "images" / f"{name}.jpg", exif=exif)
        (root / "images" / f"{name}.png").unlink()
        Image.fromarray(255 * classes(1)).save(root / "masks" / f"{name}.png")
    opened = open_folder(root)
    told = doubtful([examine(case, opened.label_map) for case in opened.cases])
    assert len(told) == 1 and "2 of 2 images carry a turn of the camera" in told[0]


def test_a_turn_that_swaps_the_sides_is_named_in_the_error(tmp_path: Path):
    root = folder(tmp_path, {"a": 255 * classes(1)})
    exif = Image.Exif()
    exif[274] = 6
    Image.open(root / "images" / "a.png").save(root / "images" / "a.jpg", exif=exif)
    (root / "images" / "a.png").unlink()
    with pytest.raises(
        ValueError, match=r"a\.jpg carries an EXIF orientation \(6\) and is shown turned, a\.png has none"
    ):
        label_of(root)


def test_a_first_gray_picture_does_not_make_a_color_set_gray(tmp_path: Path):
    root = folder(tmp_path, {name: 255 * classes(1) for name in "abc"})
    Image.open(root / "images" / "a.png").convert("L").save(root / "images" / "a.png")
    opened = open_folder(root)
    assert opened.reader.channels == 3
    assert any("1 pictures are stored gray and 2 in color" in note for note in opened.survey.notes)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "P", "LAB"])
def test_tiff_of_any_color_space_comes_out_as_a_viewer_shows_it(tmp_path: Path, mode: str):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    pixels = np.stack([8 * columns, 6 * rows, 60 + 0 * rows], axis=-1).astype(np.uint8)
    picture = Image.fromarray(pixels)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.applyTransform(picture, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    else:
        converted = picture.quantize(256) if mode == "P" else picture.convert(mode)
    converted.save(tmp_path / "a.tif")
    assert np.abs(read_image(tmp_path / "a.tif").astype(int) - pixels).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["tif", "jpg"])
def test_turns_come_out_as_pillow_shows_them(tmp_path: Path, orientation: int, ending: str):
    from PIL import ImageOps

    pixels = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20, np.ones((8, 8), np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    options = {"tiffinfo": {274: orientation}} if ending == "tif" else {"exif": exif, "quality": 100}
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", **options)
    marked = Image.fromarray(pixels)
    marked.getexif()[274] = orientation
    upright = np.asarray(ImageOps.exif_transpose(marked))
    assert np.abs(read_image(tmp_path / f"a.{ending}").astype(int) - upright).max() <= 2


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (classes(1) == 0, 255 * classes(1)),
        ((1 - classes(1)) * np.uint8(255), 255 * classes(1)),
        ((1 - classes(1)) * np.uint16(65535), 65535 * classes(1).astype(np.uint16)),
        (classes(2), classes(2)),  # class numbers under a tag that no viewer could mean
    ],
)
def test_white_is_zero_at_any_depth(tmp_path: Path, stored: np.ndarray, shown: np.ndarray):
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    assert np.array_equal(read_stored_label(tmp_path / "a.tif"), shown)


def test_channels_and_pyramids_of_tiff(tmp_path: Path):
    planes = np.random.default_rng(1).integers(0, 255, (4, *SIZE)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, metadata={"axes": "CYX"}, photometric="minisblack")
    assert np.array_equal(read_image(tmp_path / "a.ome.tif"), np.moveaxis(planes, 0, -1))
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        writer.write(planes[0])
        writer.write(planes[0, ::2, ::2], subfiletype=1)
    assert np.array_equal(read_image(tmp_path / "b.tif"), planes[0])


@pytest.mark.parametrize("ending", ["png", "tif", "npy", "bmp"])
def test_one_limit_of_pixels_holds_for_every_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str):
    path, pixels = tmp_path / f"a.{ending}", np.zeros((60, 50), np.uint8)
    np.save(path, pixels) if ending == "npy" else Image.fromarray(pixels).save(path)
    assert read_image(path).shape == (60, 50)
    monkeypatch.setenv("KANSCAN_MOST_PIXELS", "2999")
    with pytest.raises(ValueError, match=r"50 x 60 are 3,000 pixels, more than the 2,999 .*KANSCAN_MOST_PIXELS"):
        read_image(path)
    monkeypatch.setenv("KANSCAN_MOST_PIXELS", "many")
    with pytest.raises(ValueError, match="must be a whole number of pixels"):
        read_image(path)


def test_a_huge_file_is_refused_before_it_is_decoded(tmp_path: Path):
    import time

    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        blank = (np.zeros((1024, 1024), np.uint8) for _ in range(59 * 59))
        writer.write(blank, shape=(60000, 60000), dtype=np.uint8, tile=(1024, 1024), compression="zlib")
    began = time.perf_counter()
    with pytest.raises(ValueError, match="60000 x 60000 are 3,600,000,000 pixels"):
        read_image(path)
    assert time.perf_counter() - began < 5


def test_matlab_maps(tmp_path: Path):
    from scipy.io import savemat

    savemat(tmp_path / "a.mat", {"inst_map": 3 * classes(1), "inst_type": np.ones((4, 1))})
    assert np.array_equal(read_stored_label(tmp_path / "a.mat") > 0, classes(1) > 0)
    savemat(tmp_path / "b.mat", {"one": classes(1), "two": classes(1)})
    with pytest.raises(ValueError, match="it holds 2 maps"):
        read_stored_label(tmp_path / "b.mat")
