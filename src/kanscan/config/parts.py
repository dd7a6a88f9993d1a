"""The parts of a recipe; `FAMILIES` lists those that are one of several classes, each with options of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from kanscan.config.family import Family, Part


class ModelConfig(Part):
    """Which network; `options` are its constructor's keywords and win over the preset."""

    name: str = "ukan"
    preset: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    #: Start from these weights (a run, or a checkpoint file) instead of fresh ones: what fits is taken, the rest told.
    weights: Path | None = None
    #: Start the encoder from these ImageNet weights (networks built on VMamba only); the rest stays fresh.
    pretrained: Path | None = None
    #: Beginnings of parameter names, such as [encoder], that do not learn.
    freeze: tuple[str, ...] = ()
    #: Only in so many epochs at the start; null: in all of them.
    freeze_epochs: int | None = Field(None, ge=1)


class DataConfig(Part):
    """Which files, and what is done to them before the network sees them."""

    #: Folder of the data set.
    root: Path | None = None
    #: A key of `kanscan.data.READERS`, or "auto" to recognize the layout.
    reader: str = "auto"
    #: Keywords of the reader.
    options: dict[str, Any] = Field(default_factory=dict)
    #: Folder of more pictures with labels, such as generated pairs, that join the training cases; nothing is chosen or
    #: reported by them. They shall show none of the validation and test cases.
    extra_training: Path | None = None
    #: (height, width) the network sees; null keeps each image's own size, padded to the network's stride (batch size 1
    #: unless all sizes agree).
    image_size: tuple[int, int] | None = (256, 256)
    #: Channels the network sees: grey images are repeated, color images averaged; null asks the reader.
    channels: Literal[1, 3] | None = None
    #: Side of a square that is cut out before resizing, at most the picture's shorter side (networks that generate);
    #: null: the whole picture.
    crop: int | None = Field(None, ge=1)
    #: Where it is cut: in the middle, or at another place each epoch.
    crop_place: Literal["center", "random"] = "center"
    #: A key of `kanscan.data.pictures.transforms.NORMALIZATIONS`.
    normalization: str = "imagenet"
    #: A key of `kanscan.data.pictures.transforms.AUGMENTATIONS`.
    augmentation: str = "flip_rotate"
    #: Keep preprocessed images in memory.
    cache: bool = True
    num_workers: int = Field(0, ge=0)


class VolumeConfig(Part):
    """How volumes (NIfTI, DICOM) reach the network; without effect on pictures. Null: as planned from the data."""

    #: nnU-Net's nnUNetPlans.json to take in place of a plan of our own (its 3d_fullres, with `slices` its 2d); of the
    #: settings below `patch_size` and `batch_size` still win.
    plan: Path | None = None
    #: (depth, height, width) of a voxel in millimeters that all volumes are resampled to.
    spacing_mm: tuple[float, float, float] | None = None
    #: (depth, height, width) of what the network sees at once, rounded up to what its stages divide.
    patch_size: tuple[int, int, int] | None = None
    #: Patches in a batch (trainer.batch_size is that of pictures).
    batch_size: int | None = Field(None, ge=1)
    #: An epoch has so many batches.
    batches_per_epoch: int = Field(250, ge=1)
    #: Share of the patches of a batch that are centered on foreground.
    foreground: float = Field(1 / 3, ge=0, le=1)
    #: auto: CT clipped and scaled by the labelled voxels, others zscore. ct, zscore, minmax, none.
    normalization: str = "auto"
    #: A key of `kanscan.data.volumes.augmentation.VOLUME_AUGMENTATIONS`.
    augmentation: str = "nnunet"
    #: Train a 2D network on slices.
    slices: bool = False
    #: Share of a window that its neighbor covers too when a volume is predicted.
    overlap: float = Field(0.5, ge=0, le=0.9)
    #: Memory a training step may take; null: what is free.
    memory_limit_mib: float | None = Field(None, gt=0)
    #: Folder of prepared volumes; null: KANSCAN_CACHE or the user's folder for caches.
    cache: Path | None = None


class SplitConfig(Part):
    """Who is trained on, who chooses the epoch, who is reported."""

    kind: str


class DrawnSplit(SplitConfig):
    """A split that chance decides."""

    #: Null follows the recipe's seed.
    seed: int | None = None


class AutoSplit(DrawnSplit):
    """As published train, val and test folders say; without them by groups."""

    kind: Literal["auto"] = "auto"
    test_fraction: float = Field(0.2, ge=0, lt=1)
    validation_fraction: float = Field(0.1, ge=0, lt=1)


class GroupSplit(DrawnSplit):
    """Three parts that no group straddles: patients, sequences, equal or look-alike pictures."""

    kind: Literal["group"] = "group"
    test_fraction: float = Field(0.2, ge=0, lt=1)
    validation_fraction: float = Field(0.1, ge=0, lt=1)


