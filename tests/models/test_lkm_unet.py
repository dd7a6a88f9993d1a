from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from golden.checks_residual import check_keys, check_layer, check_network, count, filled, renamed
from golden.figures import figures
from kanscan.complexity import complexity
from kanscan.layers.ssm import MAMBA_RELEASED_NAMES, BidirectionalMamba
from kanscan.models.lkm_unet import ForwardMamba, LKMUNet, PaM, PiM

RELEASE = LKMUNet.presets["release"]
NAMES = renamed([(r"^ssm\.", ""), *MAMBA_RELEASED_NAMES])
NETWORKS = ["2d_4stage_base8_48x64_fallback", "2d_5stage_base8_80x80", "3d_4stage_base8_20x56x48"]


@pytest.mark.parametrize("name", NETWORKS)
def test_released_values(name: str) -> None:
    check_network("lkm_unet", figures("lkm_unet", f"lkmunet_{name}"), **RELEASE)


def test_released_values_in_float32() -> None:
    check_network("lkm_unet", figures("lkm_unet", f"lkmunet_{NETWORKS[1]}"), dtype=torch.float32, **RELEASE)


def test_released_values_of_the_printed_layout() -> None:
    check_network("lkm_unet", figures("lkm_unet", "lkmunet_2d_7stage_base4_320x320"), **RELEASE)


@pytest.mark.parametrize(
    ("name", "window"),
    [
        ("2d_d8_p1_20x30", (5, 5)),
        ("2d_d8_p2_20x20", (10, 10)),
        ("2d_d8_p2_12x14", (10, 10)),
        ("3d_d8_p1_10x14x12", (5, 7, 6)),
        ("3d_d8_p1_6x8x6", (5, 7, 6)),
    ],
)
def test_released_pixel_layer(name: str, window: tuple[int, ...]) -> None:
    layer = PiM(BidirectionalMamba(8), window, partition="lattice", indivisible="global")
    check_layer(layer, figures("lkm_unet", f"pim_{name}"), NAMES)


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("2d_d8_p1_7x5", 1),
        ("2d_d8_p2_12x10", 2),
        ("2d_d8_p4_10x12", 4),
        ("2d_d8_p4_16x24", 4),
        ("3d_d8_p2_6x8x4", 2),
        ("3d_d8_p4_6x8x4", 4),
    ],
)
def test_released_patch_layer(name: str, pool: int) -> None:
    layer = PaM(BidirectionalMamba(8), (pool,) * int(name[0]), indivisible="global")
    check_layer(layer, figures("lkm_unet", f"pam_{name}"), NAMES)


@pytest.mark.parametrize(("dims", "parameters"), [(2, 80_886_452), (3, 63_782_246)])
@pytest.mark.parametrize("preset", ["paper", "release"])
def test_printed_parameters(preset: str, dims: int, parameters: int) -> None:
    assert count("lkm_unet", preset=preset, in_channels=1, out_channels=14, spatial_dims=dims) == parameters


def test_parameters_of_other_layouts() -> None:
    assert count("lkm_unet", in_channels=3, out_channels=1) == 80_867_398
    widths = (32, 64, 128, 256, 512, 512, 512, 512)
    assert count("lkm_unet", in_channels=3, out_channels=2, channels=widths) == 109_422_638


@pytest.mark.parametrize("dims", [2, 3])
def test_released_keys_are_complete(reference: Path, dims: int) -> None:
    check_keys("lkm_unet", reference, f"LKMUNet_{dims}d", in_channels=1, out_channels=14, spatial_dims=dims)


def test_windows_and_pools_are_the_printed_ones() -> None:
    with torch.device("meta"):
        plane, volume = LKMUNet(1, 14), LKMUNet(1, 14, spatial_dims=3)
        released = LKMUNet(1, 14, **RELEASE)
    assert [w[0] for w in plane.windows] == [40, 20, 20, 10, 10, 5, 5]
    assert volume.windows == ((20, 28, 24),) * 2 + ((10, 14, 12),) * 2 + ((5, 7, 6),) * 2
    assert [m.patch.patch for m in plane.encoder.mixers] == [m.pixel.window for m in plane.encoder.mixers]
    assert [m.patch.patch[0] for m in released.encoder.mixers] == [8, 4, 4, 2, 2, 1, 1]


