"""What a place receives: along the directions of scans, and by linear attention beside the scan it replaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from kanscan.explanation.activation import plausibility, scaled
from kanscan.explanation.chapters.base import Chapter, Sample
from kanscan.explanation.linear_attention import Mixer, attention_layers, attention_map, has_kan, scan_map
from kanscan.explanation.panels import Row, map_figure, on_image
from kanscan.explanation.scan_attention import ScanAttention, scan_attention


def scans(
    model: nn.Module,
    control: nn.Module,
    samples: Sequence[Sample],
    position: Sequence[float],
    device: torch.device,
    layer: str | None = None,
) -> Chapter:
    """Show what one place receives along each scan direction, beside numbers of the same network with random weights.

    Raises:
        ValueError: The network has no scans over places.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    figures, every, random = [], [], []
    for sample in samples:
        x = sample.x[None].to(device)
        found = scan_attention(model, x, position, layer)
        every.append(found)
        random.append(scan_attention(control, x, position, layer))
        size = tuple(sample.x.shape[1:])
        rows = [_scan_row(one, size) for one in found]
        caption = (
            f"{sample.id}: one image. Share of what the marked place receives that comes from each place along each "
            "order (in %), absolute contributions summed over channels, nothing averaged; brightness is the square "
            f"root, scaled for each layer. Layers: {', '.join(one.layer for one in found)}."
        )
        drawing = map_figure(sample.image, rows, None, bar="share, square root", spacing_mm=sample.spacing_mm)
        figures.append((f"scans-{sample.id}", drawing, caption))
        arrays |= {f"{sample.id}/{one.layer}": one.maps.numpy() for one in found}
    both = zip(zip(*every, strict=True), zip(*random, strict=True), strict=True)
    table = [row for alike, fresh in both for row in _scan_rows(alike, fresh)]
    return Chapter(
        "scans",
        "What a place receives by scans",
        (
            "The scan is linear in its input once step sizes, B and C are read off the image; the maps are rows of "
            f"that matrix times the input. The table holds means over {len(samples)} images for the marked place, "
            "beside those of the same network with random weights; the distance is that of the contributions from it, "
            "weighted by their shares, over the map's diagonal.",
        ),
        figures,
        [(_SCAN_COLUMNS, table, (2, 3, 4, 5))],
        arrays,
    )


_SCAN_COLUMNS = ("layer", "order", "share, %", "random weights", "mean distance", "random weights")


def _scan_rows(alike: Sequence[ScanAttention], fresh: Sequence[ScanAttention]) -> list[tuple[str, ...]]:
    """Return a line for each order of a layer, and one for all of them."""

    def share(found: Sequence[ScanAttention], index: int) -> str:
        return f"{fmean(100 * float(one.maps[index].sum()) for one in found):.0f}"

    rows = [
        (alike[0].layer, order.replace("_", " "), share(alike, index), share(fresh, index), "", "")
        for index, order in enumerate(alike[0].orders)
    ]
    distances = (f"{fmean(one.distance() for one in found):.3f}" for found in (alike, fresh))
    return [*rows, (alike[0].layer, "all", "100", "100", *distances)]


def _scan_row(found: ScanAttention, size: Sequence[int]) -> Row:
    top = float(found.maps.max().sqrt()) or 1.0
    panels = [
        (f"{name.replace('_', ' ')}: {100 * float(plane.sum()):.0f}%", (plane.sqrt() / top).numpy())
        for name, plane in zip(found.orders, found.maps, strict=True)
    ]
    return Row("", panels, found.layer, mark=on_image(found.query, found.map_size, size))


