"""Losses on logits: the papers' (binary) cross-entropy + Dice, each with its own weights and sums.

Pixels whose label is `kanscan.metrics.IGNORED` count in none of their sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanscan.config import parts
from kanscan.metrics import IGNORED
from kanscan.metrics.logits import num_classes, pad_to, with_background


class BCEDiceLoss(nn.Module):
    """Binary cross-entropy + soft Dice as U-KAN trains with it (U-KAN Eq. 10, released weights).

    loss = w_ce * mean BCE + w_dice * (1 - mean over samples of (2 sum p t + s) / (sum p + sum t + s)),
    sums over all classes and pixels of a sample, s = 1e-5. Several logits are independent yes/no questions.

    Args:
        cross_entropy_weight: Weight of the binary cross-entropy; None: 0.5.
        dice_weight: Weight of the Dice loss.
        class_weights: Weight of each class in the cross-entropy, background first; None: all the same.

    Example:
        >>> loss = BCEDiceLoss()
        >>> round(loss(torch.zeros(2, 1, 4, 4), torch.ones(2, 4, 4, dtype=torch.long)).item(), 4)
        0.6799
    """

    default_weight = 0.5
    smooth = 1e-5

    def __init__(
        self,
        *,
        cross_entropy_weight: float | None = None,
        dice_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.cross_entropy_weight = self.default_weight if cross_entropy_weight is None else cross_entropy_weight
        self.dice_weight, self.class_weights = dice_weight, class_weights

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Compare logits `(B, K, *S)` with an integer label `(B, *S)` or soft values of the logits' shape."""
        logits = full_precision(logits)
        label, judged = without_ignored(label, logits)
        wanted = as_probabilities(label, logits)
        weights = pixel_weights(wanted, judged, self.class_weights)
        cross_entropy = mean_over(F.binary_cross_entropy_with_logits(logits, wanted, reduction="none"), weights)
        p, t = masked(torch.sigmoid(logits), judged).flatten(1), masked(wanted, judged).flatten(1)
        dice = (2 * (p * t).sum(1) + self.smooth) / (p.sum(1) + t.sum(1) + self.smooth)
        return self.cross_entropy_weight * cross_entropy + self.dice_weight * (1 - dice.mean())


class BCEDiceVMKLALoss(BCEDiceLoss):
    """Binary cross-entropy + soft Dice as VM-UNet and VMKLA-UNet train with it: weights 1 and 1, smoothing 1.

    Their code takes probabilities; taking logits gives the same number without its overflow.
    """

    default_weight = 1.0
    smooth = 1.0


