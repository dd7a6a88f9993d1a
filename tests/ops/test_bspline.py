from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from golden.figures import assert_close, figures
from kanscan.ops.bspline import bspline_basis, fit_coefficients, kan_linear, knots, reference
from kanscan.ops.bspline import torch as plain

GRIDS = [
    (5, 3, (-1.0, 1.0)),
    (3, 2, (-2.0, 0.5)),
    (1, 0, (0.0, 1.0)),
    (4, 1, (-1.0, 1.0)),
    (9, 5, (-0.3, 0.1)),
]
BACKENDS = ["reference", "torch"]


def inputs(grid_range: tuple[float, float], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    low, high = grid_range
    width = high - low
    return torch.linspace(low - 2 * width, high + 2 * width, 1003, dtype=dtype)


@pytest.mark.parametrize(("size", "order", "span"), GRIDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_basis_is_scipys(size: int, order: int, span: tuple[float, float], backend: str) -> None:
    x = inputs(span)
    t = knots(size, order, span).numpy()
    expected = [
        np.nan_to_num(BSpline.basis_element(t[i : i + order + 2], extrapolate=False)(x.numpy()))
        for i in range(size + order)
    ]
    ours = bspline_basis(x, size, order, span, backend=backend)
    # Order 0 jumps at the knots, where scipy counts the last point in and the half-open interval does not.
    inside = torch.ones_like(x, dtype=torch.bool) if order else ~torch.isin(x, knots(size, order, span))
    assert_close(ours[inside], torch.from_numpy(np.stack(expected, -1))[inside], 1e-13)


@pytest.mark.parametrize(("size", "order", "span"), GRIDS)
def test_closed_form_is_the_recursion(size: int, order: int, span: tuple[float, float]) -> None:
    x = inputs(span) + 0.00123
    low, high = span
    bump = plain._bump(plain._offsets(x, size, order, span), order)
    slope = plain._bump_slope(plain._offsets(x, size, order, span), order) * size / (high - low)
    # The recursion runs on knots rounded to float32, which moves a basis by about its slope times 1e-7.
    assert_close(bump, bspline_basis(x, size, order, span, backend="reference"), 2e-6)
    assert_close(slope, reference.basis_derivative(x, size, order, span), 2e-6 * size**2 / (high - low) ** 2)


@pytest.mark.parametrize(("size", "order", "span"), GRIDS)
def test_derivative_is_the_gradient(size: int, order: int, span: tuple[float, float]) -> None:
    x = (inputs(span) + 0.00123).requires_grad_()
    basis = bspline_basis(x, size, order, span, backend="reference")
    ours = reference.basis_derivative(x.detach(), size, order, span)
    for m in range(basis.shape[-1]):
        if order:
            (expected,) = torch.autograd.grad(basis[:, m].sum(), x, retain_graph=True)
            assert_close(ours[:, m], expected, 1e-9)
        else:
            assert not ours.any()


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 9),
    order=st.integers(0, 6),
    low=st.floats(-3, 2),
    width=st.floats(0.1, 5),
    place=st.floats(0, 0.999),
)
def test_bases_sum_to_one_inside_and_are_local(size: int, order: int, low: float, width: float, place: float) -> None:
    span = (low, low + width)
    x = torch.tensor(
        [low + place * width, low - (order + 1.01) / size * width, low + (size + order + 1.01) / size * width]
    )
    basis = bspline_basis(x.double(), size, order, span)
    assert basis[0].sum().item() == pytest.approx(1, abs=1e-12)
    assert (basis[0] > 1e-12).sum() <= order + 1
    assert basis.min() > -1e-12
    assert basis[1:].abs().max() < 1e-12


@pytest.mark.parametrize(("size", "order", "span"), GRIDS)
def test_float32_basis_is_close_to_float64(size: int, order: int, span: tuple[float, float]) -> None:
    x = inputs(span, torch.float32)
    t = knots(size, order, span)
    apart = ((x.double()[:, None] - t).abs().min(-1).values > 1e-5) if order == 0 else slice(None)
    assert_close(bspline_basis(x, size, order, span)[apart], bspline_basis(x.double(), size, order, span)[apart], 2e-6)


def layer(
    shape: tuple[int, ...], outputs: int, bases: int, scaler: bool = True, dtype: torch.dtype = torch.float64
) -> list[torch.Tensor | None]:
    torch.manual_seed(sum(shape))
    x, base = torch.randn(*shape, dtype=dtype) * 1.5, torch.randn(outputs, shape[-1], dtype=dtype)
    spline = torch.randn(outputs, shape[-1], bases, dtype=dtype)
    scale = torch.randn(outputs, shape[-1], dtype=dtype) if scaler else None
    return [t if t is None else t.requires_grad_() for t in (x, base, spline, scale)]


