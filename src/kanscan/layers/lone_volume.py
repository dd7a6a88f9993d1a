"""Convolutions of a lone volume on processors: torch sends small ones to a slow path that oneDNN does not need."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Up to so many rows (channels x depth x height) torch takes its own loop for one float32 volume and small kernels
#: (`use_mkldnn` in ATen's Convolution.cpp, 2.13); measured, oneDNN is 1.2 to 12 times as fast there.
_MOST_ROWS = 20_480
_LARGEST_KERNEL = 3


class _LoneVolumeConv3d(nn.Conv3d):
    """A `Conv3d` with the same weights that asks oneDNN where torch would not; nothing else changes."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _is_slow(self, x, weight):
            return super()._conv_forward(x, weight, bias)
        assert not isinstance(self.padding, str)
        convolve = torch.mkldnn_convolution
        return convolve(x, weight, bias, self.padding, self.stride, self.dilation, self.groups)


def _is_slow(layer: nn.Conv3d, x: Tensor, weight: Tensor) -> bool:
    """Tell whether torch would take its own loop; while a graph is drawn, everything stays as it is."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_grad_enabled():
        return False
    plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    plain = plain and x.device.type == weight.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if not plain or x.ndim != 5 or len(x) != 1 or not torch.backends.mkldnn.enabled:
        return False
    return x.shape[1:4].numel() <= _MOST_ROWS and max(layer.kernel_size) <= _LARGEST_KERNEL


def quicken_lone_volumes(model: nn.Module) -> nn.Module:
    """Let the 3D convolutions of a network ask oneDNN for batches of one, where no gradient is wanted.

    Parameters, their names and results stay (to float rounding); layers that are no plain `Conv3d` are left alone.

    Args:
        model: Changed in place.

    Returns:
        The model.
    """
    for module in model.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = _LoneVolumeConv3d
    return model
