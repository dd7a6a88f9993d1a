"""Where a network looks: channel activations, Grad-CAM, and how well either agrees with a label."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.embedding import to_map
from kanscan.layers.kan import TokenizedKANBlock
from kanscan.metrics.logits import labels, num_classes

#: Side of an image over that of a map worth showing: fine enough to say where, coarse enough to say what.
_REDUCTION = 8.0
#: Places such a map has along each axis at least, where the network has one.
_FEWEST_PLACES = 6


def last_kan_block(model: nn.Module) -> str:
    """Return the dotted name of the tokenized KAN block that stands last in a network.

    Raises:
        ValueError: It has none.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, TokenizedKANBlock)]
    if not names:
        raise ValueError("the network has no tokenized KAN block; name a layer of it instead")
    return names[-1]


def default_layer(model: nn.Module, x: Tensor) -> str:
    """Return the layer whose maps are shown where none is named.

    That is the last tokenized KAN block, or in a network without any the block that ends last among those whose maps
    come nearest to an eighth of the image's side (and have at least six places along each axis, where some have).

    Args:
        model: The network.
        x: `(1, C, *S)`.

    Raises:
        ValueError: No layer gives a map smaller than the image.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, TokenizedKANBlock)]
    if names:
        return names[-1]
    finished: dict[str, tuple[float, bool]] = {}
    # A block tells more than a single operation in it.
    blocks = {name for name, module in model.named_modules() if name and any(True for _ in module.children())}

    def keep(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if not isinstance(output, Tensor):
                return
            axes = _map_axes(output, x.shape[2:])
            size: Sequence[int] | None = _token_size(inputs) if axes is None else [output.shape[axis] for axis in axes]
            if size:
                reduction = (math.prod(x.shape[2:]) / math.prod(size)) ** (1 / len(size))
                # Put at the end again: what ends last wins.
                finished.pop(name, None)
                finished[name] = (reduction, min(size) >= _FEWEST_PLACES)

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            if name in blocks:
                stack.callback(module.register_forward_hook(keep(name)).remove)
        model(x)
    reduced = {name: found for name, found in finished.items() if found[0] > 1.5}
    large = {name: found for name, found in reduced.items() if found[1]} or reduced
    if not large:
        raise ValueError("the network has no block whose maps are smaller than the image; name a layer")
    nearest = min(abs(math.log(reduction / _REDUCTION)) for reduction, _ in large.values())
    return [n for n, (reduction, _) in large.items() if abs(math.log(reduction / _REDUCTION)) < nearest + 0.01][-1]


def _map_axes(output: Tensor, size: Sequence[int]) -> tuple[int, ...] | None:
    """Return the spatial axes of a layer's output, channels first or last; None where it is no map of the image."""
    if output.ndim != len(size) + 2:
        return None
    for first in (2, 1):
        sides = output.shape[first : first + len(size)]
        steps = [n / s for n, s in zip(size, sides, strict=True)]
        # Axes may be halved differently often, and sizes that do not divide are rounded up.
        if min(sides) > 1 and all(abs(math.log2(step) - round(math.log2(step))) < 0.2 for step in steps):
            return tuple(range(first, first + len(size)))
    return None


def _token_size(inputs: tuple[object, ...]) -> tuple[int, int] | None:
    """Return the size of the map that a layer's tokens form: it is given beside them."""
    return inputs[1] if len(inputs) > 1 and isinstance(inputs[1], tuple) else None


class _Watch:
    """Keeps what a layer put out, as a map `(B, C, *s)`."""

    def __init__(self, model: nn.Module, name: str, size: Sequence[int]) -> None:
        modules = dict(model.named_modules())
        if name not in modules or not name:
            raise ValueError(f"the network has no layer {name!r}; its layers are {', '.join(list(modules)[1:9])}, ...")
        self.name, self.image_size = name, size
        self.output: Tensor | None = None
        self.tokens: tuple[int, int] | None = None
        self.handle = modules[name].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[object, ...], output: Tensor) -> Tensor:
        self.tokens = _token_size(inputs)
        # A copy: what follows may write into the layer's own output.
        self.output = output.clone() if isinstance(output, Tensor) else None
        return output if self.output is None else self.output.clone()

    def map(self, values: Tensor) -> Tensor:
        """Lay tokens out as the map they form and put channels first."""
        if self.tokens is not None:
            return to_map(values, self.tokens)
        axes = _map_axes(values, self.image_size)
        if axes is None:
            raise ValueError(f"layer {self.name!r} puts out {tuple(values.shape)}, which is no map of the image")
        return values.movedim(-1, 1) if axes[0] == 1 else values

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


