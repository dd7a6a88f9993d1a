"""The effective receptive field: which input pixels move the output in the middle (LKM-UNet Fig. 3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ReceptiveField:
    """An effective receptive field.

    Attributes:
        field: `(*S)` mean absolute gradient of the central output with respect to each input pixel, divided by its
            greatest value.
        num_images: Images it was averaged over.
    """

    field: Tensor
    num_images: int

    def area(self, share: float) -> float:
        """Return the share of the image taken by the smallest centered square (cube) with `share` of the gradient."""
        size = self.field.shape
        center = [s // 2 for s in size]
        total = float(self.field.sum())
        if total == 0:
            return 0.0
        for reach in range(max(size)):
            box = tuple(slice(max(c - reach, 0), c + reach + 1) for c in center)
            inside = self.field[box]
            if float(inside.sum()) >= share * total:
                return inside.numel() / self.field.numel()
        return 1.0


def receptive_field(model: nn.Module, batches: Iterable[Tensor]) -> ReceptiveField:
    """Average the gradient of the central output over images.

    For each image the outputs of all channels at the central pixel are summed and derived with respect to the input;
    absolute values are summed over input channels and averaged over images.

    Args:
        model: A network `(B, C, *S) -> (B, K, *S)`, in evaluation mode.
        batches: Image batches of one size on the model's device.

    Raises:
        ValueError: There are no images, or their sizes differ.
    """
    total: Tensor | None = None
    count = 0
    for batch in batches:
        x = batch.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            y = model(x)
            middle = y[(..., *(s // 2 for s in y.shape[2:]))].sum()
            (gradient,) = torch.autograd.grad(middle, x)
        field = gradient.abs().sum(1).sum(0).cpu().double()
        if total is not None and total.shape != field.shape:
            raise ValueError(
                f"a receptive field is averaged over images of one size, got {tuple(total.shape)} and "
                f"{tuple(field.shape)}; give the recipe an image_size"
            )
        total = field if total is None else total + field
        count += len(batch)
    if total is None:
        raise ValueError("there are no images to average the receptive field over")
    return ReceptiveField(total / total.max().clamp_min(torch.finfo(total.dtype).tiny), count)