@pytest.mark.parametrize(("size", "order", "span"), GRIDS)
@pytest.mark.parametrize("scaler", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (63, 7), (2, 3, 5), (0, 4), (1000, 3)])
def test_torch_equals_reference(
    size: int, order: int, span: tuple[float, float], scaler: bool, shape: tuple[int, ...]
) -> None:
    tensors = layer(shape, 3, size + order, scaler)
    leaves = [t for t in tensors if t is not None]
    results = []
    for backend in BACKENDS:
        y = kan_linear(*tensors, grid_size=size, spline_order=order, grid_range=span, backend=backend)
        results.append((y, *torch.autograd.grad((y * torch.cos(y.detach())).sum(), leaves)))
    for expected, ours in zip(*results, strict=True):
        assert_close(ours, expected, 1e-9) if ours.numel() else None
        assert ours.shape == expected.shape


@pytest.mark.parametrize(("size", "order", "span"), [g for g in GRIDS if g[1] > 1])
def test_float32_gradients_of_the_closed_form(size: int, order: int, span: tuple[float, float]) -> None:
    tensors = layer((200, 6), 3, size + order, dtype=torch.float32)
    wide = [t.detach().double().requires_grad_() for t in tensors]
    grid = {"grid_size": size, "spline_order": order, "grid_range": span}
    ours = torch.autograd.grad(kan_linear(*tensors, **grid).sum(), tensors)
    exact = torch.autograd.grad(kan_linear(*wide, **grid, backend="reference").sum(), wide)
    for a, b in zip(ours, exact, strict=True):
        assert (a.double() - b).norm() < 2e-5 * b.norm()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = layer((101, 5), 4, 8)
    leaves = [t for t in tensors if t is not None]

    def run() -> list[torch.Tensor]:
        y = kan_linear(*tensors)
        return [y, *torch.autograd.grad(y.pow(2).sum(), leaves)]

    whole = run()
    monkeypatch.setattr(plain, "BLOCK_NUMBERS", 17 * 5 * 9)
    assert plain._block_rows(5, 8) == 17
    for ours, expected in zip(run(), whole, strict=True):
        assert_close(ours, expected, 1e-10)


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(lambda *t: kan_linear(*t), tuple(layer((6, 3), 2, 8)))


def test_only_the_input_is_kept_for_backward() -> None:
    x, base, spline, scaler = layer((500, 16), 4, 8)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        kan_linear(x, base, spline, scaler)
    ours = {t.untyped_storage().data_ptr() for t in kept}
    assert ours == {t.untyped_storage().data_ptr() for t in (x, base, spline, scaler)}


def test_not_a_number_and_infinity_come_out() -> None:
    x = torch.tensor([[float("nan"), 0.0], [float("inf"), 0.0], [-float("inf"), 0.0]])
    _, base, spline, scaler = layer((1, 2), 2, 8, dtype=torch.float32)
    y = kan_linear(x, base, spline, scaler)
    assert y[0].isnan().all()
    assert not y[1].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_placed_in_float32(dtype: torch.dtype) -> None:
    x, base, spline, scaler = layer((40, 6), 3, 8, dtype=torch.float32)
    with torch.no_grad():
        ours = kan_linear(x.to(dtype), base, spline, scaler)
        expected = kan_linear(x.to(dtype).double(), base.double(), spline.double(), scaler.double())
    assert_close(ours, expected, 1e-4)


def test_autocast_forward_and_backward() -> None:
    tensors = layer((40, 6), 3, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = kan_linear(*tensors)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    exact = kan_linear(*tensors)
    assert (y.float() - exact).norm() < 0.02 * exact.norm()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in tensors)


def test_non_contiguous_input() -> None:
    tall = torch.randn(6, 9, dtype=torch.float64).t()
    _, base, spline, scaler = layer((1, 6), 2, 8)
    assert_close(kan_linear(tall, base, spline, scaler), kan_linear(tall.contiguous(), base, spline, scaler), 1e-12)


@pytest.mark.parametrize("name", ["kanlinear_default_7x5", "kanlinear_g3k2_5x3"])
def test_fit_recovers_the_released_coefficients(name: str) -> None:
    golden = figures("u_kan", name)
    size, order, span = (5, 3, (-1.0, 1.0)) if name.endswith("7x5") else (3, 2, (-2.0, 2.0))
    points = knots(size, order, span)[order : size + order + 1]
    ours = fit_coefficients(points, golden["c2c_y"], grid_size=size, spline_order=order, grid_range=span)
    assert_close(ours.permute(2, 1, 0), golden["c2c_coeff"], 1e-6)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"grid_size": 0}, "grid_size"),
        ({"spline_order": -1}, "spline_order"),
        ({"grid_range": (1.0, 1.0)}, "grid_range"),
        ({"backend": "cuda"}, "backend"),
    ],
)
def test_wrong_options_are_named(options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        bspline_basis(torch.zeros(3), **options)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="expected"):
        kan_linear(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(4, 3, 7))


def test_far_outside_only_silu_remains() -> None:
    x, base, spline, scaler = layer((4, 2), 3, 8)
    far = torch.full_like(x, 50.0)
    assert_close(kan_linear(far, base, spline, scaler), torch.nn.functional.silu(far) @ base.t(), 1e-9)
