"""The selective scan in Triton against the definition in float64: values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kanscan.ops.scan_order import CROSS, order_index
from kanscan.ops.selective_scan import selective_scan, triton
from kanscan.ops.selective_scan.directions import directional_scan
from ops import scan_cases
from ops.interpreter import DEVICE, compiled, interpreted, needs_triton, relative  # noqa: F401

pytestmark = needs_triton

#: (batch, channels, length, states, groups)
SIZES = [(1, 1, 1, 1, 1), (2, 4, 63, 3, 2), (1, 3, 140, 1, 1), (1, 2, 20, 64, 1), (0, 4, 5, 2, 1), (2, 4, 0, 2, 1)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, blocks and shares also at sizes that an interpreter gets through."""
    monkeypatch.setattr(triton, "TILE", 128)
    monkeypatch.setattr(triton, "BACKWARD_TILE", 64)
    monkeypatch.setattr(triton, "PROGRAMS", 4)


def arguments(batch: int, channels: int, length: int, states: int, groups: int = 1) -> dict[str, Tensor]:
    return scan_cases.arguments(batch, channels, length, states, groups, DEVICE)


def both_ways(given: dict[str, Tensor], backend: str, softplus: bool = True, **options: object) -> dict[str, Tensor]:
    y, last = selective_scan(**given, delta_softplus=softplus, return_last_state=True, backend=backend, **options)
    loss = sum((t * torch.cos(torch.arange(t.numel()).double()).view_as(t).to(t)).sum() for t in (y, last))
    grads = torch.autograd.grad(loss, list(given.values()), materialize_grads=True)
    return {"y": y, "last": last, **{f"grad_{key}": g for key, g in zip(given, grads, strict=True)}}


def exact(given: dict[str, Tensor], softplus: bool = True, **options: object) -> dict[str, Tensor]:
    wide = {key: t.detach().cpu().double().requires_grad_() for key, t in given.items()}
    return both_ways(wide, "reference", softplus, **options)


def compare(ours: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    for key, tensor in expected.items():
        assert ours[key].shape == tensor.shape
        assert relative(ours[key], tensor) < tolerance, key


@pytest.mark.parametrize("discretization", ["euler", "zoh"])
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients(size: tuple[int, ...], discretization: str) -> None:
    given = arguments(*size)
    compare(
        both_ways(given, "triton", discretization=discretization), exact(given, True, discretization=discretization)
    )


@pytest.mark.parametrize("discretization", ["euler", "zoh"])
def test_without_anything_that_can_be_left_out(discretization: str) -> None:
    given = {key: t for key, t in arguments(1, 3, 40, 2).items() if key in ("u", "delta", "A", "B", "C")}
    given["delta"] = given["delta"].detach().exp().requires_grad_()
    compare(
        both_ways(given, "triton", False, discretization=discretization),
        exact(given, False, discretization=discretization),
    )


def test_hold_near_and_at_rate_zero() -> None:
    given = arguments(1, 3, 20, 2)
    with torch.no_grad():
        given["A"].copy_(torch.tensor([[0.0, -1e-4], [-0.05, -0.5], [-1e4, 0.3]]))
    compare(both_ways(given, "triton", discretization="zoh"), exact(given, True, discretization="zoh"))


def test_layouts() -> None:
    given = arguments(1, 5, 40, 2)
    expected = exact(given)
    turned = {
        key: t.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() if t.ndim == 3 else t
        for key, t in given.items()
    }
    ours = both_ways(turned, "triton")
    compare(ours, expected)
    assert ours["y"].stride()[1:] == turned["u"].stride()[1:]
    strided = {key: t.detach().repeat_interleave(2, -1)[..., ::2].requires_grad_() for key, t in given.items()}
    compare(both_ways(strided, "triton"), expected)


def test_one_matrix_may_be_shared_by_all_groups() -> None:
    given = {**arguments(1, 4, 20, 2, 2), "B": torch.randn(1, 2, 20, device=DEVICE, requires_grad=True)}
    compare(both_ways(given, "triton"), exact(given))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    given = {key: t.detach().to(dtype).requires_grad_() for key, t in arguments(1, 4, 40, 2).items()}
    ours, expected = both_ways(given, "triton"), exact(given)
    assert ours["y"].dtype == dtype
    assert ours["last"].dtype == torch.float32
    compare(ours, expected, 1e-2)
    assert relative(ours["last"], expected["last"]) < 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["u", "delta", "B", "C"])
def test_not_a_number_and_infinity_come_out(name: str, value: float) -> None:
    given = {key: t.detach() for key, t in arguments(1, 3, 40, 3).items()}
    given[name][0, 1, 30] = value
    y = selective_scan(**given, delta_softplus=True, backend="triton")[0]
    if name == "delta" and value < 0:
        # A step of length zero: nothing happens.
        assert y.isfinite().all()
    else:
        assert not y[1 if name in ("u", "delta") else slice(None), 30].isfinite().any()
    assert y[:, :30].isfinite().all()
    if name in ("u", "delta"):
        assert y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("shared", [True, False])
