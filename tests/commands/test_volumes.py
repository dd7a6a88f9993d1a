"""The same verbs for volumes: a small data set is checked, trained on, judged and predicted, NIfTI and DICOM."""

from __future__ import annotations

import csv
import json

import nibabel
import numpy as np
import pytest
import yaml

from data.made_volumes import box, make_msd, make_sparse, write_nifti, write_series
from kanscan.commands.check import check
from kanscan.commands.evaluate import evaluate
from kanscan.commands.predict import predict
from kanscan.commands.train import train

SMALL = {
    "model.name": "dynunet",
    "model.options": {"channels": [4, 6, 8]},
    "volume.batch_size": 2,
    "volume.batches_per_epoch": 8,
    "volume.patch_size": [16, 16, 16],
    "volume.augmentation": "none",
    "optim.name": "adam",
    "optim.lr": 0.02,
    "optim.schedule": "constant",
    "optim.kan_lr": None,
    "trainer.epochs": 3,
    "trainer.device": "cpu",
    "split.validation_fraction": 0.2,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_msd(tmp_path_factory.mktemp("volumes") / "Task99_Box", 8, (14, 16, 12))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return train(str(data), {**SMALL, "volume.cache": str(folder / "cache")}, output=folder / "run")


def test_a_folder_of_volumes_is_checked(data, tmp_path):
    found = check(data, output=tmp_path / "sheet.png")
    assert (found.num_cases, found.errors, found.reader) == (8, (), "msd")
    assert found.sizes == {"14 x 16 x 12": 8}
    assert found.spacings == {"1 x 1 x 1": 8}
    assert found.orientations == {"RAS": 8}
    assert [one.name for one in found.classes] == ["background", "front", "back"]
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_what_is_wrong_with_volumes_is_said(data, tmp_path):
    root = make_msd(tmp_path / "broken", 4)
    whole = (root / "imagesTr" / "c0.nii.gz").read_bytes()
    (root / "imagesTr" / "c0.nii.gz").write_bytes(whole[: len(whole) // 2])
    write_nifti(root / "labelsTr" / "c1.nii.gz", box()[1][:-1])
    write_nifti(root / "labelsTr" / "c2.nii.gz", box()[1] * np.uint8(4))
    (root / "labelsTr" / "c3.nii.gz").unlink()
    found = check(root, sheet=False)
    text = "\n".join(found.errors)
    assert "c0.nii.gz: its compressed content is truncated" in text
    assert "c1.nii.gz lies in another grid than" in text
    assert "c2.nii.gz holds label values 4, 8, outside the map" in text
    assert "c3.nii.gz, which is not there" in text


def test_a_run_on_volumes_holds_its_plan(run, data):
    plan = yaml.safe_load(run.plan_path.read_text())
    assert plan["spacing_mm"]["value"] == "1 x 1 x 1"
    assert all(entry["reason"] for entry in plan.values())
    assert json.loads(run.fingerprint_path.read_text())["spacings"][0] == [1.0, 1.0, 1.0]
    plans = json.loads(run.nnunet_plans_path.read_text())["configurations"]["3d_fullres"]
    assert tuple(plans["patch_size"]) == run.facts.plan.patch_size
    assert run.facts.model.options["spatial_dims"] == 3
    assert run.recipe.name == f"dynunet-{data.name}"
    assert run.curves[-1]["val_dice"] > run.curves[0]["val_dice"] or run.curves[-1]["val_dice"] > 0.5


def test_a_resumed_run_goes_on_with_its_plan(run):
    again = train(str(run.path), {"trainer.epochs": 4, "resume": True})
    assert len(again.curves) == 4
    assert again.facts.plan == run.facts.plan


def test_a_run_is_judged_in_millimeters(run, tmp_path):
    report = evaluate(run.path, output=tmp_path / "report")
    assert report.unit == "mm"
    assert report.class_names == ["front", "back"]
    assert report.mean("dice") > 0.3
    assert list((tmp_path / "report" / "pictures").glob("*.png"))


def test_volumes_are_predicted_into_their_own_grid(run, data, tmp_path):
    image, _ = box((14, 16, 12), 1)
    affine = np.array([[-1.0, 0, 0, 5], [0, -1, 0, 9], [0, 0, 1, -3], [0, 0, 0, 1]])
    write_nifti(tmp_path / "in" / "turned.nii.gz", image[::-1, ::-1].copy(), affine)
    write_nifti(tmp_path / "in" / "plain.nii.gz", image)
    (tmp_path / "in" / "broken.nii.gz").write_bytes(b"nothing")
    done = predict(run.path, [tmp_path / "in"], output=tmp_path / "out", overlays=True, probabilities=True)
    assert [path.name for path in done.files] == ["plain.nii.gz", "turned.nii.gz"]
    with (tmp_path / "out" / "failures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["broken"]
    assert "broken.nii.gz" in rows[0]["error"]
    assert "1 of 3 volumes could not be predicted" in done.__rich__()
    plain, turned = (nibabel.load(path) for path in done.files)
    assert plain.get_data_dtype() == np.uint8
    assert np.array_equal(turned.affine, affine)
    # One patient, held differently: the same labels, held differently.
    assert np.array_equal(np.asanyarray(turned.dataobj)[::-1, ::-1], np.asanyarray(plain.dataobj))
    probabilities = np.load(tmp_path / "out" / "plain_probabilities.npz")["probabilities"]
    assert np.array_equal(probabilities.argmax(0), np.asanyarray(plain.dataobj))
    assert (tmp_path / "out" / "plain_overlay.png").is_file()
    with pytest.raises(FileExistsError, match="--skip-finished"):
        predict(run.path, [tmp_path / "in" / "plain.nii.gz"], output=tmp_path / "out")
    again = predict(run.path, [tmp_path / "in" / "plain.nii.gz"], output=tmp_path / "out", skip_finished=True)
    assert again.files == ()
    assert "1 volumes were predicted before" in again.notes[0]


def test_shards_share_the_work(run, tmp_path):
    image, _ = box((14, 16, 12))
    for name in "abc":
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image)
    parts = [predict(run.path, [tmp_path / "in"], output=tmp_path / "out", shard=f"{i}/2").files for i in (1, 2)]
    assert [[path.name[0] for path in part] for part in parts] == [["a", "c"], ["b"]]
    for name in "abc":
        (tmp_path / "in" / f"{name}.nii.gz").write_bytes(b"broken")
    for i in (1, 2):
        predict(run.path, [tmp_path / "in"], output=tmp_path / "again", shard=f"{i}/2")
    failures = {path.name: len(path.read_text().splitlines()) - 1 for path in (tmp_path / "again").iterdir()}
    assert failures == {"failures-1-of-2.csv": 2, "failures-2-of-2.csv": 1}
    write_nifti(tmp_path / "in" / "b.nii.gz", image)
    predict(run.path, [tmp_path / "in"], output=tmp_path / "again", shard="2/2")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["b.nii.gz", "failures-1-of-2.csv"]
    with pytest.raises(ValueError, match="--shard is written i/n"):
        predict(run.path, [tmp_path / "in"], output=tmp_path / "out", shard="3/2")


def test_two_folders_of_label_maps(tmp_path):
    label = box((14, 16, 12))[1]
    spacing = np.diag([1.0, 1, 2, 1])
    for name in ("a", "b"):
        write_nifti(tmp_path / "ours" / f"{name}.nii.gz", np.roll(label, 1, axis=1), spacing)
        write_nifti(tmp_path / "theirs" / f"{name}.nii.gz", label, spacing)
    (tmp_path / "tolerances.json").write_text('{"class 1": 1.5, "class 2": 0.5}')
    report = evaluate(
        tmp_path / "ours", tmp_path / "theirs", tolerances=str(tmp_path / "tolerances.json"), output=tmp_path / "out"
    )
    assert report.unit == "mm"
    assert report.mean("nsd", "class 1") == 1
    assert report.mean("nsd", "class 2") < 1
    assert report.mean("hd95", "class 1") == 1
    assert "class 1 1.5, class 2 0.5 mm" in (tmp_path / "out" / "report.md").read_text()
    (tmp_path / "ours" / "b.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 references have no prediction .* first b.nii.gz"):
        evaluate(tmp_path / "ours", tmp_path / "theirs")
    write_nifti(tmp_path / "ours" / "b.nii.gz", label)
    report = evaluate(tmp_path / "ours", tmp_path / "theirs")
    assert [case.id for case in report.cases] == ["a"] and "another grid" in report.errors[0]


def test_dicom_in_gives_nifti_and_a_segmentation(run, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    from kanscan.data.dicom.segmentation import anatomy_code
    from kanscan.data.volumes.formats import read_volume

    image, _ = box((14, 16, 5))
    folder = write_series(tmp_path / "scan", image, number=4)
    done = predict(run.path, [folder], output=tmp_path / "out")
    assert done.errors == ()
    written = nibabel.load(tmp_path / "out" / "scan.nii.gz")
    assert np.allclose(written.affine, read_volume(folder).affine)
    label = np.asanyarray(written.dataobj)
    assert label.shape == image.shape
    segmentation = highdicom.seg.segread(tmp_path / "out" / "scan.dcm")
    names = [one.SegmentLabel for one in segmentation.SegmentSequence]
    classes = [index for index in (1, 2) if (label == index).any()]
    assert names == [["front", "back"][index - 1] for index in classes] or (not classes and names == ["front"])
    volume = segmentation.get_volume(combine_segments=True)
    assert volume.affine is not None
    referenced = {uid for _, _, uid in segmentation.get_source_image_uids()}
    import pydicom

    assert referenced == {pydicom.dcmread(path).SOPInstanceUID for path in folder.iterdir()}
    assert anatomy_code("left kidney").meaning == "Kidney"
    assert anatomy_code("anterior").meaning == "Anatomical Structure"


def test_a_segmentation_holds_every_voxel_where_it_was(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    from kanscan.data.dicom.segmentation import write_segmentation
    from kanscan.data.volumes.formats import read_volume

    image, label = box((14, 16, 6))
    folder = write_series(tmp_path / "scan", image)
    write_segmentation(tmp_path / "seg.dcm", read_volume(folder), label, ("background", "liver", "spleen"))
    volume = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    # Both affines map to millimeters; highdicom's to the left, the back, the head.
    ours = read_volume(folder).affine
    theirs = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    for place in np.argwhere(volume.array > 0):
        i, j, k = np.rint(np.linalg.solve(ours, theirs @ [*place, 1]))[:3].astype(int)
        assert label[i, j, k] == volume.array[tuple(place)]
    assert (volume.array > 0).sum() == (label > 0).sum()
    codes = {"spleen": ("1234", "99LAB", "Spleen of ours")}
    own = write_segmentation(tmp_path / "own.dcm", read_volume(folder), label, ("background", "liver", "spleen"), codes)
    types = [one.SegmentedPropertyTypeCodeSequence[0] for one in highdicom.seg.segread(own).SegmentSequence]
    assert [(one.CodeValue, one.CodingSchemeDesignator) for one in types] == [("10200004", "SCT"), ("1234", "99LAB")]
    empty = write_segmentation(tmp_path / "none.dcm", read_volume(folder), label * 0, ("background", "liver", "spleen"))
    assert not highdicom.seg.segread(empty).pixel_array.any()
    with pytest.raises(ValueError, match=r"the label has \(14, 16, 5\) voxels"):
        write_segmentation(tmp_path / "x.dcm", read_volume(folder), label[:, :, :5], ("background", "liver", "spleen"))


def test_codes_of_the_label_file_reach_the_segmentation(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    code = {"value": "279336003", "scheme": "SCT", "meaning": "Front of the box"}
    root = make_msd(tmp_path / "Task98_Box", 5, (14, 16, 12), codes={"front": code})
    short = {"volume.batches_per_epoch": 1, "trainer.epochs": 1, "volume.cache": str(tmp_path / "cache")}
    run = train(str(root), {**SMALL, **short}, output=tmp_path / "run")
    folder = write_series(tmp_path / "scan", box((14, 16, 5))[0])
    predict(run.path, [folder], output=tmp_path / "out")
    assert run.facts.label_map.codes == {"front": ("279336003", "SCT", "Front of the box")}
    segments = highdicom.seg.segread(tmp_path / "out" / "scan.dcm").SegmentSequence
    for one in segments:
        meaning = one.SegmentedPropertyTypeCodeSequence[0].CodeMeaning
        assert meaning == ("Front of the box" if one.SegmentLabel == "front" else "Back")
    with pytest.raises(ValueError, match=r"dataset\.json: unknown class in codes 'frnt': did you mean 'front'"):
        check(make_msd(tmp_path / "wrong", 2, codes={"frnt": code}), output=tmp_path / "sheet.png")
    with pytest.raises(ValueError, match=r"codes must map class names to .* got 'front': 'SCT'"):
        check(make_msd(tmp_path / "worse", 2, codes={"front": "SCT"}), output=tmp_path / "sheet.png")


def test_a_network_for_pictures_says_what_to_do(data, tmp_path):
    with pytest.raises(ValueError, match=r"UKAN takes 2D images and the data are volumes; .*volume.slices=true"):
        train(str(data), {"model.name": "ukan", "model.preset": "small"}, output=tmp_path / "run")


def test_a_2d_network_learns_slices(data, tmp_path):
    settings = {
        "model.name": "ukan",
        "model.preset": "small",
        "volume.slices": True,
        "volume.batch_size": 2,
        "volume.batches_per_epoch": 1,
        "trainer.epochs": 1,
        "trainer.device": "cpu",
        "volume.cache": str(tmp_path / "cache"),
    }
    run = train(str(data), settings, output=tmp_path / "run")
    assert run.facts.plan.slice_axis == 0
    assert run.facts.plan.patch_size[0] == 1
    done = predict(run.path, [data / "imagesTr" / "c0.nii.gz"], output=tmp_path / "out")
    assert nibabel.load(done.files[0]).shape == (14, 16, 12)


def test_too_little_memory_is_said_before_anything_is_trained(data, tmp_path):
    settings = {**SMALL, "volume.cache": str(tmp_path / "cache"), "volume.memory_limit_mib": 0.5}
    with pytest.raises(ValueError, match=r"one patch of 16 x 16 x 16 needs about .* MiB .*smaller volume.patch_size"):
        train(str(data), settings, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    settings |= {"volume.memory_limit_mib": 6, "volume.batch_size": 400}
    with pytest.raises(ValueError, match=r"400 patches of .* volume.batch_size=\d+ fits"):
        train(str(data), settings, output=tmp_path / "run")


def test_voxels_nobody_labelled_are_left_out_from_training_to_report(tmp_path):
    root = make_sparse(tmp_path / "Dataset001_Sparse", 4)
    found = check(root, output=tmp_path / "sheet.png")
    assert found.errors == ()
    assert [one.name for one in found.classes] == ["background", "front", "back"]
    settings = {**SMALL, "volume.cache": str(tmp_path / "cache"), "trainer.epochs": 4}
    run = train(str(root), settings, output=tmp_path / "run")
    report = evaluate(run.path)
    # The network never saw that three of four slices are empty: it fills the box, and nobody minds.
    assert report.mean("dice", "front") > 0.7
    done = predict(run.path, [root / "imagesTr" / "c0_0000.nii.gz"], output=tmp_path / "out")
    predicted = np.asarray(nibabel.load(done.files[0]).dataobj)
    assert set(np.unique(predicted)) <= {0, 1, 2}
    assert (predicted[5, 6, 6:14] > 0).mean() > 0.7
    only = tmp_path / "Dataset001_Sparse" / "labelsTr"
    for k in (1, 2, 3):
        (only / f"c{k}.nii.gz").unlink()
    judged = evaluate(tmp_path / "out", only)
    assert judged.mean("dice", "front") > 0.7


def test_stages_that_were_chosen_stand_in_the_plan(data, tmp_path):
    stages = {"strides": [1, [1, 2, 2], 2], "kernel_sizes": [[1, 3, 3], 3, 3]}
    settings = {**SMALL, "model.name": "lkm_unet", "model.options": {"channels": [4, 6, 8], **stages}}
    short = {"volume.batches_per_epoch": 1, "trainer.epochs": 1, "volume.cache": str(tmp_path / "cache")}
    plan = train(str(data), {**settings, **short}, output=tmp_path / "run").facts.plan
    assert plan.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    assert plan.kernel_sizes[0] == (1, 3, 3)
    assert plan.reasons["strides"] == "given as model.options.strides"


def test_a_plan_of_nnunet_is_taken_as_it_stands(run, data, tmp_path):
    plans = json.loads((run.path / "nnUNetPlans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration |= {"spacing": [1.5, 1.25, 1.0], "patch_size": [8, 16, 16], "batch_size": 3}
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(plans))
    short = {"volume.plan": str(tmp_path / "nnUNetPlans.json"), "volume.batches_per_epoch": 1, "trainer.epochs": 1}
    settings = {**SMALL, **short, "volume.cache": str(tmp_path / "cache")}
    del settings["volume.patch_size"], settings["volume.batch_size"]
    found = train(str(data), settings, output=tmp_path / "run").facts.plan
    assert (found.spacing_mm, found.patch_size, found.batch_size) == ((1.5, 1.25, 1.0), (8, 16, 16), 3)
    assert found.reasons["spacing_mm"] == "from nnU-Net's plan 3d_fullres"
    more = train(str(data), {**settings, "volume.batch_size": 2}, output=tmp_path / "other")
    assert more.facts.plan.batch_size == 2
    with pytest.raises(ValueError, match=r"says volume\.spacing_mm already; leave one of them out"):
        train(str(data), {**settings, "volume.spacing_mm": [1, 1, 1]}, output=tmp_path / "no")
    with pytest.raises(ValueError, match=r"nnUNetPlans\.json: the plans have no configuration '2d'"):
        train(str(data), {**settings, "volume.slices": True}, output=tmp_path / "no")
    with pytest.raises(FileNotFoundError, match=r"no file at volume\.plan="):
        train(str(data), {**settings, "volume.plan": str(tmp_path / "gone.json")}, output=tmp_path / "no")


def test_what_was_decided_while_reading_is_told(run, tmp_path):
    """Units, in prediction and check; a NaN background is filled in prediction as in training."""
    image, label = box((14, 16, 12))
    made = nibabel.Nifti1Image(image, np.diag([1000.0, 1000, 1000, 1]))
    made.header.set_xyzt_units("micron")
    for folder, array in (("images", made), ("labels", nibabel.Nifti1Image(label, made.affine, made.header))):
        (tmp_path / "set" / folder).mkdir(parents=True)
        nibabel.save(array, tmp_path / "set" / folder / "a.nii.gz")
    done = predict(run.path, [tmp_path / "set" / "images"], output=tmp_path / "out")
    assert "counts in units of micron" in " ".join(done.notes)
    assert nibabel.load(done.files[0]).header.get_xyzt_units()[0] == "micron"
    found = check(tmp_path / "set", output=tmp_path / "sheet.png")
    assert found.errors == ()
    assert "counts in units of micron" in " ".join(found.notes)
    report = evaluate(done.files[0].parent, tmp_path / "set" / "labels")
    assert report.num_cases == 1


def test_left_and_right_are_told(tmp_path, capsys):
    labels = {"0": "background", "1": "left", "2": "right"}
    root = make_msd(tmp_path / "Task97_Sides", 5, (14, 16, 12), labels=labels)
    short = {"volume.batches_per_epoch": 1, "trainer.epochs": 1, "volume.cache": str(tmp_path / "cache")}
    train(str(root), {**SMALL, **short}, output=tmp_path / "run")
    told = capsys.readouterr()
    assert "nothing is mirrored across the body" in " ".join((told.out + told.err).split())
