"""Where to compute, and whether there is room."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from kanscan.registry import unknown

DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """Turn a device's name into a device that is here.

    Args:
        name: auto (a CUDA device, else Apple's, else the CPU), cpu, cuda, cuda:N or mps.

    Raises:
        ValueError: The name is unknown, or there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and (kind != "cuda" or not number.isdecimal())):
        raise ValueError(unknown("device", name, DEVICES))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps is not available here; use device auto or cpu")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise ValueError(
                f"device {name} is not available: torch {torch.__version__} sees no CUDA device; use auto or cpu"
            )
        if int(number or 0) >= count:
            raise ValueError(f"device {name} is not available: the last of {count} is cuda:{count - 1}")
        return torch.device("cuda", int(number or 0))
    return torch.device(kind)


def device_text(device: torch.device) -> str:
    """Describe a device in words, for the record."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return f"{device.type}, {torch.get_num_threads()} threads"


def available_memory_mib(device: torch.device) -> float:
    """Return how much memory is free on a device; on a CPU what the system or a container still gives."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**20
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
        except (AttributeError, ValueError, OSError):
            return 4096.0  # this system does not say; assume a small laptop
    try:
        limit, used = (
            int(Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii")) / 2**20
            for name in ("max", "current")
        )
    except (OSError, ValueError):
        return free
    return min(free, limit - used)


def training_memory_mib(
    model: nn.Module, batch_size: int, image_shape: Sequence[int], precision: str = "float32"
) -> float:
    """Estimate what one training step holds: weights, gradients, Adam's two moments, and what backward needs.

    Short-lived buffers of single operations come on top. Nothing is computed: shapes run through a copy without memory.

    Args:
        model: The network; it is not changed.
        batch_size: Images in a batch.
        image_shape: Channels and spatial size of one image.
        precision: A key of `kanscan.training.trainer.PRECISIONS`; the mixed ones keep most maps in 16 bits.
    """
    # Two images at least: batch norm refuses a single value.
    two = _kept_for_backward(model, 2, image_shape, precision)
    # The 16-bit copies of the weights are kept once, whatever the batch.
    each = two / 2 if precision == "float32" else _kept_for_backward(model, 3, image_shape, precision) - two
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return (4 * weights + two + (batch_size - 2) * each) / 2**20


def _kept_for_backward(model: nn.Module, batch_size: int, image_shape: Sequence[int], precision: str) -> int:
    """Return the bytes of all that the forward pass keeps, the weights not counted."""
    shadow = deepcopy(model).to("meta").train()
    is_mixed = precision != "float32"
    saved: dict[int, int] = {}
    kept: list[Tensor] = []
    # Precisions belong to devices that compute: the shapes of mixed ones run as tensors of a pretended processor.
    with FakeTensorMode(allow_non_fake_inputs=True) if is_mixed else nullcontext():
        if is_mixed:
            shadow.to_empty(device="cpu")
        parameters = {p.untyped_storage()._cdata for p in shadow.parameters()}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in parameters:
                saved[storage._cdata] = storage.nbytes()
                kept.append(tensor)  # else its place could be taken by another and counted once for both
            return tensor

        # A noise predictor takes the diffusion step too, and says so itself.
        example = getattr(shadow, "example_inputs", None)
        device = "cpu" if is_mixed else "meta"
        inputs = (
            example(image_shape[1:], batch_size) if example else (torch.empty(batch_size, *image_shape, device=device),)
        )
        kind = torch.float16 if precision == "16-mixed" else torch.bfloat16
        hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", dtype=kind, enabled=is_mixed):
            output = shadow(*inputs)
        del output
    return sum(saved.values())
