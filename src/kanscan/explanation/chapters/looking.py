"""Where a network looks: activations and Grad-CAM, effective receptive field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from kanscan.drawing.colors import REFERENCE_WORDS
from kanscan.explanation.activation import activation_map, default_layer, grad_cam, plausibility
from kanscan.explanation.chapters.base import Chapter, Sample, batches, of_one_size
from kanscan.explanation.panels import Row, map_figure, receptive_field_figure
from kanscan.explanation.receptive_field import receptive_field
from kanscan.metrics.logits import labels

#: Classes that get a Grad-CAM of their own in a figure: those that take most of the label.
MOST_CLASSES = 3


def maps(
    model: nn.Module,
    control: nn.Module,
    samples: Sequence[Sample],
    class_names: Sequence[str],
    device: torch.device,
    layer: str | None = None,
    shown: int = 4,
) -> Chapter:
    """Show where the network looks, beside the same network with random weights.

    Args:
        model: The network.
        control: The same with random weights.
        samples: Images that scores are averaged over.
        class_names: Background first.
        device: Where the networks are.
        layer: Layer whose maps are taken; see `default_layer`.
        shown: How many of the images are drawn.

    Raises:
        ValueError: The network has no such layer.
    """
    layer = layer or default_layer(model, samples[0].x[None].to(device))
    arrays: dict[str, NDArray[np.generic]] = {}
    figures = []
    scores: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for number, sample in enumerate(samples):
        if number >= shown and sample.label is None:
            continue
        x = sample.x[None].to(device)
        classes = _classes_to_show(model, sample, x, len(class_names))
        trained, random = (_maps(network, x, layer, classes, class_names) for network in (model, control))
        if number < shown:
            figures.append(_drawn(model, sample, x, trained, random, layer))
            for name, value in trained.items():
                arrays[f"{sample.id}/{name}"] = value.numpy()
                arrays[f"{sample.id}/{name}, random weights"] = random[name].numpy()
        if sample.label is not None:
            for name, mask in _compared(sample, classes, class_names).items():
                everything = float(mask[sample.known].double().mean())
                both = (plausibility(maps[name] * sample.known, mask)[0] for maps in (trained, random))
                found = (next(both), next(both), everything)
                if found[0] == found[0]:
                    what = "foreground" if name == "activation" else name.removeprefix("Grad-CAM, ")
                    scores.setdefault((name, what), []).append(found)
    return Chapter(
        "maps", "Where it looks", _sentences(layer, scores), figures, [_table(scores)] if scores else [], arrays
    )


def _drawn(
    model: nn.Module,
    sample: Sample,
    x: Tensor,
    trained: Mapping[str, Tensor],
    random: Mapping[str, Tensor],
    layer: str,
) -> tuple[str, Figure, str]:
    label = sample.outline
    with torch.no_grad():
        chosen = labels(model(x))[0].cpu().numpy()
    rows = [
        Row("trained", _panels(trained), "label" if label is not None else "image"),
        Row("random weights", _panels(random), "prediction (trained)", chosen),
    ]
    drawing = map_figure(sample.image, rows, label, bar="each map 0..1 by itself", spacing_mm=sample.spacing_mm)
    green = REFERENCE_WORDS[0].upper() + REFERENCE_WORDS[1:]
    outline = f"{green}: outline of the label, in" if label is not None else f"{green} in"
    caption = (
        f"{sample.id}: one image, nothing averaged; layer {layer}. {outline} the panel called prediction that of what "
        "the trained network labels."
    )
    return f"maps-{sample.id}", drawing, caption


def _classes_to_show(model: nn.Module, sample: Sample, x: Tensor, num_classes: int) -> list[int]:
    """Return the foreground classes that take most of the label, or of the prediction where there is no label."""
    if num_classes <= MOST_CLASSES + 1:
        return list(range(1, num_classes))
    with torch.no_grad():
        label = labels(model(x))[0].cpu() if sample.label is None else sample.label[sample.known]
    counts = torch.bincount(label.flatten(), minlength=num_classes)[1:]
    return sorted((counts.argsort(descending=True, stable=True)[:MOST_CLASSES] + 1).tolist())


def _maps(
    model: nn.Module, x: Tensor, layer: str, classes: Sequence[int], class_names: Sequence[str]
) -> dict[str, Tensor]:
    found = {"activation": activation_map(model, x, layer)[0]}
    for index in classes:
        found[f"Grad-CAM, {class_names[index]}"] = grad_cam(model, x, index, layer)[0]
    return {name: value.detach().float().cpu() for name, value in found.items()}


def _panels(found: Mapping[str, Tensor]) -> list[tuple[str, NDArray[np.generic]]]:
    return [(name, value.numpy()) for name, value in found.items()]


def _compared(sample: Sample, classes: Sequence[int], class_names: Sequence[str]) -> dict[str, Tensor]:
    """Return what each map is compared with: activations with all foreground, Grad-CAM with its class."""
    return {
        "activation": sample.is_class(),
        **{f"Grad-CAM, {class_names[index]}": sample.is_class(index) for index in classes},
    }


def _sentences(layer: str, scores: Mapping[tuple[str, str], Sequence[object]]) -> list[str]:
    text = [
        f"Maps of layer {layer}: mean absolute activation over its channels, and Grad-CAM (channels weighted by the "
        "gradient of the class's logits over the places predicted as it). The row with random weights is the control: "
        "what it shows as well was not learned."
    ]
    if scores:
        text.append(
            "Plausibility: IoU of the thresholded map with the label, mean over the images in which the class is "
            "there; the best of nine thresholds is chosen for each image with the label at hand, for trained and "
            "random weights alike. A map that marks the whole image has the IoU of the last column."
        )
    return text


def _table(
    scores: Mapping[tuple[str, str], Sequence[tuple[float, float, float]]],
) -> tuple[Sequence[str], Sequence[Sequence[str]], Sequence[int]]:
    columns = ("map", "compared with", "images", "plausibility IoU", "random weights", "whole image")
    rows = [
        (name, what, str(len(found)), *(f"{fmean(values):.3f}" for values in zip(*found, strict=True)))
        for (name, what), found in scores.items()
    ]
    return columns, rows, (2, 3, 4, 5)


def field_of_view(model: nn.Module, control: nn.Module, samples: Sequence[Sample], device: torch.device) -> Chapter:
    """Show which places of the input move the central output (LKM-UNet Fig. 3)."""
    used = of_one_size(samples)
    trained = receptive_field(model, batches(used, device))
    random = receptive_field(control, batches(used, device))
    figure = receptive_field_figure([("trained", trained), ("random weights", random)], used[0].spacing_mm)
    size = " x ".join(map(str, trained.field.shape))
    left = "" if len(used) == len(samples) else f" ({len(samples) - len(used)} of another size left out)"
    caption = (
        f"Absolute gradient of the central output with respect to the input, averaged over {trained.num_images} "
        f"images of {size}{left} and scaled by its maximum; brightness is the fourth root."
    )
    rows = [
        (name, *(f"{100 * found.area(share):.1f}" for share in (0.5, 0.8, 0.95, 0.99)))
        for name, found in (("trained", trained), ("random weights", random))
    ]
    shape = "square" if trained.field.ndim == 2 else "cube"
    return Chapter(
        "receptive_field",
        "Effective receptive field",
        (
            f"The table gives the share of the image (in %) that the smallest centered {shape} needs to hold so much "
            "of the gradient: larger is a wider view.",
        ),
        [("receptive_field", figure, caption)],
        [(("weights", "50%", "80%", "95%", "99%"), rows, (1, 2, 3, 4))],
        {"trained": trained.field.numpy(), "random": random.field.numpy()},
    )