def literal_bidirectional(layer: BidirectionalMamba, tokens: torch.Tensor) -> torch.Tensor:
    """BiM for one sequence (1, L, C), each direction from its own core."""
    normed = layer.norm(tokens)
    back = layer.backward_core(normed[:, list(range(tokens.shape[1]))[::-1]])
    return layer.out_proj(layer.forward_core(normed) + back[:, list(range(tokens.shape[1]))[::-1]])


def windows_of(size: tuple[int, int], window: tuple[int, int], partition: str) -> list[list[tuple[int, int]]]:
    """Pixels of every sequence, spelled out."""
    if partition == "tiles":
        window = (-(-size[0] // window[0]), -(-size[1] // window[1]))
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, j in np.ndindex(*size):
        if partition == "lattice":
            key = (i % window[0], j % window[1])
        else:
            key = (i // min(window[0], size[0]), j // min(window[1], size[1]))
        groups.setdefault(key, []).append((i, j))
    return list(groups.values())


@pytest.mark.parametrize("partition", ["windows", "tiles", "lattice"])
@pytest.mark.parametrize(("size", "window"), [((8, 12), (4, 3)), ((7, 5), (4, 3)), ((3, 4), (5, 5))])
def test_pixel_layer_against_its_definition(partition: str, size: tuple[int, int], window: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = PiM(BidirectionalMamba(4), window, partition=partition).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    expected = x.clone()
    for pixels in windows_of(size, window, partition):
        rows, columns = (torch.tensor(axis) for axis in zip(*pixels, strict=True))
        for b in range(2):
            tokens = x[b, :, rows, columns].t().unsqueeze(0)
            expected[b, :, rows, columns] += literal_bidirectional(layer.ssm, tokens)[0].t()
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("size", "patch"), [((8, 12), (4, 3)), ((7, 5), (4, 3)), ((3, 4), (5, 5))])
def test_patch_layer_against_its_definition(size: tuple[int, int], patch: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = PaM(BidirectionalMamba(4), patch).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    groups = windows_of(size, patch, "windows")
    means = torch.stack([torch.stack([x[:, :, i, j] for i, j in g], dim=-1).mean(-1) for g in groups], dim=1)
    mixed = torch.cat([literal_bidirectional(layer.ssm, means[b : b + 1]) for b in range(2)])
    expected = x.clone()
    for index, pixels in enumerate(groups):
        for i, j in pixels:
            expected[:, :, i, j] += mixed[:, index]
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_text_and_code_partition_differently() -> None:
    torch.manual_seed(0)
    text, code = LKMUNet.tiny(windows=4).eval(), LKMUNet.tiny(windows=4, **RELEASE).eval()
    code.load_state_dict(text.state_dict())
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert (text(x) - code(x)).norm() > 0.01 * text(x).norm()


def test_released_code_becomes_global_where_windows_do_not_divide() -> None:
    golden = figures("lkm_unet", "lkmunet_2d_4stage_base8_48x64_fallback")
    model = filled("lkm_unet", golden, **RELEASE)
    x = torch.randn(1, 2, 48, 64, dtype=torch.float64)
    lengths: list[int] = []
    for mixer in model.encoder.mixers:
        mixer.pixel.ssm.register_forward_hook(lambda _, args, __: lengths.append(args[0].shape[1]))
    with torch.no_grad():
        model(x)
    assert lengths == [48 * 64, 24 * 32, 12 * 16, 6 * 8]


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"pixel_ssm": False}, ["patch"]),
        ({"patch_ssm": False}, ["pixel"]),
        ({"pixel_ssm": False, "patch_ssm": False}, []),
        ({}, ["pixel", "patch"]),
    ],
)
def test_ablations_of_table_3(options: dict, kinds: list[str]) -> None:
    model = LKMUNet.tiny(**options)
    assert all([name for name, _ in mixer.named_children()] == kinds for mixer in model.encoder.mixers)
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)


