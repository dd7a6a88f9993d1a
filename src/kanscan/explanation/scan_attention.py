"""What a pixel or voxel receives along each direction of a selective scan.

The scan is linear in its input u once step sizes, B and C are known: y_q = sum_s M_qs u_s. The gradient of y_q with
respect to u, with the selection held fixed, is a row of that matrix; times u it is what each place contributed.

Where a scan reads tokens (Mamba blocks) how these were laid out is found out, not assumed: which token becomes the
marked place, and which places a token was made of, are read off gradients of the layer around the block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kanscan.layers.ssm import SS2D, BidirectionalMamba, MambaBlock, MambaCore, SelectiveSSM
from kanscan.ops.scan_order import inverse, order_index
from kanscan.ops.selective_scan import selective_scan

#: Places that a scan reads in one go, or a map has, for it to be worth looking at, where a network has such.
ENOUGH_PLACES = 64


@dataclass(frozen=True)
class ScanAttention:
    """Contributions to one place in one layer.

    Attributes:
        layer: Dotted name of the layer.
        orders: Names of the scan orders or directions.
        query: Place that receives, on the layer's own map.
        maps: `(K, *S)` share that each place has in what the query receives along each order: absolute contributions
            summed over channels, divided by their sum over all orders and places.
        map_size: Size of the layer's map.
    """

    layer: str
    orders: tuple[str, ...]
    query: tuple[int, ...]
    maps: Tensor
    map_size: tuple[int, ...]

    def distance(self) -> float:
        """Return how far contributions come from, weighted by their shares, as a share of the map's diagonal."""
        return mean_distance(self.maps.sum(0), self.query)


def mean_distance(shares: Tensor, query: Sequence[int]) -> float:
    """Return the mean distance of places from a query, weighted by shares, as a share of the map's diagonal.

    Args:
        shares: `(*S)`, not negative.
        query: Place on that map.
    """
    axes = [torch.arange(n, dtype=torch.float64) - q for n, q in zip(shares.shape, query, strict=True)]
    square = torch.stack([g.square() for g in torch.meshgrid(*axes, indexing="ij")]).sum(0)
    diagonal = sum((n - 1) ** 2 for n in shares.shape) ** 0.5
    weights = shares.double()
    return float((weights * square.sqrt()).sum() / weights.sum().clamp_min(1e-300) / max(diagonal, 1.0))


def scan_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the scan layers of a network by their dotted names: 2D scans, and Mamba blocks that read tokens."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, SS2D | BidirectionalMamba | MambaBlock):
            found[name] = module
    return found


def place_of(position: Sequence[float], size: Sequence[int]) -> tuple[int, ...]:
    """Return the place on a map of a position given as shares of the axes; a missing first axis is halved."""
    shares = [0.5] * (len(size) - len(position)) + list(position)
    return tuple(min(int(p * s), s - 1) for p, s in zip(shares, size, strict=True))


def scan_attention(
    model: nn.Module, x: Tensor, position: Sequence[float], layer: str | None = None
) -> list[ScanAttention]:
    """Show what one place of an image receives along each scan direction.

    Args:
        model: The network, in evaluation mode.
        x: One image `(1, C, *S)`.
        position: The place as shares of the axes, 0 to 1, the last two at least.
        layer: Dotted name of a scan layer, or of the layer around a Mamba block. None: of each kind of layer the last
            one that reads `ENOUGH_PLACES` in one go (the most if none does).

    Returns:
        One entry for each layer.

    Raises:
        ValueError: The network has no such layer, or its scans read no places.
    """
    layers = scan_layers(model)
    if not layers:
        raise ValueError("the network has no scans to explain")
    sites = _sites(model, x, layers)
    if not sites:
        raise ValueError("the network scans maps of a single place here; give it larger images")
    if layer is not None:
        chosen = [site for name, site in sites.items() if layer in (name, site.around)]
        if not chosen:
            raise ValueError(f"the network has no scan {layer!r}; it has {', '.join(sites)}")
    else:
        chosen = _worth_seeing(list(sites.values()))
    found = [_attend(model, x, site, place_of(position, site.size)) for site in chosen]
    kept = [one for one in found if one is not None]
    if not kept:
        raise ValueError("the scans of the network read channels as tokens; no place receives from another")
    return kept


