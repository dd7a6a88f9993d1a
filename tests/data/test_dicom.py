"""DICOM series: sorted by position, rescaled, and refused where they form no stack."""

from __future__ import annotations

import numpy as np
import pytest

from data.made_volumes import box, write_series

pydicom = pytest.importorskip("pydicom")

from kanscan.data.dicom.segmentation import write_segmentation  # noqa: E402
from kanscan.data.dicom.series import choose_series, find_series  # noqa: E402
from kanscan.data.volumes.formats import read_case_volume, read_volume  # noqa: E402
from kanscan.data.volumes.search import find_volumes  # noqa: E402


def test_slices_are_sorted_by_position_and_placed_in_the_patient(tmp_path):
    image, _ = box()
    volume = read_volume(write_series(tmp_path / "s", image))
    assert np.array_equal(volume.array, image)
    assert volume.array.dtype == np.int16
    assert np.allclose(volume.spacing_mm, (0.75, 0.5, 2.5))
    # Left and back become right and front.
    assert np.allclose(volume.affine @ [0, 0, 0, 1], [10, 20, 30, 1])
    assert np.allclose(volume.affine @ [1, 1, 1, 1], [9.25, 19.5, 32.5, 1])


def test_rescaling(tmp_path):
    image, _ = box()
    whole = read_volume(write_series(tmp_path / "w", image, RescaleSlope=1, RescaleIntercept=-1024))
    assert whole.array.dtype == np.int16
    assert np.array_equal(whole.array, image - 1024)
    broken = read_volume(write_series(tmp_path / "b", image, RescaleSlope=0.25, RescaleIntercept=0))
    assert broken.array.dtype == np.float32
    assert np.allclose(broken.array, image * 0.25)


def test_a_tilted_gantry_keeps_its_shear(tmp_path):
    image, _ = box()
    volume = read_volume(write_series(tmp_path / "s", image, tilt=0.5))
    assert np.allclose(volume.affine[:3, 2], [-0.5, 0, 2.5])


def test_several_series_are_named_and_chosen(tmp_path):
    image, _ = box((6, 5, 4))
    write_series(tmp_path, image, number=3, names=[f"a{k}" for k in range(4)])
    write_series(tmp_path, image + 1, number=7, names=[f"b{k}.dcm" for k in range(4)])
    (tmp_path / "notes.txt").write_text("no image")
    assert [one.number for one in find_series(tmp_path).series] == [3, 7]
    with pytest.raises(ValueError, match=r"holds 2 series: 3 'made 3' \(MR, 4 files\); 7 'made 7'.* --series NUMBER"):
        read_volume(tmp_path)
    assert np.array_equal(read_volume(tmp_path, series="7").array, image + 1)
    assert np.array_equal(read_volume(tmp_path, series="made 3").array, image)
    with pytest.raises(ValueError, match=r"series '9'"):
        choose_series(tmp_path, "9")


def test_what_is_no_stack_is_refused(tmp_path):
    image, _ = box((6, 5, 6))
    folder = write_series(tmp_path / "gap", image, names=[f"{k}.dcm" for k in range(6)])
    (folder / "3.dcm").unlink()
    with pytest.raises(ValueError, match=r"1 slice missing between .*2.dcm and .*4.dcm \(5 mm apart, the others 2.5"):
        read_volume(folder)
    folder = write_series(tmp_path / "twice", image, names=[f"{k}.dcm" for k in range(6)])
    copy = pydicom.dcmread(folder / "0.dcm")
    copy.SOPInstanceUID += ".1"
    copy.save_as(folder / "copy.dcm")
    with pytest.raises(ValueError, match="1 places taken twice"):
        read_volume(folder)

    def changed(name: str, **tags):
        folder = write_series(tmp_path / name, image, names=[f"{k}.dcm" for k in range(6)])
        one = pydicom.dcmread(folder / "5.dcm")
        for tag, value in tags.items():
            setattr(one, tag, value)
        one.save_as(folder / "5.dcm")
        return folder

    with pytest.raises(ValueError, match="different directions"):
        read_volume(changed("scout", ImageOrientationPatient=[0, 1, 0, 0, 0, -1]))
    with pytest.raises(ValueError, match="mixes pixel spacings"):
        read_volume(changed("zoomed", PixelSpacing=[1, 1]))
    with pytest.raises(ValueError, match="mixes slices of 6 x 5 and 5 x 6 pixels"):
        read_volume(changed("turned", Rows=6, Columns=5))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.dcm").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no DICOM image in"):
        read_volume(tmp_path / "none")


