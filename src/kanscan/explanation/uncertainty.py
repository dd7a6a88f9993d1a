"""How sure a segmentation is, and whether its probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.layers.drop_path import DropPath
from kanscan.metrics.logits import with_background

_DROPS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, DropPath)


@dataclass(frozen=True)
class Uncertainty:
    """What several predictions of one image say together; tensors `(*S)` except `mean`.

    Attributes:
        mean: `(K, *S)` mean probabilities.
        entropy: Entropy of the mean in units of its greatest possible value, 0 (sure) to 1.
        mutual_information: The part of the entropy that comes from disagreement between the predictions, same unit.
        agreement: Share of the predictions that choose the class most of them choose.
        num_predictions: How many there were.
    """

    mean: Tensor
    entropy: Tensor
    mutual_information: Tensor
    agreement: Tensor
    num_predictions: int


def summarize(predictions: Sequence[Tensor]) -> Uncertainty:
    """Join several `(K, *S)` probabilities of one image.

    Raises:
        ValueError: There are none, or their shapes differ.
    """
    if not predictions or any(p.shape != predictions[0].shape for p in predictions):
        raise ValueError(f"predictions of one image must share a shape, got {[tuple(p.shape) for p in predictions]}")
    stack = torch.stack(list(predictions)).double()
    classes = stack.shape[1]
    mean = stack.mean(0)
    unit = torch.log(torch.tensor(float(classes), dtype=torch.float64))
    entropy = _entropy(mean, 0) / unit
    inner = _entropy(stack, 1).mean(0) / unit
    votes = F.one_hot(stack.argmax(1), classes).double().mean(0)
    return Uncertainty(mean, entropy, (entropy - inner).clamp_min(0), votes.amax(-1), len(predictions))


def _entropy(p: Tensor, axis: int) -> Tensor:
    return -torch.special.xlogy(p, p).sum(axis)


@contextmanager
def dropping(model: nn.Module) -> Iterator[int]:
    """Switch dropout and stochastic depth on, nothing else, and give the number of layers concerned.

    Batch norms stay in evaluation mode: only what is random at training time becomes random.
    """
    layers = [m for m in model.modules() if isinstance(m, _DROPS) and (m.rate if isinstance(m, DropPath) else m.p) > 0]
    before = [m.training for m in layers]
    for m in layers:
        m.train()
    try:
        yield len(layers)
    finally:
        for m, training in zip(layers, before, strict=True):
            m.train(training)


def fit_temperature(cases: Sequence[tuple[Tensor, Tensor]], *, max_steps: int = 60) -> float:
    """Find the temperature that makes probabilities softmax(logits / T) most likely.

    Args:
        cases: `(K, *S)` logits (K = 1: one foreground logit) and `(*S)` labels of validation cases.
        max_steps: Newton-like steps of the optimizer.

    Returns:
        T > 0; above 1 the network was too sure of itself.

    Raises:
        ValueError: There are no cases.
    """
    if not cases:
        raise ValueError("a temperature is fitted to validation cases, and there are none")
    pairs = [(with_background(logits.double(), axis=0), label.long()) for logits, label in cases]
    pixels = sum(label.numel() for _, label in pairs)
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], lr=0.5, max_iter=max_steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for logits, label in pairs:
            scaled = logits[None] * torch.exp(-log_temperature)
            loss = loss + F.cross_entropy(scaled, label[None], reduction="sum") / pixels
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return float(log_temperature.detach().exp().clamp(0.05, 20.0))
