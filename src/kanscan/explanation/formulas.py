"""Formulas for learned functions: a small library of functions fitted to a spline where the data lies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kanscan.explanation.splines import ObservedLayer

#: What a formula must gain in R² for each unit of complexity.
COMPLEXITY_PENALTY = 0.002


@dataclass(frozen=True)
class Shape:
    """A function of the library: how it is computed, written, and how complicated it counts as."""

    name: str
    function: Callable[[Tensor], Tensor]
    text: str
    latex: str
    complexity: int


#: `{u}` stands for the inner line b x + c.
LIBRARY: tuple[Shape, ...] = (
    Shape("constant", torch.zeros_like, "", "", 0),
    Shape("line", lambda u: u, "{u}", "{u}", 1),
    Shape("square", lambda u: u**2, "({u})^2", r"\left({u}\right)^2", 2),
    Shape("cube", lambda u: u**3, "({u})^3", r"\left({u}\right)^3", 3),
    Shape("abs", torch.abs, "|{u}|", r"\left|{u}\right|", 3),
    Shape("exp", lambda u: torch.exp(u.clamp(max=20.0)), "exp({u})", r"\exp\left({u}\right)", 3),
    Shape("tanh", torch.tanh, "tanh({u})", r"\tanh\left({u}\right)", 3),
    Shape("sin", torch.sin, "sin({u})", r"\sin\left({u}\right)", 3),
    Shape("silu", torch.nn.functional.silu, "silu({u})", r"\mathrm{{silu}}\left({u}\right)", 3),
    Shape("bell", lambda u: torch.exp(-(u**2)), "exp(-({u})^2)", r"\exp\left(-\left({u}\right)^2\right)", 4),
)
#: Functions whose inner scale can be moved outside, and to which power; scales are positive.
_POWERS = {"square": 2, "cube": 3, "abs": 1}
#: Functions that a shift and a scale of x cannot leave unchanged: their inner line has to be searched.
_SCALES = torch.logspace(math.log10(0.2), math.log10(6.0), 16, dtype=torch.float64)
_SHIFTS = torch.linspace(-3.0, 3.0, 25, dtype=torch.float64)


@dataclass(frozen=True)
class Formula:
    """y = a f(b x + c) + d, fitted to a learned function.

    Attributes:
        edge: (output, place), see `kanscan.explanation.splines.ObservedLayer`.
        shape: Name in the library.
        a: Outer scale.
        b: Inner scale.
        c: Inner shift.
        d: Outer shift.
        r_squared: Share of the function's variance over the data that the formula explains; 1 is exact.
    """

    edge: tuple[int, int]
    shape: str
    a: float
    b: float
    c: float
    d: float
    r_squared: float

    @property
    def text(self) -> str:
        """The formula for people and for calculators."""
        return self._write(lambda shape: shape.text)

    @property
    def latex(self) -> str:
        """The formula in LaTeX."""
        return self._write(lambda shape: shape.latex).replace("*", r"\,")

    def _write(self, template: Callable[[Shape], str]) -> str:
        shape = _SHAPES[self.shape]
        if shape.name == "constant":
            return f"{self.d:.4g}"
        inner = _line(self.b, "x", self.c)
        return _line(self.a, template(shape).format(u=inner), self.d, bare=shape.name != "line")

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate the formula."""
        return self.a * _SHAPES[self.shape].function(self.b * x + self.c) + self.d


def _line(slope: float, of: str, shift: float, *, bare: bool = True) -> str:
    """Write slope * of + shift without what is one or zero to four digits."""
    product = of if f"{slope:.4g}" == "1" else f"{slope:.4g}*{of if bare else f'({of})' if ' ' in of else of}"
    return (
        product
        if abs(shift) < 5e-5 * max(1.0, abs(slope))
        else f"{product} {'+' if shift > 0 else '-'} {abs(shift):.4g}"
    )


_SHAPES = {shape.name: shape for shape in LIBRARY}


def fit_formula(layer: ObservedLayer, output: int, place: int, *, penalty: float = COMPLEXITY_PENALTY) -> Formula:
    """Find the simplest formula that says what a learned function does to the inputs it meets.

    The function is compared at the middles of the histogram's bins, each weighted by how many inputs fell into it. For
    every entry of the library the inner line is searched on a grid and refined, the outer line follows by least
    squares; the formula with the greatest R² minus `penalty` times complexity wins.

    Args:
        layer: An observed layer.
        output: Output that the function adds to.
        place: Its place among the functions of that output: the input, where every edge has one.
        penalty: R² a formula must gain for each unit of complexity.
    """
    x = (layer.bin_edges[1:] + layer.bin_edges[:-1]) / 2
    counts = layer.distribution(output, place)
    weight = counts / counts.sum()
    y = layer.curve(output, place, x)
    candidates = [_fit(shape, x, y, weight, (output, place)) for shape in LIBRARY]
    return max(candidates, key=lambda f: f.r_squared - penalty * _SHAPES[f.shape].complexity)


def _fit(shape: Shape, x: Tensor, y: Tensor, weight: Tensor, edge: tuple[int, int]) -> Formula:
    if shape.name in ("constant", "line"):
        lines = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    else:
        lines = torch.cartesian_prod(_SCALES, _SHIFTS)
    b, c = _best(shape, x, y, weight, lines)
    step_b, step_c = 1.25, float(_SHIFTS[1] - _SHIFTS[0])
    while shape.name not in ("constant", "line") and step_c > 1e-3:
        near_b = b * step_b ** torch.linspace(-1, 1, 7, dtype=torch.float64)
        near_c = c + step_c * torch.linspace(-1, 1, 7, dtype=torch.float64)
        b, c = _best(shape, x, y, weight, torch.cartesian_prod(near_b, near_c))
        step_b, step_c = step_b**0.4, step_c * 0.4
    a, d, r_squared = _outer(shape.function(b * x + c)[None], y, weight)
    power = _POWERS.get(shape.name)
    if power is not None:
        # f(b x + c) = b^power f(x + c / b): one number less to read.
        a, b, c = a * b**power, 1.0, c / b
    return Formula(edge, shape.name, float(a), b, c, float(d), float(r_squared))


def _best(shape: Shape, x: Tensor, y: Tensor, weight: Tensor, lines: Tensor) -> tuple[float, float]:
    *_, r_squared = _outer(shape.function(lines[:, :1] * x + lines[:, 1:]), y, weight)
    b, c = lines[r_squared.argmax()].tolist()
    return b, c


def _outer(f: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit y = a f + d for each row of f by weighted least squares; return a, d and R²."""
    mean_f, mean_y = (f * weight).sum(-1), (y * weight).sum(-1)
    df, dy = f - mean_f[:, None], y - mean_y
    spread, total = (weight * df**2).sum(-1), (weight * dy**2).sum(-1)
    a = torch.where(spread > 1e-18, (weight * df * dy).sum(-1) / spread.clamp_min(1e-18), 0.0)
    rest = (weight * (dy - a[:, None] * df) ** 2).sum(-1)
    # A flat function is explained by any constant.
    r_squared = torch.where(total > 1e-18, 1 - rest / total.clamp_min(1e-18), torch.ones_like(rest))
    return a, mean_y - a * mean_f, r_squared
