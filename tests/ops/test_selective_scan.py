from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from golden.figures import Figures, assert_close
from golden.recipe_vmkla_unet import image
from kanscan.ops.selective_scan import DISCRETIZATIONS, check_arguments, selective_scan
from kanscan.ops.selective_scan import torch as chunked

GOLDEN = sorted(p.stem for p in (Path(__file__).parents[1] / "golden" / "selective_scan").glob("*.npz"))
ARGUMENTS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
BACKENDS = ("torch", "reference")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", GOLDEN)
def test_released_values_and_gradients(name: str, backend: str) -> None:
    golden = Figures(Path(__file__).parents[1] / "golden" / "selective_scan" / f"{name}.npz")
    check_golden(golden, backend, golden.meta["delta_softplus"], golden.meta["cotangent_seed"])


def check_golden(golden: Figures, backend: str, delta_softplus: bool, seed: int) -> None:
    given = {key: golden[key].requires_grad_() for key in ARGUMENTS if key in golden}
    y, last = selective_scan(**given, delta_softplus=delta_softplus, return_last_state=True, backend=backend)
    (y * image(tuple(y.shape), seed).double()).sum().backward()
    assert_close(y.detach(), golden["y"], 1e-6 * float(golden["y"].abs().max()))
    assert_close(last.detach(), golden["last_state"], 1e-6 * float(golden["last_state"].abs().max()))
    for key, tensor in given.items():
        expected = golden[f"grad_{key}"]
        assert tensor.grad is not None
        assert_close(tensor.grad, expected, 1e-6 * max(float(expected.abs().max()), 1.0))


def test_every_full_vector(reference: Path) -> None:
    for path in sorted((reference / "golden" / "vmkla_unet").glob("scan_*.npz")):
        golden = Figures(path)
        check_golden(golden, "torch", golden.meta["delta_softplus"], golden.meta["seed"] * 100 + 8)
    golden = Figures(reference / "golden" / "km_unet" / "selective_scan_s3000.npz")
    given = {key: golden[key] for key in ARGUMENTS if key in golden}
    for backend in BACKENDS:
        assert_close(selective_scan(**given, delta_softplus=True, backend=backend), golden["y"], 1e-6)


