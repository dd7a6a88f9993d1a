"""Where a network looks and what a pixel receives."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from kanscan.explanation import sheets
from kanscan.explanation.activation import activation_map, grad_cam, last_kan_block, plausibility
from kanscan.explanation.chapters.base import Chapter, Sample, batches
from kanscan.explanation.receptive_field import receptive_field
from kanscan.explanation.scan_attention import scan_attention


def maps(
    model: nn.Module,
    control: nn.Module,
    samples: Sequence[Sample],
    class_names: Sequence[str],
    device: torch.device,
    layer: str | None = None,
) -> Chapter:
    """Show where the network looks, beside the same network with random weights.

    Raises:
        ValueError: The network has no such layer.
    """
    layer = layer or last_kan_block(model)
    arrays: dict[str, NDArray[Any]] = {}
    figures, scores = [], []
    for sample in samples:
        x = sample.x[None].to(device)
        found = {
            "activation": activation_map(model, x, layer)[0],
            "activation, random weights": activation_map(control, x, layer)[0],
        }
        for index, name in enumerate(class_names[1:], start=1):
            found[f"Grad-CAM, {name}"] = grad_cam(model, x, index, layer)[0]
            found[f"Grad-CAM, {name}, random weights"] = grad_cam(control, x, index, layer)[0]
        found = {name: value.detach().float().cpu() for name, value in found.items()}
        label = None if sample.label is None else sample.label.numpy()
        panels = [(name, value.numpy()) for name, value in found.items()]
        caption = f"{sample.id}: one image, layer {layer}; each map scaled to 0..1 by itself."
        figures.append((f"maps-{sample.id}", sheets.map_figure(sample.image, panels, label), caption))
        arrays |= {f"{sample.id}/{name}": value for name, value in panels}
        if sample.label is not None:
            foreground = sample.label > 0
            scores.append({name: plausibility(value, foreground)[0] for name, value in found.items()})
    sentences = [
        f"Maps of layer {layer}: mean absolute activation over its channels, and Grad-CAM (channels weighted by the "
        "gradient of the class's logits over the pixels predicted as it). The panels with random weights are the "
        "control: what they show as well was not learned."
    ]
    tables = []
    known = [{k: v for k, v in row.items() if v == v} for row in scores]
    if any(known):
        names = list(known[0] or known[-1])
        rows = [(name, f"{fmean([row[name] for row in known if name in row]):.3f}") for name in names]
        tables.append((("map", "plausibility IoU"), rows, (1,)))
        sentences.append(
            f"Plausibility: IoU of the thresholded map with the foreground of the label, mean over "
            f"{sum(bool(row) for row in known)} images; the best of nine thresholds is chosen for each image with the "
            "label at hand, for trained and random weights alike."
        )
    return Chapter("maps", "Where it looks", sentences, figures, tables, arrays)


def field_of_view(model: nn.Module, control: nn.Module, samples: Sequence[Sample], device: torch.device) -> Chapter:
    """Show which input pixels move the central output."""
    trained = receptive_field(model, batches(samples, device))
    random = receptive_field(control, batches(samples, device))
    figure = sheets.receptive_field_figure([("trained", trained), ("random weights", random)])
    caption = (
        f"Absolute gradient of the central output pixel with respect to the input, averaged over {trained.num_images} "
        "images and scaled by its maximum; brightness is the fourth root."
    )
    rows = [
        (name, *(f"{100 * found.area(share):.1f}" for share in (0.5, 0.8, 0.95, 0.99)))
        for name, found in (("trained", trained), ("random weights", random))
    ]
    columns = ("weights", "50%", "80%", "95%", "99%")
    return Chapter(
        "receptive_field",
        "Effective receptive field",
        (
            "The table gives the share of the image (in %) that the smallest centered square needs to hold so much of "
            "the gradient: larger is a wider view.",
        ),
        [("receptive_field", figure, caption)],
        [(columns, rows, (1, 2, 3, 4))],
        {"trained": trained.field.numpy(), "random": random.field.numpy()},
    )


def scans(
    model: nn.Module, samples: Sequence[Sample], position: tuple[float, float], device: torch.device, layer: str | None
) -> Chapter:
    """Show what one pixel receives along each scan direction.

    Raises:
        ValueError: The network has no 2D scans.
    """
    arrays: dict[str, NDArray[Any]] = {}
    figures = []
    for sample in samples:
        found = scan_attention(model, sample.x[None].to(device), position, layer)
        caption = (
            f"{sample.id}: one image, layer {found.layer}. Share of what the marked pixel receives that comes from "
            "each pixel along each order, absolute contributions summed over channels; brightness is the square root."
        )
        figures.append((f"scans-{sample.id}", sheets.scan_figure(sample.image, found), caption))
        arrays[f"{sample.id}/{found.layer}"] = found.maps.numpy()
    return Chapter(
        "scans",
        "What a pixel receives",
        (
            "The scan is linear in its input once step sizes, B and C are read off the image; the maps are rows of "
            "that matrix times the input.",
        ),
        figures,
        (),
        arrays,
    )
