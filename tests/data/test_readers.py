"""Each layout on a small twin; the traps of the published sets are in test_traps.py."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile

from kanscan.config.parts import FoldersSplit
from kanscan.data import READERS, Case, DatasetReader, LabelMap, Survey, make_reader, recognize
from kanscan.data.made.mni152 import write_mni152
from kanscan.data.made.synthetic import write_ultrasound
from kanscan.data.pictures.label_meaning import infer_label_map
from kanscan.data.pictures.label_values import LabelValues
from kanscan.data.pictures.labels import read_label, read_pair
from kanscan.data.readers.cvc import SEQUENCE_ENDS, sequence_of
from kanscan.data.splits import make_split

NAMES = ("a", "b", "c")


def pairs(draw, root: Path, images: str = "images", masks: str = "masks", suffix: str = "", names=NAMES) -> Path:
    for name in names:
        draw(root / images / f"{name}.png")
        draw(root / masks / f"{name}{suffix}.png", "L", value=255)
    return root


def test_every_reader_states_its_facts():
    for key, reader in READERS.items():
        assert reader.key == key and reader.title and reader.layout.strip() and reader.expected
        assert reader().label_map.num_classes >= 2


@pytest.mark.parametrize(
    ("images", "masks", "suffix"),
    [
        ("images", "masks", ""),
        ("imgs", "labels", "_mask"),
        ("Image", "Ground Truth", "_segmentation"),
        ("img", "gt", "_gt"),
        ("input", "Annotations", "-label"),
        ("original", "segmentation", "_seg"),
    ],
)
def test_plain_folders_by_any_usual_name(draw, tmp_path: Path, images: str, masks: str, suffix: str):
    root = pairs(draw, tmp_path, images, masks, suffix)
    reader = make_reader("auto", root)
    assert reader.key in ("folder", "cvc")
    cases = reader.cases(root)
    assert [case.id for case in cases] == list(NAMES)
    for case in cases:
        image, label = read_pair(case, reader.label_map)
        assert image.shape == (24, 32, 3) and set(np.unique(label)) == {0, 1}


def test_prefixes_on_both_sides_and_nested_folders(draw, tmp_path: Path):
    for number in (1, 2):
        draw(tmp_path / "images" / "p1" / f"img_{number}.jpg")
        draw(tmp_path / "masks" / "p1" / f"mask_{number}.png", "L", value=255)
    survey = make_reader("auto", tmp_path).survey(tmp_path)
    assert [case.id for case in survey.cases] == ["p1_img_1", "p1_img_2"]
    assert all(case.labels for case in survey.cases) and not survey.problems


def test_several_masks_of_one_image_are_united(draw, tmp_path: Path):
    pairs(draw, tmp_path, suffix="_mask")
    draw(tmp_path / "masks" / "a_mask_1.png", "L", value=255, corner=True)
    reader = make_reader("auto", tmp_path)
    case = reader.cases(tmp_path)[0]
    assert len(case.labels) == 2
    label = read_label(case, reader.label_map)
    assert label[0, 0] == 1 and label[12, 16] == 1


def test_files_without_partner_are_named(draw, tmp_path: Path):
    pairs(draw, tmp_path)
    draw(tmp_path / "images" / "alone.png")
    draw(tmp_path / "masks" / "orphan.png", "L", value=255)
    (tmp_path / "images" / "._a.png").write_bytes(b"macOS")
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"Windows")
    survey = make_reader("auto", tmp_path).survey(tmp_path)
    assert len(survey.cases) == 4 and len(survey.problems) == 2
    assert any("alone.png has no mask" in p for p in survey.problems)
    assert any("orphan.png has no image" in p for p in survey.problems)


def test_no_common_name_at_all_is_one_sentence(draw, tmp_path: Path):
    draw(tmp_path / "images" / "one.png")
    draw(tmp_path / "masks" / "two.png", "L", value=255)
    with pytest.raises(ValueError, match=r"'one\.png'.*'two\.png'"):
        make_reader("auto", tmp_path)


def test_two_images_of_one_name(draw, tmp_path: Path):
    pairs(draw, tmp_path)
    draw(tmp_path / "images" / "a.jpg")
    survey = make_reader("auto", tmp_path).survey(tmp_path)
    assert len(survey.cases) == 3 and "has the name of a.jpg" in survey.problems[0]


@pytest.mark.parametrize("subsets", [("train", "val"), ("Training", "Validation", "Test")])
def test_train_and_val_folders(draw, tmp_path: Path, subsets: tuple[str, ...]):
    for subset in subsets:
        pairs(draw, tmp_path / subset, names=[f"{subset}{k}" for k in range(3)])
    reader = make_reader("auto", tmp_path)
    counts = Counter(case.subset for case in reader.cases(tmp_path))
    assert counts == dict.fromkeys(("train", "validation", "test")[: len(subsets)], 3)
    split = make_split(reader.cases(tmp_path), FoldersSplit())
    assert set(split.test) == {f"{subsets[-1]}{k}" for k in range(3)}


def test_equal_names_in_two_subsets_get_the_subset_in_front(draw, tmp_path: Path):
    for subset in ("train", "val"):
        pairs(draw, tmp_path / subset)
    ids = [case.id for case in make_reader("auto", tmp_path).cases(tmp_path)]
    assert ids == ["train_a", "train_b", "train_c", "validation_a", "validation_b", "validation_c"]


def test_subsets_inside_images_and_masks(draw, tmp_path: Path):
    for subset in ("train", "test"):
        pairs(draw, tmp_path, f"images/{subset}", f"masks/{subset}", names=[f"{subset}1"])
    cases = make_reader("auto", tmp_path).cases(tmp_path)
    assert [(case.id, case.subset) for case in cases] == [("test1", "test"), ("train1", "train")]


def test_a_test_folder_without_masks_is_left_out_and_said(draw, tmp_path: Path):
    pairs(draw, tmp_path / "train")
    draw(tmp_path / "test" / "images" / "x.png")
    survey = make_reader("auto", tmp_path).survey(tmp_path)
    assert {case.subset for case in survey.cases} == {"train"}
    assert "left out" in survey.notes[0]


def test_papers_layout_with_one_class_and_with_the_busi_suffix(draw, tmp_path: Path):
    for name in ("benign (1)", "malignant (2)"):
        draw(tmp_path / "images" / f"{name}.png")
        draw(tmp_path / "masks" / "0" / f"{name}_mask.png", "L", value=255)
    assert recognize(tmp_path) == "prepared"
    reader = make_reader("auto", tmp_path)
    assert [case.id for case in reader.cases(tmp_path)] == ["benign (1)", "malignant (2)"]
    assert reader.label_map.names == ("background", "foreground")
    assert read_label(reader.cases(tmp_path)[0], reader.label_map).max() == 1


def test_papers_layout_with_several_classes(draw, tmp_path: Path):
    for name in NAMES:
        draw(tmp_path / "images" / f"{name}.png")
        draw(tmp_path / "masks" / "0" / f"{name}.png", "L", value=255)
        draw(tmp_path / "masks" / "1" / f"{name}.png", "L", value=1, corner=True)
    reader = make_reader("auto", tmp_path, names=["disc", "corner"])
    label = read_label(reader.cases(tmp_path)[0], reader.label_map)
    assert label[12, 16] == 1 and label[0, 0] == 2 and label[0, 31] == 0
    assert reader.label_map.names == ("background", "disc", "corner")
    with pytest.raises(ValueError, match="names gives 1 classes"):
        make_reader("auto", tmp_path, names=["disc"])


def test_papers_layout_with_a_class_file_missing_never_shifts_the_classes(draw, tmp_path: Path):
    for name in NAMES:
        draw(tmp_path / "images" / f"{name}.png")
        draw(tmp_path / "masks" / "1" / f"{name}.png", "L", value=255)
    for name in NAMES[1:]:
        draw(tmp_path / "masks" / "0" / f"{name}.png", "L", value=255)
    reader = make_reader("auto", tmp_path)
    survey = reader.survey(tmp_path)
    assert len(survey.problems) == 1 and "a.png has no mask" in survey.problems[0]
    with pytest.raises(FileNotFoundError, match=r"0.a\.png"):
        read_label(survey.cases[0], reader.label_map)


def test_pairs_in_one_folder_by_suffix_and_by_ending(draw, tmp_path: Path):
    draw(tmp_path / "one" / "x 1.png")
    draw(tmp_path / "one" / "x 1_mask.png", "L", value=255)
    assert [c.labels[0].name for c in make_reader("auto", tmp_path / "one").cases(tmp_path / "one")] == ["x 1_mask.png"]
    draw(tmp_path / "two" / "001.bmp")
    draw(tmp_path / "two" / "001.png", "L", value=255)
    case = make_reader("auto", tmp_path / "two").cases(tmp_path / "two")[0]
    assert (case.images[0].suffix, case.labels[0].suffix) == (".bmp", ".png")


def test_busi(draw, tmp_path: Path):
    root = tmp_path / "Dataset_BUSI_with_GT"
    for kind in ("benign", "malignant", "normal"):
        for number in (1, 2):
            draw(root / kind / f"{kind} ({number}).png")
            draw(root / kind / f"{kind} ({number})_mask.png", "1", value=0 if kind == "normal" else 255)
    assert recognize(tmp_path) == "busi"
    reader = make_reader("busi", root)
    assert [c.id for c in reader.cases(root)] == ["benign (1)", "benign (2)", "malignant (1)", "malignant (2)"]
    with_normal = make_reader("busi", root, normal=True)
    assert len(with_normal.cases(root)) == 6
    assert read_label(with_normal.cases(root)[-1], with_normal.label_map).max() == 0
    assert {c.id for c in make_reader("busi", root, kinds="malignant").cases(root)} == {
        "malignant (1)",
        "malignant (2)",
    }
    with pytest.raises(ValueError, match="kinds must be of"):
        make_reader("busi", root, kinds=["cancer"])


def test_cvc_groups_are_the_published_sequences(draw, tmp_path: Path):
    assert len(SEQUENCE_ENDS) == 29 and SEQUENCE_ENDS[-1] == 612
    sizes = Counter(sequence_of(str(number)) for number in range(1, 613))
    assert len(sizes) == 29 and min(sizes.values()) >= 6 and sum(sizes.values()) == 612
    assert sequence_of("25") == "sequence01" != sequence_of("26") and sequence_of("x") is sequence_of("0") is None
    for kind, ending, numbers in (("PNG", "png", (1, 2, 26)), ("TIF", "tif", (1,))):
        for number in numbers:
            draw(tmp_path / kind / "Original" / f"{number}.{ending}")
            draw(tmp_path / kind / "Ground Truth" / f"{number}.{ending}", "L", value=255)
    assert recognize(tmp_path) == "cvc"
    cases = make_reader("auto", tmp_path).cases(tmp_path)
    assert {c.id: c.group for c in cases} == {"1": "sequence01", "2": "sequence01", "26": "sequence02"}
    assert [c.images[0].suffix for c in make_reader("cvc", tmp_path, format="tif").cases(tmp_path)] == [".tif"]
    shutil.rmtree(tmp_path / "TIF")
    with pytest.raises(ValueError, match="no folder TIF/"):
        make_reader("cvc", tmp_path, format="tif").cases(tmp_path)


def test_prepared_cvc_keeps_its_sequences(draw, tmp_path: Path):
    source = draw(tmp_path / "one.png")
    mask = draw(tmp_path / "mask.png", "L", value=255)
    for folder in ("inputs/cvc/images", "inputs/cvc/masks/0"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(1, 613):
        (tmp_path / "inputs/cvc/images" / f"{number}.png").symlink_to(source)
        (tmp_path / "inputs/cvc/masks/0" / f"{number}.png").symlink_to(mask)
    cases = make_reader("auto", tmp_path / "inputs" / "cvc").cases(tmp_path / "inputs" / "cvc")
    assert len({case.group for case in cases}) == 29


def test_glas_official_names_subsets_and_patients(draw, tmp_path: Path):
    root = tmp_path / "Warwick QU Dataset (Released 2016_07_08)"
    for name in ("train_1", "train_2", "testA_1", "testB_1"):
        draw(root / f"{name}.bmp")
        draw(root / f"{name}_anno.bmp", "L", value=7)
    (root / "Grade.csv").write_text(
        "name, patient ID, grade (GlaS)\ntestA_1, 5, benign\ntrain_1, 5, benign\ntrain_2, 6, x\n"
    )
    assert recognize(tmp_path) == "glas"
    reader = make_reader("auto", tmp_path)
    cases = {case.id: case for case in reader.cases(tmp_path)}
    assert {c.id: c.subset for c in cases.values()} == {
        "train_1": "train",
        "train_2": "train",
        "testA_1": "test",
        "testB_1": "test",
    }
    assert cases["testA_1"].group == cases["train_1"].group == "patient5" != cases["train_2"].group
    assert set(np.unique(read_label(cases["train_1"], reader.label_map))) == {0, 1}
    assert [c.id for c in make_reader("glas", root, sets=["testB"]).cases(root)] == ["testB_1"]


def test_glas_folders(draw, tmp_path: Path):
    for subset in ("Train_Folder", "Test_Folder"):
        for number in (1, 2):
            draw(tmp_path / subset / "img" / f"{number}.jpg")
            draw(tmp_path / subset / "labelcol" / f"{number}.png", "L", value=3)
    assert recognize(tmp_path) == "glas"
    reader = make_reader("auto", tmp_path)
    assert [c.id for c in reader.cases(tmp_path)] == ["test_1", "test_2", "train_1", "train_2"]
    assert read_label(reader.cases(tmp_path)[0], reader.label_map).max() == 1


def test_kvasir(draw, tmp_path: Path):
    name = "cju0qkwl35piu0993l0dewei2.jpg"
    draw(tmp_path / "images" / name)
    draw(tmp_path / "masks" / name, "RGB", value=255)
    assert recognize(tmp_path) == "kvasir"
    assert make_reader("auto", tmp_path).cases(tmp_path)[0].id == name[:-4]


@pytest.mark.parametrize(
    ("images", "labels", "subset"),
    [
        ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth", "train"),
        ("ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth", "validation"),
        ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth", "test"),
        ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth", "train"),
        ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth", "test"),
    ],
)
def test_isic_folders_of_both_years(draw, tmp_path: Path, images: str, labels: str, subset: str):
    draw(tmp_path / images / "ISIC_0000001.jpg")
    draw(tmp_path / images / "ISIC_0000001_superpixels.png")
    draw(tmp_path / labels / "ISIC_0000001_segmentation.png", "L", value=255)
    draw(tmp_path / "ISIC-2017_Training_Part2_GroundTruth" / "ISIC_0000001_features.png")
    assert recognize(tmp_path) == "isic"
    survey = make_reader("auto", tmp_path).survey(tmp_path)
    assert [(c.id, c.subset, len(c.labels)) for c in survey.cases] == [("ISIC_0000001", subset, 1)]
    assert not survey.problems


def test_isic_with_two_years_asks_which(draw, tmp_path: Path):
    for year in ("ISIC-2017_Training_Data", "ISIC2018_Task1-2_Training_Input"):
        draw(tmp_path / year / "ISIC_0000001.jpg")
    for year in ("ISIC-2017_Training_Part1_GroundTruth", "ISIC2018_Task1_Training_GroundTruth"):
        draw(tmp_path / year / "ISIC_0000001_segmentation.png", "L", value=255)
    with pytest.raises(ValueError, match=r"2017 and 2018.*option year"):
        make_reader("auto", tmp_path).cases(tmp_path)
    assert "ISIC2018" in str(make_reader("auto", tmp_path, year=2018).cases(tmp_path)[0].images[0])


def test_ph2_takes_the_lesion_not_the_rois(draw, tmp_path: Path):
    for name, mode in (("IMD002", "RGB"), ("IMD003", "1")):
        folder = tmp_path / "PH2Dataset" / "PH2 Dataset images" / name
        draw(folder / f"{name}_Dermoscopic_Image" / f"{name}.bmp")
        draw(folder / f"{name}_lesion" / f"{name}_lesion.bmp", mode, value=255)
        draw(folder / f"{name}_lesion" / f"{name}_lesion.jpg", "L", value=255)
        draw(folder / f"{name}_roi" / f"{name}_R1_Label4.bmp", "1", value=255)
    (tmp_path / "PH2Dataset" / "PH2_dataset.txt").write_text("table")
    reader = make_reader("auto", tmp_path)
    assert reader.key == "ph2"
    cases = reader.cases(tmp_path)
    assert [c.labels[0].name for c in cases] == ["IMD002_lesion.bmp", "IMD003_lesion.bmp"]
    assert all(read_label(c, reader.label_map).mean() > 0.05 for c in cases)


def test_isbi2012_stacks_and_exported_slices(draw, tmp_path: Path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 16, 16), dtype=np.uint8)
    labels = (rng.random((12, 16, 16)) > 0.3).astype(np.uint8) * 255
    root = tmp_path / "em"
    root.mkdir()
    tifffile.imwrite(root / "train-volume.tif", images)
    tifffile.imwrite(root / "train-labels.tif", labels)
    reader = make_reader("auto", root)
    cases = reader.cases(root)
    assert reader.key == "isbi2012" and reader.channels == 1 and len(cases) == 12
    assert [c.group for c in cases[:6]] == ["slab01"] * 5 + ["slab02"]
    image, label = read_pair(cases[7], reader.label_map)
    assert np.array_equal(image, images[7]) and np.array_equal(label, labels[7] // 255)
    membrane = make_reader("isbi2012", root, foreground="membrane")
    assert np.array_equal(read_label(cases[7], membrane.label_map), 1 - labels[7] // 255)
    tifffile.imwrite(root / "train-labels.tif", labels[:5])
    with pytest.raises(ValueError, match=r"12 pages.*has 5"):
        reader.cases(root)
    exported = tmp_path / "ISBI2012"
    for number in range(11):
        draw(exported / "train" / "image" / f"{number}.png", "L")
        draw(exported / "train" / "label" / f"{number}.png", "L", value=255)
    assert recognize(exported) == "isbi2012"
    groups = {c.id: c.group for c in make_reader("auto", exported).cases(exported)}
    assert groups["9"] == "slab02" and groups["10"] == "slab03"


@pytest.mark.parametrize(("train", "held"), [("train", "val"), ("TrainDataset", "TestDataset")])
def test_polyp_benchmark(draw, tmp_path: Path, train: str, held: str):
    pairs(draw, tmp_path / train, "image", "mask")
    for name in ("Kvasir", "CVC-300"):
        pairs(draw, tmp_path / held / name)
    assert recognize(tmp_path) == "polyp"
    cases = make_reader("auto", tmp_path).cases(tmp_path)
    subset = "validation" if held == "val" else "test"
    assert Counter(c.subset for c in cases) == {"train": 3, subset: 6}
    assert {"train_a", "Kvasir_a", "CVC-300_a"} <= {c.id for c in cases}
    assert len(make_reader("auto", tmp_path, datasets=["Kvasir"]).cases(tmp_path)) == 6
    with pytest.raises(ValueError, match="did you mean 'Kvasir'"):
        make_reader("auto", tmp_path, datasets="Kvasr").cases(tmp_path)


def test_generated_folders(tmp_path: Path):
    root = write_ultrasound(tmp_path / "us", 4, image_size=(32, 32))
    reader = make_reader("auto", root)
    assert reader.key == "synthetic" and reader.channels == 1
    assert [c.group for c in reader.cases(root)] == ["patient001", "patient001", "patient002", "patient002"]
    assert reader.label_map.names == ("background", "lesion")
    (root / "masks" / "patient001_view1.png").unlink()
    survey = reader.survey(root)
    assert len(survey.cases) == 3 and "is named in the manifest and missing" in survey.problems[0]


def test_mni152_folder(tmp_path: Path):
    pytest.importorskip("nilearn")
    root = write_mni152(tmp_path / "brain")
    reader = make_reader("auto", root)
    cases = reader.cases(root)
    assert reader.key == "mni152" and len(cases) == 48 and cases[0].spacing_mm == (1.0, 1.0)
    assert set(np.unique(read_label(cases[20], reader.label_map))) == {0, 1, 2}


@pytest.mark.parametrize(
    ("values", "names", "stored", "expected"),
    [
        ((0, 1), 2, 1, 1),
        ((0, 255), 2, 255, 1),
        ((0, 128, 255), 3, 128, 1),
        ((0, 128, 255), 3, 255, 2),
        ((0, 1, 2, 3), 4, 3, 3),
        ((0, 100), 2, 100, 1),
        ((0, 2, 3), 3, 3, 2),
        ((0, 40, 60, 80), 4, 60, 2),
    ],
)
def test_label_values_are_told_from_the_files(draw, tmp_path: Path, values, names: int, stored: int, expected: int):
    pairs(draw, tmp_path)
    for number, value in enumerate(values[1:]):
        draw(tmp_path / "images" / f"v{number}.png")
        draw(tmp_path / "masks" / f"v{number}.png", "L", value=value)
    for name in NAMES:
        draw(tmp_path / "masks" / f"{name}.png", "L", value=values[1])
    reader = make_reader("auto", tmp_path)
    assert reader.label_map.num_classes == names
    case = next(c for c in reader.cases(tmp_path) if c.id == f"v{values.index(stored) - 1}")
    assert set(np.unique(read_label(case, reader.label_map))) == {0, expected}


def test_label_options(draw, tmp_path: Path):
    pairs(draw, tmp_path)
    for name, value in zip(NAMES, (0, 128, 255), strict=True):
        draw(tmp_path / "masks" / f"{name}.png", "L", value=value)
    assert make_reader("auto", tmp_path, labels=["air", "cell", "nucleus"]).label_map.names == (
        "air",
        "cell",
        "nucleus",
    )
    mapped = make_reader("auto", tmp_path, labels={0: "other", 128: "cell", 255: "cell"})
    assert mapped.label_map.num_classes == 2
    assert read_label(mapped.cases(tmp_path)[1], mapped.label_map).max() == 1
    assert make_reader("auto", tmp_path, labels="nonzero").label_map.rule == "nonzero"
    with pytest.raises(ValueError, match=r"names 2 classes .* hold 3"):
        make_reader("auto", tmp_path, labels=["a", "b"])
    small = make_reader("auto", tmp_path, labels={0: "a", 1: "b", 2: "c"})
    with pytest.raises(ValueError, match=r"b\.png holds label value 128, outside the map \{0 = a, 1 = b, 2 = c\}"):
        read_label(small.cases(tmp_path)[1], small.label_map)
    with pytest.raises(ValueError, match="labels must be auto, threshold"):
        make_reader("auto", tmp_path, labels="binary")


def test_many_values_are_not_taken_for_classes(draw, tmp_path: Path):
    for name in NAMES:
        draw(tmp_path / "images" / f"{name}.png")
    grey = np.repeat(np.repeat(np.arange(0, 4000, 40, dtype=np.uint16).reshape(10, 10), 4, 0), 4, 1)
    for name in NAMES:
        (tmp_path / "masks").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "masks" / f"{name}.tif", grey)
    with pytest.raises(ValueError, match=r"too many for classes.*labels=nonzero"):
        make_reader("auto", tmp_path)
    assert make_reader("auto", tmp_path, labels="nonzero").label_map.num_classes == 2


@pytest.mark.parametrize(
    ("pixels", "inside", "expected"),
    [
        # Frame borders at 11 and 21 beside an anti-aliased 0/255 mask, as in CVC-ClinicDB.
        ({0: 90000, 11: 100, 21: 9, 90: 40, 200: 40, 255: 9000}, {0: 88000, 11: 70, 21: 4, 255: 8800}, {}),
        # Three classes, saved as JPEG.
        (
            {0: 5000, 2: 60, 70: 5, 126: 40, 128: 3000, 131: 9, 253: 30, 255: 900} | dict.fromkeys(range(180, 200), 1),
            {0: 4800, 128: 2800, 253: 4, 255: 800},
            {0: 0, 128: 1, 255: 2},
        ),
        # Enlarged bilinearly: border values are many, but fill nothing.
        ({0: 5000, 64: 150, 128: 150, 191: 150, 255: 900}, {0: 4500, 255: 700}, {}),
    ],
)
def test_blurred_masks(pixels: dict[int, int], inside: dict[int, int], expected: dict[int, int]):
    label_map = infer_label_map(LabelValues(Counter(pixels), Counter(inside)))
    assert label_map.values == expected and label_map.rule == ("values" if expected else "threshold")
    assert label_map.snap == bool(expected)


def test_a_link_to_the_folder_above_is_not_followed(draw, tmp_path: Path):
    pairs(draw, tmp_path)
    (tmp_path / "images" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert len(make_reader("auto", tmp_path).cases(tmp_path)) == 3


def test_groups_from_names(draw, tmp_path: Path):
    pairs(draw, tmp_path, names=["p1_a", "p1_b", "p2_a", "odd"])
    reader = make_reader("auto", tmp_path, group_pattern="^(p\\d+)_")
    assert [c.group for c in reader.cases(tmp_path)] == [None, "p1", "p1", "p2"]
    assert "matches no part of 1 of 4 names, first 'odd'" in reader.survey(tmp_path).notes[0]
    with pytest.raises(ValueError, match="no regular expression"):
        make_reader("auto", tmp_path, group_pattern="(")


def test_channels_follow_the_stored_pictures(draw, tmp_path: Path):
    for name in NAMES:
        draw(tmp_path / "images" / f"{name}.png", "L")
        draw(tmp_path / "masks" / f"{name}.png", "L", value=255)
    assert make_reader("auto", tmp_path).channels == 1
    assert make_reader("auto", tmp_path, channels=3).channels == 3


def test_what_is_no_data_set_is_said_in_one_sentence(draw, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="is empty"):
        recognize(empty)
    with pytest.raises(FileNotFoundError, match=r"no folder at .*emtpy; .* holds empty/"):
        make_reader("auto", tmp_path / "emtpy")
    file = draw(tmp_path / "file.png")
    with pytest.raises(NotADirectoryError, match="is a file"):
        recognize(file)
    odd = tmp_path / "odd"
    draw(odd / "images" / "a.png")
    (odd / "notes").mkdir()
    with pytest.raises(ValueError, match=r"expected images/ and masks/.*found images/, notes/"):
        recognize(odd)
    with pytest.raises(ValueError, match=r"does not have the layout 'busi': expected folders benign/.*found images/"):
        make_reader("busi", odd).cases(odd)
    with pytest.raises(ValueError, match="folders of DICOM slices") as raised:
        recognize(odd)
    assert "\n" not in str(raised.value)


def test_unknown_names_get_the_nearest(draw, tmp_path: Path):
    pairs(draw, tmp_path)
    with pytest.raises(ValueError, match="unknown reader 'buis': did you mean 'busi'"):
        make_reader("buis", tmp_path)
    with pytest.raises(ValueError, match="unknown option of reader 'folder' 'label': did you mean 'labels'"):
        make_reader("auto", tmp_path, label="auto")


def test_a_reader_added_by_others_is_asked_first(draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Mine(DatasetReader):
        key = "mine"

        def __init__(self, ending: str = "png") -> None:
            self.ending = ending
            self.label_map = LabelMap()

        @classmethod
        def recognizes(cls, root: Path) -> bool:
            return (root / "images").is_dir()

        def survey(self, root: Path) -> Survey:
            return Survey(tuple(Case(p.stem, (p,)) for p in sorted((root / "images").glob(f"*.{self.ending}"))))

    pairs(draw, tmp_path)
    monkeypatch.setitem(READERS, "mine", Mine)
    assert recognize(tmp_path) == "mine"
    assert [c.id for c in make_reader("auto", tmp_path).cases(tmp_path)] == list(NAMES)
    assert make_reader("mine", tmp_path, ending="bmp").cases(tmp_path) == []
    with pytest.raises(ValueError, match="did you mean 'ending'"):
        make_reader("mine", tmp_path, endings="bmp")


def test_a_lone_folder_is_entered_and_an_archive_leftover_ignored(draw, tmp_path: Path):
    pairs(draw, tmp_path / "unpacked" / "data set")
    (tmp_path / "unpacked" / "__MACOSX").mkdir()
    (tmp_path / "unpacked" / "readme.txt").write_text("hello")
    assert [c.id for c in make_reader("auto", tmp_path).cases(tmp_path)] == list(NAMES)
