"""The compiled selective scan against the definition in float64."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from kanscan.ops import native
from kanscan.ops.scan_order import order_index
from kanscan.ops.selective_scan import cpu, selective_scan
from kanscan.ops.selective_scan.directions import directional_scan
from ops.scan_cases import arguments

pytestmark = pytest.mark.skipif(native.ABSENCE is not None, reason=f"compiled kernels: {native.ABSENCE}")

#: (batch, channels, length, states, groups)
SIZES = [
    (1, 1, 1, 1, 1),
    (2, 6, 63, 3, 2),
    (1, 17, 1000, 1, 1),
    (1, 20, 131, 16, 1),
    (2, 33, 600, 1, 3),
    (1, 20, 131, 2, 1),
    (2, 40, 70, 9, 2),
    (1, 33, 90, 64, 1),
    (1, 34, 65, 20, 2),
    (0, 4, 5, 2, 1),
    (2, 4, 0, 2, 1),
    (2, 4, 0, 1, 1),
]


def both_ways(given: dict[str, Tensor], backend: str, softplus: bool = True, **options: object) -> dict[str, Tensor]:
    y, last = selective_scan(**given, delta_softplus=softplus, return_last_state=True, backend=backend, **options)
    loss = sum((t * torch.cos(torch.arange(t.numel(), dtype=torch.float64)).view_as(t)).sum() for t in (y, last))
    grads = torch.autograd.grad(loss, list(given.values()))
    return {"y": y, "last": last, **{f"grad_{key}": g for key, g in zip(given, grads, strict=True)}}


def wide(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: t.detach().double().requires_grad_() for key, t in given.items()}


def compare(ours: dict[str, Tensor], exact: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    for key, expected in exact.items():
        assert ours[key].shape == expected.shape
        error = (ours[key].detach().double() - expected.detach()).norm()
        assert error <= tolerance * expected.detach().norm().clamp(min=1e-2), key


@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("isa", "unwritten_is_nan")
def test_values_and_gradients(size: tuple[int, ...], softplus: bool) -> None:
    given = arguments(*size)
    if not softplus:
        # Without the softplus steps must not be negative, or states grow beyond any tolerance.
        given["delta"] = given["delta"].detach().exp().requires_grad_()
        given["delta_bias"] = given["delta_bias"].detach().abs().requires_grad_()
    # The torch form in float64 is itself tested against the loop of the definition, and much faster.
    compare(both_ways(given, "cpu", softplus), both_ways(wide(given), "torch", softplus))


@pytest.mark.usefixtures("isa", "unwritten_is_nan")
def test_one_state_over_a_long_time() -> None:
    # Longer than what a row is walked through at once, with a rest that fills no block.
    given = arguments(1, 3, 16384 + 600, 1)
    compare(both_ways(given, "cpu"), both_ways(wide(given), "torch"))


@pytest.mark.usefixtures("isa", "unwritten_is_nan")
def test_results_too_large_for_caches() -> None:
    # They are stored past the caches; what a channel gets does not depend on how many there are.
    given = {key: t for key, t in arguments(1, 520, 16384, 1).items() if key not in ("z", "initial_state")}
    few = {
        key: (t[:, 500:504] if key in ("u", "delta") else t[500:504]).detach().requires_grad_()
        for key, t in given.items()
        if key not in ("B", "C")
    }
    few |= {key: given[key] for key in ("B", "C")}
    whole, part = (selective_scan(**t, delta_softplus=True, backend="cpu") for t in (given, few))
    assert torch.equal(whole[:, 500:504], part)
    above = torch.rand(1, 520, 16384)
    ours = torch.autograd.grad(whole, (given["u"], given["delta"]), above)
    expected = torch.autograd.grad(part, (few["u"], few["delta"]), above[:, 500:504].contiguous())
    for grad, alone in zip(ours, expected, strict=True):
        assert torch.equal(grad[:, 500:504], alone)


@pytest.mark.parametrize("states", [1, 2, 16])
@pytest.mark.usefixtures("isa", "unwritten_is_nan")
def test_gradient_that_is_the_same_at_all_times(states: int) -> None:
    # The gradient of a sum over time has no memory of its own.
    given = arguments(2, 20, 600, states)
    keys = [key for key in given if key != "z"]
    weights = torch.rand(2, 20, 1)
    for turned in (False, True):
        inputs = {key: given[key] for key in keys}
        if turned:
            inputs["u"] = given["u"].detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
        y = selective_scan(**inputs, delta_softplus=True, backend="cpu")
        ours = torch.autograd.grad(y, list(inputs.values()), weights.expand(2, 20, 600), retain_graph=True)
        expected = torch.autograd.grad(y, list(inputs.values()), weights.expand(2, 20, 600).contiguous())
        for key, grad, same in zip(keys, ours, expected, strict=True):
            assert torch.allclose(grad, same, rtol=1e-5, atol=1e-5), key


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("isa", "unwritten_is_nan")
def test_zero_order_hold(size: tuple[int, ...]) -> None:
    given = arguments(*size)
    compare(both_ways(given, "cpu", discretization="zoh"), both_ways(wide(given), "torch", discretization="zoh"))


@pytest.mark.usefixtures("isa")
def test_zero_order_hold_near_its_limit() -> None:
    # Where step times rate is small, exp(x) - 1 over x must not cancel; at a rate of zero it is the step.
    given = arguments(1, 20, 50, 6)
    rates = torch.tensor([0.0, -1e-8, -1e-4, -1e-2, -0.3, -5.0])
    given["A"] = rates.expand(20, 6).clone().requires_grad_()
    compare(both_ways(given, "cpu", discretization="zoh"), both_ways(wide(given), "reference", discretization="zoh"))


@pytest.mark.usefixtures("isa")
def test_only_what_is_needed() -> None:
    keys = ("u", "delta", "A", "B", "C")
    given = {key: t for key, t in arguments(1, 20, 200, 4).items() if key in keys}
    given["delta"] = given["delta"].detach().exp().requires_grad_()
    compare(both_ways(given, "cpu", False), both_ways(wide(given), "torch", False))
    alone = {key: t.detach() for key, t in given.items()}
    with torch.no_grad():
        y = selective_scan(**alone, backend="cpu")
    assert torch.equal(y, selective_scan(**given, backend="cpu"))
    alone["B"].requires_grad_()
    (grad,) = torch.autograd.grad(selective_scan(**alone, backend="cpu").sum(), alone["B"])
    (expected,) = torch.autograd.grad(selective_scan(**given, backend="cpu").sum(), given["B"])
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("states", [1, 2, 5])
@pytest.mark.usefixtures("isa")
def test_layouts(states: int) -> None:
    given = arguments(2, 40, 70, states)
    expected = both_ways(given, "cpu")
    turned = {
        key: t.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() if t.ndim == 3 else t
        for key, t in given.items()
    }
    ours = both_ways(turned, "cpu")
    for key, tensor in expected.items():
        assert torch.allclose(ours[key], tensor, rtol=1e-5, atol=1e-5), key
    strided = {key: t.detach().repeat_interleave(2, -1)[..., ::2].requires_grad_() for key, t in given.items()}
    assert torch.allclose(both_ways(strided, "cpu")["y"], expected["y"], rtol=1e-6, atol=1e-6)
    assert ours["y"].stride() == turned["u"].stride()


@pytest.mark.parametrize("states", [1, 2, 16])
@pytest.mark.usefixtures("isa")
def test_large_results_are_backed_by_large_pages_and_the_same(states: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(1, 16, 300, states)
    expected = both_ways(given, "cpu")
    monkeypatch.setattr(native, "MAPPED_BYTES", 1)
    for key, tensor in both_ways(given, "cpu").items():
        assert torch.equal(tensor, expected[key]), key


def test_one_matrix_may_be_shared_by_all_groups() -> None:
    given = arguments(2, 12, 30, 3, 2)
    for name in ("B", "C"):
        mixed = {**given, name: torch.randn(2, 3, 30, requires_grad=True)}
        compare(both_ways(mixed, "cpu"), both_ways(wide(mixed), "torch"))


@pytest.mark.parametrize("states", [1, 4])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads(threads: int, states: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(1, 50, 300, states)
    exact = both_ways(wide(given), "torch")
    # Only the division of labor: a pool of this process cannot be taken back.
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert (
        cpu._splits(given["u"].unsqueeze(1), given["u"].unsqueeze(1)) == {1: 1, 2: 4, 5: 4}[threads]
        or native.INSTRUCTION_SET != "avx512"
    )
    compare(both_ways(given, "cpu"), exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    given = {key: t.detach().to(dtype).requires_grad_() for key, t in arguments(2, 6, 63, 4).items()}
    ours = both_ways(given, "cpu")
    assert ours["y"].dtype == dtype
    assert ours["last"].dtype == torch.float32
    compare(ours, both_ways(wide(given), "torch"), 1e-2)
    assert (ours["last"].double() - both_ways(wide(given), "torch")["last"]).abs().max() < 1e-4


def test_autocast_changes_nothing() -> None:
    given = arguments(1, 5, 20, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan(**given, backend="cpu")
    assert torch.equal(y, selective_scan(**given, backend="cpu"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["u", "delta", "B", "C"])
@pytest.mark.parametrize("states", [1, 4])
@pytest.mark.usefixtures("isa")
def test_not_a_number_and_infinity_come_out(name: str, value: float, states: int) -> None:
    given = arguments(1, 3, 140, states)
    with torch.no_grad():
        given[name][0, -1, 70] = value
    results = both_ways(given, "cpu")
    y = results["y"][0]
    if name == "delta" and value < 0:
        # A step of length zero: nothing happens.
        assert y.isfinite().all()
    else:
        assert not y[-1 if name in ("u", "delta") else slice(None), 70].isfinite().any()
    assert y[:, :70].isfinite().all()


@pytest.mark.usefixtures("isa")
def test_long_and_large_steps_stay_in_range() -> None:
    given = arguments(1, 2, 3000, 3)
    with torch.no_grad():
        given["delta"].fill_(60)
        given["A"][0] = -1e4
        given["A"][1] = -1e-6
    compare(both_ways(given, "cpu"), both_ways(wide(given), "torch"), 2e-5)


def test_what_is_kept_is_small() -> None:
    given = arguments(1, 64, 4096, 16)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        selective_scan(**{key: t for key, t in given.items() if key != "z"}, delta_softplus=True, backend="cpu")
    inputs = {t.untyped_storage().data_ptr() for t in given.values()}
    extra = [t for t in kept if t.untyped_storage().data_ptr() not in inputs]
    assert sum(t.numel() for t in extra) <= given["u"].numel() / 8


def test_what_the_kernel_cannot_do_goes_to_torch() -> None:
    given = arguments(1, 4, 9, 2)
    assert selective_scan(**wide(given)).dtype == torch.float64
    with pytest.raises(ValueError, match="float64"):
        selective_scan(**wide(given), backend="cpu")
    with pytest.raises(ValueError, match="constant"):
        selective_scan(**{**given, "B": torch.randn(4, 2)}, backend="cpu")


@pytest.mark.parametrize("discretization", ["euler", "zoh"])
@pytest.mark.parametrize(
    ("shared", "added", "threads", "channels", "states"),
    [
        (True, False, 1, 21, 5),
        (True, True, 3, 21, 5),
        (False, False, 1, 21, 5),
        (False, True, 1, 21, 2),
        (False, True, 3, 21, 1),
        (True, True, 1, 300, 3),  # more channels than are turned together
    ],
)
@pytest.mark.usefixtures("isa", "unwritten_is_nan")
def test_directions_read_their_pixels_in_place(
    shared: bool,
    added: bool,
    threads: int,
    channels: int,
    states: int,
    discretization: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    size = (7, 11)
    order = torch.stack([order_index(name, size) for name in ("raster", "column", "spiral", "raster_reversed")])
    generator = torch.Generator().manual_seed(3)
    shapes = {"u": (2, 1 if shared else 4, channels, 77), "delta": (2, 4, channels, 77), "A": (4 * channels, states)}
    shapes |= {"B": (2, 4, states, 77), "C": (2, 4, states, 77), "D": (4 * channels,), "delta_bias": (4 * channels,)}
    given = {key: torch.randn(*shape, generator=generator).requires_grad_() for key, shape in shapes.items()}
    given["A"] = (-given["A"].detach().exp()).requires_grad_()

    def run(given: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
        setting = {"delta_softplus": True, "discretization": discretization, "add_directions": added}
        y = directional_scan(**given, order=order, backend=backend, **setting)
        assert y.shape == (2, 1 if added else 4, channels, 77)
        loss = (y * torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view_as(y)).sum()
        return {"y": y, **dict(zip(given, torch.autograd.grad(loss, list(given.values())), strict=True))}

    exact = run(wide(given), "torch")
    ours = run(given, "cpu")
    compare(ours, exact)
    compare(run(given, "torch"), exact, 1e-4)
    # As the layers hand it over: the numbers of a position side by side.
    turned = {
        key: t.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_() if t.ndim == 4 else t
        for key, t in given.items()
    }
    found = run(turned, "cpu")
    compare(found, exact)
    if threads == 1:
        assert found["B"].stride() == turned["B"].stride()


@pytest.mark.usefixtures("isa", "unwritten_is_nan")
def test_gradient_of_a_sum_over_directions() -> None:
    # It lies in memory once for all of them, pixels next to each other.
    order = torch.stack([order_index(name, (7, 11)) for name in ("raster", "column", "spiral")])
    generator = torch.Generator().manual_seed(4)
    shapes = {"u": (2, 1, 20, 77), "delta": (2, 3, 20, 77), "A": (60, 4), "B": (2, 3, 4, 77), "C": (2, 3, 4, 77)}
    given = {key: torch.randn(*shape, generator=generator).requires_grad_() for key, shape in shapes.items()}
    given["A"] = (-given["A"].detach().exp()).requires_grad_()
    y = directional_scan(**given, order=order, delta_softplus=True, backend="cpu")
    above = torch.rand(2, 1, 20, 77).expand(2, 3, 20, 77)
    ours = torch.autograd.grad(y, list(given.values()), above, retain_graph=True)
    expected = torch.autograd.grad(y, list(given.values()), above.contiguous())
    for key, grad, same in zip(given, ours, expected, strict=True):
        assert torch.equal(grad, same), key


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("states", [1, 2])
@pytest.mark.usefixtures("isa", "unwritten_is_nan")
def test_groups_may_share_their_input_without_an_order(
    states: int, threads: int, added: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    generator = torch.Generator().manual_seed(5)
    shapes = {"u": (2, 1, 21, 150), "delta": (2, 3, 21, 150), "A": (63, states), "B": (2, 3, states, 150)}
    shapes |= {"C": (2, 3, states, 150), "D": (63,), "delta_bias": (63,)}
    given = {key: torch.randn(*shape, generator=generator).requires_grad_() for key, shape in shapes.items()}
    given["A"] = (-given["A"].detach().exp()).requires_grad_()

    def run(given: dict[str, Tensor], y: Tensor) -> dict[str, Tensor]:
        loss = (y * torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view_as(y)).sum()
        return {"y": y, **dict(zip(given, torch.autograd.grad(loss, list(given.values())), strict=True))}

    exact = wide(given)
    u = exact["u"].expand(-1, 3, -1, -1).flatten(1, 2)
    rest = {key: t for key, t in exact.items() if key not in ("u", "delta")}
    expected = selective_scan(u, exact["delta"].flatten(1, 2), **rest, delta_softplus=True, backend="torch")
    expected = expected.view(2, 3, 21, 150)
    *tensors, bias = given.values()
    ours = cpu.scan_groups(*tensors, None, bias, None, None, delta_softplus=True, add_groups=added)[0]
    compare(run(given, ours), run(exact, expected.sum(1, keepdim=True) if added else expected))


@pytest.mark.parametrize("ordered", [True, False])
def test_opcheck(ordered: bool) -> None:
    given = arguments(2, 6, 20, 3, 2)
    order = torch.stack([torch.arange(20), torch.arange(20).flip(0)]) if ordered else None
    given.pop("z")
    given |= {key: given[key].detach().view(2, 2, 3, 20).requires_grad_() for key in ("u", "delta")}
    torch.library.opcheck(
        torch.ops.kanscan.selective_scan.default, (*given.values(), order, True, ordered, 64, True, ordered)
    )
    plain = {key: t.detach() for key, t in given.items() if key not in ("D", "initial_state")}
    tensors = [*list(plain.values())[:5], None, plain["delta_bias"], None, order]
    setting = (True, ordered, 64, True, ordered)
    y, last, kept = torch.ops.kanscan.selective_scan(*tensors, *setting)
    backward = torch.ops.kanscan.selective_scan_backward.default
    needs = [t is not None for t in tensors[:-1]]
    torch.library.opcheck(
        backward, (torch.randn_like(y), torch.randn_like(last), *tensors, kept, *setting, [*needs, False])
    )


@pytest.mark.export
def test_compiled_and_exported_graphs() -> None:
    # In a process of its own, since the checks of array shapes that run with the tests cannot be traced.
    code = """