BUNDLED = ["MR_small_bigendian", "MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless"]


@pytest.mark.parametrize("name", BUNDLED)
def test_big_endian_and_compressed_files_hold_the_same_picture(name):
    from pydicom.data import get_testdata_file

    plain = read_volume(get_testdata_file("MR_small.dcm"))
    other = read_volume(get_testdata_file(f"{name}.dcm"))
    assert np.array_equal(plain.array, other.array)
    assert np.array_equal(plain.affine, other.affine)


def test_multi_frame_files(tmp_path):
    """An enhanced file whose frames lie out of order equals the series it was made of."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    image, _ = box((6, 5, 4))
    folder = write_series(tmp_path / "s", image, names=[f"{k}.dcm" for k in range(4)])
    order = [2, 0, 3, 1]
    parts = [pydicom.dcmread(folder / f"{k}.dcm") for k in order]
    whole = parts[0]
    whole.NumberOfFrames = 4
    whole.PixelData = b"".join(part.PixelData for part in [pydicom.dcmread(folder / f"{k}.dcm") for k in order])
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, 2.5
    orientation.ImageOrientationPatient = whole.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    frames = []
    for part in parts:
        frame, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = part.ImagePositionPatient
        values.RescaleSlope, values.RescaleIntercept = 2, 1
        frame.PlanePositionSequence = Sequence([position])
        frame.PixelValueTransformationSequence = Sequence([values])
        frames.append(frame)
    whole.SharedFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    del whole.ImagePositionPatient, whole.ImageOrientationPatient, whole.PixelSpacing
    whole.save_as(tmp_path / "whole.dcm")
    found, plain = read_volume(tmp_path / "whole.dcm"), read_volume(folder)
    assert np.array_equal(found.array, plain.array * 2 + 1)
    assert np.allclose(found.affine, plain.affine)


def test_real_studies_are_read_in_the_order_of_their_slices(real_data):
    """Names are no order there; neighboring slices resemble each other only if the order is right."""
    from kanscan.data import make_reader

    root = real_data / "DICOM_MR"
    if not root.is_dir():
        pytest.skip(f"no DICOM_MR in {real_data}")
    cases = make_reader("auto", root).cases(root)
    assert len(cases) >= 3
    for case in cases:
        volume = read_case_volume(case).array.astype(float)
        if volume.shape[2] < 10:
            continue
        near = np.abs(np.diff(volume, axis=2)).mean()
        shuffled = np.abs(np.diff(volume[:, :, np.random.default_rng(0).permutation(volume.shape[2])], axis=2)).mean()
        assert near < 0.6 * shuffled


def test_a_file_is_looked_at_once_and_read_once(tmp_path, monkeypatch):
    """From the folder to the written DICOM segmentation."""
    pytest.importorskip("highdicom")
    image, label = box((6, 5, 8))
    write_series(tmp_path / "study" / "one", image, number=1)
    write_series(tmp_path / "study" / "two", image + 1, number=2)
    reads: list[tuple[str, bool]] = []
    real = pydicom.dcmread

    def counted(path, *args, **options):
        reads.append((str(getattr(path, "name", path)), bool(options.get("stop_before_pixels"))))
        return real(path, *args, **options)

    monkeypatch.setattr(pydicom, "dcmread", counted)
    for case in find_volumes([tmp_path / "study"]):
        volume = read_case_volume(case)
        assert np.array_equal(volume.array, image + (case.id == "two"))
        write_segmentation(tmp_path / f"{case.id}.dcm", volume, label, ("background", "liver", "spleen"))
    files = [str(path) for path in (tmp_path / "study").rglob("*.dcm")]
    assert sorted(reads) == sorted((file, header) for file in files for header in (True, False))