@dataclass
class _Site:
    """A scan and the layer around it that takes and gives maps.

    Attributes:
        name: Dotted name of the scan.
        around: Dotted name of that layer; for a 2D scan its own.
        kind: Type of that layer: its sites are alike.
        size: Of the map.
        length: Places, pixels or patches, that are read in one go.
    """

    name: str
    around: str
    kind: str
    size: tuple[int, ...]
    length: int


def _sites(model: nn.Module, x: Tensor, layers: dict[str, nn.Module]) -> dict[str, _Site]:
    """Find the layers around scans, by the shapes that pass when the image does."""
    modules = dict(model.named_modules())
    wanted = {".".join(name.split(".")[:n]) for name in layers for n in range(1, name.count(".") + 2)}
    shapes: dict[str, tuple[int, ...]] = {}
    lengths: dict[str, int] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                shapes[name] = tuple(inputs[0].shape)
                lengths[name] = max(lengths.get(name, 0), *inputs[0].shape[1:2])

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name in wanted & set(modules):
            stack.callback(modules[name].register_forward_pre_hook(keep(name)).remove)
        model(x)
    found: dict[str, _Site] = {}
    for name, module in layers.items():
        if name not in shapes:
            continue
        if isinstance(module, SS2D):
            height, width = shapes[name][1:3]
            site = _Site(name, name, "SS2D", (height, width), height * width)
        else:
            parts = name.split(".")
            above = [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]
            around = next((a for a in above if len(shapes.get(a, ())) == x.ndim), None)
            if around is None:
                continue
            kind = type(modules[around]).__name__
            site = _Site(name, around, kind, shapes[around][2:], lengths[name])
        if max(site.size) > 1:
            found[name] = site
    return found


def _worth_seeing(sites: Sequence[_Site]) -> list[_Site]:
    chosen = []
    for kind in dict.fromkeys(site.kind for site in sites):
        alike = [site for site in sites if site.kind == kind]
        enough = min(ENOUGH_PLACES, max(site.length for site in alike))
        chosen.append([site for site in alike if site.length >= enough][-1])
    return chosen


def _attend(model: nn.Module, x: Tensor, site: _Site, query: tuple[int, ...]) -> ScanAttention | None:
    module = model.get_submodule(site.name)
    if isinstance(module, SS2D):
        kept: dict[str, Tensor] = {}
        handle = module.ssm.register_forward_pre_hook(lambda m, inputs: kept.update(u=inputs[0]))
        with torch.no_grad():
            model(x)
        handle.remove()
        height, width = site.size
        maps = _received_2d(module.ssm, kept["u"][:1], module.orders, (height, width), query[0] * width + query[1])
        orders: tuple[str, ...] = module.orders
    else:
        found = _received_by_tokens(model, x, site, module, query)
        if found is None:
            return None
        maps, orders = found
    total = maps.sum().clamp_min(torch.finfo(maps.dtype).tiny)
    return ScanAttention(site.around, orders, query, (maps / total).cpu(), site.size)


def _received_2d(ssm: SelectiveSSM, u: Tensor, orders: tuple[str, ...], size: tuple[int, int], pixel: int) -> Tensor:
    """Return `(K, h, w)` absolute contributions to a pixel, summed over channels."""
    # The layer gets one map in pixel order; here each direction's sequence is followed step by step.
    u = torch.stack([u[:, 0, :, order_index(name, size).to(u.device)] for name in orders], dim=1)
    places = [inverse(order_index(name, size).to(u.device)) for name in orders]
    shares = _shares(ssm, u.to(ssm.A_log.dtype), [int(place[pixel]) for place in places])
    return torch.stack([shares[k, place] for k, place in enumerate(places)]).view(len(orders), *size)


