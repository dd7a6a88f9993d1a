"""The definition: unfold every window, evaluate every basis at every tap, multiply. Slow, right in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kanscan.ops.bspline import reference as bspline
from kanscan.ops.bspline.grid import Grid
from kanscan.ops.dispatch import result_dtype, without_autocast
from kanscan.ops.kaconv.setting import Setting


def ka_linear(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    input_weight: Tensor | None,
    grid: Grid,
    spline_gradient: bool,
) -> Tensor:
    """See `kanscan.ops.kaconv.ka_linear`."""
    dtype = result_dtype(x, base_weight)
    x, base_weight, spline_weight, input_weight = _widened(x, base_weight, spline_weight, input_weight)
    with without_autocast(x):
        basis = bspline.bspline_basis(x if spline_gradient else x.detach(), *grid)
        if input_weight is not None:
            basis = basis * input_weight.unsqueeze(-1)
        y = F.silu(x) @ base_weight.mT + basis.sum(-2) @ spline_weight.mT
    return y.to(dtype)


def _widened(x: Tensor, u: Tensor, v: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return all of them in float32 at least."""
    wide = torch.promote_types(bspline.widened(x).dtype, u.dtype)
    return x.to(wide), u.to(wide), v.to(wide), None if weight is None else weight.to(wide)


def ka_conv(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    input_weight: Tensor | None,
    setting: Setting,
    spline_gradient: bool,
) -> Tensor:
    """See `kanscan.ops.kaconv.ka_conv`."""
    dtype, groups = result_dtype(x, base_weight), setting.groups
    x, base_weight, spline_weight, input_weight = _widened(x, base_weight, spline_weight, input_weight)
    with without_autocast(x):
        taps = _windows(x, setting)
        basis = bspline.bspline_basis(taps if spline_gradient else taps.detach(), *setting.grid)
        if not setting.padding_contributes:
            inside = _windows(torch.ones_like(x), setting)
            basis = basis * inside.unsqueeze(-1)
        if input_weight is not None:
            basis = basis * input_weight.reshape(1, groups, -1, 1, 1)
        base = torch.einsum("bgjl,gij->bgil", F.silu(taps), base_weight.reshape(groups, -1, taps.shape[2]))
        spline = torch.einsum("bgjlk,gik->bgil", basis, spline_weight.reshape(groups, -1, basis.shape[-1]))
    y = (base + spline).reshape(x.shape[0], base_weight.shape[0], *setting.output_size(x.shape[2:]))
    return y.to(dtype)


def _windows(x: Tensor, setting: Setting) -> Tensor:
    """Return the taps of every window: (batch, groups, inputs of a window, windows)."""
    unfolded = F.unfold(x, setting.kernel, setting.dilation, setting.padding, setting.stride)
    return unfolded.unflatten(1, (setting.groups, -1))
