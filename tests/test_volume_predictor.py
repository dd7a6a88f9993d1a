"""Volumes in, label maps out: windows as nnU-Net lays them, and the way back into any grid."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch

from conftest import ROOT
from kanscan.data.volume import Volume
from kanscan.data.volumes.fingerprint import STATISTICS
from kanscan.data.volumes.grid import Arrangement, resample_image
from kanscan.data.volumes.plan import VolumePlan
from kanscan.data.volumes.preparation import Prepared
from kanscan.inference import VolumePredictor
from kanscan.inference.torch_network import TorchNetwork
from kanscan.inference.volumes import choose_classes, restored_slices
from kanscan.inference.windows import sliding_slabs, window_starts, window_weights
from kanscan.models.base import SegmentationModel

ONES = dict.fromkeys(STATISTICS, 1.0)


class Threshold(SegmentationModel):
    """Class 1 above 0.3, class 2 above 0.6; of any number of axes."""

    supports = (2, 3)

    def __init__(self, spatial_dims: int = 3, out_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.spatial_dims = 1, out_channels, spatial_dims
        self.stride = (1,) * spatial_dims
        self.weight = torch.nn.Parameter(torch.ones(()))

    @classmethod
    def tiny(cls, **options):
        return cls(**options)

    def forward(self, x):
        if self.out_channels == 1:
            return (x - 0.3) * self.weight
        return torch.cat([torch.zeros_like(x), x - 0.3, 2 * x - 0.9], dim=1) * self.weight


def torch_threshold(**options) -> TorchNetwork:
    return TorchNetwork(Threshold(**options))


def on_arrays(network: torch.nn.Module):
    def call(x):
        with torch.inference_mode():
            return network(torch.from_numpy(x)).numpy()

    return call


def plan(patch=(8, 8, 8), spacing=(1.0, 1.0, 1.0), slice_axis=None) -> VolumePlan:
    return VolumePlan(
        spacing, (8, 8, 8), patch, ((1, 1, 1),), ((3, 3, 3),), 2, ("none",), (ONES,), slice_axis=slice_axis
    )


def labelled(shape) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(n // 4, max(n // 4 + 1, n // 2)) for n in shape)] = 1
    label[tuple(slice(n // 2, max(n // 2 + 1, 3 * n // 4)) for n in shape)] = 2
    return label


def picture(label: np.ndarray) -> np.ndarray:
    # Nowhere 0, so that nothing is cropped.
    return np.array([0.1, 0.45, 0.9], np.float32)[label]


GRIDS = {
    "plain": ((20, 17, 11), np.eye(4)),
    "flipped": ((12, 9, 20), np.diag([-1.0, -1, 1, 1])),
    "turned": ((9, 12, 14), np.array([[0, 0, 1.0, 3], [-1, 0, 0, 5], [0, 1, 0, -7], [0, 0, 0, 1]])),
    "oblique": ((12, 12, 12), np.array([[0.9, -0.3, 0, 1], [0.3, 0.9, 0.1, 2], [0, 0, 1, 3], [0, 0, 0, 1]])),
    "one slice": ((16, 16, 1), np.diag([1.0, 1, 6, 1])),
    "smaller than the patch": ((3, 4, 5), np.eye(4)),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("flips", [False, True])
def test_a_prediction_lies_in_the_grid_of_its_image(name, flips):
    shape, affine = GRIDS[name]
    label = labelled(shape)
    volume = Volume(picture(label), affine)
    spacing = tuple(nibabel.affines.voxel_sizes(affine)[list((2, 1, 0))])
    if name == "turned":
        spacing = (1.0, 1.0, 1.0)
    serve = VolumePredictor(torch_threshold(), plan(spacing=spacing), ("background", "a", "b"), flips=flips)
    found = serve(volume)
    assert found.label.dtype == np.uint8
    assert found.label.shape == shape
    assert np.array_equal(found.label, label)


def test_an_anisotropic_volume_comes_back_from_another_spacing():
    label = np.zeros((30, 28, 8), np.uint8)
    label[8:22, 8:20, 2:6] = 1
    volume = Volume(picture(label), np.diag([1.0, 1, 4, 1]))
    serve = VolumePredictor(torch_threshold(), plan(spacing=(2.0, 2.0, 2.0)), ("background", "a", "b"))
    found = serve(volume, probabilities=True)
    overlap = 2 * ((found.label == 1) & (label == 1)).sum() / ((found.label == 1).sum() + (label == 1).sum())
    assert overlap > 0.9
    assert found.probabilities.shape == (3, 30, 28, 8)
    assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)


def test_voxels_outside_the_content_are_background():
    label = labelled((12, 12, 12))
    image = picture(label)
    image[:, :, :3] = 0
    serve = VolumePredictor(torch_threshold(), plan(), ("background", "a", "b"))
    found = serve(Volume(image, np.eye(4)), probabilities=True)
    label[:, :, :3] = 0
    assert np.array_equal(found.label, label)
    assert (found.probabilities[0][:, :, :3] == 1).all()


def test_one_logit_and_slices():
    label = (labelled((14, 12, 6)) > 0).astype(np.uint8)
    volume = Volume(picture(label), np.diag([1.0, 1, 5, 1]))
    model = Threshold(spatial_dims=2, out_channels=1)
    cut = plan((1, 8, 8), (5.0, 1.0, 1.0), slice_axis=0)
    serve = VolumePredictor(TorchNetwork(model), cut, ("background", "lesion"), flips=True)
    found = serve(volume, probabilities=True)
    assert np.array_equal(found.label, label)
    assert found.probabilities.shape[0] == 2


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 channels of 2D images, the plan gives 1 of 3D"):
        VolumePredictor(torch_threshold(spatial_dims=2), plan(), ("background", "a", "b"))
    with pytest.raises(ValueError, match="3 output channels tells 3 classes"):
        VolumePredictor(torch_threshold(), plan(), ("background", "a"))
    serve = VolumePredictor(torch_threshold(), plan(), ("background", "a", "b"))
    with pytest.raises(ValueError, match="two has 2 channels, the network takes 1"):
        serve(Volume(np.ones((4, 4, 4, 2)), np.eye(4), path="two"))
    serve.network.model.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the network answered with NaN"):
        serve(Volume(np.ones((4, 4, 4)), np.eye(4)))


def test_windows_lie_and_weigh_as_nnunets():
    with np.load(ROOT / "tests" / "golden" / "nnunet" / "volumes.npz") as file:
        golden = {key.removeprefix("windows_"): file[key] for key in file.files if key.startswith("windows_")}
    for k in range(3):
        for step in (0.5, 0.75):
            for axis in range(3):
                size, window = int(golden[f"image_{k}"][axis]), int(golden[f"tile_{k}"][axis])
                assert window_starts(size, window, 1 - step) == golden[f"steps_{k}_{step}_ax{axis}"].tolist()
    assert np.abs(window_weights((48, 40)) - golden["gaussian_48x40"]).max() < 1e-5
    assert window_starts(5, 1) == [0, 1, 2, 3, 4]


def test_windows_of_a_network_without_context_give_what_the_whole_gives():
    torch.manual_seed(0)
    network = torch.nn.Conv3d(2, 3, 1).eval()
    image = torch.randn(2, 17, 9, 26)
    ours = np.concatenate(list(sliding_slabs(image.numpy(), (8, 8, 12), on_arrays(network), batch_size=3)), axis=1)
    assert np.abs(ours - on_arrays(network)(image[None].numpy())[0]).max() < 1e-5


def test_slices_are_handed_out_as_soon_as_no_window_changes_them():
    image = np.random.default_rng(0).normal(size=(1, 40, 9, 12)).astype(np.float32)
    network, seen, depths, told = torch_threshold(), [], [], []

    def noted(x):
        seen.append(len(x))
        return network(x)

    for slab in sliding_slabs(image, (8, 8, 8), noted, progress=lambda *counts: told.append(counts)):
        depths.append((len(seen), slab.shape[1]))
        assert slab.shape == (3, depths[-1][1], 9, 12)
    assert told == [(k + 1, 36) for k in range(36)]
    # Windows start every four slices, four side by side: the first four slices are done before the volume is seen.
    assert depths[0] == (4, 4)
    assert depths[-1] == (36, 8)
    assert sum(count for _, count in depths) == 40


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("shape", [(5, 3, 4), (26, 9, 12), (8, 20, 8)])
def test_windows_that_go_together_or_lie_in_padding_give_the_same(shape, batch_size):
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 2, 3, padding=1).eval()
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    one = np.concatenate(list(sliding_slabs(image, (8, 8, 8), on_arrays(network))), axis=1)
    many = np.concatenate(list(sliding_slabs(image, (8, 8, 8), on_arrays(network), batch_size=batch_size)), axis=1)
    assert one.shape == (2, *shape)
    assert np.abs(one - many).max() < 1e-5


@pytest.mark.parametrize("coarse", [None, 0, 1])
@pytest.mark.parametrize("size", [(13, 9, 7), (5, 9, 20), (6, 8, 7), (1, 8, 7)])
def test_slices_come_back_as_the_whole_would(size, coarse):
    logits = np.random.default_rng(0).normal(size=(3, 6, 8, 7)).astype(np.float32)
    box = tuple(slice(0, n) for n in size)
    prepared = Prepared(logits, box, size, Arrangement((0, 1, 2), (False, False, False)), coarse)
    slabs = [logits[:, :1], logits[:, 1:5], logits[:, 5:]]
    back = np.stack([plane.copy() for plane in restored_slices(slabs, prepared)], axis=1)
    whole = resample_image(logits, size, coarse=coarse, order=1)
    assert np.abs(back - whole).max() < 1e-5
    assert np.array_equal(choose_classes(restored_slices(slabs, prepared), size), back.argmax(0))
