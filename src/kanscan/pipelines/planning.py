"""From a fingerprint to a plan, and from the plan to a network and patches that the memory holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kanscan.config.recipe import Recipe
from kanscan.data import Case
from kanscan.data.loading import make_loader
from kanscan.data.sides import names_sides
from kanscan.data.source import Opened
from kanscan.data.splits import Split
from kanscan.data.volumes.cache import cache_cases, default_folder
from kanscan.data.volumes.fingerprint import Fingerprint, take_fingerprint
from kanscan.data.volumes.nnunet import nnunet_plans, read_nnunet_plans
from kanscan.data.volumes.patches import PatchDataset, WholeDataset
from kanscan.data.volumes.plan import VolumePlan, make_plan
from kanscan.files import read_json, write_json, write_text
from kanscan.models import MODELS, create_model, model_options
from kanscan.models.base import SegmentationModel
from kanscan.models.fitting import check_fit, complete_options
from kanscan.run import Run
from kanscan.training.device import available_memory_mib, choose_device, training_memory_mib
from kanscan.training.segmentation import check_batch_norm

#: Share of the free memory that a training step may be estimated to take: short-lived buffers come on top.
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Planned:
    """A plan and what it was made of.

    Attributes:
        plan: How volumes reach the network.
        fingerprint: Of the training cases; None where a run goes on, or the plan was given.
        options: All constructor options of the network.
        model: The network.
        notes: What the user should know.
    """

    plan: VolumePlan
    fingerprint: Fingerprint | None
    options: dict[str, Any]
    model: SegmentationModel
    notes: tuple[str, ...]


def plan_volumes(recipe: Recipe, source: Opened, split: Split, plan: VolumePlan | None = None) -> Planned:
    """Plan, and build a network that fits both the plan and the memory.

    Args:
        recipe: What to do.
        source: The data set.
        split: Its training cases are looked at.
        plan: Of a run that goes on; None: made of the data.

    Raises:
        ValueError: The network cannot take the volumes, or memory does not suffice.
    """
    fingerprint = None
    part, num_classes, is_new = recipe.volume, source.label_map.num_classes, plan is None
    if plan is None and part.plan is not None:
        plan = read_plan(recipe)
    elif plan is None:
        fingerprint = take_fingerprint(source.only(split.train, "the split"), source.label_map, _watched)
        plan = make_plan(
            fingerprint,
            num_classes,
            channel_names=source.reader.channel_names,
            spacing_mm=part.spacing_mm,
            patch_size=part.patch_size,
            batch_size=part.batch_size,
            normalization=part.normalization,
            slices=part.slices,
        )
    if is_new:
        plan = replace(plan, copies=_copies(recipe, plan.channels))
    plan = _given_stages(recipe, _fit_stride(recipe, plan, num_classes))
    options = options_of_volumes(recipe, plan, num_classes)
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.model.name, **options)
    assert isinstance(model, SegmentationModel)  # complete_options refused the others
    check_fit(model, plan.network_size, recipe.loss.deep_supervision, plan.spatial_dims)
    notes = []
    if is_new:
        plan, note = fit_memory(recipe, plan, model)
        notes += [plan_text(plan), note] if note else [plan_text(plan)]
    check_batch_norm(model, plan.batch_size, (model.in_channels, *plan.network_size))
    return Planned(plan, fingerprint, options, model, tuple(notes))


def options_of_volumes(recipe: Recipe, plan: VolumePlan, num_classes: int, *, sized: bool = True) -> dict[str, Any]:
    """Resolve all constructor options of the network: the recipe's, what follows from the plan, and the defaults.

    Args:
        recipe: Names the network.
        plan: Gives axes, channels, stages and size.
        num_classes: Background included.
        sized: Tell the size of the patch to networks that must know it.
    """
    part = recipe.model
    return complete_options(
        MODELS[part.name],
        model_options(part.name, part.preset, part.options),
        channels=plan.network_channels,
        num_classes=num_classes,
        image_size=plan.network_size if sized else None,
        deep_supervision=recipe.loss.deep_supervision,
        spatial_dims=plan.spatial_dims,
        stages=(plan.strides, plan.kernel_sizes),
    )


def read_plan(recipe: Recipe) -> VolumePlan:
    """Take the plan of nnU-Net that a recipe names; its patch and batch unless the recipe says otherwise.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no plan, lacks what is needed, or the recipe contradicts it.
    """
    part = recipe.volume
    assert part.plan is not None
    for name, is_set in (("spacing_mm", part.spacing_mm is not None), ("normalization", part.normalization != "auto")):
        if is_set:
            raise ValueError(f"volume.plan={part.plan} says volume.{name} already; leave one of them out")
    if not part.plan.is_file():
        raise FileNotFoundError(f"no file at volume.plan={part.plan}; expected nnU-Net's nnUNetPlans.json")
    content = read_json(part.plan)
    if not isinstance(content, dict):
        raise ValueError(f"{part.plan} is no nnUNetPlans.json of nnU-Net")
    try:
        plan = read_nnunet_plans(content, "2d" if part.slices else "3d_fullres")
    except ValueError as error:
        raise ValueError(f"{part.plan}: {error}") from None
    given: dict[str, Any] = {"patch_size": part.patch_size, "batch_size": part.batch_size}
    given = {key: value for key, value in given.items() if value is not None}
    return replace(plan, **given, reasons=plan.reasons | {key: f"given as volume.{key}" for key in given})


def _copies(recipe: Recipe, channels: int) -> int:
    """Tell how often a lone channel is repeated: networks that start from weights for color pictures take three."""
    wanted = recipe.data.channels
    if wanted is None or wanted == channels:
        return 1
    if channels != 1:
        raise ValueError(f"data.channels={wanted}, but the volumes have {channels} channels; leave it out")
    return wanted


def _fit_stride(recipe: Recipe, plan: VolumePlan, num_classes: int) -> VolumePlan:
    """Round the patch up to what the network's own stages divide, where these are not the planned ones."""
    with torch.device("meta"):
        stride = create_model(recipe.model.name, **options_of_volumes(recipe, plan, num_classes, sized=False)).stride
    rounded = [-(-n // s) * s for n, s in zip(plan.network_size, stride, strict=True)]
    if tuple(rounded) == plan.network_size:
        return plan
    if plan.slice_axis is not None:
        rounded.insert(plan.slice_axis, 1)
    steps = " x ".join(map(str, stride))
    reason = f"{plan.reasons.get('patch_size', '')}; rounded up to multiples of {steps} for {recipe.model.name}"
    reasons = {**plan.reasons, "patch_size": reason}
    return replace(plan, patch_size=tuple(rounded), reasons=reasons)  # type: ignore[arg-type]


def plan_text(plan: VolumePlan) -> str:
    """Say in a sentence how volumes will reach the network."""
    size, spacing = (" x ".join(f"{n:g}" for n in numbers) for numbers in (plan.patch_size, plan.spacing_mm))
    return (
        f"planned: patches of {size} voxels of {spacing} mm, {plan.batch_size} in a batch, {len(plan.strides)} stages, "
        f"intensities {', '.join(dict.fromkeys(plan.normalization))}; plan.yaml in the run says why"
    )


def _given_stages(recipe: Recipe, plan: VolumePlan) -> VolumePlan:
    """Write into the plan the stages that the recipe chose for the network in place of the planned ones."""
    dims = plan.spatial_dims
    chosen = model_options(recipe.model.name, recipe.model.preset, recipe.model.options)
    given: dict[str, Any] = {
        key: tuple(tuple(step) if isinstance(step, list | tuple) else (step,) * dims for step in chosen[key])
        for key in ("strides", "kernel_sizes")
        if isinstance(chosen.get(key), list | tuple)
    }
    return replace(plan, **given, reasons=plan.reasons | {key: f"given as model.options.{key}" for key in given})


def fit_memory(recipe: Recipe, plan: VolumePlan, model: SegmentationModel) -> tuple[VolumePlan, str]:
    """Take fewer patches in a batch where memory does not suffice for the planned ones.

    Returns:
        The plan, and what was changed in a sentence, or "".

    Raises:
        ValueError: The batch was given and is too large, or one patch is.
    """
    limit = recipe.volume.memory_limit_mib
    if limit is None:
        limit = _MEMORY_SHARE * available_memory_mib(choose_device(recipe.trainer.device))
    shape = (model.in_channels, *plan.network_size)
    one, two = (training_memory_mib(model, count, shape, recipe.trainer.precision) for count in (1, 2))
    each = two - one
    needed = one + each * (plan.batch_size - 1)
    fits = 1 + int((limit - one) / each) if limit >= one else 0
    patch = " x ".join(map(str, plan.patch_size))
    if needed <= limit:
        return plan, ""
    if fits < 1:
        raise ValueError(
            f"one patch of {patch} needs about {one:,.0f} MiB for a training step of {recipe.model.name}, {limit:,.0f} "
            "MiB may be taken; set a smaller volume.patch_size or narrower model.options.channels"
        )
    if recipe.volume.batch_size is not None:
        raise ValueError(
            f"{plan.batch_size} patches of {patch} need about {needed:,.0f} MiB for a training step, {limit:,.0f} MiB "
            f"may be taken; volume.batch_size={fits} fits"
        )
    text = (
        f"{plan.batch_size} patches in a batch would need about {needed:,.0f} MiB, {limit:,.0f} MiB may be taken: "
        f"{fits} are taken"
    )
    return replace(plan, batch_size=fits, reasons={**plan.reasons, "batch_size": text}), text


def patch_loaders(recipe: Recipe, source: Opened, split: Split, plan: VolumePlan) -> tuple[Any, Any | None]:
    """Build the loaders of training patches and of validation cases (None if there are none)."""
    part = recipe.volume
    folder = part.cache or default_folder()

    def prepared(ids: Sequence[str]) -> list[Any]:
        return cache_cases(source.only(ids, "the split"), plan, source.label_map, folder, _watched)

    patches = PatchDataset(
        prepared(split.train),
        plan,
        batches=part.batches_per_epoch,
        foreground=part.foreground,
        augmentation=part.augmentation,
        seed=recipe.seed,
        mirror_sides=not names_sides(source.label_map.names),
    )
    settings: dict[str, Any] = {
        "batch_size": plan.batch_size,
        "seed": recipe.seed,
        "num_workers": recipe.data.num_workers,
    }
    validation = make_loader(WholeDataset(prepared(split.validation), plan), **settings) if split.validation else None
    return make_loader(patches, **settings), validation


def write_plan(run: Run, planned: Planned) -> None:
    """Write the plan as a page to read, and beside it as nnU-Net writes plan and fingerprint."""
    write_text(run.plan_path, planned.plan.to_text())
    if planned.fingerprint is not None:
        write_json(run.fingerprint_path, planned.fingerprint.to_nnunet())
        write_json(run.nnunet_plans_path, nnunet_plans(planned.plan, planned.fingerprint, run.path.name))


def _watched(cases: Sequence[Case]) -> Iterable[Case]:
    """Show a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(cases, "preparing", console=console, transient=True, disable=not console.is_terminal)