class RandomSplit(DrawnSplit):
    """Three parts, groups ignored."""

    kind: Literal["random"] = "random"
    test_fraction: float = Field(0.2, ge=0, lt=1)
    validation_fraction: float = Field(0.1, ge=0, lt=1)


class PaperSplit(DrawnSplit):
    """The papers' random 80/20 split, where the part that chooses the epoch is also the part that is reported."""

    kind: Literal["paper"] = "paper"


class KFoldSplit(DrawnSplit):
    """Fold `fold` of `num_folds` is tested; no group straddles two folds."""

    kind: Literal["kfold"] = "kfold"
    #: From 0.
    fold: int = Field(0, ge=0)
    num_folds: int = Field(5, ge=2)
    validation_fraction: float = Field(0.1, ge=0, lt=1)


class FoldersSplit(DrawnSplit):
    """As the layout's folders say."""

    kind: Literal["folders"] = "folders"
    #: Share of the cases to train on that is held back where the layout has no folder that chooses the epoch.
    validation_fraction: float = Field(0.1, ge=0, lt=1)


class FileSplit(SplitConfig):
    """Read from `file`, JSON with the lists train, validation and test."""

    kind: Literal["file"] = "file"
    file: Path | None = None


class NNUNetSplit(SplitConfig):
    """Fold `fold` of nnU-Net's splits_final.json, whose validation part is also the one reported."""

    kind: Literal["nnunet"] = "nnunet"
    #: From 0.
    fold: int = Field(0, ge=0)
    #: Null: the one in the data's folder.
    file: Path | None = None


class LossConfig(Part):
    """Which loss."""

    name: str
    #: Train on the network's outputs at every scale (networks with side outputs only); weights 1, 1/2, 1/4, ...
    deep_supervision: bool = False


class _ClassWeighted(LossConfig):
    #: Weight of each class in the (cross-entropy or focal) mean over pixels, background first; null: all the same.
    class_weights: tuple[float, ...] | None = None
    dice_weight: float = Field(1.0, ge=0)


class _CrossEntropyDice(_ClassWeighted):
    #: Weight of the (binary) cross-entropy; null: the loss's own (0.5 for bce_dice, as U-KAN's code has it, else 1).
    cross_entropy_weight: float | None = Field(None, ge=0)


class AutoLoss(_CrossEntropyDice):
    """bce_dice for one logit, ce_dice for several."""

    name: Literal["auto"] = "auto"


class BCEDice(_CrossEntropyDice):
    """Binary cross-entropy + soft Dice as U-KAN trains with it."""

    name: Literal["bce_dice"] = "bce_dice"


class BCEDiceVMKLA(_CrossEntropyDice):
    """Binary cross-entropy + soft Dice as VM-UNet and VMKLA-UNet train with it."""

    name: Literal["bce_dice_vmkla"] = "bce_dice_vmkla"


class CEDice(_CrossEntropyDice):
    """Cross-entropy + soft Dice for classes that exclude one another."""

    name: Literal["ce_dice"] = "ce_dice"


class CEDiceNNUNet(_CrossEntropyDice):
    """Cross-entropy + soft Dice as nnU-Net trains with it."""

    name: Literal["ce_dice_nnunet"] = "ce_dice_nnunet"


class FocalDice(_ClassWeighted):
    """Focal loss + soft Dice of the foreground: pixels that are right already count less (Lin et al. 2017)."""

    name: Literal["focal_dice"] = "focal_dice"
    #: How much less; 0 is the cross-entropy.
    gamma: float = Field(2.0, ge=0)
    focal_weight: float = Field(1.0, ge=0)


class Tversky(LossConfig):
    """Tversky loss of the foreground: what is missed may count more than what is too much (Salehi et al. 2017)."""

    name: Literal["tversky"] = "tversky"
    #: Weight of what is found and is not there; with `beta` 0.5 and 0.5 this is Dice.
    alpha: float = Field(0.3, ge=0)
    #: Weight of what is there and is not found.
    beta: float = Field(0.7, ge=0)
    #: Above 1 classes that are right already count less (focal Tversky).
    exponent: float = Field(1.0, gt=0)


class BoundaryDice(_CrossEntropyDice):
    """Cross-entropy + soft Dice + logarithm of the Hausdorff loss by distances (Karimi and Salcudean 2019)."""

    name: Literal["boundary_dice"] = "boundary_dice"
    boundary_weight: float = Field(1.0, ge=0)
    #: Exponent of the distances.
    distance_exponent: float = Field(2.0, gt=0)


class DiffusionConfig(Part):
    """How noise is added and what of its prediction counts (networks that generate)."""

    schedule: str
    #: Steps from a picture to noise.
    num_steps: int = Field(1000, ge=1)
    #: sum: squares over the whole batch, divided by 1000, as released. mean: over all values.
    loss: Literal["sum", "mean"] = "sum"
    #: Serve an average of the weights that keeps this share of itself a step; null: the weights as they are.
    ema_decay: float | None = Field(None, ge=0, lt=1)
    #: Learn the label as a further channel, so that samples are pairs of picture and label.
    with_label: bool = False


