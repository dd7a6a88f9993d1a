"""Linear attention beside the scan it takes the place of: where each is strong, and what one pixel receives by each.

VMKLA-UNet Fig. 10 sets heat maps of its KAN attention beside those of SS2D. Here both are asked the same two questions:
how large what comes out is at each place (mean absolute value over channels), and from where one marked place receives
(absolute contributions, summed over channels). The latter is exact for both: with its queries and keys, or its
selection, held fixed each is linear in its values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.explanation.scan_attention import ENOUGH_PLACES, mean_distance, place_of, scan_attention
from kanscan.layers.attention import LinearAttention, rotate
from kanscan.layers.spline import SplineLayer
from kanscan.layers.ssm import SS2D

#: Called by torch with a layer, its inputs (of attention: tokens and the size of their map) and its output.
Hook = Callable[[nn.Module, tuple[Tensor, tuple[int, int]], Tensor], None]

#: Places, as shares of height and width, over which distances are averaged.
_PLACES = ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75))


@dataclass(frozen=True)
class Mixer:
    """What a layer that mixes places did to one image.

    Attributes:
        layer: Dotted name.
        size: Of its map.
        activity: `(h, w)` mean absolute output over channels, before any norm or gate.
        query: The receiving place.
        received: `(h, w)` share of what it receives that comes from each place.
        distance: Mean distance of contributions over four places, as a share of the map's diagonal.
    """

    layer: str
    size: tuple[int, int]
    activity: Tensor
    query: tuple[int, int]
    received: Tensor
    distance: float


def attention_layers(model: nn.Module) -> dict[str, LinearAttention]:
    """Return the linear attention layers of a network by their dotted names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LinearAttention)}


def has_kan(attention: LinearAttention) -> bool:
    """Tell whether queries and keys come from splines."""
    return any(isinstance(m, SplineLayer) for m in attention.queries_keys.modules())


def attention_rows(
    attention: LinearAttention, tokens: Tensor, size: tuple[int, int], query: int
) -> tuple[Tensor, Tensor]:
    """Return what a token weighs each token with, `(heads, L)`, and the values by head `(heads, L, C / heads)`.

    Args:
        attention: The layer.
        tokens: `(1, L, C)`, as it is given them.
        size: Of the map they form.
        query: The token that receives.
    """
    q, k = F.elu(attention.queries_keys(tokens)).add(1).chunk(2, dim=-1)
    turned_q, turned_k = rotate(q, size, attention.rotary), rotate(k, size, attention.rotary)
    if attention.rotate_normalizer:
        q, k = turned_q, turned_k
    q, k, turned_q, turned_k, values = (
        t[0].unflatten(-1, (attention.num_heads, -1)).transpose(0, 1) for t in (q, k, turned_q, turned_k, tokens)
    )
    normalizer = (q[:, query] * k.mean(1)).sum(-1, keepdim=True) + 1e-6
    weights = (turned_k @ turned_q[:, query, :, None])[..., 0] / (k.shape[1] * normalizer)
    return weights, values


@torch.no_grad()
def attention_map(model: nn.Module, x: Tensor, position: tuple[float, float], layer: str | None = None) -> Mixer:
    """Look at linear attention of one image.

    Args:
        model: The network, in evaluation mode.
        x: `(1, C, H, W)`.
        position: (row, column) of the receiving place as shares of height and width.
        layer: Dotted name; the last one with `ENOUGH_PLACES` if None.

    Raises:
        ValueError: The network has no such layer, or its tokens are no places of the map.
    """
    layers = attention_layers(model)
    if not layers:
        raise ValueError("the network has no linear attention")
    if any(getattr(module, "reread_attention_input", False) for module in model.modules()):
        raise ValueError(
            "the attention of this network reads the map's memory in another order (reread_attention_input): its "
            "tokens mix places and channels, so no heat map belongs to them"
        )
    kept: dict[str, tuple[Tensor, tuple[int, int], Tensor]] = {}

    def keep(name: str) -> Hook:
        return lambda module, inputs, output: kept.update({name: (inputs[0], inputs[1], output)})

    handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    model(x)
    for handle in handles:
        handle.remove()
    large = [name for name, (tokens, *_) in kept.items() if tokens.shape[1] >= ENOUGH_PLACES]
    name = layer or (large or list(kept))[-1]
    if name not in kept:
        raise ValueError(f"the network has no linear attention {name!r}; it has {', '.join(kept)}")
    tokens, size, output = kept[name]

    def received(at: tuple[float, float]) -> Tensor:
        row, column = place_of(at, size)
        weights, values = attention_rows(layers[name], tokens, size, row * size[1] + column)
        shares = (weights.abs() * values.abs().sum(-1)).sum(0)
        return (shares / shares.sum().clamp_min(torch.finfo(shares.dtype).tiny)).view(size).cpu()

    distances = [mean_distance(received(at), place_of(at, size)) for at in _PLACES]
    query = place_of(position, size)
    return Mixer(
        name,
        size,
        output[0].abs().mean(-1).view(size).cpu(),
        (query[0], query[1]),
        received(position),
        sum(distances) / len(distances),
    )


def scan_map(model: nn.Module, x: Tensor, position: tuple[float, float], size: tuple[int, int]) -> Mixer:
    """Look at the last 2D scan of a network whose map has a given size.

    Args:
        model: The network, in evaluation mode.
        x: `(1, C, H, W)`.
        position: As in `attention_map`.
        size: Of the map.

    Raises:
        ValueError: The network has no such scan.
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        # Directions are added up where they are merged; weights that some networks learn for them are left out.
        return lambda module, inputs, output: kept.update({name: output[0].sum(0)})

    scans = {name: module for name, module in model.named_modules() if isinstance(module, SS2D)}
    sizes: dict[str, tuple[int, ...]] = {}
    handles = [module.ssm.register_forward_hook(keep(name)) for name, module in scans.items()]
    handles += [
        module.register_forward_pre_hook(lambda m, inputs, name=name: sizes.update({name: inputs[0].shape[1:3]}))
        for name, module in scans.items()
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    fitting = [name for name in kept if tuple(sizes[name]) == tuple(size)]
    if not fitting:
        raise ValueError(f"the network has no 2D scan on a map of {size[0]} x {size[1]}")
    name = fitting[-1]
    distances = [scan_attention(model, x, at, name)[0].distance() for at in _PLACES]
    here = scan_attention(model, x, position, name)[0]
    return Mixer(
        name,
        size,
        kept[name].abs().mean(0).view(size).cpu(),
        (here.query[0], here.query[1]),
        here.maps.sum(0),
        sum(distances) / len(distances),
    )
