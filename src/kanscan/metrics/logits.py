"""What logits say, and which sizes a network takes: the one place for both, for arrays and for tensors.

A network with one output channel answers a yes/no question: its logit says foreground, the background's is 0. Several
channels are compared with one another, background first. Nothing here imports torch for an array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Array = TypeVar("Array", "NDArray[Any]", "Tensor")


def num_classes(out_channels: int) -> int:
    """Return how many classes a network with so many logits tells apart, background included."""
    return max(2, out_channels)


def with_background(logits: Array, axis: int = 1) -> Array:
    """Put the background's logit, 0, before a lone one; several stay as they are.

    The softmax of both is the sigmoid of the lone one, so that whatever is made for several logits serves for one.
    """
    if logits.shape[axis] > 1:
        return logits
    if isinstance(logits, np.ndarray):
        return np.concatenate([np.zeros_like(logits), logits], axis)
    import torch

    return torch.cat([torch.zeros_like(logits), logits], axis)


def probabilities(logits: Array, axis: int = 1) -> Array:
    """Turn logits into the probabilities of the classes, background first.

    Args:
        logits: `(B, out_channels, *S)`; 16-bit ones are computed in 32 bits.
        axis: Of the channels.

    Returns:
        `(B, K, *S)`, K at least 2; they sum to one over K.

    Example:
        >>> probabilities(np.array([[0.0], [2.0]])).round(3).tolist()
        [[0.5, 0.5], [0.119, 0.881]]
    """
    if isinstance(logits, np.ndarray):
        wide = logits.astype(np.promote_types(logits.dtype, np.float32), copy=False)
        shifted = with_background(wide, axis)
        raised = np.exp(shifted - shifted.max(axis, keepdims=True))
        raised /= raised.sum(axis, keepdims=True)
        return raised
    import torch

    tensor = logits if logits.dtype == torch.float64 else logits.float()
    if tensor.shape[axis] > 1:
        return tensor.softmax(axis)
    foreground = tensor.sigmoid()
    return torch.cat([1 - foreground, foreground], axis)


def labels(logits: Array, axis: int = 1) -> Array:
    """Take the class of the largest logit; a lone logit says foreground above 0.

    Args:
        logits: `(B, out_channels, *S)`.
        axis: Of the channels.

    Returns:
        `(B, *S)` int64 class indices.
    """
    if logits.shape[axis] > 1:
        return logits.argmax(axis)
    return (logits > 0).squeeze(axis) * 1


def likeliest(probabilities: Array, axis: int = 1) -> Array:
    """Take the class with the largest probability; of two classes the foreground above one half.

    Rounding makes the probabilities of two classes equal now and then, where the largest could be either.
    """
    if probabilities.shape[axis] != 2:
        return probabilities.argmax(axis)
    foreground = probabilities.take(1, axis) if isinstance(probabilities, np.ndarray) else probabilities.select(axis, 1)
    return (foreground > 0.5) * 1


def legal_size(size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Return the smallest size not below `size` that is a multiple of the stride along every axis.

    Example:
        >>> legal_size((288, 385), (32, 32))
        (288, 416)
    """
    return tuple(max(-(-int(s) // m), 1) * m for s, m in zip(size, stride, strict=True))


def pad_to(x: Array, size: Sequence[int]) -> Array:
    """Bring the last axes of an image to a size by repeating its border at the far ends.

    Args:
        x: `(..., *S)`; a tensor is a floating one, `(C, *S)` or `(B, C, *S)`.
        size: Not below S along any axis.
    """
    missing = [wanted - present for wanted, present in zip(size, x.shape[-len(size) :], strict=True)]
    assert min(missing) >= 0, f"an image of {tuple(x.shape)} cannot be padded to {tuple(size)}"
    if not any(missing):
        return x
    if isinstance(x, np.ndarray):
        return np.pad(x, [(0, 0)] * (x.ndim - len(missing)) + [(0, n) for n in missing], mode="edge")
    from torch.nn import functional as F

    # torch counts from the last axis.
    return F.pad(x, [n for axis in reversed(missing) for n in (0, axis)], mode="replicate")