class CEDiceLoss(nn.Module):
    """Cross-entropy + soft Dice for classes that exclude one another (VM-UNet, VMKLA-UNet on Synapse).

    loss = w_ce * mean CE + w_dice * mean over all classes, background included, of
    1 - (2 sum p t + s) / (sum p^2 + sum t^2 + s), p the softmax, sums over the whole batch, s = 1e-5.
    Summing over the batch keeps a class that one image lacks from costing that image a full unit.

    Args:
        cross_entropy_weight: Weight of the cross-entropy; None: 1.
        dice_weight: Weight of the Dice loss.
        class_weights: Weight of each class in the cross-entropy, background first; None: all the same.
    """

    def __init__(
        self,
        *,
        cross_entropy_weight: float | None = None,
        dice_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        from monai.losses import DiceLoss

        self.cross_entropy_weight = 1.0 if cross_entropy_weight is None else cross_entropy_weight
        self.dice_weight, self.class_weights = dice_weight, class_weights
        self.dice = DiceLoss(squared_pred=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Compare logits `(B, K, *S)` with an integer label `(B, *S)` or one of the logits' shape."""
        if logits.shape[1] < 2:
            raise ValueError("loss ce_dice needs one logit for each class; a network with one logit takes bce_dice")
        logits = full_precision(logits)
        label, judged = without_ignored(label, logits)
        wanted = as_probabilities(label, logits)
        weights = pixel_weights(wanted, judged, self.class_weights)
        cross_entropy = mean_over(-(wanted * F.log_softmax(logits, dim=1)).sum(1, keepdim=True), weights)
        dice = self.dice(masked(torch.softmax(logits, dim=1), judged), masked(wanted, judged))
        return self.cross_entropy_weight * cross_entropy + self.dice_weight * dice


class CEDiceNNUNetLoss(nn.Module):
    """Cross-entropy + soft Dice as nnU-Net trains with it (Nature Methods 18, 203, online methods).

    loss = w_ce * mean CE + w_dice * (1 - mean over the foreground classes of (2 sum p t + s) / (sum p + sum t + s)),
    s = 1e-5. Sums are over the whole batch of slices, and over each volume of its own, where the mean is also over the
    volumes. nnU-Net's number is smaller by `w_dice`: its Dice counts as negative.

    Args:
        cross_entropy_weight: Weight of the cross-entropy; None: 1.
        dice_weight: Weight of the Dice loss.
        class_weights: Weight of each class in the cross-entropy, background first; None: all the same.
    """

    smooth = 1e-5

    def __init__(
        self,
        *,
        cross_entropy_weight: float | None = None,
        dice_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.cross_entropy_weight = 1.0 if cross_entropy_weight is None else cross_entropy_weight
        self.dice_weight, self.class_weights = dice_weight, class_weights

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Compare logits `(B, K, *S)` with an integer label `(B, *S)`; one logit says foreground."""
        logits, wanted, judged = _among_classes(logits, label)
        weights = pixel_weights(wanted, judged, self.class_weights)
        cross_entropy = mean_over(-(wanted * F.log_softmax(logits, dim=1)).sum(1, keepdim=True), weights)
        p, t = (masked(one, judged)[:, 1:].flatten(2) for one in (torch.softmax(logits, dim=1), wanted))
        over = (0, 2) if logits.ndim == 4 else (2,)
        dice = (2 * (p * t).sum(over) + self.smooth) / (p.sum(over) + t.sum(over) + self.smooth)
        return self.cross_entropy_weight * cross_entropy + self.dice_weight * (1 - dice.mean())


class FocalDiceLoss(nn.Module):
    """Focal loss (Lin et al. 2017) + soft Dice of the foreground classes, its sums over the batch.

    Args:
        gamma: How much less right pixels count; 0 is the cross-entropy.
        focal_weight: Weight of the focal loss.
        dice_weight: Weight of the Dice loss.
        class_weights: Weight of each class in the focal loss, background first; None: all the same.
    """

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        focal_weight: float = 1.0,
        dice_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        from monai.losses import FocalLoss, TverskyLoss

        self.focal_weight, self.dice_weight, self.class_weights = focal_weight, dice_weight, class_weights
        self.focal = FocalLoss(gamma=gamma, use_softmax=True, reduction="none")
        self.dice = TverskyLoss(include_background=False, alpha=0.5, beta=0.5, batch=True)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Compare logits `(B, K, *S)` with an integer label `(B, *S)`; one logit says foreground."""
        logits, wanted, judged = _among_classes(logits, label)
        weights = pixel_weights(wanted, judged, self.class_weights)
        focal = mean_over(self.focal(logits, wanted).sum(1, keepdim=True), weights)
        dice = self.dice(masked(torch.softmax(logits, dim=1), judged), masked(wanted, judged))
        return self.focal_weight * focal + self.dice_weight * dice


class TverskyLoss(nn.Module):
    """Mean over the foreground classes of (1 - TP / (TP + alpha FP + beta FN))^exponent, sums over the batch.

    Salehi et al. 2017; with an exponent above 1 the focal one of Abraham and Khan 2019.

    Args:
        alpha: Weight of what is found and is not there.
        beta: Weight of what is there and is not found.
        exponent: Above 1 classes that are right already count less.
    """

    def __init__(self, *, alpha: float = 0.3, beta: float = 0.7, exponent: float = 1.0) -> None:
        super().__init__()
        from monai.losses import TverskyLoss as Each

        self.each = Each(include_background=False, alpha=alpha, beta=beta, batch=True, reduction="none")
        self.exponent = exponent

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Compare logits `(B, K, *S)` with an integer label `(B, *S)`; one logit says foreground."""
        logits, wanted, judged = _among_classes(logits, label)
        missed = self.each(masked(torch.softmax(logits, dim=1), judged), masked(wanted, judged))
        return missed.clamp(min=0).pow(self.exponent).mean()


class BoundaryDiceLoss(nn.Module):
    """Cross-entropy + Dice + logarithm of the Hausdorff loss by distance transforms (Karimi and Salcudean 2019).

    The distances, in pixels of the network's grid, are computed on the processor at each step, which takes time.

    Args:
        boundary_weight: Weight of the boundary loss.
        distance_exponent: Exponent of the distances.
        **options: Of `CEDiceNNUNetLoss`, the rest of the sum.
    """

    def __init__(self, *, boundary_weight: float = 1.0, distance_exponent: float = 2.0, **options: Any) -> None:
        super().__init__()
        from monai.losses import LogHausdorffDTLoss

        self.boundary_weight, self.rest = boundary_weight, CEDiceNNUNetLoss(**options)
        self.boundary = LogHausdorffDTLoss(include_background=False, alpha=distance_exponent)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Compare logits `(B, K, *S)` with an integer label `(B, *S)`; one logit says foreground."""
        rest = self.rest(logits, label)
        logits, wanted, judged = _among_classes(logits, label)
        near = self.boundary(masked(torch.softmax(logits, dim=1), judged), masked(wanted, judged))
        return rest + self.boundary_weight * near


def _among_classes(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return logits of all classes in 32 bits, the wanted probabilities in the same shape, and what is not ignored."""
    logits = with_background(full_precision(logits))
    label, judged = without_ignored(label, logits)
    return logits, as_probabilities(label, logits), judged


class DeepSupervisionLoss(nn.Module):
    """A loss summed over logits at falling resolutions, with weights 1, 1/2, 1/4, ... that sum to one.

    With two scales or more the coarsest gets no weight, as nnU-Net does it.

    Args:
        loss: Loss of one scale.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: list[Tensor], label: Tensor) -> Tensor:
        """Compare logits of every scale, full resolution first, with the full-resolution integer label.

        Where the image was padded at its far ends to the outputs' size, what lies in the padding alone does not count.
        """
        size, full = tuple(label.shape[1:]), tuple(outputs[0].shape[2:])
        padded = pad_to(label.unsqueeze(1).double(), full).squeeze(1).to(label.dtype) if size != full else label
        terms = []
        for logits, weight in zip(outputs, scale_weights(len(outputs)), strict=True):
            here = tuple(logits.shape[2:])
            seen = [-(-n * h // f) for n, h, f in zip(size, here, full, strict=True)]
            if weight > 0:
                terms.append(weight * self.loss(_cut(logits, seen), _cut(resize_label(padded, here), seen)))
        return torch.stack(terms).sum()


def _cut(values: Tensor, size: Sequence[int]) -> Tensor:
    """Keep the near corner of the last axes."""
    for axis, n in enumerate(size, start=values.ndim - len(size)):
        values = values.narrow(axis, 0, n)
    return values


#: Part of the recipe -> the loss it describes, built with the part's options.
LOSSES: dict[type[parts.LossConfig], type[nn.Module]] = {
    parts.BCEDice: BCEDiceLoss,
    parts.BCEDiceVMKLA: BCEDiceVMKLALoss,
    parts.CEDice: CEDiceLoss,
    parts.CEDiceNNUNet: CEDiceNNUNetLoss,
    parts.FocalDice: FocalDiceLoss,
    parts.Tversky: TverskyLoss,
    parts.BoundaryDice: BoundaryDiceLoss,
}


def make_loss(part: parts.LossConfig, out_channels: int | None = 1) -> nn.Module:
    """Build a loss.

    Args:
        part: Which loss, and its options.
        out_channels: Logits of the network; None: not yet known.

    Raises:
        ValueError: The loss does not fit the number of logits, or all weights are zero.
    """
    options = part.model_dump(exclude={"name", "deep_supervision"})
    if isinstance(part, parts.AutoLoss):
        part = (parts.BCEDice if out_channels == 1 else parts.CEDice)(**options)
    if isinstance(part, parts.CEDice) and out_channels == 1:
        raise ValueError("loss.name=ce_dice needs three classes or more; for two classes take loss.name=bce_dice")
    summands = [f"loss.{key}" for key in options if key.endswith("_weight")]
    if summands and all(options[key.removeprefix("loss.")] == 0 for key in summands):
        raise ValueError(f"{' and '.join(summands)} are all 0: nothing would be learned")
    weights = options.get("class_weights")
    if weights is not None and out_channels is not None and len(weights) != num_classes(out_channels):
        raise ValueError(
            f"loss.class_weights has {len(weights)} numbers, but there are {num_classes(out_channels)} classes, "
            "background first; give one for each"
        )
    if weights is not None and (min(weights) < 0 or max(weights) == 0):
        raise ValueError(f"loss.class_weights must be 0 or more and not all 0, got {list(weights)}")
    return LOSSES[type(part)](**options)


def without_ignored(label: Tensor, logits: Tensor) -> tuple[Tensor, Tensor | None]:
    """Part a label from what is ignored in it.

    Returns:
        The label with the background in place of ignored pixels, and a mask `(B, 1, *S)` of the others; None where
        nothing is ignored.
    """
    # Soft labels and shapes without numbers ignore nothing; with so many classes the number is one of them.
    if label.is_floating_point() or label.shape == logits.shape or label.is_meta or logits.shape[1] > IGNORED:
        return label, None
    if not (label == IGNORED).any():
        return label, None
    ignored = label == IGNORED
    return label.masked_fill(ignored, 0), ~ignored.unsqueeze(1)


def masked(values: Tensor, judged: Tensor | None) -> Tensor:
    """Set what is ignored to 0."""
    return values if judged is None else values * judged


def mean_over(values: Tensor, weights: Tensor | None) -> Tensor:
    """Take the mean of `(B, K, *S)` with weights `(B, 1, *S)`, such as a mask; 0 where all of them are."""
    if weights is None:
        return values.mean()
    return (values * weights).sum() / (weights.sum() * values.shape[1]).clamp(min=1e-8)


def pixel_weights(wanted: Tensor, judged: Tensor | None, class_weights: Sequence[float] | None) -> Tensor | None:
    """Return the weight of each pixel `(B, 1, *S)` by its class; None where all count the same."""
    if class_weights is None:
        return judged
    of_class = torch.tensor(class_weights, dtype=wanted.dtype, device=wanted.device)
    if wanted.shape[1] == 1:
        weights = of_class[0] + (of_class[1] - of_class[0]) * wanted
    else:
        weights = torch.einsum("bk...,k->b...", wanted, of_class).unsqueeze(1)
    return masked(weights, judged)


def full_precision(logits: Tensor) -> Tensor:
    """Return half-precision logits as float32: sums over a whole image overflow 16 bits."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def as_probabilities(label: Tensor, logits: Tensor) -> Tensor:
    """Bring a label to the shape and type of the logits.

    Args:
        label: Integer classes `(B, *S)`; or soft values, `(B, K, *S)` or for one logit also `(B, *S)`.
        logits: `(B, K, *S)`.

    Returns:
        `(B, K, *S)`: one logit gets the label itself, several get one channel for each class.
    """
    if label.shape == logits.shape:
        return label.to(logits.dtype)
    if logits.shape[1] == 1:
        return label.unsqueeze(1).to(logits.dtype)
    return F.one_hot(label, logits.shape[1]).movedim(-1, 1).to(logits.dtype)


def scale_weights(num_scales: int) -> list[float]:
    """Return the weights of supervised scales, full resolution first; see `DeepSupervisionLoss`."""
    weights = [0.5**scale for scale in range(num_scales)]
    if num_scales > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def resize_label(label: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bring an integer label `(B, *S)` to another grid by its nearest pixels."""
    if tuple(label.shape[1:]) == size:
        return label
    return F.interpolate(label.unsqueeze(1).double(), size=size, mode="nearest-exact").squeeze(1).to(label.dtype)
