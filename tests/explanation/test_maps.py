from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from kanscan import create_model
from kanscan.drawing.planes import planes
from kanscan.explanation.activation import (
    activation_map,
    default_layer,
    grad_cam,
    last_kan_block,
    layer_maps,
    plausibility,
    randomized,
)
from kanscan.explanation.receptive_field import receptive_field
from kanscan.explanation.scan_attention import mean_distance, scan_attention, scan_layers
from kanscan.layers.ssm import SS2D
from kanscan.models import MODELS
from kanscan.models.ukan import UKAN


class Field(nn.Module):
    """A network whose receptive field is known: 5 x 5."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_receptive_field_of_two_convolutions_is_five_wide() -> None:
    torch.manual_seed(0)
    field = receptive_field(Field(), torch.randn(3, 1, 16, 16).split(2))
    assert field.num_images == 3
    assert field.field.max() == 1
    rows, columns = torch.nonzero(field.field, as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (6, 10)
    assert (int(columns.min()), int(columns.max())) == (6, 10)
    assert field.area(1.0) == 25 / 256
    with pytest.raises(ValueError, match="no images"):
        receptive_field(Field(), [])
    with pytest.raises(ValueError, match="one size"):
        receptive_field(Field(), [torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 9, 8)])


def test_receptive_field_in_three_dimensions() -> None:
    torch.manual_seed(0)
    field = receptive_field(nn.Conv3d(1, 1, 3, padding=1), [torch.randn(1, 1, 8, 8, 8)])
    assert int((field.field > 0).sum()) == 27


def test_activation_maps_have_the_size_of_the_image_and_see_it() -> None:
    torch.manual_seed(0)
    model = UKAN.tiny().eval()
    x = torch.randn(2, 3, 64, 96)
    assert last_kan_block(model) == "decoder_blocks.1"
    for maps in (activation_map(model, x), activation_map(model, x, "encoder.0"), grad_cam(model, x, 1)):
        assert maps.shape == (2, 64, 96)
        assert float(maps.min()) >= 0
        assert float(maps.max()) <= 1
    assert not torch.equal(activation_map(model, x)[0], activation_map(model, x)[1])
    with pytest.raises(ValueError, match="no layer 'nonsense'"):
        activation_map(model, x, "nonsense")
    with pytest.raises(ValueError, match="no class 2"):
        grad_cam(model, x, 2)


def test_grad_cam_finds_the_channel_that_raises_the_class() -> None:
    model = nn.Sequential(nn.Identity(), nn.Conv2d(2, 1, 1, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -1.0])[None, :, None, None])
    x = torch.zeros(1, 2, 8, 8)
    x[0, 0, 2:4, 2:4] = 1
    x[0, 1, 6:8, 6:8] = 1
    cam = grad_cam(model, x, 1, "0")[0]
    assert torch.equal(cam > 0.5, x[0, 0] > 0)
    assert torch.equal(grad_cam(model, x, 0, "0")[0] > 0.5, x[0, 1] > 0)


def test_plausibility_takes_the_best_threshold() -> None:
    label = torch.zeros(4, 4, dtype=torch.bool)
    label[:2] = True
    attention = label * 0.6 + 0.05
    assert plausibility(attention, label)[0] == 1.0
    assert math.isnan(plausibility(attention, torch.zeros_like(label))[0])


def test_the_randomized_control_is_another_network_of_the_same_kind() -> None:
    model = UKAN.tiny().eval()
    state = torch.random.get_rng_state()
    control = randomized(model, UKAN.tiny)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not control.training
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), control.parameters(), strict=True))


class Scanned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scan = SS2D(4, orders=("raster", "column", "raster_reversed", "column_reversed"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scan(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_a_pixel_receives_only_from_what_the_direction_has_passed() -> None:
    torch.manual_seed(0)
    (attention,) = scan_attention(Scanned().eval(), torch.randn(1, 4, 5, 7), (0.5, 0.5))
    row, column = attention.query
    assert (row, column) == (2, 3)
    assert float(attention.maps.sum()) == pytest.approx(1, abs=1e-5)
    position = torch.arange(35).view(5, 7)
    here = int(position[row, column])
    forward, down, backward, up = (m > 0 for m in attention.maps)
    assert torch.equal(forward, position <= here)
    assert torch.equal(backward, position >= here)
    by_column = position.view(5, 7).new_tensor([[c * 5 + r for c in range(7)] for r in range(5)])
    assert torch.equal(down, by_column <= int(by_column[row, column]))
    assert torch.equal(up, by_column >= int(by_column[row, column]))


def test_networks_without_scans_are_named() -> None:
    with pytest.raises(ValueError, match="no scans"):
        scan_attention(Field(), torch.zeros(1, 1, 8, 8), (0.5, 0.5))
    with pytest.raises(ValueError, match="it has scan"):
        scan_attention(Scanned(), torch.zeros(1, 4, 8, 8), (0.5, 0.5), "other")


@pytest.mark.slow
def test_real_networks_can_be_explained() -> None:
    torch.manual_seed(0)
    model = create_model("km_unet").eval()
    assert scan_layers(model)
    (attention,) = scan_attention(model, torch.randn(1, 3, 64, 64), (0.3, 0.7))
    assert float(attention.maps.sum()) == pytest.approx(1, abs=1e-4)


def layered(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name].tiny(**options).eval()


@pytest.mark.parametrize(
    ("options", "size", "period"),
    [({}, (24, 40), None), ({"partition": "lattice", "pooling": "schedule", "indivisible": "global"}, (40, 60), 5)],
)
def test_a_pixel_receives_from_its_window_and_its_patch_from_all_patches(
    options: dict[str, object], size: tuple[int, int], period: int | None
) -> None:
    model = layered("lkm_unet", **options, windows=5)
    found = scan_attention(model, torch.rand(1, 3, *size), (0.4, 0.6), "encoder.mixers.0.pixel.ssm")
    (pixel,) = found
    assert (pixel.layer, pixel.orders, pixel.map_size) == ("encoder.mixers.0.pixel", ("forward", "backward"), size)
    assert float(pixel.maps.sum()) == pytest.approx(1, abs=1e-5)
    row, column = pixel.query
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    if period is None:
        inside = (rows // 5 == row // 5) & (columns // 5 == column // 5)
    else:
        inside = (rows % period == row % period) & (columns % period == column % period)
    before = (rows < row) | ((rows == row) & (columns <= column))
    forward, backward = (m > 0 for m in pixel.maps)
    assert torch.equal(forward, inside & before)
    assert torch.equal(backward, inside & (~before | ((rows == row) & (columns == column))))
    (patch,) = scan_attention(model, torch.rand(1, 3, *size), (0.4, 0.6), "encoder.mixers.0.patch")
    # Every pixel belongs to a patch, and every patch is seen by one of the directions.
    assert bool((patch.maps.sum(0) > 0).all())


def test_a_voxel_receives_from_all_before_it() -> None:
    model = layered("u_mamba", spatial_dims=3)
    (found,) = scan_attention(model, torch.rand(1, 3, 16, 24, 16), (0.3, 0.7))
    assert (found.layer, found.map_size, found.query) == ("bottleneck", (4, 6, 4), (2, 1, 2))
    flat = found.maps.flatten()
    here = (2 * 6 + 1) * 4 + 2
    assert bool((flat[: here + 1] > 0).all())
    assert float(flat[here + 1 :].max()) == 0
    assert 0 < found.distance() < 1


def test_channels_that_are_tokens_are_no_places() -> None:
    model = layered("u_mamba", mamba_at="encoder", image_size=32, channel_tokens=True, channels=(8, 96, 128))
    with pytest.raises(ValueError, match="channels as tokens"):
        scan_attention(model, torch.rand(1, 3, 32, 32), (0.5, 0.5), "encoder.mixers.2")


def test_mean_distance() -> None:
    shares = torch.zeros(3, 5)
    shares[1, 2] = shares[1, 4] = 0.5
    assert mean_distance(shares, (1, 2)) == pytest.approx(0.5 * 2 / math.hypot(2, 4))


@pytest.mark.parametrize(
    ("name", "layer"), [("km_unet", "decoder_blocks.1"), ("vm_unet", "decoder.stages.2"), ("unet", "encoder.2")]
)
def test_the_layer_shown_where_none_is_named(name: str, layer: str) -> None:
    model, x = layered(name), torch.rand(1, 3, 64, 96)
    assert default_layer(model, x) == layer
    assert grad_cam(model, x, 1).shape == (1, 64, 96)


def test_maps_of_volumes_and_of_channels_last() -> None:
    model, x = layered("dynunet", spatial_dims=3), torch.rand(1, 3, 16, 32, 24)
    assert activation_map(model, x).shape == (1, 16, 32, 24)
    assert grad_cam(model, x, 1).shape == (1, 16, 32, 24)
    model, x = layered("vm_unet"), torch.rand(1, 3, 64, 96)
    assert layer_maps(model, x, "decoder.stages.2").shape == (1, 16, 8, 12)
    with pytest.raises(ValueError, match="no map of the image"):
        layer_maps(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 2, 2), "1")


def test_planes_of_a_volume_are_upright_and_meet_in_a_voxel() -> None:
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    shown = planes(volume.shape, (3.0, 1.0, 2.0), (1, 2, 0))
    assert [(p.title, p.aspect) for p in shown] == [("axial 1", 0.5), ("coronal 2", 1.5), ("sagittal 0", 3.0)]
    for plane in shown:
        assert plane.cut(volume).shape == plane.size
        assert plane.cut(volume)[plane.point((1, 2, 0))] == volume[1, 2, 0]
    # Axial: the front (last row of H) is on top, the left (last column of W) at the left.
    assert shown[0].cut(volume)[0, 0] == volume[1, 2, 3]
    (whole,) = planes((5, 6))
    assert whole.cut(volume) is volume
    assert whole.point((1, 2)) == (1, 2)
    (piece,) = planes((3, 4), (1.0, 2.0))
    assert (piece.title, piece.aspect, piece.point((2, 3))) == ("", 0.5, (0, 0))
    assert piece.cut(volume[0])[0, 0] == volume[0, 2, 3]