def test_one_direction_has_half_the_scans() -> None:
    model = LKMUNet.tiny(bidirectional=False)
    layers = [layer.ssm for mixer in model.encoder.mixers for layer in mixer]
    assert all(isinstance(layer, ForwardMamba) for layer in layers)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in LKMUNet.tiny().parameters())


@pytest.mark.parametrize("kernel", [1, 5, 7])
def test_kernel_sizes_are_free(kernel: int) -> None:
    kernels = (3, kernel, (kernel, 3))
    model = LKMUNet.tiny(kernel_sizes=kernels)
    assert model.plan.kernel_sizes == ((3, 3), (kernel, kernel), (kernel, 3))
    assert model.encoder.stages[1][0].conv1.conv.kernel_size == (kernel, kernel)
    assert model.eval()(torch.zeros(1, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize(("residual", "with_input"), [("both", (1, 1)), ("patch", (0, 1)), ("none", (0, 0))])
def test_residuals(residual: str, with_input: tuple[int, int]) -> None:
    model = LKMUNet.tiny(residual=residual)
    mixer = model.encoder.mixers[0]
    x = torch.randn(1, 8, 10, 10)
    for layer, present in zip((mixer.pixel, mixer.patch), with_input, strict=True):
        torch.nn.init.zeros_(layer.ssm.out_proj.weight)
        assert torch.equal(layer(x), x * present)


def test_printed_stem_halves_the_map_once_more() -> None:
    model = LKMUNet(3, 2, channels=(24, 32), stem="depthwise", stem_stride=2)
    assert model.stride == (4, 4)
    assert model.encoder.stem.groups == 3
    assert model.eval()(torch.zeros(1, 3, 32, 40)).shape == (1, 2, 32, 40)


def test_first_blocks_start_as_their_shortcut() -> None:
    torch.manual_seed(0)
    block = LKMUNet.tiny().encoder.stages[0][1]
    x = torch.randn(1, 8, 16, 16)
    torch.testing.assert_close(block(x), torch.nn.functional.leaky_relu(x, 0.01))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"partition": "rows"}, "partition"),
        ({"pooling": "max"}, "pooling"),
        ({"indivisible": "crop"}, "indivisible"),
        ({"residual": "all"}, "residual"),
        ({"stem": "patch"}, "stem"),
        ({"kernel_sizes": (3, 4, 3)}, "kernel_sizes"),
        ({"strides": (2, 2, 2)}, "strides"),
        ({"windows": (4, 4)}, "windows"),
        ({"discretization": "exact"}, "discretization"),
        ({"spatial_dims": 4}, "spatial_dims"),
        ({"stem": "depthwise", "in_channels": 3}, "multiple"),
    ],
)
def test_illegal_options_are_named(options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        LKMUNet.tiny(**options)


def test_a_single_pixel_cannot_be_normalized() -> None:
    with pytest.raises(ValueError, match="4 x 8"):
        LKMUNet.tiny()(torch.zeros(1, 3, 4, 4))


def test_macs_of_the_released_network() -> None:
    """Convolutions, projections and causal convolutions add up to the counted 53.222 G with all heads."""
    with torch.device("meta"):
        model = LKMUNet(1, 14, **RELEASE)
    counted = complexity(model, (1, 320, 320))
    heads = [head for head in model.decoder.heads[:-1]]
    unused = sum(head.weight.numel() * (320 // 2 ** (len(heads) - level)) ** 2 for level, head in enumerate(heads))
    assert (counted.macs - counted.scan_macs + unused) / 1e9 == pytest.approx(53.222, rel=1e-4)