def _shares(ssm: SelectiveSSM, u: Tensor, steps: Sequence[int]) -> Tensor:
    """Return `(K, L)` absolute contributions to a step of each direction, summed over channels.

    Args:
        ssm: The scan.
        u: `(1, K, E, L)`, or `(1, E, L)` where the scan has no axis K.
        steps: The receiving step of each direction.
    """
    with torch.no_grad():
        delta, B, C = ssm.selection(u)
    u = u.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        y = selective_scan(
            u.flatten(1, -2),
            delta.flatten(1, -2),
            -torch.exp(ssm.A_log.detach()),
            B,
            C,
            None,
            None,
            ssm.dt_proj_bias.detach().flatten(),
            delta_softplus=True,
            discretization=ssm.discretization,
        ).view(1, len(steps), -1, u.shape[-1])
        received = torch.stack([y[0, k, :, step].sum() for k, step in enumerate(steps)]).sum()
        (gradient,) = torch.autograd.grad(received, u)
    return (gradient * u).detach().abs().view(len(steps), -1, u.shape[-1]).sum(1)


def _flat(place: Sequence[int], size: Sequence[int]) -> int:
    index = 0
    for p, n in zip(place, size, strict=True):
        index = index * n + p
    return index


@dataclass
class _Pass:
    """What went through a layer around a Mamba block: its map, its tokens, and what the block made of them, by call."""

    image: Tensor | None = None
    tokens: list[Tensor] = field(default_factory=list)
    mixed: list[Tensor] = field(default_factory=list)
    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    output: Tensor | None = None


def _received_by_tokens(
    model: nn.Module, x: Tensor, site: _Site, block: nn.Module, query: tuple[int, ...]
) -> tuple[Tensor, tuple[str, ...]] | None:
    """Return `(K, *S)` absolute contributions to a place, and the directions' names; None if no place is a token."""
    if isinstance(block, BidirectionalMamba):
        cores = {"forward": block.forward_core, "backward": block.backward_core}
    else:
        assert isinstance(block, MambaBlock)
        cores = {"forward": block.core}
    seen = _watch(model, x, site, block, cores)
    assert seen.image is not None
    assert seen.output is not None
    wanted = seen.output[0].flatten(1)[:, _flat(query, site.size)].sum()
    slopes = torch.autograd.grad(wanted, seen.mixed, retain_graph=True, allow_unused=True)
    hits = [
        (call, *place)
        for call, slope in enumerate(slopes)
        if slope is not None
        for place in torch.nonzero(slope.abs().sum(2)).tolist()
    ]
    if len(hits) != 1:
        return None
    call, sequence, step = hits[0]
    length = seen.tokens[call].shape[1]
    maps = []
    for name, core in cores.items():
        backward = name == "backward"
        u = seen.inputs[name][call][sequence : sequence + 1].detach().to(core.ssm.A_log.dtype)
        shares = _shares(core.ssm, u, [length - 1 - step if backward else step])[0]
        shares = shares.flip(0) if backward else shares
        # Each token hands its share to the places it was made of: to one, or evenly to those of a pooled patch.
        handed = (seen.tokens[call][sequence].sum(1) * shares.to(seen.image.dtype)).sum()
        (places,) = torch.autograd.grad(handed, seen.image, retain_graph=True)
        maps.append(places[0].mean(0).detach())
    return torch.stack(maps), tuple(cores)


def _watch(model: nn.Module, x: Tensor, site: _Site, block: nn.Module, cores: dict[str, MambaCore]) -> _Pass:
    seen = _Pass(inputs={name: [] for name in cores})
    around = model.get_submodule(site.around)

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.image = inputs[0].detach().clone().requires_grad_(True)
        return (seen.image, *inputs[1:])

    def take_tokens(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # The first child that is given tokens has them before anything else is done to them.
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 3 and len(seen.tokens) == len(seen.mixed):
            seen.tokens.append(inputs[0])

    def take_mixed(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.mixed.append(output)

    def leave(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.output = output

    def take_input(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: seen.inputs[name].append(inputs[0])

    with ExitStack() as stack, torch.enable_grad():
        stack.callback(around.register_forward_pre_hook(enter).remove)
        stack.callback(around.register_forward_hook(leave).remove)
        for child in around.children():
            stack.callback(child.register_forward_pre_hook(take_tokens).remove)
        stack.callback(block.register_forward_hook(take_mixed).remove)
        for name, core in cores.items():
            stack.callback(core.ssm.register_forward_pre_hook(take_input(name)).remove)
        model(x)
    return seen
