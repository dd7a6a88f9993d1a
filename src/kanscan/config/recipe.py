"""Recipe: everything that decides a run, frozen, one YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kanscan.registry import nearest, unknown


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ModelConfig(_Part):
    """Which network; `options` are its constructor's keywords and win over the preset."""

    name: str = "ukan"
    preset: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    #: Start from these weights (a run's model.safetensors or a released checkpoint) instead of fresh ones.
    weights: Path | None = None
    #: Start the encoder from these ImageNet weights (networks built on VMamba only); the rest stays fresh.
    pretrained: Path | None = None


class DataConfig(_Part):
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


class VolumeConfig(_Part):
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


class SplitConfig(_Part):
    """Who is trained on, who chooses the epoch, who is reported."""

    #: group: three parts that no group straddles. random: three parts, groups ignored. paper: the papers' two parts,
    #: where the part that chooses the epoch is also the part that is reported. kfold: fold `fold` of `num_folds` tests.
    #: folders: as the layout says. file: read from `file`. nnunet: fold `fold` of nnU-Net's splits_final.json (`file`,
    #: or the one in the data's folder), whose validation part is also the one reported.
    kind: Literal["group", "random", "paper", "kfold", "folders", "file", "nnunet"] = "group"
    #: Null follows the recipe's seed.
    seed: int | None = None
    test_fraction: float = Field(0.2, ge=0, lt=1)
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    num_folds: int = Field(5, ge=2)
    fold: int = Field(0, ge=0)
    file: Path | None = None


class LossConfig(_Part):
    """Which loss; "auto" is BCE + Dice for one logit and cross-entropy + Dice for several."""

    name: str = "auto"
    #: Weight of the (binary) cross-entropy; U-KAN's code: 0.5 with BCE.
    cross_entropy_weight: float | None = Field(None, ge=0)
    dice_weight: float = Field(1.0, ge=0)
    #: Train on the network's outputs at every scale (networks with side outputs only); weights 1, 1/2, 1/4, ...
    deep_supervision: bool = False


class DiffusionConfig(_Part):
    """How noise is added and what of its prediction counts (networks that generate)."""

    #: Steps from a picture to noise.
    num_steps: int = Field(1000, ge=1)
    #: linear: betas from `beta_start` to `beta_end`. cosine: neither is used.
    schedule: Literal["linear", "cosine"] = "linear"
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)
    #: sum: squares over the whole batch, divided by 1000, as released. mean: over all values.
    loss: Literal["sum", "mean"] = "sum"
    #: Serve an average of the weights that keeps this share of itself a step; null: the weights as they are.
    ema_decay: float | None = Field(None, ge=0, lt=1)
    #: Learn the label as a further channel, so that samples are pairs of picture and label.
    with_label: bool = False


