"""Layouts of volumes: nnU-Net's, the decathlon's, plain folders, lists and DICOM studies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data.made_volumes import box, make_msd, write_nifti, write_series
from kanscan.config.parts import FoldersSplit, NNUNetSplit
from kanscan.data import make_reader, recognize
from kanscan.data.readers.described import label_map_from_json
from kanscan.data.splits import make_split
from kanscan.data.volumes.fingerprint import STATISTICS, Fingerprint
from kanscan.data.volumes.formats import read_volume_pair
from kanscan.data.volumes.nnunet import nnunet_plans, read_nnunet_plans
from kanscan.data.volumes.plan import make_plan
from kanscan.metrics import IGNORED, case_scores, check_tolerances, read_tolerances, tolerance_of


def make_nnunet(root: Path, channels: int = 2, **description) -> Path:
    for number in range(4):
        image, label = box(seed=number)
        for channel in range(channels):
            write_nifti(root / "imagesTr" / f"case{number}_{channel:04d}.nii.gz", image + np.int16(channel))
        write_nifti(root / "labelsTr" / f"case{number}.nii.gz", label)
    write_nifti(root / "imagesTs" / "late_0000.nii.gz", image)
    write_nifti(root / "imagesTs" / "late_0001.nii.gz", image)
    content = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "front": 1, "back": 2},
        "numTraining": 4,
        "file_ending": ".nii.gz",
        **description,
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_nnunet_raw_data(tmp_path):
    root = make_nnunet(tmp_path / "Dataset001_Box")
    assert recognize(root) == recognize(tmp_path) == "nnunet"
    reader = make_reader("auto", root)
    survey = reader.survey(root)
    assert survey.problems == ()
    assert [(case.id, len(case.images), len(case.labels), case.subset) for case in survey.cases] == [
        *((f"case{k}", 2, 1, "train") for k in range(4)),
        ("late", 2, 0, "test"),
    ]
    assert (reader.channels, reader.channel_names) == (2, ("CT", "PET"))
    assert reader.label_map.names == ("background", "front", "back")
    (root / "imagesTr" / "case1_0001.nii.gz").unlink()
    (root / "labelsTr" / "case2.nii.gz").unlink()
    survey = reader.survey(root)
    problems = "\n".join(survey.problems)
    assert "case case1 lacks channel 0001" in problems
    assert survey.notes[0] == "1 cases have no label and are not learned from, first case2"
    assert "labelsTr/case1.nii.gz has no image" in problems


def test_ignored_voxels_and_regions(tmp_path):
    root = make_nnunet(tmp_path / "d", labels={"background": 0, "front": 1, "ignore": 2})
    reader = make_reader("auto", root)
    assert reader.label_map.names == ("background", "front")
    assert reader.label_map.values == {0: 0, 1: 1, 2: IGNORED}
    assert "ignore" in reader.survey(root).notes[-1]
    brats = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    parted = label_map_from_json(brats, "dataset.json", [1, 2, 3])
    assert parted.names == ("background", "whole", "core", "enhancing")
    assert parted.values == {0: 0, 1: 1, 2: 2, 3: 3}
    # Whichever region is written last has the voxel.
    other = label_map_from_json({"background": 0, "core": [2, 3], "whole": [1, 2, 3]}, "dataset.json", [2, 1])
    assert (other.names, set(other.values.values())) == (("background", "whole"), {0, 1})
    with pytest.raises(ValueError, match=r"3 regions, regions_class_order 2; one value is due to each"):
        label_map_from_json(brats, "dataset.json", [1, 2])
    with pytest.raises(ValueError, match=r"the value -2 of 'odd' cannot be written"):
        label_map_from_json({"background": 0, "odd": -2, "ignore": -1}, "dataset.json")
    # Whatever its value, the background comes first.
    assert label_map_from_json({"background": 255, "disc": 128, "cup": 0}, "x").values == {0: 1, 128: 2, 255: 0}
    with pytest.raises(ValueError, match="a class besides background and ignore"):
        label_map_from_json({"background": 0, "ignore": 1}, "dataset.json")
    with pytest.raises(ValueError, match="at least 2 classes"):
        label_map_from_json({"background": 0}, "dataset.json")


def test_the_test_folder_of_nnunet_raw_data_is_kept_as_the_test_set(tmp_path):
    root = make_nnunet(tmp_path / "d")
    write_nifti(root / "labelsTs" / "late.nii.gz", box(seed=3)[1])
    cases = make_reader("auto", root).cases(root)
    split = make_split(cases, FoldersSplit(validation_fraction=0.0))
    assert split.test == ("late",)
    assert set(split.train) == {case.id for case in cases} - {"late"}


def test_folds_of_nnunet(tmp_path):
    root = make_nnunet(tmp_path / "d")
    cases = [case for case in make_reader("auto", root).cases(root) if case.labels]
    folds = [{"train": ["case0", "case1", "case2"], "val": ["case3"]}, {"train": ["case3"], "val": ["case9"]}]
    (root / "splits_final.json").write_text(json.dumps(folds))
    split = make_split(cases, NNUNetSplit(file=root / "splits_final.json"))
    assert (split.train, split.validation, split.test) == (("case0", "case1", "case2"), ("case3",), ("case3",))
    assert "optimistic" in split.caveat
    with pytest.raises(ValueError, match="no case 'case9'"):
        make_split(cases, NNUNetSplit(fold=1, file=root / "splits_final.json"))
    with pytest.raises(ValueError, match="has 2 folds"):
        make_split(cases, NNUNetSplit(fold=2, file=root / "splits_final.json"))
    with pytest.raises(FileNotFoundError, match="splits_final"):
        make_split(cases, NNUNetSplit())


def test_decathlon(tmp_path):
    root = make_msd(tmp_path / "Task", 3)
    reader = make_reader("auto", root, group_pattern="^(c)")
    cases = reader.cases(root)
    assert [case.id for case in cases] == ["c0", "c1", "c2"]
    assert {case.group for case in cases} == {"c"}
    assert reader.channel_names == ("MRI",)
    write_nifti(root / "imagesTr" / "more.nii.gz", box()[0])
    assert "more.nii.gz is not listed" in reader.survey(root).problems[0]


def test_plain_folders(tmp_path):
    image, label = box()
    for name in ("a", "b"):
        write_nifti(tmp_path / "two" / "images" / f"{name}.nii.gz", image)
        write_nifti(tmp_path / "two" / "labels" / f"{name}_seg.nii.gz", label * np.uint8(3))
        write_nifti(tmp_path / "one" / f"{name}.nii.gz", image)
        write_nifti(tmp_path / "one" / f"{name}_mask.nii.gz", (label > 0).astype(np.uint8))
    write_nifti(tmp_path / "two" / "images" / "c.nii.gz", image)
    reader = make_reader("auto", tmp_path / "two", channel_name="CT")
    assert reader.key == "volumes"
    survey = reader.survey(tmp_path / "two")
    assert [(case.id, bool(case.labels)) for case in survey.cases] == [("a", True), ("b", True), ("c", False)]
    assert "c.nii.gz has no label map" in survey.problems[0]
    assert reader.label_map.values == {0: 0, 3: 1, 6: 2}
    together = make_reader("auto", tmp_path / "one")
    assert [case.labels[0].name for case in together.cases(tmp_path / "one")] == ["a_mask.nii.gz", "b_mask.nii.gz"]
    assert together.label_map.names == ("background", "foreground")
    named = make_reader("volumes", tmp_path / "two", labels={0: "background", 3: "front", 6: "back"})
    assert named.label_map.names == ("background", "front", "back")
    with pytest.raises(ValueError, match="labels must be auto or a mapping"):
        make_reader("volumes", tmp_path / "two", labels="nonzero")


def test_a_list_of_volumes(tmp_path):
    image, label = box()
    for name in ("a", "b"):
        write_nifti(tmp_path / "scans" / f"{name}.nii.gz", image)
        write_nifti(tmp_path / "truth" / f"{name}.nii.gz", label)
    lines = ["image,mask,group,split", "scans/a.nii.gz,truth/a.nii.gz,p1,train", "scans/b.nii.gz,truth/b.nii.gz,p2,val"]
    (tmp_path / "cases.csv").write_text("\n".join([*lines, "scans/c.nii.gz,,p3,test", "scans/a.nii.gz,,p1,tset"]))
    for root in (tmp_path, tmp_path / "cases.csv"):
        reader = make_reader("table", root)
        survey = reader.survey(root)
        assert [(case.id, case.group, case.subset) for case in survey.cases] == [
            ("a", "p1", "train"),
            ("b", "p2", "validation"),
        ]
        assert reader.spatial_dims == 3
        assert reader.label_map.num_classes == 3
    assert "line 4" in survey.problems[0] and "which is not there" in survey.problems[0]
    assert "the split 'tset'" in survey.problems[1]
    assert recognize(tmp_path / "cases.csv") == "table"
    (tmp_path / "cases.csv").write_text("id,image,mask\nboth,scans/a.nii.gz; scans/b.nii.gz,truth/a.nii.gz\n")
    reader = make_reader("table", tmp_path)
    (case,) = reader.cases(tmp_path)
    assert (case.id, reader.channels) == ("both", 2)
    assert read_volume_pair(case, reader.label_map)[0].channels == 2


def test_a_list_of_pictures(tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        Image.fromarray(np.full((8, 9), 100, np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(np.eye(8, 9, dtype=np.uint8) * np.uint8(255)).save(tmp_path / f"m{name}.png")
    (tmp_path / "list.csv").write_text("image,mask\na.png,ma.png\nb.png,mb.png\n")
    reader = make_reader("table", tmp_path)
    assert (reader.spatial_dims, reader.channels) == (2, 1)
    assert [case.is_volume for case in reader.cases(tmp_path)] == [False, False]


def test_dicom_studies(tmp_path):
    pytest.importorskip("pydicom")
    image, _ = box((5, 6, 4))
    write_series(tmp_path / "study1" / "t1", image, number=2)
    write_series(tmp_path / "study2", image, number=3, names=[f"a{k}" for k in range(4)])
    write_series(tmp_path / "study2", image, number=9, names=[f"b{k}" for k in range(4)])
    reader = make_reader("auto", tmp_path)
    assert reader.key == "dicom"
    survey = reader.survey(tmp_path)
    assert [(case.id, case.group) for case in survey.cases] == [
        ("study1_t1", "study1"),
        ("study2_3", None),
        ("study2_9", None),
    ]
    assert all(case.series for case in survey.cases)


def test_plans_in_nnunets_words_and_back():
    ones = dict.fromkeys(STATISTICS, 1.0)
    made = Fingerprint(((2.5, 0.8, 0.8),) * 50, ((96, 512, 512),) * 50, 1.0, (ones,))
    for slices, configuration in ((False, "3d_fullres"), (True, "2d")):
        plan = make_plan(made, 14, channel_names=["CT"], slices=slices)
        content = json.loads(json.dumps(nnunet_plans(plan, made)))
        again = read_nnunet_plans(content, configuration)
        for name in ("patch_size", "strides", "kernel_sizes", "batch_size", "normalization", "spacing_mm"):
            assert getattr(again, name) == getattr(plan, name), name
    old = {
        **content,
        "configurations": {
            "2d": {
                **{k: v for k, v in content["configurations"]["2d"].items() if k != "architecture"},
                "pool_op_kernel_sizes": [list(s) for s in plan.strides],
                "conv_kernel_sizes": [list(k) for k in plan.kernel_sizes],
            }
        },
    }
    assert read_nnunet_plans(old, "2d").strides == plan.strides
    with pytest.raises(ValueError, match="no configuration '3d_lowres'"):
        read_nnunet_plans(content, "3d_lowres")
    with pytest.raises(ValueError, match=r"no 'strides'|no 'pool_op_kernel_sizes'"):
        broken = {**content, "configurations": {"2d": {"spacing": [1, 1]}}}
        read_nnunet_plans(broken, "2d")


def test_tolerances(tmp_path):
    table = read_tolerances("abdomen")
    assert tolerance_of("Left_Kidney", table, 2) == 3
    assert tolerance_of("brain", table, 2) == 2
    (tmp_path / "t.json").write_text('{"liver": -1}')
    with pytest.raises(ValueError, match="positive numbers"):
        read_tolerances(tmp_path / "t.json")
    with pytest.raises(ValueError, match="unknown table of tolerances 'abdomne'"):
        read_tolerances("abdomne")


def test_tolerances_of_classes_that_are_not_there_are_refused():
    check_tolerances({}, ("background", "liver"))
    check_tolerances({"Left-Kidney": 2}, ("background", "left kidney"))
    check_tolerances(read_tolerances("abdomen"), ("background", "liver", "tumor"))
    with pytest.raises(ValueError, match="unknown class in the tolerances 'lever': did you mean 'liver'"):
        check_tolerances({"lever": 2, "tumor": 1}, ("background", "liver", "tumor"))
    with pytest.raises(ValueError, match="'liver': known are Anterior, Posterior"):
        check_tolerances(read_tolerances("abdomen"), ("background", "Anterior", "Posterior"))


def test_dice_and_nsd_equal_the_released_evaluation():
    """All organs but the three whose slices that evaluation leaves out."""
    from conftest import ROOT

    with np.load(ROOT / "tests" / "golden" / "nnunet" / "volumes.npz") as file:
        golden = {key.removeprefix("metrics_"): file[key] for key in file.files if key.startswith("metrics_")}
    allowed = {k + 1: float(t) for k, t in enumerate(golden["tolerances"])}
    spacing = tuple(golden["spacing_xyz"].tolist())
    scores = case_scores(golden["seg_0"], golden["gt_0"], 14, spacing_mm=spacing, tolerance=allowed)
    compared = 0
    for index in range(1, 14):
        dice, nsd = golden["DSC_0"][index - 1], golden["NSD_0"][index - 1]
        if index in (5, 6, 10) or np.isnan(scores[index]["dice"]):
            continue  # truncated there; or in neither map, which counts 1 there and is left out here
        assert scores[index]["dice"] == pytest.approx(dice, abs=6e-5), index
        assert scores[index]["nsd"] == pytest.approx(nsd, abs=6e-5), index
        compared += 1
    assert compared >= 5


def test_a_configuration_that_builds_on_another():
    ones = dict.fromkeys(STATISTICS, 1.0)
    made = Fingerprint(((1.0, 1.0, 1.0),) * 50, ((96, 128, 128),) * 50, 1.0, (ones,))
    plan = make_plan(made, 3)
    content = nnunet_plans(plan, made)
    content["configurations"]["larger"] = {"inherits_from": "3d_fullres", "batch_size": 7}
    content["configurations"]["largest"] = {"inherits_from": "larger", "spacing": [2, 2, 2]}
    found = read_nnunet_plans(content, "largest")
    assert (found.batch_size, found.spacing_mm, found.patch_size) == (7, (2, 2, 2), plan.patch_size)
