"""DICOM as archives and colleagues deliver it: what lies beside the images, odd encodings, copies, archives, labels."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data.made_volumes import box, write_series
from kanscan.data import make_reader
from kanscan.metrics import IGNORED

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from pydicom.charset import convert_encodings as charsets  # noqa: E402

from kanscan.data.dicom.labels import fill_polygon  # noqa: E402
from kanscan.data.dicom.segmentation import write_segmentation  # noqa: E402
from kanscan.data.dicom.series import find_series  # noqa: E402
from kanscan.data.dicom.stack import decode  # noqa: E402
from kanscan.data.volumes.formats import read_case_volume, read_label_volume, read_volume, read_volume_pair  # noqa: E402
from kanscan.data.volumes.nifti import write_label_volume  # noqa: E402
from kanscan.data.volumes.search import find_volumes, survey_volumes  # noqa: E402

CLASSES = ("background", "liver", "spleen")


def changed(folder: Path, **tags) -> Path:
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.save_as(path)
    return folder


def write_structures(path: Path, series: Path, rings: dict[str, list[np.ndarray]]) -> Path:
    """Write an RTSTRUCT: of each region its contours `(N, 3)` in millimeters to the left, the back, the head."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    image = pydicom.dcmread(next(series.iterdir()))
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = RTStructureSetStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.SeriesInstanceUID, made.StudyInstanceUID, made.Modality = generate_uid(), image.StudyInstanceUID, "RTSTRUCT"
    one, study, frame = Dataset(), Dataset(), Dataset()
    one.SeriesInstanceUID = image.SeriesInstanceUID
    study.RTReferencedSeriesSequence = [one]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = image.FrameOfReferenceUID, [study]
    made.ReferencedFrameOfReferenceSequence = [frame]
    made.StructureSetROISequence, made.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rings.items(), start=1):
        region, drawn = Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
            drawn.ContourSequence.append(contour)
        made.StructureSetROISequence.append(region)
        made.ROIContourSequence.append(drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("where", ["beside", "in a folder of its own"])
def test_a_segmentation_beside_its_images_is_no_image(tmp_path, where):
    image, label = box((6, 5, 8))
    folder = write_series(tmp_path / "study" / "ct", image)
    target = folder if where == "beside" else tmp_path / "study" / "labels"
    write_segmentation(target / "seg.dcm", read_volume(folder), label, CLASSES)
    ring = np.array([[-9, -19, 30], [-7, -19, 30], [-7, -18, 30]], float)
    write_structures(target / "rt.dcm", folder, {"ring": [ring]})
    survey = survey_volumes([tmp_path / "study"])
    assert [case.id for case in survey.cases] == ["ct"]
    assert np.array_equal(read_case_volume(survey.cases[0]).array, image)
    told = " ".join(survey.notes)
    assert "1 segmentation (SEG)" in told and "1 structure set (RTSTRUCT)" in told
    with pytest.raises(ValueError, match=r"no DICOM image in .*1 segmentation \(SEG\)"):
        read_volume(target / "seg.dcm")


def test_doses_and_localizers_are_left_out(tmp_path):
    image, _ = box((6, 5, 8))
    folder = write_series(tmp_path / "ct", image, names=[f"i{k}" for k in range(8)])
    dose = write_series(tmp_path / "dose", image, names=[f"d{k}" for k in range(8)])
    changed(dose, SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2", Modality="RTDOSE")
    scout = write_series(tmp_path / "scout", image[:, :, :1], number=0, names=["scout"])
    changed(scout, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    for other in (dose, scout):
        for path in other.iterdir():
            shutil.copy(path, folder / path.name)
    (case,) = find_volumes([folder])
    volume = read_case_volume(case)
    assert np.array_equal(volume.array, image)
    told = " ".join(survey_volumes([folder]).notes)
    assert "8 dose (RTDOSE) files" in told and "1 localizer" in told
    # Alone, a localizer is what somebody asked for.
    assert read_volume(scout).shape == (6, 5, 1)


def test_series_of_one_number_get_the_end_of_their_uid(tmp_path):
    image, _ = box((6, 5, 4))
    for letter in "ab":
        write_series(tmp_path, image + ord(letter), number=3, names=[f"{letter}{k}" for k in range(4)])
    write_series(tmp_path, image, number=4, names=[f"c{k}" for k in range(4)])
    cases = find_volumes([tmp_path])
    uids = [one.uid for one in find_series(tmp_path).series]
    assert [case.id for case in cases] == [
        f"{tmp_path.name}_3_{uids[0][-6:].replace('.', '-')}",
        f"{tmp_path.name}_3_{uids[1][-6:].replace('.', '-')}",
        f"{tmp_path.name}_4",
    ]
    assert [read_case_volume(case).array.min() >= 97 + image.min() for case in cases] == [True, True, False]


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        (["", "ISO 2022 IR 58"], "Zhang^XiaoDong=张^小东"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞"),
        ("ISO_IR 100", "Müller^Jörg"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_names_in_older_encodings_reach_the_segmentation(tmp_path, charset, name):
    image, label = box((6, 5, 4))
    folder = write_series(tmp_path / "s", image)
    if "ISO 2022 IR 58" in charset:  # pydicom reads it and does not write it
        parts = (b"Zhang^XiaoDong", *(b"\x1b$)A" + part.encode("gb2312") for part in ("张", "小东")))
        stored = pydicom.valuerep.PersonName(parts[0] + b"=" + parts[1] + b"^" + parts[2], charsets(charset))
    else:
        stored = name
    changed(folder, SpecificCharacterSet=charset, PatientName=stored)
    written = write_segmentation(tmp_path / "seg.dcm", read_volume(folder), label, CLASSES)
    found = pydicom.dcmread(written)
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert str(found.PatientName) == name


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble_and_meta_are_read_as_they_are_encoded(tmp_path, implicit):
    image, label = box((6, 5, 4))
    folder = write_series(tmp_path / "s", image)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[:2] == b"\x08\x00"
    (case,) = find_volumes([folder])
    volume = read_case_volume(case)
    assert np.array_equal(volume.array, image)
    write_segmentation(tmp_path / "seg.dcm", volume, label, CLASSES)


def test_copies_byte_by_byte_are_taken_once(tmp_path):
    image, _ = box((6, 5, 4))
    folder = write_series(tmp_path / "s", image)
    for path in list(folder.iterdir()):
        shutil.copy(path, folder / f"copy of {path.name}")
    survey = survey_volumes([folder])
    assert np.array_equal(read_case_volume(survey.cases[0]).array, image)
    assert "4 files repeated byte by byte, taken once" in survey.notes[0]


def test_a_tilted_gantry_is_told_and_its_label_lies_where_it_should(tmp_path):
    import nibabel

    image, label = box((6, 5, 8))
    volume = read_volume(write_series(tmp_path / "s", image, tilt=2.5 * np.tan(np.radians(20))))
    assert "tilted by 20.0 degrees" in volume.notes[-1]
    written = nibabel.load(write_label_volume(tmp_path / "l.nii.gz", label, volume.affine, volume.header))
    assert np.allclose(written.header.get_sform(), volume.affine, atol=1e-4)
    assert int(written.header["qform_code"]) == 0


def test_archives_are_read_where_they_are(tmp_path, monkeypatch):
    image, label = box((6, 5, 4))
    one = write_series(tmp_path / "one", image, number=1)
    two = write_series(tmp_path / "two", image + 1, number=2)
    inside = tmp_path / "in"
    inside.mkdir()
    with zipfile.ZipFile(inside / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in (one, two):
            for path in folder.iterdir():
                archive.write(path, f"../../{folder.name}/{path.name}")
        archive.writestr("readme.txt", "nothing")
    for asked in (inside / "study.zip", inside):
        cases = find_volumes([asked])
        assert [case.id for case in cases] == ["study_1", "study_2"]
        for k, case in enumerate(cases):
            assert np.array_equal(read_case_volume(case).array, image + k)
    assert make_reader("auto", inside).key == "dicom"
    write_segmentation(tmp_path / "seg.dcm", read_case_volume(cases[0]), label, CLASSES)
    assert sorted(p.name for p in inside.iterdir()) == ["study.zip"]
    monkeypatch.setenv("KANSCAN_MOST_VOXELS", "1000")
    with pytest.raises(ValueError, match=r"study.zip would inflate to .* bytes, more than the 4e\+03"):
        find_volumes([inside / "study.zip"])


def test_a_dicomdir_holds_series_that_lie_across_folders(tmp_path):
    image, _ = box((6, 5, 4))
    folder = write_series(tmp_path / "s", image, names=[f"{k}" for k in range(4)])
    changed(folder, StudyDate="20200101", StudyTime="120000", StudyID="1")
    for k in range(4):
        target = tmp_path / "disc" / "IMAGES" / f"D{k % 2}" / f"IM{k}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / f"{k}", target)
    from pydicom.fileset import FileSet

    made = FileSet()
    for path in (tmp_path / "disc" / "IMAGES").rglob("IM*"):
        made.add(path)
    made.write(tmp_path / "made")
    shutil.copy(tmp_path / "made" / "DICOMDIR", tmp_path / "disc" / "DICOMDIR")
    for asked in (tmp_path / "disc", tmp_path / "disc" / "DICOMDIR"):
        (case,) = find_volumes([asked])
        assert case.id == "disc"
        assert np.array_equal(read_case_volume(case).array, image)


def test_a_decoder_that_panics_is_one_sentence(tmp_path, monkeypatch):
    import pydicom.pixels

    class PanicError(BaseException):
        pass

    image, _ = box((6, 5, 4))
    folder = write_series(tmp_path / "s", image)

    def panics(*_, **__):
        raise PanicError("index out of bounds: the len is 64")

    monkeypatch.setattr(pydicom.pixels, "pixel_array", panics)
    with pytest.raises(ValueError, match=r"cannot decode .*: index out of bounds: the len is 64"):
        read_volume(folder)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pydicom.pixels, "pixel_array", stopped)
    with pytest.raises(KeyboardInterrupt):
        read_volume(folder)


def test_damaged_rle_frames_are_one_sentence(tmp_path):
    from pydicom.data import get_testdata_file
    from pydicom.encaps import encapsulate

    source = pydicom.dcmread(get_testdata_file("MR_small_RLE.dcm"))
    whole = bytes(next(pydicom.encaps.generate_frames(source.PixelData, number_of_frames=1)))
    for number, broken in enumerate((whole[:100], whole[:64], b"\0\0", b"\xff" * 500, whole[:64] + b"\x7f" * 50)):
        source.PixelData = encapsulate([broken])
        source.save_as(tmp_path / f"{number}.dcm")
        with pytest.raises(ValueError, match=r"cannot decode .*\d\.dcm: .+"):
            read_volume(tmp_path / f"{number}.dcm")


def test_headers_that_lie_about_size(tmp_path):
    image, _ = box((6, 5, 4))
    huge = changed(write_series(tmp_path / "a", image), Rows=60000, Columns=60000)
    with pytest.raises(ValueError, match=r"1.44e\+10 voxels, more than"):
        read_volume(huge)
    large = changed(write_series(tmp_path / "b", image), Rows=6000, Columns=6000)
    with pytest.raises(ValueError, match="cannot decode"):
        read_volume(large)


def test_segmentations_are_labels_to_learn_from(tmp_path):
    """One patient with both segments in a file, one with a file for each."""
    labels = {}
    for number, patient in enumerate(("p1", "p2")):
        image, label = box((13, 15, 9), number)
        folder = write_series(tmp_path / patient / "ct", image)
        volume = read_volume(folder)
        labels[patient] = label
        parts = [(1, 2)] if patient == "p1" else [(2,), (1,)]
        for k, kept in enumerate(parts):
            one = np.where(np.isin(label, kept), label, 0)
            write_segmentation(tmp_path / patient / "seg" / f"{k}.dcm", volume, one, CLASSES)
    reader = make_reader("auto", tmp_path)
    assert (reader.key, reader.label_map.names, reader.channel_names) == ("dicom", CLASSES, ("MR",))
    cases = reader.cases(tmp_path)
    assert [(case.id, case.group, len(case.labels)) for case in cases] == [("p1_ct", "p1", 1), ("p2_ct", "p2", 2)]
    for case in cases:
        volume, classes = read_volume_pair(case, reader.label_map)
        assert np.array_equal(classes, labels[case.group]), case.id
    assert not (classes == IGNORED).any()
    # Two readers' drawings of one organ are a question.
    shutil.copy(tmp_path / "p1" / "seg" / "0.dcm", tmp_path / "p1" / "seg" / "other.dcm")
    survey = reader.survey(tmp_path)
    assert "'liver' is marked more than once" in " ".join(survey.notes)
    assert [len(case.labels) for case in survey.cases] == [0, 2]


def test_structure_sets_are_labels_to_learn_from(tmp_path):
    image, _ = box((40, 44, 6))
    folder = write_series(tmp_path / "p" / "ct", image)
    volume = read_volume(folder)
    to_patient = np.diag([-1.0, -1, 1, 1]) @ volume.affine

    def circle(center: tuple[float, float], radius: float, slice_number: int) -> np.ndarray:
        angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
        places = np.c_[center[0] + radius * np.cos(angles), center[1] + radius * np.sin(angles)]
        ones = np.ones(len(angles))
        return (np.c_[places, slice_number * ones, ones] @ to_patient[:3].T).astype(float)

    ring = [circle((20, 20), 10.3, 2), circle((20, 20), 4.2, 2), circle((20, 20), 10.3, 3)]
    write_structures(tmp_path / "p" / "rt.dcm", folder, {"ring": ring, "ball": [circle((33, 8), 5.1, 4)]})
    reader = make_reader("auto", tmp_path)
    assert reader.label_map.names == ("background", "ring", "ball")
    (case,) = reader.cases(tmp_path)
    classes = read_label_volume(case, reader.label_map, volume).array
    i, j = np.mgrid[:40, :44]
    far = np.hypot(i - 20, j - 20)
    expected = np.zeros(image.shape, int)
    expected[..., 2] = (far < 10.3) & (far > 4.2)
    expected[..., 3] = far < 10.3
    expected[..., 4] = np.where(np.hypot(i - 33, j - 8) < 5.1, 2, 0)
    # The circle is a polygon of 200 corners: a voxel on its rim may fall either way.
    assert (classes != expected).sum() <= 2
    across = np.array([[-9, -19, 30], [-9, -19, 35], [-9, -18, 35.0]])
    write_structures(tmp_path / "p" / "rt.dcm", folder, {"ring": [across]})
    with pytest.raises(ValueError, match="does not lie in one slice"):
        read_label_volume(case, reader.label_map, volume)


def test_polygons_are_filled_by_the_centers_of_pixels():
    square = np.array([[1.5, 1.5], [4.5, 1.5], [4.5, 3.5], [1.5, 3.5]])
    expected = np.zeros((6, 6), bool)
    expected[2:5, 2:4] = True
    assert np.array_equal(fill_polygon(square, (6, 6)), expected)
    assert np.array_equal(fill_polygon(square[::-1], (6, 6)), expected)
    outside = fill_polygon(square - np.array([3, 0]), (6, 6))
    assert np.array_equal(outside[:2, 2:4], np.array([[True, True], [True, True]])) and outside.sum() == 4
    random = np.random.default_rng(0)
    from matplotlib.path import Path as Outline

    for _ in range(20):
        corners = random.uniform(-3, 25, (int(random.integers(3, 9)), 2))
        i, j = np.mgrid[:20, :22]
        inside = np.zeros((20, 22), bool)
        for k in range(len(corners)):
            # Even and odd: each edge turns over what lies to its right.
            (a, b), (c, d) = corners[k], corners[(k + 1) % len(corners)]
            crosses = (np.minimum(b, d) <= j) & (j < np.maximum(b, d))
            inside ^= crosses & (i >= a + (j - b) / (d - b) * (c - a))
        assert np.array_equal(fill_polygon(corners, (20, 22)), inside)
    simple = np.array([[2.2, 3.1], [17.7, 5.3], [9.1, 18.4]])
    points = np.c_[i.ravel(), j.ravel()]
    assert np.array_equal(fill_polygon(simple, (20, 22)), Outline(simple).contains_points(points).reshape(20, 22))


def test_slices_that_cannot_be_read_are_told(tmp_path):
    """Left out silently, the last slice would be missed by nobody."""
    image, _ = box((6, 5, 8))
    folder = write_series(tmp_path / "s", image, names=[f"{k}.dcm" for k in range(8)])
    last = folder / "7.dcm"
    whole = last.read_bytes()
    at = whole.index(b"US", whole.index(b"\x28\x00\x10\x00"))
    last.write_bytes(whole[:at] + b"XX" + whole[at + 2 :])
    survey = survey_volumes([folder])
    assert "1 file that cannot be read" in " ".join(survey.notes)
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir())[:7]:
            archive.write(path, path.name)
    damaged = bytearray((tmp_path / "z.zip").read_bytes())
    damaged[60:80] = bytes(20)
    (tmp_path / "z.zip").write_bytes(damaged)
    assert "1 file that cannot be read" in " ".join(survey_volumes([tmp_path / "z.zip"]).notes)
    (tmp_path / "z.zip").write_bytes(damaged[:-60] + bytes(30) + damaged[-30:])
    with pytest.raises(ValueError, match=r"z\.zip"):
        survey_volumes([tmp_path / "z.zip"])


def test_the_decoder_that_ends_the_process_is_asked_only_where_there_is_no_other():
    from pydicom.data import get_testdata_file

    asked: list[str] = []
    for name in ("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm", "SC_rgb_jpeg.dcm"):
        dataset = pydicom.dcmread(get_testdata_file(name))
        decoder = pydicom.pixels.get_decoder(dataset.file_meta.TransferSyntaxUID)
        real = dict(decoder._available)
        try:
            for plugin in real:
                decoder._available[plugin] = lambda *a, _plugin=plugin, _real=real[plugin]: (
                    asked.append(_plugin) or _real(*a)
                )
            decode(dataset, 0)
        finally:
            decoder._available.update(real)
    assert len(asked) == 4 and "gdcm" not in asked
