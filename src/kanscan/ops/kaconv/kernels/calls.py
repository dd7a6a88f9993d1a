"""What the calls of the kernels of KAonv share, whatever the order of a map in memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from kanscan.ops import native
from kanscan.ops.bspline.grid import Grid
from kanscan.ops.kaconv.setting import Pair, Setting

#: Threads that can share the sum over windows in a gradient of the splines; a fixed number, so that the result does not
#: depend on theirs.
PARTS = 16

#: Bases, order, lower end and intervals per unit, as the kernels take them.
KernelGrid = tuple[int, int, float, float]


def kernel_grid(size: int, order: int, low: float, high: float) -> KernelGrid:
    """Return the grid as the kernels take it."""
    return size + order, order, low, size / (high - low)


def eights(bases: int) -> int:
    """Return how many numbers a pixel has in a map of bases."""
    return -(-bases // 8) * 8


def plain(t: Tensor) -> Tensor:
    """Return float32 in row-major order."""
    return t if t.dtype is torch.float32 and t.is_contiguous() else t.to(torch.float32).contiguous()


@cache
def window_of(kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair) -> Tensor:
    """Return the window as the kernels read it."""
    out = Setting(kernel, stride, padding, dilation, 1, False, Grid()).output_size(size)
    return torch.tensor((kernel, stride, padding, dilation, size, out), dtype=torch.int64, device="cpu")


def window(x: Tensor, base_weight: Tensor, *rest: Sequence[int]) -> Tensor:
    """Return the window of a call by its stride, padding and dilation."""
    # Through the dispatcher pairs come as lists.
    stride, padding, dilation = map(tuple, rest)
    kernel, size = base_weight.shape, x.shape
    return window_of((kernel[2], kernel[3]), stride, padding, dilation, (size[2], size[3]))


def base_gradients(
    grad: Tensor,
    silu: Tensor,
    u: Tensor,
    rest: tuple[Sequence[int], Sequence[int], Sequence[int], int],
    needs: tuple[bool, bool],
    order: torch.memory_format = torch.contiguous_format,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of SiLU(x) and of its weight, by the library's convolution; empty ones where none is needed.

    Args:
        grad: Gradient of the result.
        silu: SiLU(x); whatever has its shape where the weight's gradient is not needed.
        u: Weights of SiLU.
        rest: Stride, padding, dilation and groups.
        needs: Which of the two are needed.
        order: Memory format of the gradient of SiLU(x).
    """
    stride, padding, dilation, groups = rest
    grad_x, grad_u, _ = torch.ops.aten.convolution_backward.default(
        grad, silu, u, None, stride, padding, dilation, False, [0, 0], groups, [*needs, False]
    )
    return (
        grad_x.contiguous(memory_format=order) if needs[0] else grad.new_empty(0),
        grad_u.contiguous() if needs[1] else grad.new_empty(0),
    )


def spline_gradient(sums: Tensor, grad: Tensor, bases: int, outputs: int, order: str = "") -> Tensor:
    """Return the gradient of the splines (all outputs, bases).

    Args:
        sums: Sums of bases (batch, groups, windows, bases).
        grad: Gradient of the result.
        bases: Bases of a spline.
        outputs: Outputs of a group.
        order: "" for (batch, channel, window), "_last" for (batch, window, channel).
    """
    batch, groups, windows = sums.shape[:3]
    partial = grad.new_empty((PARTS, groups * outputs, bases))
    native.call(f"ka_spline_gradient{order}", sums, grad, batch, groups, windows, bases, outputs, PARTS, partial)
    return partial.sum(0)
