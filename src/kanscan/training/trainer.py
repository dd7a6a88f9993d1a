"""The Lightning trainer, set up for one machine and quiet."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning_utilities.core.imports import RequirementCache
from torch import nn

from kanscan.config.parts import TrainerConfig
from kanscan.registry import unknown
from kanscan.training.checkpoint import AtomicCheckpointIO, read_state
from kanscan.training.device import choose_device

#: Our names of the precisions -> Lightning's.
PRECISIONS = {"float32": "32-true", "bf16-mixed": "bf16-mixed", "16-mixed": "16-mixed"}


def make_trainer(
    part: TrainerConfig,
    callbacks: Sequence[Callback],
    *,
    clip_norm: float | None = None,
    folder: Path | None = None,
    batches: int | None = None,
) -> Trainer:
    """Build the trainer.

    Args:
        part: How long and on what.
        callbacks: What acts between the steps.
        clip_norm: Largest gradient norm.
        folder: Where event files for TensorBoard go, if that is installed; None: nowhere.
        batches: Stop after so many, and validate nothing: a rehearsal of a training.

    Raises:
        ValueError: The device or the precision is not available.
    """
    chosen = choose_device(part.device)
    check_precision(part.precision, chosen)
    # Tensorboard is an extra.
    is_logged = folder is not None and bool(RequirementCache("tensorboard"))
    with quiet():
        return Trainer(
            max_epochs=part.epochs if batches is None else 1,
            limit_train_batches=batches,
            limit_val_batches=None if batches is None else 0,
            accelerator={"cpu": "cpu", "cuda": "gpu", "mps": "mps"}[chosen.type],
            devices=[chosen.index or 0] if chosen.type == "cuda" else 1,
            precision=PRECISIONS[part.precision],
            gradient_clip_val=clip_norm,
            accumulate_grad_batches=part.accumulate,
            check_val_every_n_epoch=part.validate_every,
            deterministic="warn" if part.deterministic else False,
            callbacks=list(callbacks),
            plugins=[AtomicCheckpointIO()],
            logger=[TensorBoardLogger(folder, name="", version="tensorboard")] if is_logged else False,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )


def check_precision(precision: str, device: torch.device) -> str:
    """Refuse a precision the device does not have.

    Returns:
        A warning where the device has it but slowly, else "".

    Raises:
        ValueError: The precision is unknown, or is 16-mixed on a CPU.
    """
    if precision not in PRECISIONS:
        raise ValueError(unknown("precision", precision, PRECISIONS))
    if device.type != "cpu" or precision == "float32":
        return ""
    if precision == "16-mixed":
        raise ValueError("trainer.precision=16-mixed needs a GPU; on the CPU use trainer.precision=float32")
    return "trainer.precision=bf16-mixed is many times slower than float32 on most CPUs"


def check_state(state: dict[str, Any], task: nn.Module, path: Path) -> None:
    """Refuse the state of another network.

    Raises:
        ValueError: A tensor is missing, left over or of another shape.
    """
    found, wanted = state["state_dict"], task.state_dict()
    for name in sorted({*found, *wanted}):
        here = tuple(found[name].shape) if name in found else "nothing"
        expected = tuple(wanted[name].shape) if name in wanted else "nothing"
        if here != expected:
            raise ValueError(
                f"{path} belongs to another network: it holds {here} under {name.removeprefix('model.')}, "
                f"this recipe's network expects {expected}"
            )


def fit(trainer: Trainer, task: Any, train: Any, validation: Any | None, *, state: Path | None = None) -> None:
    """Train, from `state` if one is given."""
    if state is not None:
        content = read_state(state)
        check_state(content, task, state)
        task.go_on_from(content)
        progress = trainer.fit_loop.epoch_progress.current
        progress.ready = progress.started = progress.processed = progress.completed = content["epoch"]
    with quiet():
        trainer.fit(task, train, validation, ckpt_path=None if state is None else str(state))


@contextmanager
def torch_settings_kept() -> Iterator[None]:
    """Leave torch's global switches as they were; a trainer sets them when it is built."""
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmark, settings = torch.backends.cudnn.benchmark, cast(Any, torch.utils.deterministic)
    filling = settings.fill_uninitialized_memory
    # Every buffer is written before it is read; filling fresh memory first costs time and changes nothing.
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        settings.fill_uninitialized_memory = filling
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the training engine says about itself; what went wrong still comes through."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Advice on workers, log intervals and resuming: the loader and the state file settle these here.
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message=r".*(does not have many workers|LeafSpec|lr_scheduler\.step).*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