def layer_maps(model: nn.Module, x: Tensor, layer: str) -> Tensor:
    """Return the channels of a layer's output for images `x`.

    Args:
        model: The network.
        x: `(B, C, *S)`.
        layer: Dotted name of a layer that puts out a map, channels first or last, or tokens with their size.

    Returns:
        `(B, channels, *s)`.

    Raises:
        ValueError: There is no such layer, or it puts out no map.
    """
    with _Watch(model, layer, x.shape[2:]) as watch, torch.no_grad():
        model(x)
    return watch.map(_needed(watch.output, layer))


def activation_map(model: nn.Module, x: Tensor, layer: str | None = None) -> Tensor:
    """Average a layer's absolute channel activations and bring them to the image's size (U-KAN Fig. 4's kind of map).

    Args:
        model: The network.
        x: `(B, C, *S)`.
        layer: Dotted name; `default_layer` if None.

    Returns:
        `(B, *S)`, each image scaled to 0..1.
    """
    maps = layer_maps(model, x, layer or default_layer(model, x)).abs().mean(1, keepdim=True)
    return _to_image(maps, x)


def grad_cam(model: nn.Module, x: Tensor, class_index: int, layer: str | None = None) -> Tensor:
    """Weight a layer's channels by how much they raise a class, keep what raises it (Grad-CAM for segmentation).

    The score is the sum of the class's logits over the places predicted as that class (over all if there is none).

    Args:
        model: Network with logits `(B, K, *S)`.
        x: `(B, C, *S)`.
        class_index: Index of the class, background 0; with one logit 1 is the foreground.
        layer: As in `activation_map`.

    Returns:
        `(B, *S)`, each image scaled to 0..1.

    Raises:
        ValueError: There is no such class.
    """
    layer = layer or default_layer(model, x)
    with _Watch(model, layer, x.shape[2:]) as watch, torch.enable_grad():
        logits = model(x.detach().clone().requires_grad_(True))
        score = _class_score(logits, class_index)
        output = _needed(watch.output, layer)
        (gradient,) = torch.autograd.grad(score, output)
    maps, slopes = watch.map(output.detach()), watch.map(gradient)
    weighted = (maps * slopes.flatten(2).mean(2).view(*slopes.shape[:2], *[1] * (maps.ndim - 2))).sum(1, keepdim=True)
    return _to_image(weighted.relu(), x)


def _class_score(logits: Tensor, class_index: int) -> Tensor:
    classes = num_classes(logits.shape[1])
    if not 0 <= class_index < classes:
        raise ValueError(f"there is no class {class_index}; the network tells classes 0 to {classes - 1} apart")
    # A lone logit speaks for both classes: what raises the background lowers it.
    plane = logits[:, class_index] if logits.shape[1] > 1 else logits[:, 0] * (1 if class_index else -1)
    chosen = labels(logits) == class_index
    empty = ~chosen.flatten(1).any(1).view(-1, *[1] * (chosen.ndim - 1))
    return (plane * (chosen | empty)).sum()


def _to_image(maps: Tensor, x: Tensor) -> Tensor:
    how = "bilinear" if x.ndim == 4 else "trilinear"
    full = F.interpolate(maps, size=x.shape[2:], mode=how, align_corners=False)[:, 0]
    return scaled(full)


def scaled(maps: Tensor) -> Tensor:
    """Scale each map of `(B, *S)` to 0..1 by its own smallest and greatest value."""
    flat = maps.flatten(1)
    ones = [1] * (maps.ndim - 1)
    low, high = flat.min(1).values.view(-1, *ones), flat.max(1).values.view(-1, *ones)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


def _needed(output: Tensor | None, layer: str) -> Tensor:
    if output is None:
        raise ValueError(f"layer {layer!r} was not used for this image")
    return output


def plausibility(attention: Tensor, label: Tensor, thresholds: Tensor | None = None) -> tuple[float, float]:
    """Compare a map of attention with a label: the best IoU over thresholds, and the threshold that gives it.

    Because the threshold is chosen with the label at hand this is an upper bound, equal for all maps compared.

    Args:
        attention: `(*S)`, 0 to 1.
        label: `(*S)` boolean mask of the class.
        thresholds: Values to try; 0.1, 0.2, ..., 0.9 if None.

    Returns:
        IoU 0..1 (NaN where the label is empty) and the threshold.
    """
    if not bool(label.any()):
        return float("nan"), float("nan")
    tried = torch.linspace(0.1, 0.9, 9) if thresholds is None else thresholds
    scores = [
        float((((attention >= t) & label).sum() / ((attention >= t) | label).sum().clamp_min(1)).item()) for t in tried
    ]
    best = max(range(len(scores)), key=scores.__getitem__)
    return scores[best], float(tried[best])


def randomized(model: nn.Module, build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build the same network with fresh weights: the control that a map must differ from to mean anything.

    Args:
        model: The trained network; gives mode and device.
        build: Makes a network of the same configuration.
        seed: Of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        control = build()
    return control.to(next(model.parameters()).device).train(model.training)