import torch
from kanscan.ops.selective_scan import selective_scan

class Scan(torch.nn.Module):
    def forward(self, u, delta):
        return selective_scan(u, delta, A, B, B, D, delta_softplus=True) * 2

torch.manual_seed(0)
u, delta = torch.randn(2, 2, 6, 50)
B, D, A = torch.randn(2, 3, 50), torch.randn(6), -torch.rand(6, 3)
expected = Scan()(u, delta)
compiled = torch.compile(Scan(), fullgraph=True, backend="aot_eager")
torch.testing.assert_close(compiled(u, delta), expected)
u.requires_grad_()
grads = [torch.autograd.grad(scan(u, delta).sum(), u)[0] for scan in (compiled, Scan())]
torch.testing.assert_close(*grads)
u = u.detach()
program = torch.export.export(Scan(), (u, delta))
assert not any("kanscan" in str(node.target) for node in program.graph.nodes)
torch.testing.assert_close(program.module()(u, delta), expected)
print("same")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1800)
    assert run.stdout == "same\n", run.stderr


def test_shapes_without_memory_never_reach_the_kernel():
    """The memory of a training is estimated so, and every compiled kernel would crash on them."""
    u, B = (torch.empty(shape, device="meta", requires_grad=True) for shape in ((2, 8, 100), (2, 4, 100)))
    y = selective_scan(u, u, torch.empty(8, 4, device="meta"), B, B)
    y.sum().backward()
    assert y.is_meta
    assert u.grad.shape == u.shape
