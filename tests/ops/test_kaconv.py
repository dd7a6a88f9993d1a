from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from golden.figures import assert_close, figures
from kanscan.ops.bspline import Grid
from kanscan.ops.kaconv import check_conv, check_linear, ka_conv, ka_linear
from kanscan.ops.kaconv import torch as plain
from kanscan.ops.kaconv.setting import Setting

GRID = Grid(5, 3, (-1.0, 1.0))
GRIDS = [GRID, (3, 2, (-2.0, 0.5)), (4, 1, (-1.0, 1.0)), (2, 0, (0.0, 1.0))]
#: inputs, outputs, size, then what ka_conv takes.
WINDOWS = [
    (5, 7, (8, 9), {"kernel": (3, 3), "padding": 1}),
    (5, 9, (8, 9), {"kernel": (3, 3), "padding": 1}),
    (4, 12, (8, 8), {"kernel": (3, 3), "padding": 1, "stride": 2}),
    (6, 6, (7, 7), {"kernel": (3, 3), "padding": 1, "groups": 6}),
    (6, 12, (7, 5), {"kernel": (3, 3), "padding": 1, "groups": 6, "stride": 2}),
    (6, 24, (7, 5), {"kernel": (3, 3), "padding": 1, "groups": 2}),
    (6, 4, (6, 9), {"kernel": (3, 2), "padding": (2, 0), "stride": (1, 2), "dilation": (2, 3), "groups": 2}),
    (3, 10, (6, 9), {"kernel": (2, 4), "padding": (0, 3), "stride": (3, 2), "dilation": (1, 2)}),
    (8, 1, (6, 5), {"kernel": (1, 1)}),
    (8, 11, (1, 1), {"kernel": (1, 1)}),
    (2, 3, (1, 2), {"kernel": (3, 3), "padding": 1}),
]


def scalar_bases(x: float, grid: tuple[int, int, tuple[float, float]]) -> list[float]:
    """Cox-de Boor in plain numbers, on knots rounded to float32 as the package has them."""
    size, order, (low, high) = grid
    step = torch.tensor((high - low) / size, dtype=torch.float32)
    t = [float(torch.tensor(float(i)) * step + low) for i in range(-order, size + order + 1)]

    def b(i: int, k: int) -> float:
        if k == 0:
            return float(t[i] <= x < t[i + 1])
        rise, fall = (x - t[i]) / (t[i + k] - t[i]), (t[i + k + 1] - x) / (t[i + k + 1] - t[i + 1])
        return rise * b(i, k - 1) + fall * b(i + 1, k - 1)

    return [b(i, order) for i in range(size + order)]


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def literal_linear(x: Tensor, u: Tensor, v: Tensor, weight: Tensor | None) -> Tensor:
    """One row of inputs through Eq. 7 and 8, as loops."""
    sums = [0.0] * v.shape[1]
    for j, value in enumerate(x.tolist()):
        share = 1.0 if weight is None else float(weight[j])
        for k, basis in enumerate(scalar_bases(value, GRID)):
            sums[k] += share * basis
    rows = []
    for i in range(u.shape[0]):
        spline = sum(float(v[i, k]) * total for k, total in enumerate(sums))
        rows.append(spline + sum(float(u[i, j]) * silu(float(value)) for j, value in enumerate(x)))
    return torch.tensor(rows, dtype=torch.float64)


