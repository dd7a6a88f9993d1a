"""Where a network looks: channel activations, Grad-CAM, and how well either agrees with a label."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.embedding import to_map
from kanscan.layers.kan import TokenizedKANBlock


def last_kan_block(model: nn.Module) -> str:
    """Return the dotted name of the tokenized KAN block that stands last in a network.

    Raises:
        ValueError: It has none.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, TokenizedKANBlock)]
    if not names:
        raise ValueError(f"{type(model).__name__} has no tokenized KAN block; name a layer of it instead")
    return names[-1]


class _Watch:
    """Keeps what a layer put out, as a map `(B, C, h, w)`."""

    def __init__(self, model: nn.Module, name: str) -> None:
        modules = dict(model.named_modules())
        if name not in modules or not name:
            raise ValueError(
                f"{type(model).__name__} has no layer {name!r}; its layers are {', '.join(list(modules)[1:9])}, ..."
            )
        self.output: Tensor | None = None
        self.handle = modules[name].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[object, ...], output: Tensor) -> Tensor:
        # Tokens come with the size of the map they form.
        size = inputs[1] if len(inputs) > 1 and isinstance(inputs[1], tuple) else None
        self.output = output
        self.size = size
        return output

    def map(self, values: Tensor) -> Tensor:
        """Lay tokens out as the map they form; a map is returned as it is."""
        return to_map(values, self.size) if self.size is not None else values

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


def layer_maps(model: nn.Module, x: Tensor, layer: str) -> Tensor:
    """Return the channels of a layer's output for images `x`.

    Args:
        model: The network.
        x: `(B, C, H, W)`.
        layer: Dotted name of a layer that puts out a map or tokens with their size.

    Returns:
        `(B, channels, h, w)`.
    """
    with _Watch(model, layer) as watch, torch.no_grad():
        model(x)
    return watch.map(_needed(watch.output, layer))


def activation_map(model: nn.Module, x: Tensor, layer: str | None = None) -> Tensor:
    """Average a layer's absolute channel activations and bring them to the image's size (U-KAN Fig. 4's kind of map).

    Args:
        model: The network.
        x: `(B, C, H, W)`.
        layer: Dotted name; the last tokenized KAN block if None.

    Returns:
        `(B, H, W)`, each image scaled to 0..1.
    """
    maps = layer_maps(model, x, layer or last_kan_block(model)).abs().mean(1, keepdim=True)
    return _to_image(maps, x)


def grad_cam(model: nn.Module, x: Tensor, class_index: int, layer: str | None = None) -> Tensor:
    """Weight a layer's channels by how much they raise a class, keep what raises it (Grad-CAM for segmentation).

    The score is the sum of the class's logits over the pixels predicted as that class (over all if there is none).

    Args:
        model: Network with logits `(B, K, H, W)`.
        x: `(B, C, H, W)`.
        class_index: Index of the class, background 0; with one logit 1 is the foreground.
        layer: As in `activation_map`.

    Returns:
        `(B, H, W)`, each image scaled to 0..1.

    Raises:
        ValueError: There is no such class.
    """
    layer = layer or last_kan_block(model)
    with _Watch(model, layer) as watch, torch.enable_grad():
        logits = model(x.detach().clone().requires_grad_(True))
        score = _class_score(logits, class_index)
        output = _needed(watch.output, layer)
        (gradient,) = torch.autograd.grad(score, output)
    maps, slopes = watch.map(output.detach()), watch.map(gradient)
    weighted = (maps * slopes.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu()
    return _to_image(weighted, x)


def _class_score(logits: Tensor, class_index: int) -> Tensor:
    classes = max(2, logits.shape[1])
    if not 0 <= class_index < classes:
        raise ValueError(f"there is no class {class_index}; the network tells classes 0 to {classes - 1} apart")
    if logits.shape[1] == 1:
        plane = logits[:, 0] if class_index == 1 else -logits[:, 0]
        chosen = plane > 0
    else:
        plane = logits[:, class_index]
        chosen = logits.argmax(1) == class_index
    chosen = torch.where(chosen.flatten(1).any(1)[:, None, None], chosen, True)
    return (plane * chosen).sum()


def _to_image(maps: Tensor, x: Tensor) -> Tensor:
    full = F.interpolate(maps, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    low = full.flatten(1).min(1).values[:, None, None]
    high = full.flatten(1).max(1).values[:, None, None]
    return (full - low) / (high - low).clamp_min(torch.finfo(full.dtype).tiny)


def _needed(output: Tensor | None, layer: str) -> Tensor:
    if output is None:
        raise ValueError(f"layer {layer!r} was not used for this image")
    return output


def plausibility(attention: Tensor, label: Tensor, thresholds: Tensor | None = None) -> tuple[float, float]:
    """Compare a map of attention with a label: the best IoU over thresholds, and the threshold that gives it.

    Because the threshold is chosen with the label at hand this is an upper bound, equal for all maps compared.

    Args:
        attention: `(H, W)`, 0 to 1.
        label: `(H, W)` boolean mask of the class.
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
