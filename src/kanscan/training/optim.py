"""Optimizers with a learning rate of their own for spline weights, and schedules by epoch."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LRScheduler, PolynomialLR

from kanscan.layers.spline import kan_parameters
from kanscan.registry import unknown

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("cosine", "polynomial", "constant", "warmup_cosine")
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


def make_optimizer(
    model: nn.Module,
    name: str = "adam",
    *,
    lr: float = 1e-4,
    kan_lr: float | None = 1e-2,
    weight_decay: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Optimizer:
    """Build the optimizer of a network.

    Args:
        model: The network.
        name: One of `OPTIMIZERS`. "adam" adds the weight decay to the gradient (as U-KAN trains), "adamw"
            shrinks the weights directly; all apply it to every parameter, norms and biases included.
        lr: Learning rate.
        kan_lr: Learning rate of KAN layers; None: `lr`.
        weight_decay: Weight decay.
        betas: Of Adam and AdamW.
        eps: Of Adam and AdamW.
        momentum: Of SGD.
        nesterov: Of SGD.

    Raises:
        ValueError: The name is unknown.
    """
    groups = parameter_groups(model, lr=lr, kan_lr=kan_lr)
    # One pass over the memory of each parameter: on the processor several times as fast, with the same result. On other
    # devices mixed precision forbids clipping beside it.
    fused = True if all(p.device.type == "cpu" for p in model.parameters()) else None
    if name == "adam":
        return Adam(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
    if name == "adamw":
        return AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
    if name == "sgd":
        return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    raise ValueError(unknown("optimizer", name, OPTIMIZERS))


def make_schedule(optimizer: Optimizer, name: str, *, epochs: int, min_lr: float = 0.0) -> LRScheduler:
    """Build a schedule to be stepped after every epoch.

    Args:
        optimizer: What it drives.
        name: "cosine": every group falls from its own rate to the same `min_lr` in `epochs` epochs, and
            climbs back after that. "polynomial": times (1 - epoch / epochs)^0.9. "constant": unchanged.
            "warmup_cosine": rises to twice the rate in a tenth of the epochs, then falls on a cosine that would be
            at 0 a tenth after the end (released Diffusion U-KAN).
        epochs: Length of the fall; of rise and fall with "warmup_cosine".
        min_lr: Floor of either cosine.

    Raises:
        ValueError: The name is unknown, or the floor lies above a learning rate, so that it would rise.
    """
    low = min(group["lr"] for group in optimizer.param_groups)
    if name in ("cosine", "warmup_cosine") and min_lr > low:
        raise ValueError(f"optim.min_lr={min_lr:g} is above the learning rate {low:g}; give a lower floor, such as 0")
    if name == "warmup_cosine":
        floors = [min_lr / group["lr"] for group in optimizer.param_groups]
        return LambdaLR(optimizer, [partial(warmup_cosine, epochs=epochs, floor=floor) for floor in floors])
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=epochs, eta_min=min_lr)
    if name == "polynomial":
        return PolynomialLR(optimizer, total_iters=epochs, power=POLYNOMIAL_POWER)
    if name == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    raise ValueError(unknown("schedule", name, SCHEDULES))


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
