"""Volume files as people have them: units, scale factors, broken headers, other formats, odd names."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from data.made_volumes import box, write_nifti
from kanscan.data import make_reader, recognize
from kanscan.data.case import Case, LabelMap
from kanscan.data.sides import names_sides
from kanscan.data.volume import Volume
from kanscan.data.volumes.formats import (
    is_volume_file,
    read_case_volume,
    read_grid,
    read_label_volume,
    read_stored_volume,
    read_volume,
    read_volume_pair,
)
from kanscan.data.volumes.nifti import write_label_volume
from kanscan.data.volumes.search import find_volumes
from kanscan.metrics import IGNORED


def saved(path: Path, image: nibabel.Nifti1Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1e-3), ("meter", 1e3), ("mm", 1), ("unknown", 1)])
def test_units_of_length_are_honored(tmp_path, unit, factor):
    image, label = box()
    spacing = np.array([0.7, 0.7, 2.5]) / factor
    made = nibabel.Nifti1Image(image, np.diag([*spacing, 1]))
    made.header.set_xyzt_units(unit)
    path = saved(tmp_path / "a.nii.gz", made)
    volume = read_volume(path)
    assert np.allclose(volume.spacing_mm, (0.7, 0.7, 2.5))
    assert np.allclose(read_grid(path)[1], volume.affine)
    assert [unit in note for note in volume.notes] == ([True] if factor != 1 else [])
    # A label map goes back into the very header, unit and all.
    written = nibabel.load(write_label_volume(tmp_path / "l.nii.gz", label, volume.affine, volume.header))
    assert written.header.get_xyzt_units()[0] == unit
    assert np.allclose(written.affine, made.affine)


def test_a_length_of_forty_nanometers_is_a_length(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", box()[0], np.diag([4e-5, 4e-5, 4e-5, 1]))
    assert np.allclose(read_volume(path).spacing_mm, 4e-5)


def test_labels_under_a_scale_factor_are_rounded_when_that_is_exact(tmp_path):
    stored = np.array([0, 127, 255], np.uint8)[box()[1]]
    made = nibabel.Nifti1Image(stored, np.eye(4))
    made.header.set_slope_inter(2 / 255, 0)
    path = saved(tmp_path / "l.nii.gz", made)
    with path.open("rb"):
        assert np.array_equal(read_stored_volume(path).array, box()[1])
    # A probability map is scaled likewise, and is none.
    made = nibabel.Nifti1Image(np.arange(120, dtype=np.uint8).reshape(4, 5, 6), np.eye(4))
    made.header.set_slope_inter(1 / 255, 0)
    with pytest.raises(ValueError, match="between whole numbers"):
        read_stored_volume(saved(tmp_path / "p.nii.gz", made))


def test_a_sheared_affine_gets_no_qform(tmp_path):
    label = box()[1]
    affine = np.diag([0.5, 0.5, 2.0, 1])
    affine[1, 2] = 2 * np.tan(np.radians(20))
    for header in (None, nibabel.Nifti1Image(label, affine).header):
        if header is not None:
            header.set_sform(affine, 1)
            header.set_qform(affine, 1)
        written = nibabel.load(write_label_volume(tmp_path / "l.nii.gz", label, affine, header))
        assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (1, 0)
        assert np.allclose(written.affine, affine, atol=1e-6)
    # Without shear both are kept, with the codes they had.
    header = nibabel.Nifti1Image(label, np.eye(4)).header
    header.set_sform(np.diag([2, 2, 2, 1]), 4)
    header.set_qform(np.diag([2, 2, 2, 1]), 1)
    written = nibabel.load(write_label_volume(tmp_path / "l.nii.gz", label, np.diag([2, 2, 2, 1]), header)).header
    assert (int(written["sform_code"]), int(written["qform_code"])) == (4, 1)


def test_what_a_header_says_of_the_patient_stays_there(tmp_path):
    image, label = box()
    made = nibabel.Nifti1Image(image, np.eye(4))
    made.header["descrip"], made.header["aux_file"], made.header["db_name"] = b"DOE^JANE", b"doe.txt", b"doe"
    made.header.set_intent(1007, name="vector of doe")
    made.header["cal_max"] = 9
    made.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"DOE^JANE 1970"))
    volume = read_volume(saved(tmp_path / "a.nii.gz", made))
    path = write_label_volume(tmp_path / "l.nii", label, volume.affine, volume.header)
    header = nibabel.load(path).header
    assert header.get_intent()[0] == "label"
    assert len(header.extensions) == 0
    assert header["cal_max"] == 0
    assert b"doe" not in path.read_bytes().lower()


def test_an_sform_of_zeros_leaves_the_qform(tmp_path):
    image, label = box()
    good = np.diag([0.5, 0.5, 2, 1]) + np.array([[0, 0, 0, 7]] + [[0] * 4] * 3)
    made = nibabel.Nifti1Image(image, good)
    made.header.set_qform(good, 1)
    made.header["sform_code"] = 1
    for row in ("srow_x", "srow_y", "srow_z"):
        made.header[row] = 0
    path = tmp_path / "a.nii"
    saved(path, nibabel.Nifti1Image(image, None, made.header))
    volume = read_volume(path)
    assert np.allclose(volume.affine, good)
    assert "its qform is used" in volume.notes[0]
    written = nibabel.load(write_label_volume(tmp_path / "l.nii", label, volume.affine, volume.header))
    assert np.allclose(written.affine, good)


def test_negative_labels_are_a_question(tmp_path):
    image, label = box()
    for name in ("a", "b"):
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", image)
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", label.astype(np.int16) - 1)
    with pytest.raises(ValueError, match=r"hold the value -1; .* labels=\{-1: ignore, 0: background, 1: NAME\}"):
        make_reader("volumes", tmp_path)
    reader = make_reader("volumes", tmp_path, labels={-1: "ignore", 0: "background", 1: "back"})
    _, classes = read_volume_pair(reader.cases(tmp_path)[0], reader.label_map)
    assert (classes == IGNORED).sum() == (label == 0).sum()
    assert (classes == 1).sum() == (label == 2).sum()


def test_names_that_end_in_four_digits_are_names(tmp_path):
    image, label = box()
    for k in range(1, 7):
        write_nifti(tmp_path / "images" / f"amos_{k:04d}.nii.gz", image)
        write_nifti(tmp_path / "labels" / f"amos_{k:04d}.nii.gz", label)
    names = [f"amos_{k:04d}" for k in range(1, 7)]
    cases = make_reader("auto", tmp_path).cases(tmp_path)
    assert [case.id for case in cases] == names
    assert all(case.labels[0].name == case.images[0].name for case in cases)
    assert [case.id for case in find_volumes([tmp_path / "images"])] == names
    assert [case.id for case in find_volumes([tmp_path / "images" / "amos_0003.nii.gz"])] == ["amos_0003"]
    # Two patients never become the channels of one.
    assert [len(case.images) for case in find_volumes([tmp_path / "images"], channels=2)] == [1] * 6
    # Patients counted from 0 are no channels either, where there are more of them than channels.
    write_nifti(tmp_path / "images" / "amos_0000.nii.gz", image)
    assert len(find_volumes([tmp_path / "images"])) == 7
    assert len(find_volumes([tmp_path / "images"], channels=2)) == 7
    write_nifti(tmp_path / "labels" / "amos_0000.nii.gz", label)
    assert len(make_reader("auto", tmp_path).cases(tmp_path)) == 7


def test_channels_are_still_channels(tmp_path):
    image, label = box()
    for name in ("p_0001", "p_0002"):
        for channel in range(2):
            write_nifti(tmp_path / "images" / f"{name}_{channel:04d}.nii.gz", image + np.int16(channel))
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", label)
    found = find_volumes([tmp_path / "images"], channels=2)
    assert [(case.id, len(case.images)) for case in found] == [("p_0001", 2), ("p_0002", 2)]
    assert read_case_volume(found[0]).channels == 2
    one = [tmp_path / "images" / f"p_0001_{channel:04d}.nii.gz" for channel in (0, 1)]
    assert [(case.id, len(case.images)) for case in find_volumes(one, channels=2)] == [("p_0001", 2)]
    cases = make_reader("volumes", tmp_path).cases(tmp_path)
    assert [(case.id, len(case.images)) for case in cases] == [("p_0001", 2), ("p_0002", 2)]
    with pytest.raises(ValueError, match="case p_0001 has 2 channel files, the network takes 3"):
        find_volumes([tmp_path / "images"], channels=3)
    only = write_nifti(tmp_path / "only" / "x_0000.nii.gz", image)
    assert find_volumes([only])[0].id == "x"


def test_nan_backgrounds_are_filled_when_asked(tmp_path):
    image, label = box()
    spoilt = np.where(label == 0, np.nan, image).astype(np.float32)
    write_nifti(tmp_path / "images" / "a.nii.gz", spoilt)
    write_nifti(tmp_path / "labels" / "a.nii.gz", np.where(label == 0, np.nan, label).astype(np.float32))
    with pytest.raises(ValueError, match=r"contains NaN .* fill_nan"):
        read_volume(tmp_path / "images" / "a.nii.gz")
    reader = make_reader("volumes", tmp_path, fill_nan=-1.0, labels={0: "background", 1: "front", 2: "back"})
    volume, classes = read_volume_pair(reader.cases(tmp_path)[0], reader.label_map)
    assert np.array_equal(volume.array, np.where(label == 0, -1, image))
    assert np.array_equal(classes, label)
    infinite = write_nifti(tmp_path / "i.nii.gz", np.full((3, 4, 5), np.inf, np.float32))
    with pytest.raises(ValueError, match="infinite"):
        read_volume(infinite, fill_nan=0)


def test_mgz_and_analyze_pairs(tmp_path):
    image, label = box()
    affine = np.diag([-1.0, -1, 2, 1])
    nibabel.save(nibabel.MGHImage(image, affine), tmp_path / "a.mgz")
    volume = read_volume(tmp_path / "a.mgz")
    assert np.array_equal(volume.array, image) and np.allclose(volume.affine, affine)
    folder = tmp_path / "old"
    folder.mkdir()
    nibabel.save(nibabel.AnalyzeImage(image, np.diag([-0.5, 0.5, 2, 1])), folder / "x.img")
    assert [is_volume_file(folder / name) for name in ("x.img", "x.hdr")] == [True, False]
    for name in ("x.img", "x.hdr"):
        pair = read_volume(folder / name)
        assert np.array_equal(pair.array, image)
        assert np.allclose(pair.spacing_mm, (0.5, 0.5, 2))
        assert "does not say where left is" in pair.notes[0]
    assert [case.id for case in find_volumes([folder])] == ["x"]
    write_label_volume(tmp_path / "l.nii.gz", label, pair.affine, pair.header)
    nibabel.save(nibabel.Nifti1Pair(image, affine), folder / "y.img")
    assert np.allclose(read_volume(folder / "y.img").affine, affine)


def test_headers_that_lie_are_one_sentence_before_anything_is_decoded(tmp_path, monkeypatch):
    image, _ = box()
    far = write_nifti(tmp_path / "far.nii.gz", image, np.diag([1, 1, 500, 1]))
    with pytest.raises(ValueError, match=r"lie 1 x 1 x 500 mm apart, which is implausible"):
        read_volume(far)
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header.set_data_dtype(np.int16)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "huge.nii").write_bytes(header.binaryblock + bytes(100))
    for look in (read_volume, read_grid):
        with pytest.raises(ValueError, match=r"30000 x 30000 x 30000 = 2.7e\+13 voxels, more than the 1.07e\+09"):
            look(tmp_path / "huge.nii")
    monkeypatch.setenv("KANSCAN_MOST_VOXELS", "1000")
    with pytest.raises(ValueError, match="more than the 1e"):
        read_volume(write_nifti(tmp_path / "b.nii.gz", image))
    monkeypatch.setenv("KANSCAN_MOST_VOXELS", "many")
    with pytest.raises(ValueError, match="must be a whole number"):
        read_volume(tmp_path / "b.nii.gz")


# MetaImage and NRRD


def write_nrrd(path: Path, array: np.ndarray, kinds: str, extra: str = "", origin=(1, 2, 3)) -> Path:
    """Write an array whose last axis runs fastest."""
    steps = iter(["(0.5,0,0)", "(0,0.75,0)", "(0,0,2)"])
    directions = " ".join(next(steps) if kind == "domain" else "none" for kind in kinds.split())
    names = {"uint8": "uint8", "int16": "int16", "float32": "float"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        (
            f"NRRD0004\ntype: {names[str(array.dtype)]}\ndimension: {array.ndim}\nspace: left-posterior-superior\n"
            f"sizes: {' '.join(map(str, array.shape[::-1]))}\nspace directions: {directions}\nkinds: {kinds}\n"
            f"endian: little\nencoding: raw\nspace origin: ({','.join(map(str, origin))})\n{extra}\n"
        ).encode()
        + np.ascontiguousarray(array).tobytes()
    )
    return path


def write_meta(path: Path, array: np.ndarray, *, channels: int = 1, data: str = "LOCAL") -> Path:
    kind = {"uint8": "MET_UCHAR", "int16": "MET_SHORT", "float32": "MET_FLOAT"}[str(array.dtype)]
    sizes = array.shape[::-1][channels > 1 :]
    path.write_bytes(
        (
            f"ObjectType = Image\nNDims = {len(sizes)}\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
            f"ElementSpacing = {' '.join(['1'] * len(sizes))}\nDimSize = {' '.join(map(str, sizes))}\n"
            f"ElementNumberOfChannels = {channels}\nElementType = {kind}\nElementDataFile = {data}\n"
        ).encode()
        + (np.ascontiguousarray(array).tobytes() if data == "LOCAL" else b"")
    )
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_vectors_and_time_in_itks_formats(tmp_path, dtype):
    pytest.importorskip("itk")
    random = np.random.default_rng(0)
    vectors = random.integers(0, 100, (4, 5, 6, 3)).astype(dtype)
    first = read_volume(write_nrrd(tmp_path / "v.nrrd", vectors, "vector domain domain domain"))
    assert np.array_equal(first.array, vectors.transpose(2, 1, 0, 3))
    assert np.allclose(first.spacing_mm, (0.5, 0.75, 2))
    last = read_volume(write_nrrd(tmp_path / "w.nrrd", np.moveaxis(vectors, -1, 0), "domain domain domain vector"))
    assert np.array_equal(last.array, first.array)
    meta = read_volume(write_meta(tmp_path / "v.mha", vectors, channels=3))
    assert np.array_equal(meta.array, first.array)
    one = read_volume(write_meta(tmp_path / "t.mha", vectors[None, ..., 0]))
    assert np.array_equal(one.array, first.array[..., 0])
    two = read_volume(write_meta(tmp_path / "u.mha", np.stack([vectors[..., 0], vectors[..., 1]])))
    assert np.array_equal(two.array, first.array[..., :2])


def test_files_that_name_files_elsewhere_are_refused(tmp_path):
    pytest.importorskip("itk")
    image = np.zeros((4, 5, 6), np.uint8)
    (tmp_path / "secret.raw").write_bytes(image.tobytes())
    inner = tmp_path / "in"
    inner.mkdir()
    (inner / "own.raw").write_bytes(image.tobytes())
    assert read_volume(write_meta(inner / "own.mhd", image, data="own.raw")).shape == (6, 5, 4)
    names = (
        "/etc/passwd",
        "../secret.raw",
        "x/../../secret.raw",
        "..\\secret.raw",
        "C:\\secret.raw",
        "LIST\n../secret.raw",
    )
    for name in names:
        with pytest.raises(ValueError, match=r"outside its own folder; that is not followed"):
            read_volume(write_meta(inner / "a.mhd", image, data=name))
        header = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 6 5 4\nencoding: raw\ndata file: {name}\n"
        (inner / "a.nhdr").write_text(header)
        with pytest.raises(ValueError, match=r"outside its own folder; that is not followed"):
            read_volume(inner / "a.nhdr")
    with pytest.raises(ValueError, match="30000 x 30000 x 30000"):
        path = write_meta(inner / "h.mha", image)
        path.write_bytes(path.read_bytes().replace(b"DimSize = 6 5 4", b"DimSize = 30000 30000 30000"))
        read_volume(path)
    (inner / "junk.nrrd").write_bytes(b"NRRD0004\nno: header\n\n123")
    with pytest.raises(ValueError, match=r"cannot read .*junk.nrrd: .{5,300}$"):
        read_volume(inner / "junk.nrrd")


def test_slicers_cropped_segmentations_are_padded_and_their_names_used(tmp_path):
    pytest.importorskip("itk")
    _, label = box((12, 16, 10))
    image = np.arange(label.size, dtype=np.int16).reshape(10, 16, 12)
    low, high = (np.argwhere(label).min(axis=0), np.argwhere(label).max(axis=0) + 1)
    cropped = label[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].transpose(2, 1, 0)
    corner = (1 + low[0] * 0.5, 2 + low[1] * 0.75, 3 + low[2] * 2)

    def segments(*names: tuple[str, int, int]) -> str:
        return "".join(
            f"Segment{k}_Name:={name}\nSegment{k}_LabelValue:={value}\nSegment{k}_Layer:={layer}\n"
            for k, (name, value, layer) in enumerate(names)
        )

    write_nrrd(tmp_path / "images" / "a.nrrd", image, "domain domain domain")
    write_nrrd(tmp_path / "images" / "b.nrrd", image, "domain domain domain")
    # The values are those of the file alone: in b they are exchanged, and in layers of their own.
    write_nrrd(
        tmp_path / "labels" / "a.seg.nrrd",
        cropped,
        "domain domain domain",
        segments(("front", 1, 0), ("back", 2, 0)),
        corner,
    )
    layers = np.stack([cropped == 2, cropped == 1], axis=-1).astype(np.uint8)
    write_nrrd(
        tmp_path / "labels" / "b.seg.nrrd",
        layers,
        "list domain domain domain",
        segments(("back", 1, 0), ("front", 1, 1)),
        corner,
    )
    reader = make_reader("auto", tmp_path)
    assert reader.key == "volumes"
    assert reader.label_map.names == ("background", "front", "back")
    for case in reader.cases(tmp_path):
        _, classes = read_volume_pair(case, reader.label_map)
        assert np.array_equal(classes, label), case.id
    off = write_nrrd(tmp_path / "off.seg.nrrd", cropped, "domain domain domain", segments(("front", 1, 0)), (1.2, 2, 3))
    case = Case("off", (tmp_path / "images" / "a.nrrd",), (off,), is_volume=True)
    with pytest.raises(ValueError, match="lies in another grid"):
        read_label_volume(case, reader.label_map)
    with pytest.raises(ValueError, match=r"unknown segment 'front'"):
        read_label_volume(case, LabelMap(("background", "liver")))


# nnU-Net


def make_old_nnunet(root: Path, channels: int) -> Path:
    training = []
    for k in range(3):
        image, label = box(seed=k)
        for channel in range(channels):
            write_nifti(root / "imagesTr" / f"x_{k:03d}_{channel:04d}.nii.gz", image + np.int16(channel))
        write_nifti(root / "labelsTr" / f"x_{k:03d}.nii.gz", label)
        training.append({"image": f"./imagesTr/x_{k:03d}.nii.gz", "label": f"./labelsTr/x_{k:03d}.nii.gz"})
    content = {
        "modality": {str(k): f"M{k}" for k in range(channels)},
        "labels": {"0": "background", "1": "front", "2": "back"},
        "numTraining": 3,
        "training": training,
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("channels", [1, 2])
def test_nnunets_first_version(tmp_path, channels):
    root = make_old_nnunet(tmp_path / "Task501_Box", channels)
    assert recognize(root) == "nnunet"
    reader = make_reader("auto", root)
    survey = reader.survey(root)
    assert survey.problems == ()
    assert [(case.id, len(case.images), len(case.labels)) for case in survey.cases] == [
        (f"x_{k:03d}", channels, 1) for k in range(3)
    ]
    assert reader.label_map.names == ("background", "front", "back")


def test_nnunets_list_of_cases(tmp_path):
    image, label = box()
    write_nifti(tmp_path / "scans" / "one.nii.gz", image)
    write_nifti(tmp_path / "truth" / "one.nii.gz", label)
    entry = {"images": ["scans/one.nii.gz"], "label": "./truth/one.nii.gz"}
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "front": 1, "back": 2},
        "dataset": {
            "one": entry,
            "out": {"images": ["../elsewhere.nii.gz"], "label": "truth/one.nii.gz"},
            "root": {"images": ["/etc/passwd"], "label": "truth/one.nii.gz"},
            "odd": ["scans/one.nii.gz"],
            "gone": {"images": ["scans/two.nii.gz"], "label": "truth/one.nii.gz"},
        },
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert recognize(tmp_path) == "nnunet"
    reader = make_reader("auto", tmp_path)
    survey = reader.survey(tmp_path)
    assert [case.id for case in survey.cases] == ["one"]
    told = "\n".join(survey.problems)
    assert "case out: " in told and "'../elsewhere.nii.gz', outside the data set; that is not followed" in told
    assert "'/etc/passwd', outside" in told
    assert "lists 'odd' without images" in told and "two.nii.gz, which is not there" in told
    assert np.array_equal(read_volume_pair(survey.cases[0], reader.label_map)[1], label)


def test_the_decathlons_list_stays_inside(tmp_path):
    image, label = box()
    write_nifti(tmp_path / "d" / "imagesTr" / "a.nii.gz", image)
    write_nifti(tmp_path / "d" / "labelsTr" / "a.nii.gz", label)
    write_nifti(tmp_path / "secret.nii.gz", image)
    training = [
        {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"},
        {"image": "../secret.nii.gz", "label": "./labelsTr/a.nii.gz"},
    ]
    content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "f", "2": "b"}, "training": training}
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(content))
    survey = make_reader("msd", tmp_path / "d").survey(tmp_path / "d")
    assert [case.id for case in survey.cases] == ["a"]
    assert "outside the data set" in survey.problems[0]


def test_nnunets_regions_and_pictures(tmp_path):
    from PIL import Image

    root = make_old_nnunet(tmp_path / "r", 1)
    content = json.loads((root / "dataset.json").read_text())
    del content["training"]
    content |= {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "whole": [1, 2], "back": [2]},
        "regions_class_order": [1, 2],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    reader = make_reader("auto", root)
    survey = reader.survey(root)
    assert reader.label_map.names == ("background", "whole", "back")
    assert "regions_class_order" in survey.notes[-1]
    _, classes = read_volume_pair(survey.cases[0], reader.label_map)
    assert np.array_equal(classes, box(seed=0)[1])

    pictures = tmp_path / "Dataset002_Pictures"
    for k in range(2):
        for folder, name, value in (("imagesTr", f"p{k}_0000.png", 200), ("labelsTr", f"p{k}.png", 1)):
            array = np.zeros((8, 9), np.uint8)
            array[2:5, 3:6] = value
            (pictures / folder).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(array)
            (picture.convert("RGB") if value == 200 else picture).save(pictures / folder / name)
    content = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "spot": 1},
        "numTraining": 2,
        "file_ending": ".png",
    }
    (pictures / "dataset.json").write_text(json.dumps(content))
    reader = make_reader("auto", pictures)
    assert (reader.key, reader.spatial_dims, reader.channels) == ("nnunet", 2, 3)
    survey = reader.survey(pictures)
    assert [(case.id, case.is_volume, len(case.labels)) for case in survey.cases] == [
        ("p0", False, 1),
        ("p1", False, 1),
    ]


# Left and right


def test_class_names_that_say_left_and_right():
    assert names_sides(["background", "left kidney", "right kidney"])
    assert names_sides(["Kidney_L", "Kidney_R"]) and names_sides(["hippocampusLeft"]) and names_sides(["lh-cortex"])
    assert not names_sides(["background", "liver", "cleft", "bright spot", "L"])


@pytest.mark.parametrize("augmentation", ["nnunet", "quarter_turns"])
@pytest.mark.parametrize("slices", [False, True])
def test_left_and_right_are_exchanged_only_where_no_name_says_so(augmentation, slices):
    """A box at one end of the left-right axis stays there in every draw, and crosses over without such names."""
    from dataclasses import replace

    from kanscan.data.volumes.augmentation import VOLUME_AUGMENTATIONS, augment_patch

    how = replace(VOLUME_AUGMENTATIONS[augmentation], turn=0, zoom=0, intensity=0)
    size = (16, 16) if slices else (8, 16, 16)
    label = torch.zeros(size, dtype=torch.int64)
    # Marked so that no turn in the plane can look like a mirroring.
    label[..., 2, 1] = 1
    label[..., 2, 12] = 2
    label[..., 13, 1] = 3

    def chirality(found: torch.Tensor) -> int:
        plane = found if slices else found[found.shape[0] // 2]
        first, second, third = ((plane == k).nonzero()[0] for k in (1, 2, 3))
        one, other = second - first, third - first
        return int(torch.sign(one[0] * other[1] - one[1] * other[0]))

    def along(found: torch.Tensor) -> bool:
        plane = found if slices else found[found.shape[0] // 2]
        return bool((plane == 1).nonzero()[0][1] < (plane == 2).nonzero()[0][1])

    kept = [axis for axis in range(len(size) - 1)]
    draws = {
        mirrored is None: [augment_patch(how, label[None].float(), label, size, s, mirrored)[1] for s in range(40)]
        for mirrored in (None, kept)
    }
    if augmentation == "nnunet":
        assert {along(one) for one in draws[True]} == {True, False}
        assert {along(one) for one in draws[False]} == {True}
    else:
        assert len({chirality(one) for one in draws[True]}) == 2
        assert len({chirality(one) for one in draws[False]}) == 1


def test_a_spacing_that_would_need_terabytes_is_one_sentence():
    from kanscan.data.volumes.fingerprint import STATISTICS, Fingerprint
    from kanscan.data.volumes.plan import make_plan
    from kanscan.data.volumes.preparation import prepare_volume

    statistics = dict.fromkeys(STATISTICS, 1.0)
    plan = make_plan(Fingerprint(((0.5, 0.5, 0.5),) * 5, ((64, 64, 64),) * 5, 1.0, (statistics,)), 2)
    volume = Volume(np.ones((64, 64, 64), np.int16), np.diag([200.0, 200, 200, 1]), path="far.nii.gz")
    with pytest.raises(ValueError, match=r"far.nii.gz, resampled from 200 x 200 x 200 to 0.5 x .* voxels, more than"):
        prepare_volume(volume, plan)


# Arrays


def test_arrays_in_other_files_and_arrays_that_lie_are_refused(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["image"] = np.zeros((3, 4, 5))
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file["image"] = h5py.ExternalLink("secret.h5", "image")
    (tmp_path / "raw").write_bytes(bytes(480))
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("image", (3, 4, 5), "f8", external=[(str(tmp_path / "raw"), 0, 480)])
    layout = h5py.VirtualLayout((3, 4, 5), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "image", (3, 4, 5))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("image", layout)
    for name in ("external", "raw", "virtual"):
        with pytest.raises(ValueError, match="that is not followed"):
            read_volume(tmp_path / f"{name}.h5")
    assert read_volume(tmp_path / "secret.h5").shape == (5, 4, 3)
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("image", (10**4, 10**4, 10**4), "u1", chunks=(1, 100, 100))
    np.savez_compressed(tmp_path / "bomb.npz", image=np.zeros((200, 200, 200), np.uint8))
    with pytest.raises(ValueError, match=r"1e\+12 voxels, more than"):
        read_volume(tmp_path / "huge.h5")
    monkeypatch.setenv("KANSCAN_MOST_VOXELS", "1000000")
    with pytest.raises(ValueError, match=r"8e\+06 voxels, more than the 1e\+06"):
        read_volume(tmp_path / "bomb.npz")