def draw(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equations_7_and_8(weighted: bool, backend: str) -> None:
    x, u, v, weight = draw((4, 6), (3, 6), (3, 8), (6,))
    chosen = weight if weighted else None
    y = ka_linear(x, u, v, chosen, backend=backend)
    for row, expected in zip(y, x, strict=True):
        assert_close(row, literal_linear(expected, u, v, chosen), 1e-12)


@pytest.mark.parametrize("contributes", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equations_9_to_11(contributes: bool, weighted: bool, backend: str) -> None:
    """Every window is a row of a SaKAN layer; padding is a zero in it, or is not in it."""
    x, u, v, weight = draw((1, 2, 4, 3), (3, 2, 3, 3), (3, 8), (2, 3, 3))
    y = ka_conv(
        x, u, v, weight if weighted else None, stride=2, padding=1, padding_contributes=contributes, backend=backend
    )
    assert y.shape == (1, 3, 2, 2)
    for row in range(2):
        for column in range(2):
            taps, keep = [], []
            for c in range(2):
                for dy in range(3):
                    for dx in range(3):
                        r, s = 2 * row + dy - 1, 2 * column + dx - 1
                        inside = 0 <= r < 4 and 0 <= s < 3
                        taps.append(float(x[0, c, r, s]) if inside else 0.0)
                        keep.append(inside or contributes)
            window = torch.tensor(taps, dtype=torch.float64)[keep]
            shares = weight.flatten()[keep] if weighted else None
            expected = literal_linear(window, u.flatten(1)[:, keep], v, shares)
            assert_close(y[0, :, row, column], expected, 1e-12)


def both(dtype: torch.dtype, tensors: list[Tensor | None], **options: object) -> list[list[Tensor]]:
    """Values and gradients of the factorized form, and of the reference in float64."""
    results = []
    for backend, kind in (("torch", dtype), ("reference", torch.float64)):
        leaves = [None if t is None else t.to(kind).requires_grad_() for t in tensors]
        y = ka_conv(*leaves, backend=backend, **options)
        wanted = [t for t in leaves if t is not None]
        loss = (y * torch.cos(torch.arange(y.numel(), dtype=kind).view_as(y))).sum()
        results.append([y.detach(), *torch.autograd.grad(loss, wanted)])
    return results


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w[0]}-{w[1]}-{w[2]}")
@pytest.mark.parametrize("contributes", [True, False])
@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_torch_equals_unfolded(
    window: tuple,
    contributes: bool,
    gradient: bool,
    weighted: bool,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plain, "BLOCK_INPUTS", 40)
    inputs, outputs, size, options = window
    kernel, groups = options["kernel"], options.get("groups", 1)
    x, u, v, weight = draw(
        (3, inputs, *size), (outputs, inputs // groups, *kernel), (outputs, 8), (inputs, *kernel), dtype=dtype
    )
    rest = {key: value for key, value in options.items() if key != "kernel"}
    rest |= {"padding_contributes": contributes, "spline_gradient": gradient}
    ours, expected = both(dtype, [x, u, v, weight if weighted else None], **rest)
    for one, other in zip(ours, expected, strict=True):
        exact = dtype == torch.float64
        assert_close(one, other, (1e-11 if exact else 3e-6) * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_other_grids(grid: tuple, weighted: bool, dtype: torch.dtype) -> None:
    size, order, _ = grid
    x, u, v, weight = draw((2, 4, 5, 6), (3, 4, 3, 3), (3, size + order), (4, 3, 3), dtype=dtype)
    names = dict(zip(("grid_size", "spline_order", "grid_range"), grid, strict=True))
    ours, expected = both(dtype, [x, u, v, weight if weighted else None], padding=1, spline_gradient=order > 1, **names)
    for one, other in zip(ours, expected, strict=True):
        assert_close(one, other, (1e-11 if dtype == torch.float64 else 1e-5) * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("shape", [(1, 1), (63, 7), (2, 3, 5), (0, 4), (1000, 3)])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("gradient", [True, False])
def test_linear_equals_reference(shape: tuple[int, ...], weighted: bool, gradient: bool) -> None:
    tensors = draw(shape, (9, shape[-1]), (9, 8), (shape[-1],))
    results = []
    for backend in ("torch", "reference"):
        leaves = [t.clone().requires_grad_() for t in tensors[: 3 + weighted]]
        y = ka_linear(*leaves, spline_gradient=gradient, backend=backend)
        results.append([y, *torch.autograd.grad((y * torch.cos(y.detach())).sum(), leaves)])
    for ours, expected in zip(*results, strict=True):
        assert ours.shape == expected.shape
        if ours.numel():
            assert_close(ours.detach(), expected.detach(), 1e-10)


def test_linear_is_the_convolution_of_one_pixel() -> None:
    x, u, v, weight = draw((3, 4), (5, 4), (5, 8), (4,))
    one = ka_conv(x[:, :, None, None], u[:, :, None, None], v, weight[:, None, None])
    assert_close(one[:, :, 0, 0], ka_linear(x, u, v, weight), 1e-12)


def test_derived_values_and_gradients_of_the_layer() -> None:
    golden = figures("u_kan", "derived_ka_9x6")
    for variant in ("gradfree", "withgrad", "lam_gradfree"):
        tensors = {"x": golden["x"], "u": golden["u"], "v": golden["v"]}
        if "lam" in variant:
            tensors["lam"] = golden["lam"]
        leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
        y = ka_linear(*leaves.values(), spline_gradient=variant == "withgrad")
        assert_close(y.detach(), golden[f"y_{variant}"], 1e-6)
        (y * golden["r"]).sum().backward()
        for name, leaf in leaves.items():
            assert_close(leaf.grad, golden[f"g{name}_{variant}"], 1e-5)


@pytest.mark.parametrize("name", ["3x3", "s2", "dw", "1x1"])
def test_derived_values_and_gradients_of_the_convolution(name: str) -> None:
    golden = figures("u_kan", f"derived_kaonv_{name}")
    meta = golden.meta
    options = {key: meta[key] for key in ("stride", "padding", "groups")}
    leaves = [golden[key].clone().requires_grad_() for key in "xuv"]
    weight = leaves[1].view(meta["cout"], -1, meta["kernel"], meta["kernel"])
    y = ka_conv(leaves[0], weight, leaves[2], **options)
    assert_close(y.detach(), golden["y_pad_before"], 1e-6 * float(golden["y_pad_before"].abs().max()))
    (y * golden["r"]).sum().backward()
    for leaf, key in zip(leaves, ("gx_gradfree", "gu", "gv"), strict=True):
        assert_close(leaf.grad, golden[key], 1e-6 * max(1.0, float(golden[key].abs().max())))
    after = ka_conv(leaves[0], weight, leaves[2], padding_contributes=False, **options).detach()
    assert_close(after, golden["y_pad_after"], 1e-6 * float(golden["y_pad_after"].abs().max()))


def test_gradient_check() -> None:
    x, u, v, weight = (t.requires_grad_() for t in draw((1, 2, 4, 3), (3, 2, 3, 3), (3, 8), (2, 3, 3)))
    # Away from the knots: the third derivative of a cubic spline jumps there.
    for groups_weight in (None, weight):
        leaves = (x, u, v) if groups_weight is None else (x, u, v, weight)
        assert torch.autograd.gradcheck(
            lambda *t: ka_conv(*t, padding=1, spline_gradient=True), leaves, eps=1e-7, atol=1e-5, fast_mode=True
        )


def test_a_gradient_free_spline_passes_the_base_on() -> None:
    x, u, v = draw((2, 3, 5, 5), (4, 3, 3, 3), (4, 8))
    x.requires_grad_()
    (grad,) = torch.autograd.grad(ka_conv(x, u, v, padding=1).sum(), x)
    (base,) = torch.autograd.grad(torch.nn.functional.conv2d(torch.nn.functional.silu(x), u, padding=1).sum(), x)
    assert torch.equal(grad, base)


def test_half_precision_keeps_its_sums() -> None:
    x, u, v = draw((1, 64, 16, 16), (64, 64, 3, 3), (64, 8), dtype=torch.float32)
    u, v = u / 24, v / 24
    exact = ka_conv(x, u, v, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = ka_conv(x, u, v, padding=1)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"spline_weight": torch.zeros(4, 7)}, "spline_weight"),
        ({"input_weight": torch.zeros(3, 3, 2)}, "input_weight"),
        ({"x": torch.zeros(1, 4, 5, 5)}, "channels"),
        ({"x": torch.zeros(1, 3, 2, 5)}, "fit"),
        ({"stride": (0, 1)}, "stride"),
        ({"groups": 0}, "groups"),
        ({"grid": (0, 3, (-1.0, 1.0))}, "grid_size"),
    ],
)
def test_wrong_arguments_are_named(change: dict, word: str) -> None:
    facts = {"stride": (1, 1), "groups": 1, "grid": GRID}
    tensors = {"x": torch.zeros(1, 3, 5, 5), "base_weight": torch.zeros(4, 3, 3, 3)}
    tensors |= {"spline_weight": torch.zeros(4, 8), "input_weight": None}
    facts |= {key: value for key, value in change.items() if key in facts}
    tensors |= {key: value for key, value in change.items() if key in tensors}
    setting = Setting((3, 3), facts["stride"], (0, 0), (1, 1), facts["groups"], True, Grid(*facts["grid"]))
    with pytest.raises(ValueError, match=word):
        check_conv(*tensors.values(), setting)


def test_wrong_arguments_of_the_linear_layer_are_named() -> None:
    with pytest.raises(ValueError, match="inputs"):
        check_linear(torch.zeros(2, 3), torch.zeros(4, 5), torch.zeros(4, 8), None, GRID)
    with pytest.raises(ValueError, match="spline_weight"):
        check_linear(torch.zeros(2, 5), torch.zeros(4, 5), torch.zeros(4, 9), None, GRID)
    with pytest.raises(ValueError, match="input_weight"):
        check_linear(torch.zeros(2, 5), torch.zeros(4, 5), torch.zeros(4, 8), torch.zeros(4), GRID)
    with pytest.raises(ValueError, match="backend 'cuda'"):
        ka_linear(torch.zeros(2, 5), torch.zeros(4, 5), torch.zeros(4, 8), backend="cuda")
