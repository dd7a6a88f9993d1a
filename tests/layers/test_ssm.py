from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from golden.checks_residual import check_layer, renamed
from golden.figures import assert_close, figures
from kanscan.layers.ssm import (
    MAMBA_RELEASED_NAMES,
    SS2D,
    BidirectionalMamba,
    MambaBlock,
    MambaCore,
    SelectiveSSM,
    VSSBlock,
    rank_of,
)
from kanscan.ops.scan_order import CORNERS, CROSS, SPIRAL, order_index

NAMES = renamed(MAMBA_RELEASED_NAMES)


@pytest.mark.parametrize(("name", "width"), [("mamba_d8_B2_L17", 8), ("mamba_d32_B1_L64", 32)])
def test_released_mamba(name: str, width: int) -> None:
    check_layer(MambaBlock(width), figures("lkm_unet", name), NAMES)


def test_released_bidirectional_mamba() -> None:
    check_layer(BidirectionalMamba(8), figures("lkm_unet", "bim_d8_B2_L15"), NAMES)


def test_released_names_and_shapes() -> None:
    shapes = {NAMES(name): tuple(p.shape) for name, p in MambaBlock(24).named_parameters()}
    assert shapes == {
        "A_log": (48, 16),
        "D": (48,),
        "in_proj.weight": (96, 24),
        "conv1d.weight": (48, 1, 4),
        "conv1d.bias": (48,),
        "x_proj.weight": (2 + 32, 48),
        "dt_proj.weight": (48, 2),
        "dt_proj.bias": (48,),
        "out_proj.weight": (24, 48),
    }


def test_core_against_its_formulas() -> None:
    """Projection, causal convolution with zero history, SiLU, S6 step by step, gate."""
    torch.manual_seed(0)
    core = MambaCore(4, d_state=3).double()
    tokens = torch.randn(1, 7, 4, dtype=torch.float64)
    inner = tokens[0] @ core.in_proj.weight.t()
    x, z = inner[:, :8], inner[:, 8:]
    taps, bias = core.conv1d.weight[:, 0], core.conv1d.bias
    past = torch.cat([torch.zeros(3, 8, dtype=torch.float64), x])
    x = F.silu(torch.stack([(past[t : t + 4] * taps.t()).sum(0) + bias for t in range(7)]))
    h, rows = torch.zeros(8, 3, dtype=torch.float64), []
    for t in range(7):
        projected = core.ssm.x_proj_weight @ x[t]
        low, B, C = projected[:1], projected[1:4], projected[4:]
        delta = F.softplus(core.ssm.dt_proj_weight @ low + core.ssm.dt_proj_bias)
        h = torch.exp(delta[:, None] * -torch.exp(core.ssm.A_log)) * h + delta[:, None] * B * x[t][:, None]
        rows.append((h @ C + core.ssm.D * x[t]) * F.silu(z[t]))
    torch.testing.assert_close(core(tokens)[0], torch.stack(rows))


def test_a_token_sees_no_later_one() -> None:
    torch.manual_seed(0)
    block, both = MambaBlock(6).double(), BidirectionalMamba(6).double()
    x = torch.randn(1, 12, 6, dtype=torch.float64)
    changed = x.clone()
    changed[:, 8, 0] += 1
    assert torch.equal(block(x)[:, :8], block(changed)[:, :8])
    assert not torch.equal(block(x)[:, 8:], block(changed)[:, 8:])
    assert (both(x)[:, :8] - both(changed)[:, :8]).abs().max() > 1e-6


def test_initialization() -> None:
    torch.manual_seed(0)
    ssm = SelectiveSSM(256, d_state=8, num_directions=3)
    assert ssm.dt_rank == 8
    step = F.softplus(ssm.dt_proj_bias)
    assert step.min() >= 1e-4 * 0.999 and step.max() <= 0.1 * 1.001
    torch.testing.assert_close(-torch.exp(ssm.A_log), -torch.arange(1.0, 9.0).expand(768, 8))
    assert ssm.D.eq(1).all()
    assert ssm.dt_proj_weight.abs().max() <= 8**-0.5
    assert ssm.x_proj_weight.abs().max() <= 256**-0.5


def test_directions_have_parameters_of_their_own() -> None:
    torch.manual_seed(0)
    joint = SelectiveSSM(4, d_state=2, num_directions=3).double()
    x = torch.randn(2, 3, 4, 10, dtype=torch.float64)
    y = joint(x)
    for k in range(3):
        single = SelectiveSSM(4, d_state=2).double()
        with torch.no_grad():
            single.x_proj_weight.copy_(joint.x_proj_weight[k])
            single.dt_proj_weight.copy_(joint.dt_proj_weight[k])
            single.dt_proj_bias.copy_(joint.dt_proj_bias[k])
            single.A_log.copy_(joint.A_log.view(3, 4, 2)[k])
            single.D.copy_(joint.D.view(3, 4)[k])
        torch.testing.assert_close(single(x[:, k]), y[:, k])


