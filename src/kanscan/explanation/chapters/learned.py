"""What the splines learned, and how many of them are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kanscan.explanation import sheets
from kanscan.explanation.chapters.base import Chapter, Sample, batches
from kanscan.explanation.formulas import Formula, fit_formula
from kanscan.explanation.pruning import node_importance, prune_curve
from kanscan.explanation.splines import ObservedLayer, observe_splines
from kanscan.layers.spline import spline_layers

#: Functions drawn and given formulas in each layer.
NUM_EDGES = 12
PRUNE_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def splines(model: nn.Module, samples: Sequence[Sample], device: torch.device) -> tuple[Chapter, list[ObservedLayer]]:
    """Show what every spline layer learned, where the data lies.

    Raises:
        ValueError: The network has no spline layer.
    """
    layers = observe_splines(model, batches(samples, device))
    formulas = {
        layer.name: {edge: fit_formula(layer, *edge) for edge in layer.strongest(NUM_EDGES)} for layer in layers
    }
    figures = [
        (
            f"splines-{layer.name}",
            sheets.spline_sheet(layer, formulas[layer.name], NUM_EDGES),
            f"{_sheet_caption(layer)} Dashed: fitted formula. Bars: inputs it met. Dotted: ends of the grid.",
        )
        for layer in layers
    ]
    chapter = Chapter(
        "splines",
        "Learned splines",
        _sentences(layers, len(samples), len(spline_layers(model))),
        figures,
        [_table(layers)],
        _arrays(layers),
        {"formulas.txt": _formula_text(layers, formulas), "formulas.tex": _formula_latex(layers, formulas)},
    )
    return chapter, layers


def what_is_learned(layers: Sequence[ObservedLayer]) -> str:
    """Name the functions of some layers: edges, or splines that the inputs of an output share."""
    kinds = {"shared splines" if layer.shared else "edges" for layer in layers}
    return " and ".join(sorted(kinds))


def _sheet_caption(layer: ObservedLayer) -> str:
    share = layer.importance.square().flatten().sort(descending=True).values
    first = 100 * float(share[:NUM_EDGES].sum() / share.sum().clamp_min(1e-30))
    total, met = layer.importance.numel(), f"{layer.num_inputs:,}"
    shown = f"the {NUM_EDGES} of {total:,}" if total > NUM_EDGES else f"the {total:,}"
    if layer.shared:
        return (
            f"{layer.name}: {shown} shared splines (inputs → output) whose sum over the inputs of their output varies "
            f"most; together {first:.1f}% of the variance of all. The SiLU part, with a weight for each input, is not "
            f"drawn. Inputs are those of all that share the spline, {met} values. Line: the spline."
        )
    where = "input" if layer.taps in (None, (1, 1)) else "channel (row, column of the window)"
    return (
        f"{layer.name}: {shown} edges ({where} → output) whose output varies most over {met} tokens; together "
        f"{first:.1f}% of the variance of all edges. Line: the edge."
    )


_COLUMNS = (
    "layer",
    "size",
    "outside grid, %",
    "beyond splines, %",
    "nonlinearity",
    "median",
    "strongest",
    "inputs for 90%",
)


def _table(layers: Sequence[ObservedLayer]) -> tuple[tuple[str, ...], list[tuple[str, ...]], tuple[int, ...]]:
    # The last column says nothing of shared splines; without it the sizes stay on one line.
    used = len(_COLUMNS) - all(layer.shared for layer in layers)
    return _COLUMNS[:used], [_row(layer)[:used] for layer in layers], tuple(range(2, used))


def _row(layer: ObservedLayer) -> tuple[str, ...]:
    outputs, places = layer.importance.shape
    window = "" if layer.taps is None else f", {' x '.join(map(str, layer.taps))}"
    size = f"{outputs:,} shared{window}" if layer.shared else f"{places:,} → {outputs:,}{window}"
    return (
        layer.name,
        size,
        f"{100 * float(layer.share_outside.mean()):.1f}",
        "-" if math.isinf(layer.bases.reach) else f"{100 * float(layer.share_beyond.mean()):.1f}",
        f"{layer.edge_nonlinearity:.3f}",
        f"{float(layer.importance.median()):.3g}",
        f"{float(layer.importance.max()):.3g}",
        "-" if layer.shared else _inputs_that_count(layer),
    )


def _inputs_that_count(layer: ObservedLayer) -> str:
    """Say how few inputs bring 90% of the variance that leaves them."""
    variance = node_importance([layer])[layer.name].square().sort(descending=True).values
    needed = int((variance.cumsum(0) < 0.9 * variance.sum()).sum()) + 1
    return f"{min(needed, len(variance)):,} of {len(variance):,}"


def _sentences(layers: Sequence[ObservedLayer], num_images: int, num_layers: int) -> list[str]:
    text = [
        f"Observed on {num_images} images. The size of a function (median and strongest of the layer) is the standard "
        "deviation over the data of what it adds to its output. Nonlinearity is the share of the functions' variance "
        "that a straight line through each of them cannot explain: 0 means that the layer is a linear one in effect.",
        "Outside the grid splines fade out; beyond all splines only the SiLU part is left, and nothing learned by the "
        "splines applies: both are shares of the inputs.",
    ]
    if not all(layer.shared for layer in layers):
        text.append("The last column counts the inputs that bring 90% of the variance that leaves a layer's inputs.")
    if any(layer.shared for layer in layers):
        text.append(
            "Where the inputs of an output share one spline, its size is that of its sum over them, and its inputs "
            "are all of theirs together; SiLU has a weight for each input and is no part of what is drawn."
        )
    if any(math.isinf(layer.bases.reach) for layer in layers):
        text.append(
            "The functions as coded by the released VMKLA-UNet are no B-splines: they jump at the knots and grow like "
            "a cubic outside the grid instead of fading out."
        )
    if any(layer.taps is not None for layer in layers):
        text.append("The zeros around a padded map are not counted among the inputs.")
    if len(layers) < num_layers:
        text.append(f"{num_layers - len(layers)} of {num_layers} spline layers are not used for these images.")
    return text


def _arrays(layers: Sequence[ObservedLayer]) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    for layer in layers:
        arrays |= {
            f"{layer.name}/importance": layer.importance.numpy(),
            f"{layer.name}/nonlinearity": layer.nonlinearity.numpy(),
            f"{layer.name}/sources": layer.sources.numpy(),
            f"{layer.name}/share_outside": layer.share_outside.numpy(),
            f"{layer.name}/histogram": layer.histogram.numpy(),
            f"{layer.name}/bin_edges": layer.bin_edges.numpy(),
            f"{layer.name}/node_importance": node_importance([layer])[layer.name].numpy(),
        }
    return arrays


def _formula_text(layers: Sequence[ObservedLayer], formulas: Mapping[str, Mapping[tuple[int, int], Formula]]) -> str:
    lines = ["layer\tinput\toutput\tR2\tformula"]
    for layer in layers:
        lines += [
            f"{layer.name}\t{layer.reads(o, i)}\t{o}\t{f.r_squared:.4f}\t{f.text}"
            for (o, i), f in formulas[layer.name].items()
        ]
    return "\n".join(lines) + "\n"


def _formula_latex(layers: Sequence[ObservedLayer], formulas: Mapping[str, Mapping[tuple[int, int], Formula]]) -> str:
    lines = []
    for layer in layers:
        lines.append(f"% {layer.name}")
        for (o, i), f in formulas[layer.name].items():
            index = f"{o}" if layer.shared else f"{o},{layer.reads(o, i)}"
            lines.append(rf"\phi_{{{index}}}(x) = {f.latex} \qquad (R^2 = {f.r_squared:.3f}) \\")
    return "\n".join(lines) + "\n"


def pruning(
    model: nn.Module,
    layers: Sequence[ObservedLayer],
    judge: Callable[[nn.Module], float],
    score_name: str,
    num_cases: int,
) -> Chapter:
    """Show how much of the spline layers is needed."""
    points = prune_curve(model, layers, PRUNE_SHARES, judge)
    what = what_is_learned(layers)
    rows = [(f"{100 * p.share_removed:.0f}", f"{p.num_edges:,}", f"{p.score:.4f}") for p in points]
    figure = sheets.prune_figure(points, score_name, what)
    sentences = [
        f"The {what} of all spline layers are ranked by the share of their output's variance that they bring on the "
        "observed images (labels play no part), and the least are set to zero without training on. Judged by "
        f"{score_name}, {num_cases} cases. A curve that stays level says that the layers hold more than they need; "
        "everything else in the network is untouched."
    ]
    if any(layer.shared for layer in layers):
        sentences.append(
            "A shared spline is removed as a whole, for all inputs of its output; the SiLU part of that output stays."
        )
    return Chapter(
        "pruning",
        "Pruning",
        sentences,
        [("pruning", figure, f"{score_name} against the share of {what} removed, {num_cases} cases.")],
        [((f"{what} removed, %", f"{what} left", score_name), rows, (0, 1, 2))],
        {
            "share_removed": np.array([p.share_removed for p in points]),
            "score": np.array([p.score for p in points]),
        },
    )
