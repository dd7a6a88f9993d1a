"""How sure a network is and whether it should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kanscan.explanation import sheets
from kanscan.explanation.chapters.base import Chapter, Sample
from kanscan.explanation.uncertainty import Calibration, Uncertainty, calibration, dropping, fit_temperature, summarize

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
    arrays: dict[str, NDArray[Any]] = {}
    figures, means = [], []
    with dropping(models[0]) as num_dropping:
        pass
    for sample in samples:
        x = sample.x[None].to(device)
        kinds: dict[str, Uncertainty] = {
            "flips": summarize([_flipped(models[0], probabilities, x, axes) for axes in _FLIPS])
        }
        if num_dropping:
            with dropping(models[0]):
                kinds["dropout"] = summarize([probabilities(models[0], x)[0].cpu() for _ in range(num_draws)])
        if len(models) > 1:
            kinds["ensemble"] = summarize([probabilities(m, x)[0].cpu() for m in models])
        panels = []
        for name, found in kinds.items():
            panels += [
                (f"{name}: entropy", found.entropy.numpy()),
                (f"{name}: disagreement", 1 - found.agreement.numpy()),
            ]
            arrays |= {
                f"{sample.id}/{name}/mean": found.mean.float().numpy(),
                f"{sample.id}/{name}/entropy": found.entropy.float().numpy(),
                f"{sample.id}/{name}/agreement": found.agreement.float().numpy(),
            }
        label = None if sample.label is None else sample.label.numpy()
        means.append(
            {
                name: (
                    float(f.entropy.mean()),
                    float(f.mutual_information.mean()),
                    float(1 - f.agreement.mean()),
                    f.num_predictions,
                )
                for name, f in kinds.items()
            }
        )
        figures.append(
            (
                f"uncertainty-{sample.id}",
                sheets.map_figure(sample.image, panels, label),
                f"{sample.id}: one image; entropy of the mean probabilities (1 is no idea), and share of the "
                "predictions that choose another class than most.",
            )
        )
    rows = [
        (name, str(means[0][name][3]), *(f"{fmean(m[name][part] for m in means):.4f}" for part in range(3)))
        for name in means[0]
    ]
    note = "" if num_dropping else " The network has no dropout and no stochastic depth to leave on."
    return Chapter(
        "uncertainty",
        "Uncertainty",
        (
            f"Means over all pixels of {len(samples)} images. Mutual information is the part of the entropy that "
            f"comes from predictions disagreeing rather than from each being unsure.{note}",
        ),
        figures,
        [(("predictions", "number", "entropy", "mutual information", "disagreement"), rows, (1, 2, 3, 4))],
        arrays,
    )


_FLIPS: tuple[list[int], ...] = ([], [-1], [-2], [-2, -1])


def _flipped(model: nn.Module, probabilities: Probabilities, x: Tensor, axes: list[int]) -> Tensor:
    return probabilities(model, x.flip(axes)).flip(axes)[0].cpu()


@dataclass(frozen=True)
class Calibrated:
    """Result of fitting a temperature.

    Attributes:
        temperature: Divides the logits.
        before: Of the judged cases as trained.
        after: Of the judged cases with the temperature.
    """

    temperature: float
    before: Calibration
    after: Calibration


def calibrating(
    logits: Callable[[Sample], Tensor], fitted_on: Sequence[Sample], judged_on: Sequence[Sample]
) -> tuple[Chapter, Calibrated]:
    """Fit a temperature on validation cases and judge it on others.

    Args:
        logits: `(K, h, w)` of a sample.
        fitted_on: Labelled validation samples.
        judged_on: Labelled samples that neither training nor fitting saw.

    Raises:
        ValueError: There are no validation cases.
    """
    temperature = fit_temperature([(logits(s).cpu(), s.label) for s in fitted_on if s.label is not None])

    def judged(scale: float) -> Calibration:
        return calibration((_probabilities(logits(s).cpu() / scale), s.label) for s in judged_on if s.label is not None)

    found = Calibrated(temperature, judged(1.0), judged(temperature))
    said = "too sure of itself" if temperature > 1.02 else "too unsure" if temperature < 0.98 else "well scaled"
    figure = sheets.reliability_figure(found.before, found.after)
    chapter = Chapter(
        "calibration",
        "Calibration",
        (
            f"Temperature {temperature:.3f}, fitted on {len(fitted_on)} validation cases: the network was {said}. "
            f"Expected calibration error over all pixels of {len(judged_on)} other cases: {found.before.error:.4f} as "
            f"trained, {found.after.error:.4f} with the temperature.",
        ),
        [("reliability", figure, f"Pixels of {len(judged_on)} cases in 15 bins of the chosen class's probability.")],
        (),
        {
            "confidence": found.before.confidence.numpy(),
            "accuracy": found.before.accuracy.numpy(),
            "count": found.before.count.numpy(),
            "accuracy_with_temperature": found.after.accuracy.numpy(),
            "confidence_with_temperature": found.after.confidence.numpy(),
        },
    )
    return chapter, found


def _probabilities(logits: Tensor) -> Tensor:
    return (torch.cat([torch.zeros_like(logits), logits]) if logits.shape[0] == 1 else logits).softmax(0)
