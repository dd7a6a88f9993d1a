"""What a pixel receives along each direction of a 2D selective scan.

The scan is linear in its input u once step sizes, B and C are known: y_q = sum_s M_qs u_s. The gradient of y_q with
respect to u, with the selection held fixed, is a row of that matrix; times u it is what each pixel contributed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanscan.layers.ssm import SS2D, SelectiveSSM
from kanscan.ops.scan_order import inverse, order_index
from kanscan.ops.selective_scan import selective_scan


@dataclass(frozen=True)
class ScanAttention:
    """Contributions to one pixel in one layer.

    Attributes:
        layer: Dotted name of the layer.
        orders: Names of the scan orders.
        query: (row, column) of the receiving pixel on the layer's own map.
        maps: `(K, h, w)` share that each pixel has in what the query receives along each order: absolute contributions
            summed over channels, divided by their sum over all orders and pixels.
        map_size: Size (h, w) of the layer's map.
    """

    layer: str
    orders: tuple[str, ...]
    query: tuple[int, int]
    maps: Tensor
    map_size: tuple[int, int]


def scan_layers(model: nn.Module) -> dict[str, SS2D]:
    """Return the 2D scan layers of a network by their dotted names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, SS2D)}


def scan_attention(
    model: nn.Module, x: Tensor, position: tuple[float, float], layer: str | None = None
) -> ScanAttention:
    """Show what one pixel of an image receives along each scan direction of a layer.

    Args:
        model: The network, in evaluation mode.
        x: One image `(1, C, H, W)`.
        position: (row, column) of the pixel as shares of height and width, 0 to 1.
        layer: Dotted name of a 2D scan layer; the last one if None.

    Raises:
        ValueError: The network has no such layer.
    """
    layers = scan_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no 2D scans to explain")
    name = layer or list(layers)[-1]
    if name not in layers:
        raise ValueError(f"{type(model).__name__} has no 2D scan {name!r}; it has {', '.join(layers)}")
    module = layers[name]
    kept: dict[str, Tensor] = {}
    sizes: list[tuple[int, int]] = []
    handles = [
        module.register_forward_pre_hook(lambda m, inputs: sizes.append((inputs[0].shape[1], inputs[0].shape[2]))),
        module.ssm.register_forward_pre_hook(lambda m, inputs: kept.update(u=inputs[0])),
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    size = sizes[-1]
    row, column = (min(int(p * s), s - 1) for p, s in zip(position, size, strict=True))
    contributions = _received(module.ssm, kept["u"][:1], module.orders, size, row * size[1] + column)
    total = contributions.sum().clamp_min(torch.finfo(contributions.dtype).tiny)
    return ScanAttention(name, module.orders, (row, column), (contributions / total).cpu(), size)


def _received(ssm: SelectiveSSM, u: Tensor, orders: tuple[str, ...], size: tuple[int, int], pixel: int) -> Tensor:
    """Return `(K, h, w)` absolute contributions to a pixel, summed over channels."""
    # The layer gets the map in pixel order; here each direction's sequence is followed step by step.
    u = torch.stack([u[:, k, :, order_index(name, size).to(u.device)] for k, name in enumerate(orders)], dim=1)
    u = u.to(ssm.A_log.dtype)
    with torch.no_grad():
        delta, B, C = ssm.selection(u)
    u = u.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        y = selective_scan(
            u.flatten(1, 2),
            delta.flatten(1, 2),
            -torch.exp(ssm.A_log.detach()),
            B,
            C,
            None,
            None,
            ssm.dt_proj_bias.detach().flatten(),
            delta_softplus=True,
            discretization=ssm.discretization,
        ).view_as(u)
        places = [inverse(order_index(name, size).to(u.device)) for name in orders]
        received = torch.stack([y[0, k, :, place[pixel]].sum() for k, place in enumerate(places)]).sum()
        (gradient,) = torch.autograd.grad(received, u)
    shares = (gradient * u).detach().abs().sum(2)[0]
    return torch.stack([shares[k, place] for k, place in enumerate(places)]).view(len(orders), *size)
