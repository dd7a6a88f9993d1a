"""Every trap measured on the published data sets, by its name, on a generated twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from kanscan.data import make_reader
from kanscan.data.case import Case
from kanscan.data.grouping import group_cases
from kanscan.data.pictures.files import read_image
from kanscan.data.pictures.labels import read_label, read_pair
from kanscan.data.splits import make_split


def busi(draw, root: Path, numbers=(1, 2, 3)) -> Path:
    for kind in ("benign", "malignant"):
        for number in numbers:
            draw(root / kind / f"{kind} ({number}).png")
            draw(root / kind / f"{kind} ({number})_mask.png", "1", value=255)
    return root


def label_of(root: Path, case_id: str) -> np.ndarray:
    reader = make_reader("auto", root)
    return read_label(next(c for c in reader.cases(root) if c.id == case_id), reader.label_map)


def test_busi_three_masks_of_one_image_are_or_ed_even_where_they_overlap(draw, tmp_path: Path):
    busi(draw, tmp_path)
    folder = tmp_path / "benign"
    draw(folder / "benign (1)_mask_1.png", "1", value=255, corner=True)
    draw(folder / "benign (1)_mask_2.png", "1", value=255)
    label = label_of(tmp_path, "benign (1)")
    first = np.asarray(Image.open(folder / "benign (1)_mask.png"))
    assert label.sum() == first.sum() + 25 and label.max() == 1


def test_busi_one_bit_masks_are_not_empty(draw, tmp_path: Path):
    busi(draw, tmp_path)
    stored = np.asarray(Image.open(tmp_path / "benign" / "benign (1)_mask.png"))
    assert stored.dtype == bool and not (stored > 127).any()
    assert label_of(tmp_path, "benign (1)").sum() == stored.sum() > 0


def test_busi_rgba_mask_whose_alpha_is_full_everywhere(draw, tmp_path: Path):
    busi(draw, tmp_path)
    draw(tmp_path / "benign" / "benign (2)_mask_1.png", "RGBA", value=255, corner=True)
    label = label_of(tmp_path, "benign (2)")
    assert 0 < label.mean() < 0.5 and label[0, 0] == 1


def test_busi_normal_masks_are_rgb_and_empty(draw, tmp_path: Path):
    busi(draw, tmp_path)
    draw(tmp_path / "normal" / "normal (1).png")
    draw(tmp_path / "normal" / "normal (1)_mask.png", "RGB", value=0)
    reader = make_reader("auto", tmp_path, normal=True)
    case = next(c for c in reader.cases(tmp_path) if c.id == "normal (1)")
    assert read_label(case, reader.label_map).sum() == 0
    assert len(make_reader("auto", tmp_path).cases(tmp_path)) == 6


def test_busi_color_marks_do_not_change_the_shape(draw, tmp_path: Path):
    busi(draw, tmp_path)
    draw(tmp_path / "benign" / "benign (3).png", "L")
    reader = make_reader("auto", tmp_path)
    shapes = {case.id: read_image(case.images[0]).ndim for case in reader.cases(tmp_path)}
    assert shapes["benign (3)"] == 2 and shapes["benign (1)"] == 3 and reader.channels == 3


def test_busi_pixel_identical_cases_stay_in_one_part(draw, tmp_path: Path):
    busi(draw, tmp_path, range(1, 16))
    (tmp_path / "malignant" / "malignant (5).png").write_bytes((tmp_path / "benign" / "benign (3).png").read_bytes())
    cases = make_reader("auto", tmp_path).cases(tmp_path)
    assert ["benign (3)", "malignant (5)"] in group_cases(cases).values()
    for seed in range(20):
        split = make_split(cases, seed=seed)
        parts = [part for part in (split.train, split.validation, split.test) if "benign (3)" in part]
        assert "malignant (5)" in parts[0]


def test_busi_names_with_spaces_and_brackets_and_the_papers_order(draw, tmp_path: Path):
    busi(draw, tmp_path, (1, 2, 10))
    ids = [case.id for case in make_reader("auto", tmp_path).cases(tmp_path)]
    assert ids[:3] == ["benign (1)", "benign (10)", "benign (2)"]


def test_cvc_antialiased_rgb_masks_are_cut_not_taken_as_nonzero(draw, tmp_path: Path):
    draw(tmp_path / "PNG" / "Original" / "1.png")
    mask = draw(tmp_path / "PNG" / "Ground Truth" / "1.png", "RGB", value=255)
    values = np.array(Image.open(mask))
    disc = (values[..., 0] == 255).sum()
    values[0, :] = 11
    values[1, :5] = 200
    Image.fromarray(values).save(mask)
    assert label_of(tmp_path, "1").sum() == disc + 5


def test_cvc_tif_whose_tag_says_grey_while_the_pixels_are_rgb(tmp_path: Path):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for folder in ("Original", "Ground Truth"):
        (tmp_path / "TIF" / folder).mkdir(parents=True)
    path = tmp_path / "TIF" / "Original" / "1.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(tmp_path / "TIF" / "Ground Truth" / "1.tif", (pixels[..., 0] > 127).astype(np.uint8) * 255)
    reader = make_reader("auto", tmp_path)
    image, label = read_pair(reader.cases(tmp_path)[0], reader.label_map)
    assert np.array_equal(image, pixels) and np.array_equal(label, pixels[..., 0] > 127)


def test_cvc_sequences_never_straddle(draw, tmp_path: Path):
    mask = draw(tmp_path / "PNG" / "Ground Truth" / "1.png", "L", value=255)
    for number in range(1, 613):
        path = tmp_path / "PNG" / "Original" / f"{number}.png"
        draw(path, "L", size=(4, 4), seed=number)
        if number > 1:
            (tmp_path / "PNG" / "Ground Truth" / f"{number}.png").symlink_to(mask)
    cases = make_reader("auto", tmp_path).cases(tmp_path)
    group_of = {case.id: case.group for case in cases}
    split = make_split(cases)
    parts = [{group_of[i] for i in part} for part in (split.train, split.validation, split.test)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert len(split.train) + len(split.validation) + len(split.test) == 612
    assert abs(len(split.test) - 122) < 20


def test_glas_instance_labels_are_foreground_not_divided_by_255(draw, tmp_path: Path):
    for folder in ("Train_Folder", "Test_Folder"):
        draw(tmp_path / folder / "img" / "1.jpg")
        path = draw(tmp_path / folder / "labelcol" / "1.png", "L", value=1)
        values = np.array(Image.open(path))
        values[:4, :4] = 9
        Image.fromarray(values).save(path)
    label = label_of(tmp_path, "train_1")
    assert label.max() == 1 and label[:4, :4].all() and label[12, 16] == 1


def test_kvasir_jpeg_masks_are_cut_at_the_middle(draw, tmp_path: Path):
    name = "cju0qkwl35piu0993l0dewei2.jpg"
    draw(tmp_path / "images" / name, size=(96, 128))
    path = draw(tmp_path / "masks" / name, "RGB", size=(96, 128), value=255, quality=60)
    stored = np.asarray(Image.open(path))[..., 0]
    assert len(np.unique(stored)) > 5
    rows, columns = np.mgrid[:96, :128]
    disc = (rows - 48) ** 2 + (columns - 64) ** 2 < 24**2
    assert (label_of(tmp_path, name[:-4]) != disc).mean() < 0.002


def test_isic_superpixels_are_no_images(draw, tmp_path: Path):
    images, labels = "ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth"
    draw(tmp_path / images / "ISIC_0009995.jpg")
    draw(tmp_path / images / "ISIC_0009995_superpixels.png")
    draw(tmp_path / labels / "ISIC_0009995_segmentation.png", "L", value=255)
    assert [c.id for c in make_reader("auto", tmp_path).cases(tmp_path)] == ["ISIC_0009995"]


def test_ph2_one_bit_and_rgb_bmp_masks(draw, tmp_path: Path):
    for name, mode in (("IMD002", "RGB"), ("IMD003", "1")):
        draw(tmp_path / name / f"{name}_Dermoscopic_Image" / f"{name}.bmp")
        draw(tmp_path / name / f"{name}_lesion" / f"{name}_lesion.bmp", mode, value=255)
    assert label_of(tmp_path, "IMD002").sum() == label_of(tmp_path, "IMD003").sum() > 0


def test_wbc_0_128_255_with_extra_grey_values_in_one_folder(draw, tmp_path: Path):
    for number in ("001", "002", "034"):
        draw(tmp_path / "Dataset 1" / f"{number}.bmp", size=(30, 40))
        path = draw(tmp_path / "Dataset 1" / f"{number}.png", "L", size=(30, 40), value=255)
        values = np.array(Image.open(path))
        values[:8, :8] = 128
        if number == "034":
            values[7, :8] = 100
            values[0, 0] = 250
            values[0, 20] = 3
        Image.fromarray(values).save(path)
    (tmp_path / "Class Labels of Dataset 1.csv").write_text("image ID,class label\n1,2\n")
    reader = make_reader("auto", tmp_path)
    assert reader.label_map.values == {0: 0, 128: 1, 255: 2}
    label = label_of(tmp_path, "034")
    assert label[7, 3] == 1 and label[0, 0] == 2 and label[0, 20] == 0 and label[15, 20] == 2


def test_isbi2012_slices_of_one_block_are_grouped(draw, tmp_path: Path):
    root = tmp_path / "ISBI2012_membrane"
    for number in range(30):
        draw(root / "train" / "image" / f"{number}.png", "L")
        draw(root / "train" / "label" / f"{number}.png", "L", value=255)
    cases = make_reader("auto", root).cases(root)
    split = make_split(cases)
    test = sorted(int(i) for i in split.test)
    assert test == list(range(test[0], test[0] + 5))


def test_mask_of_another_size_is_one_sentence(draw, tmp_path: Path):
    draw(tmp_path / "images" / "a.png", size=(24, 32))
    draw(tmp_path / "masks" / "a.png", "L", size=(24, 30), value=255)
    reader = make_reader("auto", tmp_path)
    with pytest.raises(ValueError, match=r"a\.png is 30 x 24 pixels, its image .*a\.png is 32 x 24"):
        read_pair(reader.cases(tmp_path)[0], reader.label_map)


def test_nan_truncated_empty_and_mislabelled_files_are_named(draw, tmp_path: Path):
    nan = tmp_path / "nan.tif"
    tifffile.imwrite(nan, np.full((4, 4), np.nan, np.float32))
    whole = draw(tmp_path / "whole.png", size=(64, 64)).read_bytes()
    for name, content in (("cut.png", whole[: len(whole) // 2]), ("zero.png", b""), ("text.jpg", b"hello there")):
        (tmp_path / name).write_bytes(content)
    wrong = {"nan.tif": "NaN", "cut.png": "cut", "zero.png": "0 bytes", "text.jpg": "not an image"}
    for name, words in wrong.items():
        with pytest.raises(ValueError, match=words) as raised:
            read_image(tmp_path / name)
        assert name in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_label(Case("x", (nan,), (tmp_path / "gone.png",)), make_reader("auto", _plain(draw, tmp_path)).label_map)


def _plain(draw, root: Path) -> Path:
    draw(root / "set" / "images" / "a.png")
    draw(root / "set" / "masks" / "a.png", "L", value=255)
    return root / "set"
