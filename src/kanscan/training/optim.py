"""Optimizers with a learning rate of their own for spline weights, and schedules by epoch."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LRScheduler, PolynomialLR

from kanscan.config import parts
from kanscan.layers.spline import kan_parameters

#: Exponent of the polynomial schedule.
POLYNOMIAL_POWER = 0.9
#: One epoch in so many is warm-up, and the peak is so many times the rate given, as Diffusion U-KAN was trained.
WARMUP_PART, WARMUP_PEAK = 10, 2.0


def parameter_groups(model: nn.Module, *, lr: float, kan_lr: float | None = None) -> list[dict[str, Any]]:
    """Divide the trainable parameters into an ordinary group and one of KAN layers.

    Args:
        model: The network.
        lr: Learning rate of the ordinary parameters.
        kan_lr: Learning rate of KAN layers (`kanscan.layers.spline.SplineLayer`); None: `lr`.

    Returns:
        Groups for a torch optimizer, named "other" and "kan"; a group without parameters is left out.
    """
    kan = kan_parameters(model)
    inside = {id(p) for p in kan}
    groups = [
        {"name": "other", "lr": lr, "params": [p for p in model.parameters() if id(p) not in inside]},
        {"name": "kan", "lr": lr if kan_lr is None else kan_lr, "params": kan},
    ]
    for group in groups:
        group["params"] = [p for p in group["params"] if p.requires_grad]  # type: ignore[attr-defined]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, part: parts.Optimizer, *, is_mixed: bool = False) -> Optimizer:
    """Build the optimizer of a network; every parameter decays, norms and biases included.

    Args:
        model: The network.
        part: Which optimizer, and its options.
        is_mixed: Whether the training computes in mixed precision.
    """
    groups = parameter_groups(model, lr=part.lr, kan_lr=part.kan_lr)
    if isinstance(part, parts.SGD):
        return SGD(groups, lr=part.lr, momentum=part.momentum, nesterov=part.nesterov, weight_decay=part.weight_decay)
    assert isinstance(part, parts.Adam | parts.AdamW)
    # One pass over the memory of each parameter: on the processor several times as fast, with the same result. Mixed
    # precision forbids clipping beside it.
    fused = True if not is_mixed and all(p.device.type == "cpu" for p in model.parameters()) else None
    kind = Adam if isinstance(part, parts.Adam) else AdamW
    return kind(groups, lr=part.lr, betas=part.betas, eps=part.eps, weight_decay=part.weight_decay, fused=fused)


def make_schedule(optimizer: Optimizer, part: parts.Schedule, epochs: int) -> LRScheduler:
    """Build a schedule to be stepped after every epoch.

    Args:
        optimizer: What it drives.
        part: Which schedule, and its options.
        epochs: Length of the training, and so of the schedule where it does not name its own.

    Raises:
        ValueError: The floor lies above a learning rate, so that it would rise.
    """
    if isinstance(part, parts.Constant):
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    assert isinstance(part, parts.Cosine | parts.Polynomial | parts.WarmupCosine)
    length = part.schedule_epochs or epochs
    if isinstance(part, parts.Polynomial):
        return PolynomialLR(optimizer, total_iters=length, power=POLYNOMIAL_POWER)
    low = min(group["lr"] for group in optimizer.param_groups)
    if part.min_lr > low:
        raise ValueError(
            f"optim.min_lr={part.min_lr:g} is above the learning rate {low:g}; give a lower floor, such as 0"
        )
    if isinstance(part, parts.Cosine):
        return CosineAnnealingLR(optimizer, T_max=length, eta_min=part.min_lr)
    floors = [part.min_lr / group["lr"] for group in optimizer.param_groups]
    return LambdaLR(optimizer, [partial(warmup_cosine, epochs=length, floor=floor) for floor in floors])


def warmup_cosine(epoch: int, *, epochs: int, floor: float = 0.0) -> float:
    """Return the factor on the learning rate in `epoch` (from 0), as the released diffusion training comes to it.

    That code hands over from a warm-up to a cosine that is stepped recursively, which takes its first step twice: the
    rates after the peak are larger than the cosine by 2 / (1 + cos(pi / epochs)).
    """
    rise = epochs // WARMUP_PART
    if epoch <= rise:
        return max(floor, 1 + (WARMUP_PEAK - 1) * epoch / max(1, rise))
    fall = (1 + math.cos(math.pi * (epoch - rise - 1) / epochs)) / (1 + math.cos(math.pi / max(2, epochs)))
    return max(floor, WARMUP_PEAK * fall)


def learning_rates(optimizer: Optimizer) -> tuple[float, float]:
    """Return the rates of the ordinary and of the KAN parameters; an absent group shows the other's."""
    rates = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
    other = rates.get("other", rates.get("kan", float("nan")))
    return other, rates.get("kan", other)
