"""What the splines learned, and how many of them are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kanscan.explanation import sheets
from kanscan.explanation.chapters.base import Chapter, Sample, batches
from kanscan.explanation.formulas import Formula, fit_formula
from kanscan.explanation.pruning import node_importance, prune_curve
from kanscan.explanation.splines import SplineLayer, observe_splines

#: Edges drawn and given formulas in each layer.
NUM_EDGES = 12
PRUNE_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def splines(model: nn.Module, samples: Sequence[Sample], device: torch.device) -> tuple[Chapter, list[SplineLayer]]:
    """Show what every KAN layer learned, where the data lies.

    Raises:
        ValueError: The network has no KAN layer.
    """
    layers = observe_splines(model, batches(samples, device))
    formulas = {
        layer.name: {edge: fit_formula(layer, *edge) for edge in layer.strongest(NUM_EDGES)} for layer in layers
    }
    figures = []
    for layer in layers:
        share = layer.importance.square().flatten().sort(descending=True).values
        first = float(share[:NUM_EDGES].sum() / share.sum().clamp_min(1e-30))
        figures.append(
            (
                f"splines-{layer.name}",
                sheets.spline_sheet(layer, formulas[layer.name], NUM_EDGES),
                f"{layer.name}: the {NUM_EDGES} of {layer.importance.numel():,} edges (input → output) whose output "
                f"varies most over {layer.num_inputs:,} tokens; together {100 * first:.1f}% of the variance of all "
                "edges. Line: the edge. Dashed: fitted formula. Bars: inputs it met. Dotted: ends of the grid.",
            )
        )
    rows = [
        (
            layer.name,
            f"{layer.importance.shape[1]} → {layer.importance.shape[0]}",
            f"{100 * float(layer.share_outside.mean()):.1f}",
            f"{100 * float(layer.share_beyond.mean()):.1f}",
            f"{layer.edge_nonlinearity:.3f}",
            f"{float(layer.importance.median()):.3g}",
            f"{float(layer.importance.max()):.3g}",
        )
        for layer in layers
    ]
    columns = (
        "layer",
        "size",
        "inputs outside the grid, %",
        "beyond all splines, %",
        "nonlinearity",
        "median edge",
        "strongest edge",
    )
    arrays: dict[str, NDArray[Any]] = {}
    for layer in layers:
        arrays |= {
            f"{layer.name}/importance": layer.importance.numpy(),
            f"{layer.name}/nonlinearity": layer.nonlinearity.numpy(),
            f"{layer.name}/share_outside": layer.share_outside.numpy(),
            f"{layer.name}/histogram": layer.histogram.numpy(),
            f"{layer.name}/bin_edges": layer.bin_edges.numpy(),
            f"{layer.name}/node_importance": node_importance([layer])[layer.name].numpy(),
        }
    chapter = Chapter(
        "splines",
        "Learned splines",
        (
            f"Observed on {len(samples)} images. The size of an edge is the standard deviation of its output over all "
            "tokens. Nonlinearity is the share of the edges' variance that a straight line through each edge cannot "
            "explain: 0 means that the layer is a linear one in effect.",
            "Outside the grid splines fade out; beyond all splines only the SiLU part of an edge is left, and nothing "
            "learned by the splines applies.",
        ),
        figures,
        [(columns, rows, (2, 3, 4, 5, 6))],
        arrays,
        {"formulas.txt": _formula_text(formulas), "formulas.tex": _formula_latex(formulas)},
    )
    return chapter, layers


def _formula_text(formulas: Mapping[str, Mapping[tuple[int, int], Formula]]) -> str:
    lines = ["layer\tinput\toutput\tR2\tformula"]
    for name, edges in formulas.items():
        lines += [f"{name}\t{i}\t{o}\t{f.r_squared:.4f}\t{f.text}" for (o, i), f in edges.items()]
    return "\n".join(lines) + "\n"


def _formula_latex(formulas: Mapping[str, Mapping[tuple[int, int], Formula]]) -> str:
    lines = []
    for name, edges in formulas.items():
        lines.append(f"% {name}")
        lines += [
            rf"\phi_{{{o},{i}}}(x) = {f.latex} \qquad (R^2 = {f.r_squared:.3f}) \\" for (o, i), f in edges.items()
        ]
    return "\n".join(lines) + "\n"


def pruning(
    model: nn.Module,
    layers: Sequence[SplineLayer],
    judge: Callable[[nn.Module], float],
    score_name: str,
    num_cases: int,
) -> Chapter:
    """Show how much of the KAN layers is needed."""
    points = prune_curve(model, layers, PRUNE_SHARES, judge)
    rows = [(f"{100 * p.share_removed:.0f}", f"{p.num_edges:,}", f"{p.score:.4f}") for p in points]
    figure = sheets.prune_figure(points, score_name)
    return Chapter(
        "pruning",
        "Pruning",
        (
            "Edges are ranked over all KAN layers by the share of their output's variance that they bring on the "
            f"observed images, and the least are set to zero without any further training. {score_name} of {num_cases} "
            "cases. Curves that stay level say that the layers hold more edges than they need; the convolutions are "
            "untouched.",
        ),
        [("pruning", figure, f"{score_name} against the share of edges removed, {num_cases} cases.")],
        [(("edges removed, %", "edges left", score_name), rows, (0, 1, 2))],
        {
            "share_removed": np.array([p.share_removed for p in points]),
            "score": np.array([p.score for p in points]),
        },
    )