class OptimConfig(_Part):
    """Optimizer and learning-rate schedule."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-4, gt=0)
    #: Learning rate of the parameters of KAN layers, chosen by type; null: `lr`.
    kan_lr: float | None = Field(1e-2, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    schedule: Literal["cosine", "polynomial", "constant", "warmup_cosine"] = "cosine"
    #: Floor of the cosine (also with a warm-up).
    min_lr: float = Field(1e-5, ge=0)
    #: Epochs of half a cosine period; null: the number of epochs.
    schedule_epochs: int | None = Field(None, ge=1)
    #: Largest gradient norm; null: no clipping.
    clip_norm: float | None = Field(None, gt=0)


class TrainerConfig(_Part):
    """How long, how much at once, on what."""

    epochs: int = Field(400, ge=1)
    batch_size: int = Field(8, ge=1)
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


class EvaluationConfig(_Part):
    """How the held-out cases are judged."""

    #: Average the prediction over flips.
    flips: bool = False
    #: Tolerance of the normalized surface distance, in pixels where the format has no spacing, else in millimeters.
    nsd_tolerance: float = Field(2.0, gt=0)
    #: Class name -> its own tolerance, where it differs.
    nsd_tolerances: dict[str, float] = Field(default_factory=dict)
    bootstrap_samples: int = Field(2000, ge=0)


class Recipe(_Part):
    """Everything that decides a run.

    Example:
        >>> Recipe(seed=1).model.name
        'ukan'
    """

    name: str = "ukan"
    description: str = ""
    #: "paper/claim" keys whose printed figures the report shows beside ours.
    claims: tuple[str, ...] = ()
    seed: int = 2981
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    volume: VolumeConfig = VolumeConfig()
    split: SplitConfig = SplitConfig()
    loss: LossConfig = LossConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    optim: OptimConfig = OptimConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def to_yaml(self) -> str:
        """Write the recipe completely, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def recipe_names() -> list[str]:
    """List the recipes that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in files("kanscan.recipes").iterdir() if p.name.endswith(".yaml"))


def load_recipe(source: str | Path = "", overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Read a recipe by name or from a YAML file and apply overrides.

    Args:
        source: A name of `recipe_names()`, a path to a YAML file, or "" for the defaults.
        overrides: `"optim.lr=3e-4"` strings, or a mapping of dotted keys to values.

    Returns:
        The checked recipe.

    Raises:
        ValueError: The name, a key or a value is wrong; the sentence names it and the nearest right one.
    """
    path = Path(source)
    if str(source) == "":
        text, where = "", "the defaults"
    elif path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"no recipe file at {path}")
        text, where = path.read_text(encoding="utf-8"), str(path)
    else:
        if str(source) not in recipe_names():
            raise ValueError(unknown("recipe", str(source), recipe_names()))
        text, where = (files("kanscan.recipes") / f"{source}.yaml").read_text(encoding="utf-8"), str(source)
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where} must hold keys and values, got a {type(content).__name__}")
    changes = parse_overrides(overrides)
    model = content.get("model", {})
    if isinstance(model, dict) and changes.get("model.name", model.get("name")) != model.get("name"):
        # Preset, options and weights belong to the network they were written for.
        content["model"] = {}
    for key, value in changes.items():
        _assign(content, key, value)
    return check_recipe(content, where)


def parse_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Turn `key=value` strings into a mapping of dotted keys to YAML values."""
    if isinstance(overrides, Mapping):
        return dict(overrides)
    parsed: dict[str, Any] = {}
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ValueError(f"cannot read {item!r}: overrides are written key=value, for example trainer.epochs=50")
        parsed[key.strip()] = _yaml_value(value)
    return parsed


def _yaml_value(text: str) -> Any:
    # YAML 1.1 reads "1e-4" as a string because it lacks the dot.
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text


def _assign(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        child = content.setdefault(name, {})
        if not isinstance(child, dict):
            raise ValueError(f"cannot set {key}: {name} is not a group of settings")
        content = child
    content[last] = value


def check_recipe(content: Mapping[str, Any], where: str = "the recipe") -> Recipe:
    """Validate plain values into a Recipe; the first thing wrong becomes one sentence.

    Raises:
        ValueError: A key is unknown or a value is not legal.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        # An unknown key often makes its neighbors wrong too: report it first.
        problems = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        first = problems[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            keys = all_keys()
            last = place.rpartition(".")[2]
            # The right key may live in another group: "epochs" is trainer.epochs.
            same = [k for k in keys if k.rpartition(".")[2] == last]
            close = same or nearest(place, keys) or nearest(last, keys)
            hint = f"; did you mean {' or '.join(close)}?" if close else f"; known are {', '.join(keys)}"
            raise ValueError(f"unknown key {place!r} in {where}{hint}") from None
        raise ValueError(f"{place} in {where}: {first['msg']}, got {first.get('input')!r}") from None


def with_root(recipe: Recipe, root: str | Path | None) -> Recipe:
    """Return the recipe with its data in absolute folders, so that a run can go on from anywhere."""
    extra = recipe.data.extra_training
    folders = {
        "root": None if root is None else Path(root).resolve(),
        "extra_training": None if extra is None else extra.resolve(),
    }
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=folders)})


def differences(one: Recipe, other: Recipe) -> dict[str, tuple[Any, Any]]:
    """List the dotted keys in which two recipes differ, with both values."""

    def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        leaves = set(all_keys())
        found: dict[str, Any] = {}
        for name, value in content.items():
            key = prefix + name
            found.update({key: value} if key in leaves else flat(value, f"{key}."))
        return found

    a, b = flat(one.model_dump(mode="json")), flat(other.model_dump(mode="json"))
    return {key: (a[key], b[key]) for key in a if a[key] != b[key]}


def all_keys(part: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """List every dotted key a recipe may hold."""
    keys: list[str] = []
    for name, info in part.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += all_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys
