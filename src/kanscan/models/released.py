"""Weights under the names of the released implementations: read safely, matched completely, written back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kanscan.models.base import Network

#: Keys under which training scripts nest the weights of the network.
_NESTED = ("state_dict", "model_state_dict", "network_weights", "model", "model_ema", "weights")
#: What wrappers (DataParallel, torch.compile, Lightning, a parent module) put in front of every key.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "vmunet.")
#: Counters that a profiler leaves behind in the modules it visited.
_LEFTOVERS = ("total_ops", "total_params")
#: Fine-tuning on other channels or classes keeps all but stem and head; where less than this share fits, all is wrong.
_FITTING = 0.75


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint file without running any code it may contain.

    Args:
        path: `.safetensors`, or a torch checkpoint (`.pth`, `.pt`, `.ckpt`, `.bin`).

    Returns:
        The tensors found, unwrapped from a training checkpoint if need be.

    Raises:
        ValueError: The file is not a checkpoint, holds more than tensors and plain values, or holds no tensors.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises RuntimeError, EOFError, KeyError or UnpicklingError here, depending on what the file is.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} cannot be loaded safely ({reason}); only files that hold tensors and plain values are read: "
            "save the state dict alone with torch.save(model.state_dict(), path)"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a state dict")
    return unwrap(content, source=str(path))


def unwrap(content: Mapping[str, Any], *, source: str = "the state dict") -> dict[str, Tensor]:
    """Take the tensors out of a checkpoint: nested dicts opened, profiler leftovers and shared prefixes removed.

    Raises:
        ValueError: There is no tensor in it.
    """
    for key in _NESTED:
        inner = content.get(key)
        if isinstance(inner, Mapping) and any(isinstance(v, Tensor) for v in inner.values()):
            return unwrap(inner, source=source)
    state = {
        name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor) and not name.endswith(_LEFTOVERS)
    }
    if not state:
        raise ValueError(f"{source} holds no tensors")
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
                stripped = True
    return state


def load_into(model: Network, weights: Mapping[str, Any] | str | Path) -> Network:
    """Fill `model` with released weights, all of them.

    Args:
        model: The network to fill, in place.
        weights: A file, or a state dict with released key names (or with ours).

    Returns:
        The same model.

    Raises:
        ValueError: Nothing matches, a tensor is missing or left over, or a shape differs.
    """
    source = str(weights) if isinstance(weights, str | Path) else "the state dict"
    name = type(model).__name__
    state = read_weights(weights) if isinstance(weights, str | Path) else unwrap(weights, source=source)
    wanted = model.state_dict()
    found = model.from_released(state)
    matched = [key for key in wanted if key in found]
    if not matched:
        came = ", ".join(list(state)[:3])
        expected = ", ".join(list(model.to_released(wanted))[:3])
        raise ValueError(
            f"{source} matches nothing in {name}: it holds {len(state)} tensors named like {came}; "
            f"expected names like {expected}"
        )
    for key in matched:
        if found[key].shape != wanted[key].shape:
            raise ValueError(
                f"{source}: {model.released_name(key)} has shape {tuple(found[key].shape)}, this {name} has "
                f"{tuple(wanted[key].shape)}; pass the options of the checkpoint (channels, out_channels, ...)"
            )
    # Step counters of batch norms are not weights: old checkpoints lack them.
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    extra = [key for key in found if key not in wanted]
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"lacks {len(missing)} of {len(wanted)} tensors (first: {model.released_name(missing[0])})")
        if extra:
            parts.append(f"holds {len(extra)} tensors this {name} does not have (first: {extra[0]})")
        raise ValueError(f"{source} {' and '.join(parts)}; it belongs to another network or other options")
    model.load_state_dict({key: found[key] for key in matched}, strict=False)
    return model


def load_fitting(model: Network, weights: str | Path) -> str:
    """Fill a network with those weights of another one that fit it, as fine-tuning starts.

    Args:
        model: The network to fill, in place.
        weights: A file.

    Returns:
        What was taken and what stays fresh, in words.

    Raises:
        ValueError: Too little of the network would be filled: it is another one, or has other widths.
    """
    found, wanted = model.from_released(read_weights(weights)), model.state_dict()
    fitting = {key: found[key] for key in wanted if key in found and found[key].shape == wanted[key].shape}
    fresh = [key for key in wanted if key not in fitting and not key.endswith("num_batches_tracked")]
    if sum(map(Tensor.numel, fitting.values())) < _FITTING * sum(map(Tensor.numel, wanted.values())):
        load_into(model, weights)  # says what differs
    model.load_state_dict(fitting, strict=False)
    if not fresh:
        return f"the network starts from {weights}"
    shown = [
        f"{key} (there {tuple(found[key].shape)}, here {tuple(wanted[key].shape)})"
        if key in found
        else f"{key} (absent)"
        for key in fresh
    ]
    more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    return (
        f"the network starts from {weights}: {len(fitting)} of {len(wanted)} tensors taken; fresh are "
        f"{', '.join(shown[:6])}{more}"
    )