def test_discretizations_differ() -> None:
    torch.manual_seed(0)
    euler, zoh = MambaBlock(8), MambaBlock(8, discretization="zoh")
    zoh.load_state_dict(euler.state_dict())
    x = torch.randn(1, 20, 8)
    assert not torch.allclose(euler(x), zoh(x), atol=1e-5)


def test_separate_projections_are_an_option() -> None:
    torch.manual_seed(0)
    layer = BidirectionalMamba(6, projection="separate")
    shared = BidirectionalMamba(6)
    assert sum(p.numel() for p in layer.parameters()) - sum(p.numel() for p in shared.parameters()) == 12 * 6
    with torch.no_grad():
        layer.backward_proj.weight.copy_(layer.out_proj.weight)
    shared.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("backward_proj")})
    x = torch.randn(2, 9, 6)
    torch.testing.assert_close(layer(x), shared(x))


@pytest.mark.parametrize("orders", [CROSS, CORNERS, SPIRAL, ("windows_2x2", "lattice_3x2", "column")])
def test_2d_scan_against_one_sequence_at_a_time(orders: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    layer = SS2D(4, d_state=3, orders=orders).double()
    x = torch.randn(2, 5, 4, 4, dtype=torch.float64)
    inner = x @ layer.in_proj.weight.t()
    features, gate = inner[..., :8], inner[..., 8:]
    conv = F.conv2d(features.permute(0, 3, 1, 2), layer.conv2d.weight, layer.conv2d.bias, padding=1, groups=8)
    features = F.silu(conv).flatten(2)
    total = torch.zeros(2, 8, 20, dtype=torch.float64)
    for k, name in enumerate(orders):
        index = order_index(name, (5, 4))
        scanned = layer.ssm(torch.stack([features[:, :, index]] * len(orders), dim=1))[:, k]
        total[:, :, index] += scanned
    merged = total.transpose(1, 2).reshape(2, 5, 4, 8)
    expected = (layer.out_norm(merged) * F.silu(gate)) @ layer.out_proj.weight.t()
    torch.testing.assert_close(layer(x), expected)


def test_reweighted_merge_starts_as_the_sum() -> None:
    torch.manual_seed(0)
    plain, weighted = SS2D(4), SS2D(4, merge="reweight")
    weighted.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(1, 6, 6, 4)
    torch.testing.assert_close(weighted(x), plain(x))
    weighted(x).sum().backward()
    assert weighted.direction_weights.weight.grad.abs().max() > 0


def test_state_space_block_is_residual() -> None:
    block = VSSBlock(4)
    torch.nn.init.zeros_(block.ss2d.out_proj.weight)
    x = torch.randn(1, 5, 7, 4)
    assert torch.equal(block(x), x)


def test_scan_runs_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    ssm = SelectiveSSM(8)
    x = torch.randn(1, 8, 30).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = ssm(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, ssm(x.float()).bfloat16())


def test_multiply_adds_of_the_recurrence() -> None:
    assert SelectiveSSM(8, d_state=16).scan_macs(torch.zeros(2, 8, 10)) == 2 * 8 * 10 * 66


def test_rank() -> None:
    assert [rank_of("auto", width) for width in (1, 16, 17, 96)] == [1, 1, 2, 6]
    assert rank_of("auto", 40) == math.ceil(40 / 16)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: rank_of("half", 8), "dt_rank"),
        (lambda: rank_of(0, 8), "dt_rank"),
        (lambda: SelectiveSSM(8, discretization="exact"), "discretization"),
        (lambda: BidirectionalMamba(8, projection="both"), "projection"),
        (lambda: SS2D(8, merge="mean"), "merge"),
        (lambda: SS2D(8, d_conv=4), "d_conv"),
        (lambda: SS2D(8, orders=()), "orders"),
        (lambda: SS2D(8, orders=("diagonal",)), "scan order"),
    ],
)
def test_illegal_options_are_named(build, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        build()


@pytest.mark.parametrize("discretization", ["euler", "zoh"])
@pytest.mark.parametrize("parts", [(1,) * 17, (5, 12), (16, 1), (2, 15)])
def test_parts_of_a_sequence_give_the_whole(parts: tuple[int, ...], discretization: str) -> None:
    torch.manual_seed(0)
    block = MambaBlock(6, d_state=3, discretization=discretization)
    tokens = torch.randn(2, 17, 6)
    state, mixed = None, []
    for part in tokens.split(parts, dim=1):
        y, state = block.step(part, state)
        mixed.append(y)
    assert state.inputs.shape == (2, 12, 3)
    assert state.scan.shape == (2, 12, 3)
    assert_close(torch.cat(mixed, 1), block(tokens), 1e-5)


def test_gradients_flow_back_through_the_states() -> None:
    torch.manual_seed(0)
    block = MambaBlock(4, d_state=2).double()
    tokens = torch.randn(1, 9, 4, dtype=torch.float64, requires_grad=True)
    first, state = block.step(tokens[:, :4])
    rest, _ = block.step(tokens[:, 4:], state)
    (ours,) = torch.autograd.grad(torch.cat([first, rest], 1).square().sum(), tokens)
    (whole,) = torch.autograd.grad(block(tokens).square().sum(), tokens)
    assert_close(ours, whole, 1e-10)
