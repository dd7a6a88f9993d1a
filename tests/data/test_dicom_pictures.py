"""DICOM pictures as a viewer shows them, and segmentations of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.pixels.processing import apply_voi_lut, convert_color_space  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from kanscan.data.dicom.picture import read_dicom_picture, read_picture_header  # noqa: E402
from kanscan.data.dicom.segmentation import write_picture_segmentation  # noqa: E402

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"


def write_picture(path: Path, array: np.ndarray, *, bits: int | None = None, **tags) -> Path:
    """Write `(H, W)`, `(H, W, 3)` or `(N, H, W[, 3])` unsigned or signed integers as a secondary capture."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.SeriesInstanceUID, made.StudyInstanceUID, made.Modality = generate_uid(), generate_uid(), "OT"
    made.PatientName, made.PatientID = "Nobody^Made", "made"
    color = array.shape[-1] == 3
    made.SamplesPerPixel, made.PhotometricInterpretation = (3, "RGB") if color else (1, "MONOCHROME2")
    if color:
        made.PlanarConfiguration = 0
    made.Rows, made.Columns = array.shape[-3:-1] if color else array.shape[-2:]
    if array.ndim == 3 + color:
        made.NumberOfFrames = len(array)
    made.BitsAllocated = 8 * array.dtype.itemsize
    made.BitsStored = bits or made.BitsAllocated
    made.HighBit, made.PixelRepresentation = made.BitsStored - 1, int(array.dtype.kind == "i")
    made.PixelData = array.tobytes()
    for name, value in tags.items():
        setattr(made, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def ramp(bits: int = 12) -> np.ndarray:
    return np.linspace(0, 2**bits - 1, 20 * 30).reshape(20, 30).astype(np.uint16 if bits > 8 else np.uint8)


def test_eight_bits_stay_as_they_are_and_black_is_black(tmp_path):
    grey = ramp(8)
    array, spacing = read_dicom_picture(write_picture(tmp_path / "a", grey))
    assert np.array_equal(array, grey) and array.dtype == np.uint8 and spacing is None
    turned, _ = read_dicom_picture(write_picture(tmp_path / "b", 255 - grey, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(turned, grey)


def test_more_than_eight_bits_are_kept(tmp_path):
    """Without a window from the darkest to the brightest, padding left aside; with one as it says."""
    grey = ramp(12)
    array, _ = read_dicom_picture(write_picture(tmp_path / "a", grey, bits=12))
    assert array.dtype == np.uint16 and (array.min(), array.max()) == (0, 65535)
    assert len(np.unique(array)) == len(np.unique(grey))
    padded = grey.copy()
    padded[:3] = 4095
    path = write_picture(tmp_path / "p", np.where(padded == 4095, 4095, padded // 2).astype(np.uint16), bits=12)
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "US", 4095)
    dataset.save_as(path)
    array, _ = read_dicom_picture(path)
    assert (array[3:].max(), array[:3].min()) == (65535, 65535)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True])
def test_windows_are_what_pydicom_makes_of_them(tmp_path, function, kind, signed):
    stored = ramp(12).astype(np.int16) - 2048 if signed else ramp(12)
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": [300, 40], "WindowWidth": [900, 80]}
    path = write_picture(
        tmp_path / "a", stored, bits=12, PhotometricInterpretation=kind, VOILUTFunction=function, **tags
    )
    array, _ = read_dicom_picture(path)
    dataset = pydicom.dcmread(path)
    shown = apply_voi_lut(stored * 2.0 - 1024, dataset)
    low, high = (2 * end - 1024 for end in ((-2048, 2047) if signed else (0, 4095)))
    share = (shown - low) / (high - low)
    expected = 65535 * (1 - share if kind == "MONOCHROME1" else share)
    assert np.abs(array - expected).max() <= 1


def test_tables_of_the_modality_and_of_the_window(tmp_path):
    stored = ramp(8)
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [256, 0, 12])
    table.add_new("LUTData", "US", (np.arange(256) ** 2 // 16).tolist())
    path = write_picture(tmp_path / "v", stored)
    dataset = pydicom.dcmread(path)
    dataset.VOILUTSequence = [table]
    dataset.save_as(path)
    array, _ = read_dicom_picture(path)
    expected = np.rint(np.arange(256) ** 2 // 16 / 4095 * 255)[stored]
    assert np.array_equal(array, expected)
    path = write_picture(tmp_path / "m", stored)
    dataset = pydicom.dcmread(path)
    table.ModalityLUTType = "US"
    dataset.ModalityLUTSequence = [table]
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.save_as(path)
    array, _ = read_dicom_picture(path)
    assert np.abs(array - expected).max() <= 1


def test_colors_and_palettes_come_out_as_rgb(tmp_path):
    random = np.random.default_rng(0)
    color = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    array, _ = read_dicom_picture(write_picture(tmp_path / "rgb", color))
    assert np.array_equal(array, color)
    planes = np.ascontiguousarray(np.moveaxis(color, -1, 0))
    path = write_picture(tmp_path / "planar", color, PlanarConfiguration=1, PixelData=planes.tobytes())
    assert np.array_equal(read_dicom_picture(path)[0], color)
    other = convert_color_space(color, "RGB", "YBR_FULL")
    path = write_picture(tmp_path / "ybr", other, PhotometricInterpretation="YBR_FULL")
    assert np.abs(read_dicom_picture(path)[0].astype(int) - color).max() <= 2
    deep = color.astype(np.uint16) * 257
    assert np.array_equal(read_dicom_picture(write_picture(tmp_path / "deep", deep))[0], color)
    path = write_picture(tmp_path / "palette", ramp(8), PhotometricInterpretation="PALETTE COLOR")
    dataset = pydicom.dcmread(path)
    for channel, name in enumerate(("Red", "Green", "Blue")):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        entries = ((np.arange(256) * (channel + 1)) % 256).astype(np.uint16) * 257
        setattr(dataset, f"{name}PaletteColorLookupTableData", entries.tobytes())
    dataset.save_as(path)
    array, _ = read_dicom_picture(path)
    assert np.array_equal(array, np.stack([(ramp(8).astype(int) * k) % 256 for k in (1, 2, 3)], axis=-1))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_pictures_hold_the_same(tmp_path, syntax):
    color = np.random.default_rng(1).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    for number, array in enumerate((np.tile(ramp(8), (4, 4)), color)):
        path = write_picture(tmp_path / f"{number}.dcm", array)
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax)
        dataset.save_as(path)
        assert np.array_equal(read_dicom_picture(path)[0], array)


def test_spacing_in_the_patient_at_the_detector_or_of_ultrasound(tmp_path):
    grey = ramp(8)
    path = write_picture(tmp_path / "a", grey, ImagerPixelSpacing=[0.2, 0.1])
    assert read_dicom_picture(path)[1] == (0.2, 0.1)
    path = write_picture(tmp_path / "b", grey, PixelSpacing=[0.5, 0.25], ImagerPixelSpacing=[1, 1])
    assert read_dicom_picture(path)[1] == (0.5, 0.25)

    def region(units: int, kind: int, size: int, delta: float) -> Dataset:
        one = Dataset()
        one.PhysicalUnitsXDirection = one.PhysicalUnitsYDirection = units
        one.RegionSpatialFormat = kind
        one.RegionLocationMinX0 = one.RegionLocationMinY0 = 0
        one.RegionLocationMaxX1 = one.RegionLocationMaxY1 = size
        one.PhysicalDeltaX, one.PhysicalDeltaY = delta, -2 * delta
        return one

    path = write_picture(tmp_path / "c", grey)
    dataset = pydicom.dcmread(path)
    # The strip below the picture counts in seconds; the small picture is an inset.
    dataset.SequenceOfUltrasoundRegions = [region(4, 3, 30, 9), region(3, 1, 5, 0.5), region(3, 1, 20, 0.01)]
    dataset.save_as(path)
    down, across = read_dicom_picture(path)[1]
    assert (down, across) == pytest.approx((0.2, 0.1))


def test_frames_of_a_clip(tmp_path):
    clip = np.stack([ramp(8), 255 - ramp(8), ramp(8) // 2])
    path = write_picture(tmp_path / "clip", clip)
    assert read_picture_header(path).frames == 3
    for k in range(3):
        assert np.array_equal(read_dicom_picture(path, k)[0], clip[k])
    with pytest.raises(ValueError, match="holds 3 frames, one was expected"):
        read_dicom_picture(path)
    with pytest.raises(ValueError, match="holds 3 frames, frame 3 was asked for"):
        read_dicom_picture(path, 3)


def test_what_is_no_picture_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="is no picture but a DICOM structure set"):
        read_dicom_picture(BUNDLED / "rtstruct.dcm")
    with pytest.raises(ValueError, match="is no picture but a DICOM structure set"):
        read_picture_header(BUNDLED / "rtstruct.dcm")
    (tmp_path / "x.dcm").write_bytes(b"nothing" * 100)
    for read in (read_dicom_picture, read_picture_header):
        with pytest.raises(ValueError, match=r"x\.dcm"):
            read(tmp_path / "x.dcm")
    path = write_picture(tmp_path / "lies", ramp(8), Rows=60000, Columns=60000)
    with pytest.raises(ValueError, match="more than the"):
        read_dicom_picture(path)
    path = write_picture(tmp_path / "short", ramp(8), Rows=600, Columns=600)
    with pytest.raises(ValueError, match="cannot decode"):
        read_dicom_picture(path)


@pytest.mark.parametrize("tag", [b"\x28\x00\x30\x00", b"\x28\x00\x53\x10"])
def test_elements_that_cannot_be_understood_are_one_sentence(tmp_path, tag):
    """They are understood only when they are asked for: spacing and slope come last."""
    path = write_picture(tmp_path / "x.dcm", ramp(8), PixelSpacing=[0.5, 0.5], RescaleSlope=2, RescaleIntercept=0)
    whole = path.read_bytes()
    at = whole.index(tag) + 4
    path.write_bytes(whole[:at] + b"D\xff" + whole[at + 2 :])
    with pytest.raises(ValueError, match=r"x\.dcm"):
        read_dicom_picture(path)


@pytest.mark.parametrize("name", ["SC_rgb_jpeg.dcm", "dicomdirtests/77654033/CR1/6154"])
def test_segmentations_of_pictures_without_a_frame_of_reference(tmp_path, name):
    source = BUNDLED / name
    dataset = pydicom.dcmread(source)
    label = np.zeros((dataset.Rows, dataset.Columns), np.uint8)
    label[2:9, 3:8], label[11:14, 1:5] = 1, 2
    written = write_picture_segmentation(tmp_path / "seg.dcm", source, label, ("background", "liver", "spleen"))
    found = highdicom.seg.segread(written)
    assert "FrameOfReferenceUID" not in found
    assert [one.SegmentLabel for one in found.SegmentSequence] == ["liver", "spleen"]
    pixels = found.get_pixels_by_source_instance([dataset.SOPInstanceUID], combine_segments=True)
    assert np.array_equal(pixels[0], label)
    empty = write_picture_segmentation(tmp_path / "none.dcm", source, label * 0, ("background", "liver"))
    assert not highdicom.seg.segread(empty).pixel_array.any()
    with pytest.raises(ValueError, match=r"the label has \(3, 3\) pixels"):
        write_picture_segmentation(tmp_path / "x.dcm", source, label[:3, :3], ("background", "liver"))


def test_segmentations_of_clips_have_an_item_a_frame(tmp_path):
    source = BUNDLED / "examples_ybr_color.dcm"
    dataset = pydicom.dcmread(source, stop_before_pixels=True)
    label = np.zeros((30, 240, 320), np.uint8)
    for k in (0, 4, 29):
        label[k, 10 + k : 30 + k, 40:60] = 1 if k != 4 else 2
    written = write_picture_segmentation(tmp_path / "seg.dcm", source, label, ("background", "liver", "spleen"))
    found = highdicom.seg.segread(written)
    assert found.NumberOfFrames == 3
    referred = {element.value for element in found.iterall() if element.keyword == "ReferencedSOPClassUID"}
    assert referred == {dataset.SOPClassUID}
    frames = [1, 5, 30]
    pixels = found.get_pixels_by_source_frame(dataset.SOPInstanceUID, frames, combine_segments=True)
    assert np.array_equal(pixels, label[[0, 4, 29]])
    one = write_picture_segmentation(tmp_path / "one.dcm", source, label[4], ("background", "liver", "spleen"), frame=4)
    pixels = highdicom.seg.segread(one).get_pixels_by_source_frame(
        dataset.SOPInstanceUID, [5], combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(pixels[0] > 0, label[4] > 0)
