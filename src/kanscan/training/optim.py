"""Optimizers with a learning rate of their own for spline weights, and schedules by epoch."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, PolynomialLR

from kanscan.layers.kan import KANLinear
from kanscan.registry import unknown

#: Layers whose weights take `kan_lr`. By type: a name can promise a spline and hold a matrix.
KAN_LAYERS: tuple[type[nn.Module], ...] = (KANLinear,)

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("cosine", "polynomial", "constant")
#: Exponent of the polynomial schedule.
POLYNOMIAL_POWER = 0.9


def kan_parameters(model: nn.Module) -> list[nn.Parameter]:
    """List the parameters that belong to KAN layers, each once."""
    found = {id(p): p for layer in model.modules() if isinstance(layer, KAN_LAYERS) for p in layer.parameters()}
    return list(found.values())


def parameter_groups(model: nn.Module, *, lr: float, kan_lr: float | None = None) -> list[dict[str, Any]]:
    """Divide the trainable parameters into an ordinary group and one of KAN layers.

    Args:
        model: The network.
        lr: Learning rate of the ordinary parameters.
        kan_lr: Learning rate of KAN layers; None: `lr`.

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
    if name == "adam":
        return Adam(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    if name == "adamw":
        return AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    if name == "sgd":
        return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    raise ValueError(unknown("optimizer", name, OPTIMIZERS))


def make_schedule(optimizer: Optimizer, name: str, *, epochs: int, min_lr: float = 0.0) -> LRScheduler:
    """Build a schedule to be stepped after every epoch.

    Args:
        optimizer: What it drives.
        name: "cosine": every group falls from its own rate to the same `min_lr` in `epochs` epochs, and
            climbs back after that. "polynomial": times (1 - epoch / epochs)^0.9. "constant": unchanged.
        epochs: Length of the fall.
        min_lr: Floor of the cosine.

    Raises:
        ValueError: The name is unknown, or the floor lies above a learning rate, so that it would rise.
    """
    if name == "cosine":
        low = min(group["lr"] for group in optimizer.param_groups)
        if min_lr > low:
            raise ValueError(
                f"optim.min_lr={min_lr:g} is above the learning rate {low:g}; give a lower floor, such as 0"
            )
        return CosineAnnealingLR(optimizer, T_max=epochs, eta_min=min_lr)
    if name == "polynomial":
        return PolynomialLR(optimizer, total_iters=epochs, power=POLYNOMIAL_POWER)
    if name == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    raise ValueError(unknown("schedule", name, SCHEDULES))


def learning_rates(optimizer: Optimizer) -> tuple[float, float]:
    """Return the rates of the ordinary and of the KAN parameters; an absent group shows the other's."""
    rates = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
    other = rates.get("other", rates.get("kan", float("nan")))
    return other, rates.get("kan", other)