def attention(
    model: nn.Module,
    control: nn.Module,
    samples: Sequence[Sample],
    position: tuple[float, float],
    device: torch.device,
    beside: Mapping[str, nn.Module],
) -> Chapter:
    """Set linear attention beside the scans of the same network and of others (VMKLA-UNet Fig. 10).

    Args:
        model: The network.
        control: The same with random weights.
        samples: Images.
        position: Row and column of the receiving place as shares of height and width.
        device: Where the networks are.
        beside: Networks with 2D scans, by name.

    Raises:
        ValueError: The network has no linear attention.
    """
    layers = attention_layers(model)
    kan = bool(layers) and has_kan(next(iter(layers.values())))
    title = "KAN attention" if kan else "linear attention"
    arrays: dict[str, NDArray[np.generic]] = {}
    figures, names = [], {}
    every: dict[str, list[tuple[Mixer, float]]] = {}
    for sample in samples:
        x = sample.x[None].to(device)
        looked = _look(model, control, beside, x, position, title)
        size = tuple(sample.x.shape[1:])
        heats = {name: _to_size(scaled(mixer.activity[None])[0], size) for name, mixer in looked.items()}
        for name, mixer in looked.items():
            score = float("nan")
            if sample.label is not None:
                score = plausibility(heats[name] * sample.known, sample.is_class())[0]
            every.setdefault(name, []).append((mixer, score))
            names[name] = mixer.layer
            arrays |= {
                f"{sample.id}/{name}/activity": mixer.activity.numpy(),
                f"{sample.id}/{name}/received": mixer.received.numpy(),
            }
        figures.append(_attention_figure(sample, looked, heats, title))
    return Chapter(
        "attention",
        f"{title[0].upper()}{title[1:]} beside scans",
        (
            "Each column is a layer that mixes places on a map of the same size: the attention of this network, the "
            "last 2D scan of the same network on such a map, and that of other runs where some were named; at last "
            "the attention with random weights, the control. Output is taken before any norm or gate.",
            f"Means over {len(samples)} images. Distance of contributions over the map's diagonal, averaged over four "
            "receiving places of each image. Plausibility IoU as in the chapter on where the network looks.",
        ),
        figures,
        [_mixer_table(every, names)],
        arrays,
    )


def _attention_figure(
    sample: Sample, looked: Mapping[str, Mixer], heats: Mapping[str, Tensor], title: str
) -> tuple[str, Figure, str]:
    mark = on_image(looked[title].query, looked[title].size, sample.x.shape[1:])
    top = {name: float(mixer.received.max().sqrt()) or 1.0 for name, mixer in looked.items()}
    received = [(name, (mixer.received.sqrt() / top[name]).numpy()) for name, mixer in looked.items()]
    rows = [
        Row("strength of output", [(name, heat.numpy()) for name, heat in heats.items()]),
        Row("received by +", received, mark=mark),
    ]
    drawn = map_figure(sample.image, rows, sample.outline, bar="each map 0..1 by itself")
    caption = (
        f"{sample.id}: one image. Above: mean absolute output over channels. Below: share of what the marked place "
        "receives from each place, absolute contributions summed over channels and directions; square root. Each "
        "map scaled by itself."
    )
    return f"attention-{sample.id}", drawn, caption


def _look(
    model: nn.Module,
    control: nn.Module,
    beside: Mapping[str, nn.Module],
    x: Tensor,
    position: tuple[float, float],
    title: str,
) -> dict[str, Mixer]:
    found = {title: attention_map(model, x, position)}
    size = found[title].size
    sources: list[tuple[str, Callable[[], Mixer]]] = [
        ("scan, same network", lambda: scan_map(model, x, position, size)),
        *((f"scan, {name}", lambda other=other: scan_map(other, x, position, size)) for name, other in beside.items()),
        (f"{title}, random weights", lambda: attention_map(control, x, position)),
    ]
    for name, look in sources:
        try:
            found[name] = look()
        except ValueError:
            # A network named for comparison must have what it was named for.
            if name.removeprefix("scan, ") in beside:
                raise
    return found


def _to_size(heat: Tensor, size: Sequence[int]) -> Tensor:
    full = torch.nn.functional.interpolate(heat[None, None], size=tuple(size), mode="bilinear", align_corners=False)
    return full[0, 0]


def _mixer_table(
    every: Mapping[str, Sequence[tuple[Mixer, float]]], names: Mapping[str, str]
) -> tuple[Sequence[str], Sequence[Sequence[str]], Sequence[int]]:
    rows = []
    for name, found in every.items():
        scores = [score for _, score in found if score == score]
        size = found[0][0].size
        rows.append(
            (
                name,
                names[name],
                f"{size[0]} x {size[1]}",
                f"{fmean(mixer.distance for mixer, _ in found):.3f}",
                f"{fmean(scores):.3f}" if scores else "-",
            )
        )
    return ("mixer", "layer", "map", "mean distance", "plausibility IoU"), rows, (3, 4)