class LinearNoise(DiffusionConfig):
    """Betas that rise evenly, as released."""

    schedule: Literal["linear"] = "linear"
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)


class CosineNoise(DiffusionConfig):
    """Betas of Nichol and Dhariwal (2021)."""

    schedule: Literal["cosine"] = "cosine"


class Optimizer(Part):
    """How weights follow their gradients."""

    name: str
    lr: float = Field(1e-4, gt=0)
    #: Learning rate of the parameters of KAN layers, chosen by type; null: `lr`.
    kan_lr: float | None = Field(1e-2, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    #: Largest gradient norm; null: no clipping.
    clip_norm: float | None = Field(None, gt=0)


class _Adaptive(Optimizer):
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)


class Adam(_Adaptive):
    """Adam, its weight decay added to the gradient (as U-KAN trains)."""

    name: Literal["adam"] = "adam"


class AdamW(_Adaptive):
    """Adam, its weight decay shrinking the weights directly."""

    name: Literal["adamw"] = "adamw"


class SGD(Optimizer):
    """Gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False


class Schedule(Part):
    """How the learning rate changes from epoch to epoch."""

    schedule: str


class TimedSchedule(Schedule):
    """A schedule made for so many epochs."""

    #: Epochs the schedule is made for (of the cosine: half its period); null: the number of epochs.
    schedule_epochs: int | None = Field(None, ge=1)


class Cosine(TimedSchedule):
    """Every group falls from its own rate to `min_lr`, and climbs back after that."""

    schedule: Literal["cosine"] = "cosine"
    #: Floor of the rates.
    min_lr: float = Field(1e-5, ge=0)


class Polynomial(TimedSchedule):
    """Times (1 - epoch / epochs)^0.9."""

    schedule: Literal["polynomial"] = "polynomial"


class Constant(Schedule):
    """Unchanged."""

    schedule: Literal["constant"] = "constant"


class WarmupCosine(TimedSchedule):
    """Rises to twice the rate in a tenth of the epochs, then falls on a cosine (released Diffusion U-KAN)."""

    schedule: Literal["warmup_cosine"] = "warmup_cosine"
    #: Floor of the rates.
    min_lr: float = Field(1e-5, ge=0)


class OptimConfig(Schedule, Optimizer):
    """Optimizer and learning-rate schedule."""


class TrainerConfig(Part):
    """How long, how much at once, on what."""

    epochs: int = Field(400, ge=1)
    batch_size: int = Field(8, ge=1)
    #: Batches whose gradients add up to one step of the optimizer; for batches that do not fit into memory at once.
    accumulate: int = Field(1, ge=1)
    #: auto, cpu, cuda, cuda:N, mps.
    device: str = "auto"
    precision: Literal["float32", "bf16-mixed", "16-mixed"] = "float32"
    #: Validate every so many epochs.
    validate_every: int = Field(1, ge=1)
    #: Stop after so many epochs without a better validation score; null: never.
    patience: int | None = Field(None, ge=1)
    #: Stop cleanly (resumable) before the epoch that would end later than this; a resume counts anew; null: never.
    time_budget_minutes: float | None = Field(None, gt=0)
    #: Score of the validation cases that chooses the best epoch, taken at the size the network sees.
    select_by: Literal["dice", "loss", "iou"] = "dice"
    #: Prefer slower operations that give the same bits every time; a warning says where a device has none.
    deterministic: bool = True


class EvaluationConfig(Part):
    """How the held-out cases are judged."""

    #: Average the prediction over flips.
    flips: bool = False
    #: Tolerance of the normalized surface distance, in pixels where the format has no spacing, else in millimeters.
    nsd_tolerance: float = Field(2.0, gt=0)
    #: Class name -> its own tolerance, where it differs.
    nsd_tolerances: dict[str, float] = Field(default_factory=dict)
    bootstrap_samples: int = Field(2000, ge=0)


SPLITS = Family(
    "split",
    SplitConfig,
    kind=(AutoSplit, GroupSplit, RandomSplit, PaperSplit, KFoldSplit, FoldersSplit, FileSplit, NNUNetSplit),
)
LOSSES = Family(
    "loss", LossConfig, name=(AutoLoss, BCEDice, BCEDiceVMKLA, CEDice, CEDiceNNUNet, FocalDice, Tversky, BoundaryDice)
)
NOISES = Family("diffusion", DiffusionConfig, schedule=(LinearNoise, CosineNoise))
OPTIMIZERS = Family(
    "optim", OptimConfig, name=(Adam, AdamW, SGD), schedule=(Cosine, Polynomial, Constant, WarmupCosine)
)

#: Group of the recipe -> the classes it is chosen from.
FAMILIES = {family.group: family for family in (SPLITS, LOSSES, NOISES, OPTIMIZERS)}
