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
from data.test_dicom_pictures import write_picture  # noqa: E402
from kanscan.commands.check import check  # noqa: E402
from kanscan.commands.evaluate import evaluate  # noqa: E402
from kanscan.commands.predict import predict  # noqa: E402

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
