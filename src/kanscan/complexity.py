"""Counting parameters and multiply-adds, and saying what was counted.

Two figures stand side by side because the papers' "Gflops" are neither: they are the multiply-adds that a profiler saw
in a batch of eight 256x256 images, and that profiler knew nothing of KAN layers and scans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

#: Images in the batch behind the papers' figures.
PAPER_BATCH = 8


@dataclass(frozen=True)
class Complexity:
    """What a network costs for one image.

    Attributes:
        num_parameters: All parameters, frozen and unused ones included.
        input_shape: Shape of the one image, (C, *S).
        macs: Multiply-adds of convolutions and matrix products, those of KAN layers (base and spline) included, plus
            `scan_macs`. Not counted: evaluating spline bases, norms, activations, resizing.
        scan_macs: Multiply-adds of the selective scans' recurrences, as the scan layers state them.
        profiler_macs: What the profiler used by the papers counts for one image: convolutions, linear layers and norms
            held as modules; nothing for KAN layers and scans.
    """

    num_parameters: int
    input_shape: tuple[int, ...]
    macs: int
    scan_macs: int
    profiler_macs: int

    @property
    def paper_gflops(self) -> float:
        """The papers' "Gflops": 8 x `profiler_macs` / 1e9 (multiply-adds, KAN layers and scans counted as nothing)."""
        return PAPER_BATCH * self.profiler_macs / 1e9

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"paper_gflops": self.paper_gflops}


def num_parameters(model: nn.Module) -> int:
    """Count all parameters once."""
    return sum(parameter.numel() for parameter in model.parameters())


def complexity(model: nn.Module, input_shape: Sequence[int]) -> Complexity:
    """Count a network for one image of `input_shape` (C, *S).

    Nothing is computed: shapes run through a copy without memory, so that large networks are counted in a moment.

    Args:
        model: The network; it is not changed.
        input_shape: Channels and spatial size of one image.
    """
    shadow = deepcopy(model).to("meta").eval()
    # A noise predictor takes the diffusion step too, and says so itself.
    example = getattr(shadow, "example_inputs", None)
    inputs = example(input_shape[1:]) if example else (torch.empty(1, *input_shape, device="meta"),)
    profiled = [0]
    scanned = [0]
    handles = [
        module.register_forward_hook(_profiler_hook(profiled))
        for module in shadow.modules()
        if isinstance(module, _PROFILED)
    ]
    handles += [
        module.register_forward_hook(_scan_hook(scanned)) for module in shadow.modules() if hasattr(module, "scan_macs")
    ]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(*inputs)
    for handle in handles:
        handle.remove()
    products = counter.get_total_flops() // 2
    return Complexity(num_parameters(model), tuple(input_shape), products + scanned[0], scanned[0], profiled[0])


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PROFILED = (*_NORMS, nn.InstanceNorm3d, *_CONVS, nn.Linear, nn.AvgPool2d, nn.Upsample)
#: Operations a number of the output costs the profiler when a map is enlarged.
_RESIZE_COST = {"linear": 5, "bilinear": 11, "trilinear": 31}


def _profiler_hook(total: list[int]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        total[0] += _profiler_cost(module, inputs[0], output)

    return hook


def _profiler_cost(module: nn.Module, x: Tensor, y: Tensor) -> int:
    if isinstance(module, _CONVS):
        kernel = torch.Size(module.kernel_size).numel()
        # The profiler takes a transposed convolution for a plain one: it counts the output's size.
        return y.numel() * (x.shape[1] // module.groups) * kernel
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    if isinstance(module, nn.AvgPool2d):
        return y.numel()
    if isinstance(module, nn.Upsample):
        return y.numel() * _RESIZE_COST.get(module.mode, 1)
    affine = getattr(module, "affine", False) or getattr(module, "elementwise_affine", False)
    return x.numel() * (4 if affine else 2)


def _scan_hook(total: list[int]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        total[0] += module.scan_macs(*inputs)  # type: ignore[operator]

    return hook
