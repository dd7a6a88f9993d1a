"""The paper's printed figures beside ours, and what differs between the two runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kanscan.papers import Claim, Network, Settings, find_claims, load_paper
from kanscan.papers.settings import setting_words
from kanscan.report.schema import PrintedFigure, Report

#: What augmentations of pictures and volumes are made of, in the papers' words; others stand under their own name.
_OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "flips": ("flips",),
    "flip_rotate": ("flips", "rotation"),
    "quarter_turns": ("flips", "rotation"),
}
#: Kinds of split in the papers' words; others are drawn by groups.
_SPLITS = {"paper": "random", "random": "random", "folders": "fixed", "file": "fixed", "nnunet": "fixed"}
#: Share that the papers' own split reports; a recipe does not repeat it.
_PAPER_SHARE = 0.2


def add_printed(report: Report, recipe: Mapping[str, Any]) -> Report:
    """Return the report with the figures that the recipe's claims name, and with what differs from their run.

    A run is set beside the printed row of its own network, or beside none.

    Args:
        report: Without printed figures.
        recipe: The recipe as plain values.

    Raises:
        ValueError: A claim leads nowhere.
    """
    network, here = run_network(recipe), run_settings(recipe, report)
    printed, sentences = [], []
    for key in recipe.get("claims", ()):
        claims = find_claims([key], network)
        if not claims:
            sentences.append(f"{key}: the paper prints no row of this run's network ({network})")
        # Printed costs (parameters, operations) are no scores and left out.
        for claim in claims:
            if claim.metric in {row.metric for row in report.summary}:
                printed.append(_figure(report, claim))
                sentences += differences(claim, network, here)
    return report.model_copy(update={"printed": printed, "differences": list(dict.fromkeys(sentences))})


def _figure(report: Report, claim: Claim) -> PrintedFigure:
    factor = 100.0 if "percent" in claim.unit else 1.0
    row, pooled = report.row(claim.metric), _pooled(report, load_paper(claim.paper).pooling, claim.metric)
    return PrintedFigure(
        paper=claim.paper,
        table=claim.table,
        dataset=claim.dataset,
        method=claim.method,
        metric=claim.metric,
        unit=claim.unit,
        printed=claim.value,
        printed_sd=claim.sd,
        ours=None if row is None else row.mean * factor,
        ours_same_pooling=None if pooled is None else pooled * factor,
        note=claim.note,
    )


def _pooled(report: Report, protocol: str | None, metric: str) -> float | None:
    wanted = pooled_name(protocol, metric)
    values = [f.value for f in report.legacy if f.protocol == protocol and f.metric == wanted]
    return sum(values) / len(values) if values else None


def pooled_name(protocol: str | None, metric: str) -> str:
    """Return the name of a metric where a protocol pools it: over batches, Dice is made from the IoU and called F1."""
    return "f1" if (protocol, metric) == ("batch_pooled", "dice") else metric


def run_network(recipe: Mapping[str, Any]) -> Network:
    """Return the network of a recipe's plain values."""
    model = recipe["model"]
    return Network(model=model["name"], preset=model.get("preset"), options=model.get("options") or {})


def run_settings(recipe: Mapping[str, Any], report: Report | None = None) -> dict[str, Any]:
    """Say of a run, in the words of `Settings`, what papers print of theirs.

    Args:
        recipe: The recipe as plain values.
        report: Its report, which knows the numbers of cases.

    Returns:
        A name of `Settings` -> value; what nothing is known about is left out.
    """
    volume = recipe["volume"]
    is_volume = bool(volume.get("slices")) or volume.get("patch_size") is not None
    is_volume = is_volume or (report is not None and any(len(case.size) == 3 for case in report.cases[:1]))
    found = {
        "augmentation": recipe["volume" if is_volume else "data"]["augmentation"],
        "image_size": recipe["data"]["image_size"],
        "batch_size": recipe["trainer"]["batch_size"],
        "epochs": recipe["trainer"]["epochs"],
    }
    if is_volume:
        patch = volume.get("patch_size")
        found |= {"batch_size": volume.get("batch_size"), "image_size": patch and patch[1 if volume["slices"] else 0 :]}
    found["augmentation"] = _OPERATIONS.get(found["augmentation"], (found["augmentation"],))
    binary = report is None or len(report.class_names) <= 2
    return found | _loss(recipe["loss"], binary) | _optimizer(recipe) | _split(recipe["split"], report)


def _loss(loss: Mapping[str, Any], binary: bool) -> dict[str, Any]:
    name = ("bce_dice" if binary else "ce_dice") if loss["name"] == "auto" else loss["name"]
    weights = (loss.get("cross_entropy_weight"), loss.get("dice_weight"))
    return {"loss": [t for t in name.split("_") if t in ("bce", "ce", "dice")], "loss_weights": weights}


def _optimizer(recipe: Mapping[str, Any]) -> dict[str, Any]:
    optim, name, schedule = recipe["optim"], recipe["optim"]["name"], recipe["optim"]["schedule"]
    rate, kan_rate = optim["lr"], optim.get("kan_lr")
    found = {
        "optimizer": name,
        "learning_rate": rate if kan_rate in (None, rate) else f"{rate:g}, and {kan_rate:g} in KAN layers",
        "momentum": optim["momentum"] if name == "sgd" else optim["betas"][0],
        "weight_decay": optim["weight_decay"],
        "schedule": schedule,
        "lowest_rate": None,
        "half_period": None,
    }
    if "cosine" in schedule:
        period = optim.get("schedule_epochs") or recipe["trainer"]["epochs"]
        found |= {"lowest_rate": optim["min_lr"], "half_period": period}
    return found


def _split(split: Mapping[str, Any], report: Report | None) -> dict[str, Any]:
    kind = split["kind"]
    shares = {"paper": _PAPER_SHARE, "kfold": 1 / split.get("num_folds", 1)}
    found = {"split": _SPLITS.get(kind, "by groups"), "test_share": shares.get(kind, split.get("test_fraction"))}
    if report is None or not report.provenance.part_sizes:
        return found
    sizes = report.provenance.part_sizes
    # In the papers' split the part that chooses the epoch is the part that is reported.
    total = sizes["train"] + sizes["test"] + (0 if kind == "paper" else sizes["validation"])
    return found | {"num_training": sizes["train"], "num_test": report.num_cases, "num_cases": total}


def differences(claim: Claim, network: Network, here: Mapping[str, Any]) -> list[str]:
    """Say in sentences how a run differs from the one behind a printed number.

    Args:
        claim: The printed number.
        network: The run's.
        here: Its `run_settings`.
    """
    experiment = load_paper(claim.paper).settings[claim.experiment]
    reasons = experiment.departures(claim.dataset)
    differs = differing(experiment.settings(claim.dataset), here)
    if not claim.network.same_as(network):
        differs = {"network": (claim.network, network), **differs}
    return [
        f"{claim.paper}, {name.replace('_', ' ')}: printed run {setting_words(theirs)}; this run {setting_words(ours)}"
        + (f" ({reasons[name]})" if name in reasons else "")
        for name, (theirs, ours) in differs.items()
    ]


def differing(printed: Settings, here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return each setting in which a run differs from what is printed, with both values."""
    return {
        name: (theirs, here[name])
        for name, theirs in printed.printed().items()
        if name in here and not _equal(theirs, here[name])
    }


def _equal(one: object, other: object) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other
