"""Folders as people have them: which is the label, which name belongs to which, what is asked and what is refused."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kanscan.config.parts import AutoSplit
from kanscan.data import open_folder
from kanscan.data.patterns import match_groups
from kanscan.data.pictures.labels import read_pair
from kanscan.data.splits import make_split

NAMES = ("01", "02", "03")


def labels_of(root: Path, **options: object) -> dict[str, np.ndarray]:
    opened = open_folder(root, options=options)
    return {case.id: read_pair(case, opened.label_map)[1] for case in opened.cases if case.labels}


@pytest.mark.parametrize(
    ("manual", "name", "others"),
    [
        ("1st_manual", "{}_manual1.gif", {"mask": "{}_training_mask.gif", "2nd_manual": "{}_manual2.gif"}),
        ("manual1", "{}_training.tif", {"mask": "{}_training_mask.tif"}),
        ("labels-ah", "{}_training.ah.ppm", {"labels-vk": "{}_training.vk.ppm"}),
        ("vessels", "{}_training.png", {"masks": "{}_training.png"}),
    ],
)
def test_manual_labels_win_over_the_field_of_view(draw, tmp_path: Path, manual: str, name: str, others: dict):
    for number in NAMES:
        draw(tmp_path / "images" / f"{number}_training.png")
        draw(tmp_path / manual / name.format(number), "L", value=255, corner=True)
        for folder, other in others.items():
            draw(tmp_path / folder / other.format(number), "L", value=255)
    labels = labels_of(tmp_path)
    assert len(labels) == 3 and all(label.sum() == 25 and label[0, 0] == 1 for label in labels.values())
    assert any(f"labels are read from {manual}/" in note for note in open_folder(tmp_path).survey.notes)


def test_two_folders_that_could_be_the_labels_are_a_question(draw, tmp_path: Path):
    for name in NAMES:
        draw(tmp_path / "images" / f"{name}.png")
        draw(tmp_path / "masks" / f"{name}.png", "L", value=255)
        draw(tmp_path / "labels" / f"{name}.png", "L", value=255, corner=True)
    with pytest.raises(ValueError, match=r"holds labels/ and masks/, which could all be the labels; .*masks=labels"):
        open_folder(tmp_path)
    assert labels_of(tmp_path, masks="labels")["01"].sum() == 25
    assert labels_of(tmp_path, masks="masks")["01"].sum() > 25


def test_a_first_observer_wins_in_one_folder_and_two_kinds_are_a_problem(draw, tmp_path: Path):
    for number in NAMES:
        draw(tmp_path / "chase" / f"Image_{number}L.jpg")
        draw(tmp_path / "chase" / f"Image_{number}L_1stHO.png", "L", value=255, corner=True)
        draw(tmp_path / "chase" / f"Image_{number}L_2ndHO.png", "L", value=255)
        draw(tmp_path / "two" / f"a{number}.png")
        for word in ("mask", "seg"):
            draw(tmp_path / "two" / f"a{number}_{word}.png", "L", value=255)
    labels = labels_of(tmp_path / "chase")
    assert len(labels) == 3 and all(label.sum() == 25 for label in labels.values())
    assert any(
        "3 masks of the field of view or of a second observer" in n
        for n in open_folder(tmp_path / "chase").survey.notes
    )
    problems = open_folder(tmp_path / "two").survey.problems
    assert len(problems) == 3 and "masks of several kinds, a01_mask.png and a01_seg.png" in problems[0]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (unicodedata.normalize("NFD", "lésion_{}.png"), unicodedata.normalize("NFC", "lésion_{}.png")),
        ("a{}.jpg", "a{}.jpg.png"),
        ("img{}.png", "mask{}.png"),
        ("A{}.JPG", "a{}_MASK.PNG"),
        ("{}.png", "{}_predict.png"),
        ("im{}.png", "im{}.ah.png"),
    ],
)
def test_names_are_paired_however_they_are_written(draw, tmp_path: Path, image: str, mask: str):
    for number in NAMES:
        draw(tmp_path / "images" / image.format(number))
        draw(tmp_path / "masks" / mask.format(number), "L", value=255)
    opened = open_folder(tmp_path)
    assert len(opened.cases) == 3 and all(case.labels for case in opened.cases) and not opened.survey.problems


def test_names_that_differ_by_case_alone_stay_two(draw, tmp_path: Path):
    for name in ("A1", "a1"):
        draw(tmp_path / "images" / f"{name}.png")
        draw(tmp_path / "masks" / f"{name}.png", "L", value=255)
    pairs = {case.images[0].stem: case.labels[0].stem for case in open_folder(tmp_path).cases}
    assert pairs == {"A1": "A1", "a1": "a1"}


def test_folders_of_classes_by_name(draw, tmp_path: Path):
    for number in NAMES:
        draw(tmp_path / "CXR_png" / f"{number}.png")
        draw(tmp_path / "ManualMask" / "leftMask" / f"{number}.png", "L", value=255, corner=True)
    draw(tmp_path / "ManualMask" / "rightMask" / "01.png", "L", value=255)
    opened = open_folder(tmp_path)
    assert opened.label_map.names == ("background", "leftMask", "rightMask") and not opened.survey.problems
    labels = labels_of(tmp_path)
    assert set(np.unique(labels["01"])) == {0, 1, 2} and set(np.unique(labels["02"])) == {0, 1}


def test_folders_of_any_name_with_images_and_masks(draw, tmp_path: Path):
    for name in ("COVID", "Normal"):
        for number in NAMES:
            draw(tmp_path / name / "images" / f"{number}.png")
            draw(tmp_path / name / "masks" / f"{number}.png", "L", value=255)
    assert [case.id for case in open_folder(tmp_path).cases][:2] == ["COVID_01", "COVID_02"]


def test_published_folders_are_the_default_split(draw, tmp_path: Path):
    for part, count in (("train", 6), ("val", 2), ("test", 3)):
        for k in range(count):
            draw(tmp_path / part / "images" / f"{part}{k}.png")
            draw(tmp_path / part / "masks" / f"{part}{k}.png", "L", value=255)
    cases = open_folder(tmp_path).cases
    for split in (make_split(cases), make_split(cases, AutoSplit())):
        assert split.kind == "folders" and set(split.test) == {"test0", "test1", "test2"} and len(split.train) == 6
        assert "published folders" in split.groups
    lone = [case for case in cases if case.subset == "train"]
    assert make_split(lone).kind == "group"


@pytest.mark.parametrize(
    ("head", "between", "slash"),
    [
        ("image;mask;patient", ";", "/"),
        ("image,mask,patient", ",", "\\"),
        ("image_path,mask_path,patient_id", ",", "/"),
        ("Image\tLabel\tSubject", "\t", "/"),
    ],
)
def test_tables_as_others_write_them(draw, tmp_path: Path, head: str, between: str, slash: str):
    lines = [head]
    for patient in ("p1", "p2"):
        draw(tmp_path / patient / "slice0.png")
        draw(tmp_path / patient / "slice0_m.png", "L", value=255)
        lines.append(between.join([f"{patient}/slice0.png", f"{patient}/slice0_m.png", patient]).replace("/", slash))
    (tmp_path / "cases.csv").write_text("\r\n".join(lines))
    opened = open_folder(tmp_path)
    assert [(case.id, case.group) for case in opened.cases] == [("p1_slice0", "p1"), ("p2_slice0", "p2")]
    assert not opened.survey.problems


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "..\\secret.png", "C:\\secret.png", "~/secret.png"])
def test_a_table_names_no_file_outside_its_folder(draw, tmp_path: Path, name: str):
    draw(tmp_path / "secret.png")
    for number in NAMES:
        draw(tmp_path / "set" / f"{number}.png")
        draw(tmp_path / "set" / f"{number}_m.png", "L", value=255)
    rows = [f"{number}.png,{number}_m.png" for number in NAMES]
    (tmp_path / "set" / "cases.csv").write_text("\n".join(["image,mask", *rows, f"{name},01_m.png"]))
    opened = open_folder(tmp_path / "set", "table")
    assert len(opened.cases) == 3 and "which lies outside its folder" in opened.survey.problems[0]
    if name == "../secret.png":
        assert len(open_folder(tmp_path / "set", "table", {"outside": True}).cases) == 4


def test_two_rows_of_one_id_are_told_about_the_column(draw, tmp_path: Path):
    draw(tmp_path / "a.png")
    draw(tmp_path / "a_m.png", "L", value=255)
    (tmp_path / "cases.csv").write_text("image,mask\na.png,a_m.png\na.png,a_m.png\n")
    with pytest.raises(ValueError, match="in a table, add a column id"):
        open_folder(tmp_path, "table")


def test_a_pattern_without_end_is_stopped(draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert match_groups("^(p[0-9]+)_", ["p1_a", "q"]) == ["p1", None] and match_groups("p.", ["xp1"]) == ["p1"]
    began = time.perf_counter()
    with pytest.raises(ValueError, match="repeats inside repeats"):
        match_groups(r"^(a+)+$", ["a" * 40 + "!"], seconds=0.5)
    assert time.perf_counter() - began < 10


def test_exports_that_lay_masks_beside_their_pictures(draw, tmp_path: Path):
    for part, names in (("train", "abc"), ("valid", "d"), ("test", "e")):
        for name in names:
            draw(tmp_path / part / f"{name}_jpg.rf.0123.jpg")
            draw(tmp_path / part / f"{name}_jpg.rf.0123_mask.png", "L", value=1)
        (tmp_path / part / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, lesion\n")
    opened = open_folder(tmp_path)
    assert opened.label_map.names == ("background", "lesion")
    assert {case.subset for case in opened.cases} == {"train", "validation", "test"}
    draw(tmp_path / "sv" / "img" / "a.jpg")
    draw(tmp_path / "sv" / "masks_machine" / "a.jpg.png", "L", value=1)
    assert len(open_folder(tmp_path / "sv").cases) == 1


def test_classes_of_voc_are_read_and_objects_left_alone(draw, tmp_path: Path):
    draw(tmp_path / "JPEGImages" / "a.jpg")
    for folder in ("SegmentationClass", "SegmentationObject"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((24, 32), np.uint8)
    mask[4:20, 4:20], mask[2:4] = 15, 255
    stored = Image.fromarray(mask)
    stored.putpalette([0, 0, 0] + [k % 256 for k in range(7, 7 + 765)])
    stored.save(tmp_path / "SegmentationClass" / "a.png")
    Image.fromarray(mask).save(tmp_path / "SegmentationObject" / "a.png")
    opened = open_folder(tmp_path)
    assert opened.cases[0].labels[0].parent.name == "SegmentationClass" and opened.label_map.num_classes == 2
