"""Volumes come in and go out in their own grid, whatever the file; what cannot be is refused in a sentence."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest

from data.made_volumes import box, write_nifti
from kanscan.data.case import Case, LabelMap
from kanscan.data.volumes.formats import (
    read_case_volume,
    read_grid,
    read_label_volume,
    read_stored_volume,
    read_volume,
    read_volume_pair,
    volume_name,
)
from kanscan.data.volumes.grid import Arrangement, canonical, coarse_axis, content_box, resample_image, resample_label
from kanscan.data.volumes.nifti import write_label_volume
from kanscan.data.volumes.slices import shown_slice

THREE = LabelMap(("background", "a", "b"), "values", {0: 0, 1: 1, 2: 2})


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def affines() -> dict[str, np.ndarray]:
    made = {"plain": np.eye(4)}
    for name in ("LPS", "RAS", "SAR", "PIR", "ILA"):
        made[name] = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(tuple(name)), (9, 7, 5))
    oblique = np.eye(4)
    oblique[:3, :3] = rotation(20) @ rotation(0) @ np.diag([0.9, -0.9, 3.3])
    oblique[:3, 3] = [-31.5, 12.25, 7]
    made["oblique and anisotropic"] = oblique
    sheared = oblique.copy()
    sheared[0, 2] += 0.4
    made["tilted gantry"] = sheared
    return made


@pytest.mark.parametrize("name", affines())
def test_a_label_map_goes_back_into_the_grid_it_came_from(tmp_path, name):
    affine = affines()[name]
    image, label = box((9, 7, 5))
    source = write_nifti(tmp_path / "image.nii.gz", image, affine)
    volume = read_volume(source)
    found = canonical(volume)
    written = found.arrangement.backward(found.arrangement.forward(label))
    assert np.array_equal(written, label)
    path = write_label_volume(tmp_path / "label.nii.gz", written, volume.affine, volume.header)
    back = nibabel.load(path)
    assert back.get_data_dtype() == np.uint8
    assert np.array_equal(back.affine, nibabel.load(source).affine)
    assert np.array_equal(np.asanyarray(back.dataobj), label)
    original = nibabel.load(source)
    for one, other in zip(back.header.get_sform(coded=True), original.header.get_sform(coded=True), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("codes", ["LPS", "SAR", "PIR", "RAS"])
def test_the_network_sees_one_patient_the_same_way_round(codes):
    """A voxel at a known place in the patient lands at one place of D, H, W, however the file is turned."""
    from kanscan.data.volume import Volume

    array = np.zeros((4, 6, 8))
    array[3, 1, 6] = 1  # right, back, head in RAS
    wanted = nibabel.orientations.axcodes2ornt(tuple(codes))
    turn = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt(("R", "A", "S")), wanted)
    turned = nibabel.orientations.apply_orientation(array, turn)
    affine = np.eye(4) @ nibabel.orientations.inv_ornt_aff(turn, array.shape)
    found = canonical(Volume(turned, affine))
    assert np.argwhere(found.image[0] == 1).tolist() == [[6, 1, 3]]


def test_negative_values(tmp_path):
    image, _ = box()
    negative = read_volume(write_nifti(tmp_path / "n.nii", (image - 1000).astype(np.int16)))
    assert negative.array.dtype == np.int16
    assert negative.array.min() < -900


def test_slope_and_intercept_are_applied_and_not_passed_on(tmp_path):
    image, label = box()
    header = nibabel.Nifti1Header()
    header.set_data_shape(image.shape)
    header.set_data_dtype(np.int16)
    header.set_sform(np.eye(4), 1)
    header["scl_slope"], header["scl_inter"] = 2, 10
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "a.nii").write_bytes(header.binaryblock + b"\0\0\0\0" + image.tobytes(order="F"))
    volume = read_volume(tmp_path / "a.nii")
    assert np.array_equal(volume.array, image * 2.0 + 10)
    write_label_volume(tmp_path / "l.nii.gz", label, volume.affine, volume.header)
    assert np.array_equal(read_stored_volume(tmp_path / "l.nii.gz").array, label)


def test_labels_saved_as_floating_point(tmp_path):
    _, label = box()
    path = write_nifti(tmp_path / "f.nii.gz", label.astype(np.float32) + 1e-5)
    assert np.array_equal(read_label_volume(Case("c", (), (path,)), THREE).array, label)
    smooth = write_nifti(tmp_path / "g.nii.gz", label * np.float32(0.5))
    with pytest.raises(ValueError, match=r"g.nii.gz holds label values between whole numbers"):
        read_stored_volume(smooth)
    foreign = write_nifti(tmp_path / "h.nii.gz", label * np.uint8(3))
    with pytest.raises(ValueError, match=r"h.nii.gz holds label values 3, 6, outside the map"):
        read_label_volume(Case("c", (), (foreign,)), THREE)


def test_damaged_files_are_refused_by_name(tmp_path):
    image, _ = box((20, 20, 20))
    whole = write_nifti(tmp_path / "whole.nii.gz", image)
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(whole.read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"cut.nii.gz: its compressed content is truncated or damaged"):
        read_volume(cut)
    plain = tmp_path / "plain.nii"
    plain.write_bytes(gzip.decompress(whole.read_bytes())[:2000])
    with pytest.raises(ValueError, match=r"plain.nii"):
        read_volume(plain)
    (tmp_path / "text.nii.gz").write_text("no volume")
    with pytest.raises(ValueError, match=r"text.nii.gz"):
        read_volume(tmp_path / "text.nii.gz")
    (tmp_path / "empty.nii").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty.nii: the file is empty"):
        read_volume(tmp_path / "empty.nii")
    with pytest.raises(FileNotFoundError, match=r"no file at"):
        read_volume(tmp_path / "absent.nii")
    write_nifti(tmp_path / "nan.nii.gz", np.full((3, 3, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"nan.nii.gz contains NaN or infinite values \(27 of 27\)"):
        read_volume(tmp_path / "nan.nii.gz")


def test_a_label_in_another_grid_is_refused_with_both(tmp_path):
    image, label = box()
    case = Case("c", (write_nifti(tmp_path / "i.nii.gz", image),), (tmp_path / "l.nii.gz",), is_volume=True)
    write_nifti(tmp_path / "l.nii.gz", label[:, :, :-1])
    with pytest.raises(ValueError, match=r"12 x 16 x 9 voxels, affine .* against 12 x 16 x 10 voxels, affine"):
        read_volume_pair(case, THREE)
    write_nifti(tmp_path / "l.nii.gz", label, np.diag([1, 1, 2, 1.0]))
    with pytest.raises(ValueError, match=r"0 0 2 0\] against 12 x 16 x 10"):
        read_volume_pair(case, THREE)
    write_nifti(tmp_path / "l.nii.gz", label, np.eye(4) + 1e-5)
    assert read_volume_pair(case, THREE)[1].sum() == label.sum()


def test_modalities_become_channels(tmp_path):
    image, _ = box()
    paths = (write_nifti(tmp_path / "a.nii.gz", image), write_nifti(tmp_path / "b.nii.gz", image + np.int16(1)))
    assert read_case_volume(Case("c", paths)).array.shape == (12, 16, 10, 2)
    four = write_nifti(tmp_path / "four.nii.gz", np.stack([image] * 3, axis=-1))
    assert canonical(read_volume(four)).image.shape == (3, 10, 16, 12)
    write_nifti(tmp_path / "b.nii.gz", image[:-1])
    with pytest.raises(ValueError, match="another grid"):
        read_case_volume(Case("c", paths))


def test_metaimage_and_nrrd_agree_with_nifti(tmp_path):
    itk = pytest.importorskip("itk")
    image, _ = box()
    affine = affines()["oblique and anisotropic"]
    nifti = write_nifti(tmp_path / "a.nii.gz", image, affine)
    read = itk.imread(str(nifti))
    for ending in ("mha", "nrrd"):
        itk.imwrite(read, str(tmp_path / f"a.{ending}"))
        volume = read_volume(tmp_path / f"a.{ending}")
        assert np.array_equal(volume.array, image)
        assert np.allclose(volume.affine, affine, atol=1e-4)
    assert read_grid(tmp_path / "a.mha")[0] == image.shape


def test_tiff_stack_with_its_spacing(tmp_path):
    import tifffile

    image, _ = box()
    tifffile.imwrite(tmp_path / "a.tif", np.transpose(image, (2, 1, 0)), photometric="minisblack")
    (tmp_path / "a.json").write_text('{"spacing": [3, 0.5, 0.25]}')
    volume = read_volume(tmp_path / "a.tif")
    assert np.array_equal(volume.array, image)
    assert volume.spacing_mm == (0.25, 0.5, 3)


def test_names_without_endings(tmp_path):
    assert [volume_name(tmp_path / n) for n in ("a.nii.gz", "b.c.nii", "d.mha", "series")] == [
        "a",
        "b.c",
        "d",
        "series",
    ]


def test_content_box_and_resampling():
    image = np.zeros((1, 6, 6, 6), np.float32)
    assert content_box(image) == (slice(0, 6),) * 3
    image[0, 2:4, 1:5, 3] = 1
    assert content_box(image) == (slice(2, 4), slice(1, 5), slice(3, 4))
    ramp = np.tile(np.arange(8, dtype=np.float32), (1, 4, 4, 1))
    finer = resample_image(ramp, (4, 4, 16), order=1)
    # Half-voxel centers: the new voxels lie at -0.25, 0.25, 0.75 ... of the old ones.
    assert np.allclose(finer[0, 0, 0, 1:-1], np.arange(14) * 0.5 + 0.25)
    assert coarse_axis((5, 1, 1), (1, 1, 1)) == 0
    assert coarse_axis((2.9, 1, 1), (1, 1, 1)) is None
    _, label = box((8, 8, 8))
    doubled = resample_label(label, (16, 16, 16), 3)
    # Only the corners of the box are rounded off.
    assert (doubled[::2, ::2, ::2] != label).sum() <= 8 + 4
    assert (resample_label(doubled, (8, 8, 8), 3) != label).sum() <= 8 + 4
    assert resample_label(label, (16, 8, 8), 3, coarse=0).shape == (16, 8, 8)


def test_a_shown_slice_has_square_pixels_and_the_front_on_top():
    from kanscan.data.volume import Volume

    array = np.zeros((6, 8, 4), np.int16)
    array[0, 7, 1] = 100  # left, front
    volume = Volume(array, np.diag([2.0, 1, 1, 1]))
    label = (array > 0).astype(np.uint8)
    image, maps, number = shown_slice(volume, label)
    assert image.shape == maps[0].shape == (8, 12)
    assert number == 1
    assert maps[0][0, -2:].tolist() == [1, 1]  # the patient's left is on the right
    assert shown_slice(volume, plane="coronal")[0].shape == (4, 12)


def test_arrangement_of_a_single_slice():
    affine = np.diag([-0.5, -0.5, 7.0, 1])
    found = Arrangement.of(affine)
    assert found.order == (2, 1, 0)
    assert found.flipped == (False, True, True)
    array = np.arange(12).reshape(4, 3, 1)
    assert np.array_equal(found.backward(found.forward(array)), array)


@pytest.mark.parametrize("coarse", [None, 0, 2])
@pytest.mark.parametrize("size", [(5, 9, 7), (2, 3, 11), (4, 6, 8), (1, 6, 1)])
def test_linear_resampling_is_that_of_splines_of_order_one(size, coarse):
    from scipy.ndimage import zoom

    from kanscan.data.volumes.grid import resample_image

    image = np.random.default_rng(0).normal(size=(2, 4, 6, 8)).astype(np.float32)
    found = resample_image(image, size, coarse=coarse, order=1)
    axes = [a for a in range(3) if a != coarse]
    for channel, ours in zip(image, found, strict=True):
        if coarse is not None:
            old, new = channel.shape[coarse], size[coarse]
            nearest = np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
            channel = channel.take(nearest, coarse)
        factors = [size[a] / channel.shape[a] if a in axes else 1 for a in range(3)]
        expected = zoom(channel, factors, order=1, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(ours, expected, atol=2e-6)
