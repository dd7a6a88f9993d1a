"""How sure a network is and whether it should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from kanscan.drawing.charts import reliability_diagram
from kanscan.drawing.colors import REFERENCE_WORDS
from kanscan.explanation.chapters.base import Chapter, Sample
from kanscan.explanation.panels import Row, map_figure
from kanscan.explanation.uncertainty import Uncertainty, dropping, fit_temperature, summarize
from kanscan.metrics.calibration import Reliability, reliability_of
from kanscan.metrics.logits import probabilities as class_probabilities

Probabilities = Callable[[nn.Module, Tensor], Tensor]


def uncertainty(
    models: Sequence[nn.Module],
    probabilities: Probabilities,
    samples: Sequence[Sample],
    device: torch.device,
    num_draws: int = 8,
) -> Chapter:
    """Show where predictions disagree: flips, dropout left on, and other runs.

    Args:
        models: The run's network, then those of other runs.
        probabilities: Network and batch to `(B, K, H, W)`.
        samples: Images.
        device: Where the networks are.
        num_draws: Predictions with dropout left on.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    figures, means = [], []
    with dropping(models[0]) as num_dropping:
        pass
    for sample in samples:
        kinds = _kinds(models, probabilities, sample.x[None].to(device), num_draws if num_dropping else 0)
        for name, found in kinds.items():
            arrays |= {
                f"{sample.id}/{name}/mean": found.mean.float().numpy(),
                f"{sample.id}/{name}/entropy": found.entropy.float().numpy(),
                f"{sample.id}/{name}/mutual_information": found.mutual_information.float().numpy(),
                f"{sample.id}/{name}/agreement": found.agreement.float().numpy(),
            }
        means.append({name: _means(found, sample) for name, found in kinds.items()})
        figures.append(_uncertainty_figure(sample, kinds))
    table = [
        (name, str(means[0][name][0]), *(_mean_text([m[name][part] for m in means]) for part in range(1, 6)))
        for name in means[0]
    ]
    columns = (
        "predictions",
        "number",
        "entropy",
        "mutual information",
        "disagreement",
        "entropy where wrong",
        "entropy where right",
    )
    note = "" if num_dropping else " The network has no dropout and no stochastic depth to leave on."
    return Chapter(
        "uncertainty",
        "Uncertainty",
        (
            f"Means over all places of {len(samples)} images. Mutual information is the part of the entropy that "
            "comes from predictions disagreeing rather than from each being unsure. Wrong and right are places where "
            "the choice of the mean differs from the label or not: an entropy that is of use is larger where wrong."
            + note,
        ),
        figures,
        [(columns, table, (1, 2, 3, 4, 5, 6))],
        arrays,
    )


def _uncertainty_figure(sample: Sample, kinds: Mapping[str, Uncertainty]) -> tuple[str, Figure, str]:
    rows = [
        Row(
            f"{name} ({found.num_predictions})",
            [
                ("entropy", found.entropy.numpy()),
                ("mutual information", found.mutual_information.numpy()),
                ("disagreement", (1 - found.agreement).numpy()),
            ],
            "choice of the mean",
            found.mean.argmax(0).numpy(),
        )
        for name, found in kinds.items()
    ]
    label = sample.outline
    drawn = map_figure(sample.image, rows, label, bar="value, 0 is sure", spacing_mm=sample.spacing_mm)
    caption = (
        f"{sample.id}: one image. In brackets how many predictions are joined. Entropy of their mean (1 is no idea), "
        "the part of it that comes from disagreement, and the share that choose another class than most. Outlined in "
        f"{REFERENCE_WORDS}: in the first column the choice of the mean, elsewhere "
        f"{'nothing' if label is None else 'the label'}."
    )
    return f"uncertainty-{sample.id}", drawn, caption


