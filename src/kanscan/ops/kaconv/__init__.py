"""Convolution and linear layer whose splines are shared by all inputs of an output (KAonv and SaKAN of ALL U-KAN)."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from kanscan.ops.bspline import check_grid
from kanscan.ops.bspline.grid import Grid
from kanscan.ops.dispatch import Backend, choose
from kanscan.ops.kaconv import cpu, reference
from kanscan.ops.kaconv import torch as plain
from kanscan.ops.kaconv.setting import Pair, Setting

__all__ = ["BACKENDS", "ka_conv", "ka_linear"]

Run = Callable[..., Tensor]
_CONV: dict[str, Backend[Run]] = {
    "cpu": Backend(cpu.ka_conv, cpu.refusal, cpu.absence),
    "torch": Backend(plain.ka_conv),
    "reference": Backend(reference.ka_conv),
}
_LINEAR: dict[str, Backend[Run]] = {
    "cpu": Backend(cpu.ka_linear, cpu.refusal, cpu.absence),
    "torch": Backend(plain.ka_linear),
    "reference": Backend(reference.ka_linear),
}
BACKENDS = {"ka_conv": _CONV, "ka_linear": _LINEAR}


def ka_linear(
    x: Float[Tensor, "*batch inputs"],
    base_weight: Float[Tensor, "outputs inputs"],
    spline_weight: Float[Tensor, "outputs bases"],
    input_weight: Float[Tensor, " inputs"] | None = None,
    *,
    spline_gradient: bool = False,
    grid_size: int = 5,
    spline_order: int = 3,
    grid_range: tuple[float, float] = (-1.0, 1.0),
    backend: str = "auto",
) -> Float[Tensor, "*batch outputs"]:
    """Apply one learned function to all inputs of an output and sum (SaKAN, ALL U-KAN Eq. 7 and 8).

    y_i = sum_k spline_weight[i, k] * sum_j input_weight[j] * B_k(x_j) + sum_j base_weight[i, j] * SiLU(x_j)

    Args:
        x: Inputs; the last axis is the features.
        base_weight: Weight u of SiLU for each pair of output and input.
        spline_weight: Coefficients v of the bases, `grid_size + spline_order` of them for each output.
        input_weight: lambda, one weight for each input; None for one.
        spline_gradient: Let the gradient of the inputs pass through the bases. The paper's layer is free of it: only
            the SiLU part passes gradients on, those of the weights are exact either way.
        grid_size: As in `kanscan.ops.bspline.bspline_basis`.
        spline_order: As in `kanscan.ops.bspline.bspline_basis`.
        grid_range: As in `kanscan.ops.bspline.bspline_basis`.
        backend: "auto", "cpu" (compiled kernel), "torch" or "reference".

    Returns:
        Outputs. Bases and their sums are formed in float32 at least, also under autocast.

    Raises:
        ValueError: Shapes do not fit together, the grid is not legal or the backend unknown.

    Example:
        >>> ka_linear(torch.zeros(5, 3), torch.ones(2, 3), torch.ones(2, 8)).shape
        torch.Size([5, 2])
    """
    grid = Grid(grid_size, spline_order, grid_range)
    check_linear(x, base_weight, spline_weight, input_weight, grid)
    run = choose("ka_linear", _LINEAR, backend, x, base_weight, input_weight, spline_order)
    return run(x, base_weight, spline_weight, input_weight, grid, spline_gradient)


def ka_conv(
    x: Float[Tensor, "b c h w"],
    base_weight: Float[Tensor, "outputs inputs kh kw"],
    spline_weight: Float[Tensor, "outputs bases"],
    input_weight: Float[Tensor, "c kh kw"] | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    padding_contributes: bool = True,
    spline_gradient: bool = False,
    grid_size: int = 5,
    spline_order: int = 3,
    grid_range: tuple[float, float] = (-1.0, 1.0),
    backend: str = "auto",
) -> Float[Tensor, "b outputs h2 w2"]:
    """Apply `ka_linear` to every window of a map (KAonv, ALL U-KAN Eq. 9 to 11).

    Args:
        x: Map.
        base_weight: Weight u of SiLU, shaped as the weight of a convolution with `c / groups` inputs.
        spline_weight: Coefficients v of the bases, one set for each output: all inputs of its window share them.
        input_weight: lambda, one weight for each input of a window; None for one.
        stride: Step of the window, (rows, columns) or one number for both.
        padding: Zeros around the map.
        dilation: Distance of the taps of a window.
        groups: Groups of channels that see only themselves.
        padding_contributes: A padded zero is an input like any other and adds B_k(0), which is not zero (unfolding a
            padded map does this; the paper does not say). Otherwise padding adds nothing.
        spline_gradient: As in `ka_linear`.
        grid_size: As in `ka_linear`.
        spline_order: As in `ka_linear`.
        grid_range: As in `ka_linear`.
        backend: "auto", "cpu" (compiled kernel), "torch" or "reference".

    Returns:
        Map of the size an ordinary convolution would give, by the compiled kernel in the memory format of `x`. Bases
        and their sums are formed in float32 at least.

    Raises:
        ValueError: Shapes do not fit together, the window does not fit into the map, the grid is not legal or the
            backend unknown.

    Example:
        >>> ka_conv(torch.zeros(1, 4, 6, 8), torch.ones(2, 4, 3, 3), torch.ones(2, 8), padding=1, stride=2).shape
        torch.Size([1, 2, 3, 4])
    """
    kernel = (base_weight.shape[2], base_weight.shape[3])
    grid = Grid(grid_size, spline_order, grid_range)
    setting = Setting(kernel, _pair(stride), _pair(padding), _pair(dilation), groups, padding_contributes, grid)
    check_conv(x, base_weight, spline_weight, input_weight, setting)
    run = choose("ka_conv", _CONV, backend, x, base_weight, input_weight, spline_order)
    return run(x, base_weight, spline_weight, input_weight, setting, spline_gradient)


def check_linear(
    x: Tensor, base_weight: Tensor, spline_weight: Tensor, input_weight: Tensor | None, grid: Grid
) -> None:
    """Refuse arguments of `ka_linear` that do not fit together.

    Raises:
        ValueError: The sentence names the argument, its shape and the shape expected.
    """
    check_grid(*grid)
    outputs, inputs = base_weight.shape
    if x.shape[-1] != inputs:
        raise ValueError(f"ka_linear: base_weight takes {inputs} inputs, got x of shape {tuple(x.shape)}")
    _check("ka_linear", "spline_weight", spline_weight, (outputs, grid.num_bases))
    _check("ka_linear", "input_weight", input_weight, (inputs,))


def check_conv(
    x: Tensor, base_weight: Tensor, spline_weight: Tensor, input_weight: Tensor | None, setting: Setting
) -> None:
    """Refuse arguments of `ka_conv` that do not fit together.

    Raises:
        ValueError: The sentence names the argument, its shape and the shape expected.
    """
    check_grid(*setting.grid)
    outputs, inputs, *kernel = base_weight.shape
    groups = setting.groups
    if groups < 1 or x.shape[1] != inputs * groups or outputs % groups:
        raise ValueError(
            f"ka_conv: base_weight {tuple(base_weight.shape)} in {groups} groups takes {inputs * groups} channels and "
            f"a number of outputs that groups divide, got x of shape {tuple(x.shape)}"
        )
    _check("ka_conv", "spline_weight", spline_weight, (outputs, setting.grid.num_bases))
    _check("ka_conv", "input_weight", input_weight, (x.shape[1], *kernel))
    if min(*setting.stride, *setting.dilation) < 1 or min(setting.padding) < 0:
        raise ValueError(
            f"ka_conv: stride and dilation must be 1 or more and padding 0 or more, got {setting.stride}, "
            f"{setting.dilation} and {setting.padding}"
        )
    if min(setting.output_size(x.shape[2:])) < 1:
        raise ValueError(f"ka_conv: a window of {kernel} taps does not fit into a map of {tuple(x.shape[2:])}")


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _check(op: str, name: str, tensor: Tensor | None, expected: tuple[int, ...]) -> None:
    if tensor is not None and tuple(tensor.shape) != expected:
        raise ValueError(f"{op}: {name} must be {expected}, got {tuple(tensor.shape)}")