def test_directions_read_their_pixels_in_place(shared: bool) -> None:
    size, channels, states = (4, 6), 3, 2
    order = torch.stack([order_index(name, size) for name in ("raster", "column_reversed")])
    generator = torch.Generator().manual_seed(3)
    shapes = {"u": (1, 1 if shared else 2, channels, 24), "delta": (1, 2, channels, 24), "A": (2 * channels, states)}
    shapes |= {"B": (1, 2, states, 24), "C": (1, 2, states, 24), "D": (2 * channels,), "delta_bias": (2 * channels,)}
    given = {key: torch.randn(*shape, generator=generator) for key, shape in shapes.items()}
    given["A"] = -given["A"].exp()

    def run(given: dict[str, Tensor], y: Tensor) -> dict[str, Tensor]:
        loss = (y * torch.cos(torch.arange(y.numel()).double()).view_as(y).to(y)).sum()
        return {"y": y, **dict(zip(given, torch.autograd.grad(loss, list(given.values())), strict=True))}

    wide = {key: t.double().requires_grad_() for key, t in given.items()}
    expected = run(wide, directional_scan(**wide, order=order, delta_softplus=True, backend="torch"))
    ours = {key: t.to(DEVICE).requires_grad_() for key, t in given.items()}
    *tensors, bias = (ours[key] for key in ("u", "delta", "A", "B", "C", "D", "delta_bias"))
    y, _ = triton.scan_groups(*tensors, None, bias, None, order.to(DEVICE), delta_softplus=True)
    compare(run(ours, y), expected)
    compare(
        run(ours, directional_scan(**ours, order=order.to(DEVICE), delta_softplus=True, backend="triton")), expected
    )
    added = directional_scan(**ours, order=order.to(DEVICE), delta_softplus=True, add_directions=True, backend="triton")
    assert relative(added, expected["y"].sum(1, keepdim=True)) < 1e-5


def test_directions_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four directions, a size that no tile divides: one launch reads all of them through their orders.
    size, channels, states = (3, 5), 5, 3
    order = torch.stack([order_index(name, size) for name in CROSS]).to(DEVICE)
    u, delta, B = (torch.randn(1, 4, n, 15).to(DEVICE) for n in (channels, channels, states))
    A = -torch.rand(4 * channels, states).to(DEVICE)
    seen: list[tuple[int, ...]] = []
    forward = triton._SCAN.forward
    monkeypatch.setattr(triton._SCAN, "forward", lambda *a: (seen.append(tuple(a[9].shape)), forward(*a))[1])
    y = directional_scan(u, delta, A, B, B, order, delta_softplus=True, backend="triton")
    assert seen == [(4, 15)]
    wide = [t.cpu().double() for t in (u, delta, A, B, B)]
    exact = directional_scan(*wide, order.cpu(), delta_softplus=True, backend="reference")
    assert relative(y, exact) < 1e-5


def test_only_what_is_needed() -> None:
    given = {key: t.detach() for key, t in arguments(1, 3, 20, 2).items()}
    y = selective_scan(**given, backend="triton")
    assert not y.requires_grad
    given["B"].requires_grad_()
    (grad,) = torch.autograd.grad(selective_scan(**given, backend="triton").sum(), given["B"])
    assert grad.isfinite().all()


@pytest.mark.parametrize("ordered", [True, False])
def test_opcheck(ordered: bool) -> None:
    given = arguments(1, 4, 16, 2, 2)
    order = torch.stack([torch.arange(16), torch.arange(16).flip(0)]).int().to(DEVICE) if ordered else None
    given |= {key: given[key].detach().view(1, 2, 2, 16).requires_grad_() for key in ("u", "delta", "z")}
    op = torch.ops.kanscan.selective_scan_triton.default
    torch.library.opcheck(op, (*given.values(), order, True, False, 16, True))
    plain = [t.detach() for t in given.values()]
    y, last, kept = op(*plain, order, True, False, 16, True)
    backward = torch.ops.kanscan.selective_scan_triton_backward.default
    setting = (order, kept, True, False, 16, True, [*[True] * 9, False])
    torch.library.opcheck(backward, (torch.randn_like(y), torch.randn_like(last), *plain, *setting))


def test_what_the_kernel_cannot_do() -> None:
    given = arguments(1, 4, 9, 2)
    with pytest.raises(ValueError, match="float64"):
        selective_scan(**{key: t.double() for key, t in given.items()}, backend="triton")
    with pytest.raises(ValueError, match="constant"):
        selective_scan(**{**given, "B": torch.randn(4, 2, device=DEVICE)}, backend="triton")


@pytest.mark.slow
def test_the_kernels_compile_for_a_device() -> None:
    code = """
from kanscan.ops.selective_scan.kernels.triton import scan_backward, scan_forward

sizes = ("samples", "groups", "width", "length", "states", "span")
for hold, absent in ((False, ("order", "D", "z", "delta_bias", "initial_state", "kept")), (True, ())):
    tile = dict(softplus=True, hold=hold, BLOCK_E=2, BLOCK_N=16, STEPS=8, RUNS=4)
    print("ex2.approx" in build(scan_forward, absent, integers=sizes, **tile))
    absent = [name for name in absent if name != "kept"]
    print("ex2.approx" in build(scan_backward, absent, integers=sizes, **tile))
"""
    assert compiled(code).split() == ["True"] * 4