def _kinds(
    models: Sequence[nn.Module], probabilities: Probabilities, x: Tensor, num_draws: int
) -> dict[str, Uncertainty]:
    axes = range(-x.ndim + 2, 0)
    flips = [list(c) for n in range(len(axes) + 1) for c in combinations(axes, n)]
    kinds = {"flips": summarize([_flipped(models[0], probabilities, x, one) for one in flips])}
    if num_draws:
        with dropping(models[0]):
            kinds["dropout"] = summarize([probabilities(models[0], x)[0].cpu() for _ in range(num_draws)])
    if len(models) > 1:
        kinds["ensemble"] = summarize([probabilities(m, x)[0].cpu() for m in models])
    return kinds


def _flipped(model: nn.Module, probabilities: Probabilities, x: Tensor, axes: list[int]) -> Tensor:
    return probabilities(model, x.flip(axes)).flip(axes)[0].cpu()


def _means(found: Uncertainty, sample: Sample) -> tuple[float, ...]:
    """Return the number of predictions, three means, and the mean entropy where wrong and where right."""
    nothing = found.entropy.new_zeros(0)
    parts = (nothing, nothing)
    if sample.label is not None:
        wrong = found.mean.argmax(0) != sample.label
        parts = (found.entropy[wrong & sample.known], found.entropy[~wrong & sample.known])
    return (
        found.num_predictions,
        float(found.entropy.mean()),
        float(found.mutual_information.mean()),
        float(1 - found.agreement.mean()),
        *(float(part.mean()) for part in parts),
    )


def _mean_text(values: Sequence[float]) -> str:
    known = [value for value in values if value == value]
    return f"{fmean(known):.4f}" if known else "-"


@dataclass(frozen=True)
class Calibrated:
    """Result of fitting a temperature.

    Attributes:
        temperature: Divides the logits.
        before: Of the judged cases as trained.
        after: Of the judged cases with the temperature.
    """

    temperature: float
    before: Reliability
    after: Reliability


def calibrating(
    fitted_on: Sequence[tuple[Tensor, Tensor]], judged_on: Sequence[tuple[Tensor, Tensor]], what: str = "pixels"
) -> tuple[Chapter, Calibrated]:
    """Fit a temperature on validation cases and judge it on others.

    Args:
        fitted_on: `(K, *s)` logits and `(*s)` labels of validation cases.
        judged_on: The same of cases that neither training nor fitting saw.
        what: What the places of an image are called.

    Raises:
        ValueError: There are no validation cases.
    """
    temperature = fit_temperature(fitted_on)

    def judged(scale: float) -> Reliability:
        scaled = ((class_probabilities(logits / scale, axis=0), label) for logits, label in judged_on)
        return reliability_of((p.numpy(), label.numpy()) for p, label in scaled)

    found = Calibrated(temperature, judged(1.0), judged(temperature))
    said = "too sure of itself" if temperature > 1.02 else "too unsure" if temperature < 0.98 else "well scaled"
    figure = reliability_diagram({"as trained": found.before, "with temperature": found.after}, what)
    chapter = Chapter(
        "calibration",
        "Calibration",
        (
            f"Temperature {temperature:.3f}, fitted on {len(fitted_on)} validation cases: the network was {said}. "
            f"Expected calibration error over all {what} of {len(judged_on)} other cases: {found.before.error:.4f} as "
            f"trained, {found.after.error:.4f} with the temperature. Most {what} are easy background and weigh most in "
            "both numbers; the diagram shows the others.",
        ),
        [
            (
                "reliability",
                figure,
                f"All {what} of {len(judged_on)} cases together, in 15 bins of the chosen class's probability. Bars: "
                f"share of the {what} in each bin as trained.",
            )
        ],
        (),
        {
            "confidence": found.before.confidence,
            "accuracy": found.before.accuracy,
            "count": found.before.count,
            "accuracy_with_temperature": found.after.accuracy,
            "confidence_with_temperature": found.after.confidence,
        },
    )
    return chapter, found
