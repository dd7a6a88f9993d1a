"""The definition: unfold every window, evaluate every basis at every tap, multiply. Slow, right in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kanscan.ops.bspline import reference as bspline
from kanscan.ops.kaconv.setting import Grid, Setting


def ka_linear(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    input_weight: Tensor | None,
    grid: Grid,
    spline_gradient: bool,
) -> Tensor:
    """See `kanscan.ops.kaconv.ka_linear`."""
    basis = bspline.bspline_basis(x if spline_gradient else x.detach(), *grid)
    if input_weight is not None:
        basis = basis * input_weight.unsqueeze(-1)
    return F.silu(x) @ base_weight.mT + basis.sum(-2) @ spline_weight.mT


def ka_conv(
    x: Tensor,
    base_weight: Tensor,
    spline_weight: Tensor,
    input_weight: Tensor | None,
    setting: Setting,
    spline_gradient: bool,
) -> Tensor:
    """See `kanscan.ops.kaconv.ka_conv`."""
    taps = _windows(x, setting)
    basis = bspline.bspline_basis(taps if spline_gradient else taps.detach(), *setting.grid)
    if not setting.padding_contributes:
        inside = _windows(torch.ones_like(x), setting)
        basis = basis * inside.unsqueeze(-1)
    if input_weight is not None:
        basis = basis * input_weight.view(1, setting.groups, -1, 1, 1)
    base = torch.einsum("bgjl,gij->bgil", F.silu(taps), base_weight.reshape(setting.groups, -1, taps.shape[2]))
    spline = torch.einsum("bgjlk,gik->bgil", basis, spline_weight.view(setting.groups, -1, basis.shape[-1]))
    return (base + spline).reshape(x.shape[0], -1, *setting.output_size(x.shape[2:]))


def _windows(x: Tensor, setting: Setting) -> Tensor:
    """Return the taps of every window: (batch, groups, inputs of a window, windows)."""
    unfolded = F.unfold(x, setting.kernel, setting.dilation, setting.padding, setting.stride)
    return unfolded.unflatten(1, (setting.groups, -1))
