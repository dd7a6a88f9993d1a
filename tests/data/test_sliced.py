"""Volumes prepared as slices: Synapse's .npz and HDF5, ACDC's HDF5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.made_volumes import box
from kanscan.commands.evaluate import evaluate
from kanscan.commands.predict import predict
from kanscan.commands.train import train
from kanscan.config.parts import FoldersSplit
from kanscan.data import make_reader, recognize
from kanscan.data.examination import examine_volume
from kanscan.data.splits import make_split
from kanscan.data.volumes.formats import read_volume, read_volume_pair, volume_name

h5py = pytest.importorskip("h5py")


def write_h5(path: Path, image: np.ndarray, label: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image, label


def arrays(seed: int, shape=(5, 24, 20)) -> tuple[np.ndarray, np.ndarray]:
    """Image 0 to 1 as float32 and label, (D, H, W), prepared as others do it."""
    image, label = box(shape, seed)
    return np.clip(image / 600, 0, 1).astype(np.float32), label


def make_synapse(root: Path) -> Path:
    (root / "train_npz").mkdir(parents=True)
    for number in (5, 6, 7):
        image, label = arrays(number)
        for k in range(len(image)):
            np.savez(root / "train_npz" / f"case{number:04d}_slice{k:03d}.npz", image=image[k], label=label[k])
    for number in (1, 2):
        write_h5(root / "test_vol_h5" / f"case{number:04d}.npy.h5", *arrays(number))
    return root


def test_slices_become_volumes_again(tmp_path):
    root = make_synapse(tmp_path / "Synapse")
    assert recognize(root) == recognize(tmp_path) == "synapse"
    reader = make_reader("auto", root)
    survey = reader.survey(root)
    assert survey.problems == ()
    assert "counted in voxels" in survey.notes[0]
    assert [(c.id, c.subset, len(c.images)) for c in survey.cases] == [
        ("case0001", "test", 1),
        ("case0002", "test", 1),
        *((f"case000{k}", "train", 5) for k in (5, 6, 7)),
    ]
    for case in survey.cases:
        volume, label = read_volume_pair(case, reader.label_map)
        image, classes = arrays(int(case.id[4:]))
        # (D, H, W) as stored; the file axes are turned about.
        assert np.array_equal(volume.array.transpose(2, 1, 0), image)
        assert np.array_equal(label.transpose(2, 1, 0), classes)
        assert volume.spacing_mm == (1, 1, 1)
        facts = examine_volume(case, reader.label_map)
        assert facts.errors == ()
        assert facts.size == (5, 24, 20)
        assert facts.class_pixels[:3] == tuple(np.bincount(classes.ravel()))
    split = make_split(survey.cases, FoldersSplit(validation_fraction=0.3), seed=0)
    assert set(split.test) == {"case0001", "case0002"}
    assert len(split.train) == 2


def test_lists_choose_and_what_is_missing_is_named(tmp_path):
    root = make_synapse(tmp_path / "Synapse")
    lists = root / "lists" / "lists_Synapse"
    lists.mkdir(parents=True)
    names = [f"case0005_slice{k:03d}" for k in range(5)] + ["case0099_slice000"]
    (lists / "train.txt").write_text("\n".join(names))
    (lists / "test_vol.txt").write_text("case0002\n")
    (root / "train_npz" / "case0005_slice002.npz").unlink()
    survey = make_reader("synapse", root).survey(root)
    assert [c.id for c in survey.cases] == ["case0002", "case0005"]
    problems = "\n".join(survey.problems)
    assert "train.txt names 2 files that are not there, first case0005_slice002" in problems
    assert "case0005 lacks 1 of its slices, first number 2" in problems


def test_array_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, picture=np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"a\.npz: it holds picture, expected an array 'image'"):
        read_volume(path)
    np.savez(path, image=np.zeros(3))
    with pytest.raises(ValueError, match=r"expected a slice or a volume, got an array of shape \(3,\)"):
        read_volume(path)
    path = tmp_path / "b.npy.h5"
    path.write_bytes(b"no HDF5 at all")
    with pytest.raises(ValueError, match=r"cannot read .*b\.npy\.h5"):
        read_volume(path)
    assert volume_name(path) == "b"
    root = make_synapse(tmp_path / "Synapse")
    np.savez(root / "train_npz" / "case0005_slice001.npz", image=np.zeros((9, 9)), label=np.zeros((9, 9)))
    reader = make_reader("synapse", root)
    case = next(c for c in reader.cases(root) if c.id == "case0005")
    assert "shape (9, 9), the first slice" in examine_volume(case, reader.label_map).errors[0]


def test_acdc_slices_and_volumes(tmp_path):
    root = tmp_path / "ACDC"
    for patient, frame in ((1, 1), (1, 12), (2, 1), (3, 1)):
        image, label = arrays(10 * patient + frame)
        name = f"patient{patient:03d}_frame{frame:02d}"
        if patient != 3:
            write_h5(root / "data" / f"{name}.h5", image, label)
        for k in range(len(image)):
            write_h5(root / "data" / "slices" / f"{name}_slice_{k + 1}.h5", image[k], label[k])
    (root / "train_slices.list").write_text("patient001_frame01_slice_1\npatient001_frame12_slice_3\n")
    (root / "val.list").write_text("patient002_frame01.h5\npatient070_frame01\n")
    assert recognize(root) == "acdc"
    reader = make_reader("auto", root)
    survey = reader.survey(root)
    assert [(c.id, c.group, c.subset, c.stacked) for c in survey.cases] == [
        ("patient001_frame01", "patient001", "train", False),
        ("patient001_frame12", "patient001", "train", False),
        ("patient002_frame01", "patient002", "validation", False),
        ("patient003_frame01", "patient003", None, True),
    ]
    assert "1 volumes are in no list, first patient003_frame01" in survey.problems[0]
    assert "1 of 2 volumes listed for validation are not there" in survey.notes
    assert reader.label_map.names[3] == "left ventricle"
    whole, stacked = (read_volume_pair(case, reader.label_map) for case in (survey.cases[0], survey.cases[3]))
    assert whole[0].shape == stacked[0].shape == (20, 24, 5)
    assert np.array_equal(stacked[1].transpose(2, 1, 0), arrays(31)[1])
    renamed = make_reader("acdc", root, classes=["none", "right", "wall", "left"])
    assert renamed.label_map.names == ("none", "right", "wall", "left")
    with pytest.raises(ValueError, match="at least one class"):
        make_reader("acdc", root, classes=["none"])


def test_the_recipes_of_synapse_train_on_slices_and_are_judged_on_volumes(tmp_path):
    root = make_synapse(tmp_path / "Synapse")
    settings = {
        "data.root": str(root),
        "data.options.classes": ["none", "front", "back"],
        "model.options": {"channels": 8, "encoder_depths": [1, 1, 1, 1], "decoder_depths": [1, 1, 1, 1]},
        "volume.spacing_mm": [1, 0.75, 0.75],
        "volume.patch_size": [1, 32, 32],
        "volume.batch_size": 4,
        "volume.batches_per_epoch": 2,
        "volume.cache": str(tmp_path / "cache"),
        "split.validation_fraction": 0.3,
    }
    run = train("vm_unet-synapse-release", settings, epochs=1, output=tmp_path / "run")
    plan = run.facts.plan
    assert (plan.slice_axis, plan.patch_size, plan.copies) == (0, (1, 32, 32), 3)
    assert plan.normalization == ("none",)
    assert run.facts.model.options["in_channels"] == 3
    report = evaluate(run.path)
    assert [case.id for case in report.cases] == ["case0001", "case0002"]
    assert report.cases[0].size == (20, 24, 5)
    assert "pixels" in (run.path / "report.md").read_text()
    done = predict(run.path, [root / "test_vol_h5" / "case0001.npy.h5"], output=tmp_path / "out")
    assert read_volume(done.files[0]).shape == (20, 24, 5)
    done = predict(run.path, [root / "test_vol_h5"], output=tmp_path / "all")
    assert [path.name for path in done.files] == ["case0001.nii.gz", "case0002.nii.gz"]