def arguments(
    batch: int = 2, channels: int = 4, length: int = 9, states: int = 3, groups: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Float64 arguments with a matrix per group where `groups` is given."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    matrix = (batch, states, length) if groups is None else (batch, groups, states, length)
    return {
        "u": draw(batch, channels, length),
        "delta": draw(batch, channels, length),
        "A": -torch.exp(draw(channels, states)),
        "B": draw(*matrix),
        "C": draw(*matrix),
        "D": draw(channels),
        "z": draw(batch, channels, length),
        "delta_bias": draw(channels),
        "initial_state": draw(batch, channels, states),
    }


def literal(given: dict[str, Tensor], discretization: str) -> tuple[Tensor, Tensor]:
    """The recurrence number by number, from the formula in the docstring."""
    a = {key: value.numpy() for key, value in given.items()}
    batch, channels, length = a["u"].shape
    states = a["A"].shape[1]
    y, h = np.zeros((batch, channels, length)), a["initial_state"].copy()
    groups = a["B"].shape[1] if a["B"].ndim == 4 else 1
    for b in range(batch):
        for e in range(channels):
            g = e // (channels // groups)
            for t in range(length):
                step = math.log1p(math.exp(a["delta"][b, e, t] + a["delta_bias"][e]))
                total = 0.0
                for n in range(states):
                    B, C = (m[b, g, n, t] if m.ndim == 4 else m[b, n, t] for m in (a["B"], a["C"]))
                    rate = a["A"][e, n]
                    gain = step if discretization == "euler" else (math.exp(step * rate) - 1) / rate
                    h[b, e, n] = math.exp(step * rate) * h[b, e, n] + gain * B * a["u"][b, e, t]
                    total += C * h[b, e, n]
                z = a["z"][b, e, t]
                y[b, e, t] = (total + a["D"][e] * a["u"][b, e, t]) * z / (1 + math.exp(-z))
    return torch.from_numpy(y), torch.from_numpy(h)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("groups", [None, 1, 2, 4])
def test_against_a_literal_loop(groups: int | None, discretization: str, backend: str) -> None:
    given = arguments(groups=groups)
    y, last = selective_scan(
        **given, delta_softplus=True, discretization=discretization, return_last_state=True, backend=backend
    )
    expected, state = literal(given, discretization)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, state, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("groups", [None, 2])
def test_gradients_by_differences(groups: int | None, discretization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Chunks of three steps, so that the state crosses their borders.
    monkeypatch.setattr(chunked, "SHORTEST_CHUNK", 3)
    monkeypatch.setattr(chunked, "NUMBERS_PER_CHUNK", 1)
    given = {key: t.requires_grad_() for key, t in arguments(1, 4, 8, 2, groups).items()}

    def scan(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan(
            **dict(zip(given, tensors, strict=True)),
            delta_softplus=True,
            discretization=discretization,
            return_last_state=True,
            backend="torch",
        )

    assert torch.autograd.gradcheck(scan, tuple(given.values()))


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("case", [(1, 6, 300, 4, 2), (3, 5, 64, 1, None), (2, 8, 1, 16, 4), (2, 3, 0, 2, None)])
def test_gradients_agree_with_the_reference(case: tuple, discretization: str) -> None:
    results = []
    for backend in BACKENDS:
        given = {key: t.requires_grad_() for key, t in arguments(*case).items()}
        y, last = selective_scan(
            **given, delta_softplus=True, discretization=discretization, return_last_state=True, backend=backend
        )
        (torch.sin(y).sum() + (last * last).sum()).backward()
        results.append({"y": y.detach(), "last": last.detach(), **{k: t.grad for k, t in given.items()}})
    for key, expected in results[1].items():
        ours = results[0][key]
        expected = torch.zeros_like(ours) if expected is None else expected
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("smallest", [0.0, float("inf")])
@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_both_ways_to_divide_by_the_rate(smallest: float, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero-order hold in float32: dividing directly is as near to float64 as the series around zero."""
    monkeypatch.setattr(chunked, "SMALLEST_RATE", smallest)
    given = arguments(1, 8, 200, 4)
    given["A"] = given["A"] * scale
    gradients = []
    for dtype, backend in ((torch.float32, "torch"), (torch.float64, "reference")):
        leaves = {key: t.to(dtype).requires_grad_() for key, t in given.items()}
        selective_scan(**leaves, delta_softplus=True, discretization="zoh", backend=backend).square().sum().backward()
        gradients.append({key: t.grad for key, t in leaves.items()})
    for key, exact in gradients[1].items():
        assert (gradients[0][key].double() - exact).norm() <= 1e-5 * exact.norm(), key


def test_a_constant_matrix_has_gradients_too() -> None:
    results = []
    for backend in BACKENDS:
        given = arguments(2, 4, 40, 3)
        given |= {"B": given["A"] + 1, "C": given["A"] * 2}
        given = {key: t.detach().requires_grad_() for key, t in given.items()}
        selective_scan(**given, delta_softplus=True, backend=backend).square().sum().backward()
        results.append([t.grad for t in given.values()])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_a_rate_of_zero_is_the_limit() -> None:
    given = arguments()
    given["A"][:, 0] = 0
    for backend in BACKENDS:
        tensors = {key: t.clone().requires_grad_() for key, t in given.items()}
        y = selective_scan(**tensors, delta_softplus=True, discretization="zoh", backend=backend)
        y.sum().backward()
        assert all(t.grad is not None and t.grad.isfinite().all() for t in tensors.values())
        near = dict(given, A=torch.where(given["A"] == 0, -1e-9, given["A"]))
        close = selective_scan(**near, delta_softplus=True, discretization="zoh", backend=backend)
        torch.testing.assert_close(y.detach(), close, rtol=1e-7, atol=1e-7)


def test_discretizations_differ_and_meet_for_small_steps() -> None:
    given = arguments() | {"initial_state": torch.zeros(2, 4, 3, dtype=torch.float64)}
    del given["D"]

    def ratio(scale: float) -> float:
        small = given | {"delta": given["delta"].abs() * scale, "delta_bias": given["delta_bias"] * 0}
        euler, zoh = (selective_scan(**small, discretization=name) for name in DISCRETIZATIONS)
        return float((euler - zoh).norm() / zoh.norm())

    assert ratio(1.0) > 0.05
    assert ratio(1e-4) < 1e-3


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("length", [1, 2, 7, 32, 45])
def test_the_form_for_graphs_agrees(length: int, discretization: str) -> None:
    given = arguments(length=length, groups=2)
    settings = {"delta_softplus": True, "discretization": discretization}
    expected = selective_scan(**given, **settings, return_last_state=True, backend="reference")
    torch.testing.assert_close(chunked.plain(*given.values(), **settings), expected)


@pytest.mark.parametrize("cut", [1, 17, 32, 63])
def test_a_sequence_can_be_resumed_from_its_state(cut: int) -> None:
    given = arguments(length=64, groups=2)
    whole, last = selective_scan(**given, delta_softplus=True, return_last_state=True)
    along = {key: t for key, t in given.items() if t.shape[-1] == 64}
    first = given | {key: t[..., :cut] for key, t in along.items()}
    y1, middle = selective_scan(**first, delta_softplus=True, return_last_state=True)
    second = given | {key: t[..., cut:] for key, t in along.items()} | {"initial_state": middle}
    y2, end = selective_scan(**second, delta_softplus=True, return_last_state=True)
    torch.testing.assert_close(torch.cat([y1, y2], dim=-1), whole)
    torch.testing.assert_close(end, last)


@pytest.mark.parametrize("numbers", [1, 40, 10**9])
def test_chunks_do_not_change_the_result(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(length=100, groups=2)
    expected = selective_scan(**given, delta_softplus=True, backend="reference")
    monkeypatch.setattr(chunked, "SHORTEST_CHUNK", 1)
    monkeypatch.setattr(chunked, "NUMBERS_PER_CHUNK", numbers)
    monkeypatch.setattr(chunked, "PAIRS_PER_BLOCK", numbers)
    torch.testing.assert_close(selective_scan(**given, delta_softplus=True, backend="torch"), expected)


def saved_numbers(length: int) -> int:
    """Numbers that autograd keeps for backward, arguments not counted."""
    given = {key: t.float() for key, t in arguments(1, 32, length, 16).items()}
    given = {key: t.requires_grad_() for key, t in given.items()}
    own = {t.untyped_storage().data_ptr() for t in given.values()}
    saved: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own:
            saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes() // 4
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = selective_scan(**given, delta_softplus=True, backend="torch")
    total = sum(saved.values())
    y.sum().backward()
    return total


def test_memory_grows_with_the_length_and_not_with_the_states() -> None:
    short, long = saved_numbers(1024), saved_numbers(4096)
    assert long <= 4.2 * short
    # A handful of sequences, far from the 16 states that one would be.
    assert long <= 6 * 32 * 4096


def test_wide_decays_neither_overflow_nor_vanish() -> None:
    given = {key: t.float() for key, t in arguments(length=200).items()}
    given["delta"] = given["delta"] * 40
    y = selective_scan(**given, delta_softplus=True)
    exact = selective_scan(**{k: t.double() for k, t in given.items()}, delta_softplus=True, backend="reference")
    assert y.isfinite().all()
    torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_a_float32_state() -> None:
    given = {key: t.bfloat16() for key, t in arguments(length=50).items()}
    y, last = selective_scan(**given, delta_softplus=True, return_last_state=True)
    assert y.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    wide = selective_scan(**{k: t.float() for k, t in given.items()}, delta_softplus=True)
    assert torch.equal(y, wide.bfloat16())


def test_autocast_does_not_reach_inside() -> None:
    given = {key: t.float() for key, t in arguments(length=50).items()}
    plain = selective_scan(**given, delta_softplus=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(selective_scan(**given, delta_softplus=True), plain)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"u": torch.zeros(2, 4)}, "u must be"),
        ({"A": torch.zeros(5, 3)}, "A must be"),
        ({"B": torch.zeros(2, 3, 8)}, "B must be"),
        ({"C": torch.zeros(2, 3, 3, 9)}, "C must be"),
        ({"D": torch.zeros(3)}, "D must be"),
        ({"z": torch.zeros(2, 4, 8)}, "z must be"),
        ({"initial_state": torch.zeros(2, 4, 2)}, "initial_state must be"),
        ({"discretization": "bilinear"}, "discretization"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change: dict, word: str) -> None:
    # The check itself: in the test run annotated shapes refuse the same calls before it is reached.
    with pytest.raises(ValueError, match=word):
        check_arguments(**{**arguments(), **change})


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="backend"):
        selective_scan(**arguments(), backend="fortran")
