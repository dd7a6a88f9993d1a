"""Whatever takes a PNG takes a DICOM picture: check, training, evaluation, prediction."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from commands.made import make_data, make_run  # noqa: E402
from data.made_volumes import box, write_series  # noqa: E402
from data.test_dicom_pictures import write_picture  # noqa: E402
from kanscan.commands.check import check  # noqa: E402
from kanscan.commands.evaluate import evaluate  # noqa: E402
from kanscan.commands.predict import predict  # noqa: E402
from kanscan.data import open_folder, recognize  # noqa: E402
from kanscan.data.dicom.segmentation import write_picture_segmentation, write_segmentation  # noqa: E402
from kanscan.data.pictures.labels import read_label, read_pair  # noqa: E402
from kanscan.data.volumes.formats import read_volume  # noqa: E402

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def run(tmp_path, monkeypatch):
    return make_run(tmp_path / "run", make_data(tmp_path / "data"), monkeypatch)


def as_dicom(folder: Path, target: Path, **tags) -> Path:
    """Write the pictures of a folder as DICOM, every other one without an ending."""
    for number, path in enumerate(sorted(folder.iterdir())):
        write_picture(target / (f"{path.stem}.dcm" if number % 2 else path.stem), pixels(path), **tags)
    return target


def test_a_folder_of_dicom_pictures_is_predicted_like_the_png_files(run, tmp_path):
    images = as_dicom(tmp_path / "data" / "images", tmp_path / "dicom")
    shutil.copy(BUNDLED / "rtstruct.dcm", images / "structures.dcm")
    plain = predict(run.path, [tmp_path / "data" / "images"], output=tmp_path / "plain")
    done = predict(run.path, [images], output=tmp_path / "out")
    assert done.errors == ()
    assert [path.name for path in done.files] == [path.name for path in plain.files]
    for ours, theirs in zip(done.files, plain.files, strict=True):
        assert np.array_equal(pixels(ours), pixels(theirs))
        found = highdicom.seg.segread(ours.with_suffix(".dcm"))
        source = next(p for p in images.iterdir() if p.stem == ours.stem)
        uid = pydicom.dcmread(source).SOPInstanceUID
        marked = found.get_pixels_by_source_instance([uid], combine_segments=True, ignore_spatial_locations=True)
        assert np.array_equal(marked[0] > 0, pixels(ours) > 0)
    assert "structure set (RTSTRUCT) and was left out" in " ".join(done.notes)
    # The segmentations beside the label maps are not judged a second time.
    assert evaluate(tmp_path / "out", tmp_path / "data" / "masks").num_cases == 16


@pytest.mark.parametrize("name", ["SC_rgb_jpeg.dcm", "dicomdirtests/77654033/CR1/6154"])
def test_public_pictures(run, tmp_path, name):
    done = predict(run.path, [BUNDLED / name], output=tmp_path / "out")
    assert done.errors == ()
    dataset = pydicom.dcmread(BUNDLED / name)
    assert pixels(done.files[0]).shape == (dataset.Rows, dataset.Columns)
    assert highdicom.seg.segread(done.files[0].with_suffix(".dcm")).Rows == dataset.Rows


def test_the_limit_on_pixels_holds_for_dicom_too(run, tmp_path, monkeypatch):
    path = write_picture(tmp_path / "large.dcm", np.zeros((100, 100), np.uint8))
    monkeypatch.setenv("KANSCAN_MOST_PIXELS", "9999")
    done = predict(run.path, [path], output=tmp_path / "out")
    assert "more than the 9,999 that are read" in done.errors[0]


def test_each_frame_of_a_clip_is_a_picture(run, tmp_path):
    first = pixels(next(iter(sorted((tmp_path / "data" / "images").iterdir()))))
    clip = np.stack([first, 255 - first, np.roll(first, 5, axis=1)])
    path = write_picture(tmp_path / "clip.dcm", clip)
    done = predict(run.path, [path], output=tmp_path / "out")
    assert done.errors == ()
    assert [file.name for file in done.files] == [f"clip_frame000{k}.png" for k in (1, 2, 3)]
    found = highdicom.seg.segread(tmp_path / "out" / "clip.dcm")
    uid = pydicom.dcmread(path).SOPInstanceUID
    assert "clip: each of its 3 frames" in " ".join(done.notes)
    marked = found.get_pixels_by_source_frame(uid, [1, 2, 3], combine_segments=True, ignore_spatial_locations=True)
    assert np.array_equal(marked > 0, np.stack([pixels(file) > 0 for file in done.files]))


def test_dicom_pictures_with_masks_are_checked_and_judged(run, tmp_path):
    as_dicom(tmp_path / "data" / "images", tmp_path / "set" / "images", PixelSpacing=[0.5, 0.5])
    shutil.copytree(tmp_path / "data" / "masks", tmp_path / "set" / "masks")
    found = check(tmp_path / "set", output=tmp_path / "sheet.png")
    assert found.errors == ()
    assert found.num_cases == 16
    report = evaluate(run.path, data=tmp_path / "set", subset="all")
    plain = evaluate(run.path, data=tmp_path / "data", subset="all")
    assert report.mean("dice") == plain.mean("dice")
    # A pixel is half a millimeter, which the PNG files could not say.
    assert report.mean("hd95") == pytest.approx(plain.mean("hd95") / 2)


def test_segmentations_are_masks_of_pictures(run, tmp_path):
    """By name: the numbers of the segments differ from file to file."""
    images = as_dicom(tmp_path / "data" / "images", tmp_path / "set" / "images")
    for number, path in enumerate(sorted(images.iterdir())):
        mask = pixels(tmp_path / "data" / "masks" / f"{path.stem}.png") > 0
        label = np.where(mask, 1, 0).astype(np.uint8)
        label[:3, :3] = 2
        names = ("background", "ellipse", "corner")
        if number % 2:
            label, names = np.array([0, 2, 1], np.uint8)[label], ("background", "corner", "ellipse")
        write_picture_segmentation(tmp_path / "set" / "labels" / f"{path.stem}.dcm", path, label, names)
    opened = open_folder(tmp_path / "set")
    assert (opened.reader.key, opened.label_map.names) == ("folder", ("background", "ellipse", "corner"))
    for case in opened.cases:
        expected = np.where(pixels(tmp_path / "data" / "masks" / f"{case.images[0].stem}.png") > 0, 1, 0)
        expected[:3, :3] = 2
        assert np.array_equal(read_label(case, opened.label_map), expected), case.id
    found = check(tmp_path / "set", output=tmp_path / "sheet.png")
    assert (found.errors, [one.name for one in found.classes]) == ((), ["background", "ellipse", "corner"])
    shutil.copy(tmp_path / "data" / "masks" / "p00_v0.png", tmp_path / "set" / "labels" / "p00_v0.png")
    (tmp_path / "set" / "labels" / "p00_v0.dcm").unlink()
    with pytest.raises(ValueError, match=r"names its segments and .*p00_v0\.png does not"):
        open_folder(tmp_path / "set")


def test_marked_frames_of_a_clip_are_cases_that_stay_together(tmp_path):
    clip = np.stack([np.full((20, 30), 40 + k, np.uint8) for k in range(5)])
    label = np.zeros((5, 20, 30), np.uint8)
    label[1, 2:8, 3:9], label[3, 4:9, 3:9] = 1, 2
    for name in ("a", "b"):
        path = write_picture(tmp_path / "images" / f"{name}.dcm", clip)
        names = ("background", "cyst", "vessel")
        write_picture_segmentation(_made(tmp_path / "labels") / f"{name}.dcm", path, label, names)
    opened = open_folder(tmp_path)
    assert [(case.id, case.frame, case.group) for case in opened.cases] == [
        ("a_frame0002", 1, "a"),
        ("a_frame0004", 3, "a"),
        ("b_frame0002", 1, "b"),
        ("b_frame0004", 3, "b"),
    ]
    assert "clip of 5 frames, 3 of them not marked and left out" in " ".join(opened.survey.notes)
    for case in opened.cases:
        image, classes = read_pair(case, opened.label_map)
        assert np.array_equal(image, clip[case.frame]) and np.array_equal(classes, label[case.frame])


def test_a_study_in_folders_named_like_those_of_pictures_is_a_volume(tmp_path):
    image, label = box((14, 16, 9))
    folder = write_series(tmp_path / "p" / "images", image)
    volume = read_volume(folder)
    write_segmentation(_made(tmp_path / "p" / "labels") / "seg.dcm", volume, label, ("background", "liver", "spleen"))
    assert recognize(tmp_path / "p") == "dicom"
    (case,) = open_folder(tmp_path / "p").cases
    assert case.is_volume and len(case.labels) == 1


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
