"""What differs between a run and the printed one, setting by setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from kanscan.config.recipe import Recipe, load_recipe
from kanscan.data.pictures.augmentation import AUGMENTATIONS
from kanscan.papers import Settings, load_paper, paper_names
from kanscan.report import Provenance, Report, add_printed, assemble, judge
from kanscan.report.printed import differing, run_settings

NAMES = ("background", "lesion")


def report(sizes: Mapping[str, int] | None = None, num_cases: int = 4) -> Report:
    label = np.zeros((8, 8), np.uint8)
    label[2:5, 2:6] = 1
    judged = [judge(f"p{i}", label, label, NAMES) for i in range(num_cases)]
    here = Provenance(title="t", source="run", part="test", split_kind="paper", date="today", part_sizes=sizes or {})
    return assemble(judged, NAMES, here, samples=0)


def said(recipe: Recipe, judged: Report | None = None) -> list[str]:
    return add_printed(judged or report(), recipe.model_dump(mode="json")).differences


def experiments() -> list:
    return [
        pytest.param(name, key, dataset, id=f"{name}-{key}-{dataset}")
        for name in paper_names()
        for key, experiment in load_paper(name).settings.items()
        for dataset, known in experiment.datasets.items()
        if known.recipe
    ]


def settings_of(name: str, key: str, dataset: str) -> tuple[Settings, Recipe, dict[str, str]]:
    experiment = load_paper(name).settings[key]
    return (
        experiment.settings(dataset),
        load_recipe(experiment.datasets[dataset].recipe),
        experiment.departures(dataset),
    )


@pytest.mark.parametrize(("name", "key", "dataset"), experiments())
def test_a_recipe_as_printed_is_as_printed(name: str, key: str, dataset: str) -> None:
    printed, recipe, departs = settings_of(name, key, dataset)
    found = differing(printed, run_settings(recipe.model_dump(mode="json")))
    assert found.keys() == departs.keys() - {"num_training"}, "a recipe departs exactly where the paper's file says why"


#: Setting -> overrides of a recipe that change it, for pictures and for volumes.
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "split": ({"split.kind": "group"}, {"split.kind": "kfold"}),
    "test_share": ({"split.kind": "random", "split.test_fraction": 0.11}, {}),
    "image_size": ({"data.image_size": [128, 128]}, {"volume.patch_size": [8, 64, 64]}),
    "augmentation": ({"data.augmentation": "none"}, {"volume.augmentation": "none"}),
    "loss": ({"loss.name": "ce_dice_nnunet"}, {"loss.name": "bce_dice"}),
    "loss_weights": ({"loss.cross_entropy_weight": 0.7}, {"loss.dice_weight": 2.0}),
    "optimizer": ({"optim.name": "sgd"}, {"optim.name": "sgd"}),
    "learning_rate": ({"optim.lr": 3e-4}, {"optim.kan_lr": 0.5}),
    "momentum": ({"optim.betas": [0.8, 0.999]}, {"optim.betas": [0.8, 0.999]}),
    "weight_decay": ({"optim.weight_decay": 0.03}, {"optim.weight_decay": 0.03}),
    "schedule": ({"optim.schedule": "constant"}, {"optim.schedule": "constant"}),
    "lowest_rate": ({"optim.min_lr": 0.0}, {"optim.min_lr": 0.0}),
    "half_period": ({"optim.schedule_epochs": 7}, {"optim.schedule_epochs": 7}),
    # 4 and 40 are parts of the word 400.
    "epochs": ({"trainer.epochs": 40}, {"trainer.epochs": 4}),
    "batch_size": ({"trainer.batch_size": 1}, {"volume.batch_size": 1}),
}
COUNTED = {"num_cases", "num_training", "num_test"}


def test_every_setting_is_tried() -> None:
    assert CHANGES.keys() | COUNTED == set(Settings.model_fields)


@pytest.mark.parametrize(("name", "key", "dataset"), experiments())
def test_any_changed_value_of_a_printed_setting_is_told(name: str, key: str, dataset: str) -> None:
    printed, recipe, departs = settings_of(name, key, dataset)
    as_printed = run_settings(recipe.model_dump(mode="json"))
    is_volume = recipe.volume.patch_size is not None
    for setting in printed.printed().keys() - COUNTED:
        change = CHANGES[setting][is_volume]
        changed = load_recipe(recipe_source(name, key, dataset), change)
        now = run_settings(changed.model_dump(mode="json"))
        assert now[setting] != as_printed[setting], (setting, change)
        found = differing(printed, now)
        assert setting in found, (setting, change)
        # What was not changed is as before; a schedule brings its own rates along, a split its share.
        brought = {"schedule": {"lowest_rate", "half_period"}, "epochs": {"half_period"}, "split": {"test_share"}}
        brought |= {"test_share": {"split"}, "optimizer": {"momentum"}}
        assert found.keys() - departs.keys() - {setting} <= brought.get(setting, set()), setting


def recipe_source(name: str, key: str, dataset: str) -> str:
    return load_paper(name).settings[key].datasets[dataset].recipe


@pytest.mark.parametrize("epochs", [1, 4, 40, 401, 4000])
def test_epochs_are_compared_as_numbers(epochs: int) -> None:
    (sentence,) = said(load_recipe("ukan-busi", {"trainer.epochs": epochs}))
    assert sentence == f"u_kan, epochs: printed run 400; this run {epochs}"


def test_the_run_as_printed_differs_in_nothing() -> None:
    sizes = {"train": 489, "validation": 123, "test": 123}
    assert said(load_recipe("ukan-cvc"), report(sizes, num_cases=123)) == []


def test_cases_are_counted() -> None:
    sizes = {"train": 9, "validation": 4, "test": 4}
    assert said(load_recipe("ukan-cvc"), report(sizes)) == ["u_kan, num cases: printed run 612; this run 13"]


def test_the_size_of_another_set_is_told() -> None:
    (sentence,) = said(load_recipe("ukan-glas", {"data.image_size": [256, 256]}))
    assert sentence == "u_kan, image size: printed run 512 x 512; this run 256 x 256"


def test_a_variant_of_the_network_is_told() -> None:
    (sentence,) = said(load_recipe("ukan-busi", {"model.options.skip": "concat"}))
    assert sentence == "u_kan, network: printed run ukan, preset base; this run ukan, preset base, skip=concat"


def test_the_rate_of_kan_layers_is_told() -> None:
    (sentence,) = said(load_recipe("ukan-busi", {"optim.kan_lr": 0.01}))
    assert sentence == "u_kan, learning rate: printed run 0.0001; this run 0.0001, and 0.01 in KAN layers"


def test_what_cannot_be_as_printed_comes_with_its_reason() -> None:
    (sentence,) = said(load_recipe("vmkla_unet-isic2017"))
    assert "center_crop + flips + rotation; this run flips + rotation (Center cropping is printed without" in sentence


@pytest.mark.parametrize(
    ("model", "method"), [("unet", "U-Net"), ("unext", "U-NeXt"), ("ukan", "U-KAN"), ("segresnet", None)]
)
def test_a_network_stands_beside_its_own_row_or_none(model: str, method: str | None) -> None:
    """The printed U-Net on CVC-ClinicDB, not U-KAN, is what a U-Net trained by U-KAN's recipe compares with."""
    judged = add_printed(report(), load_recipe("ukan-cvc", {"model.name": model}).model_dump(mode="json"))
    assert {figure.method for figure in judged.printed} == ({method} if method else set())
    if method is None:
        assert judged.differences == ["u_kan/table1/cvc: the paper prints no row of this run's network (segresnet)"]
    else:
        assert judged.differences == []


@pytest.mark.parametrize(
    ("recipe", "protocol", "metric"),
    [
        ("all_ukan-busi", "batch_pooled", "iou"),
        ("all_ukan-busi", "batch_pooled", "dice"),
        ("vmkla_unet-isic2017", "pixel_pooled", "dice"),
    ],
)
def test_ours_is_pooled_as_theirs(recipe: str, protocol: str, metric: str) -> None:
    judged = add_printed(report(), load_recipe(recipe).model_dump(mode="json"))
    found = {figure.metric: figure.ours_same_pooling for figure in judged.printed}
    assert found[metric] == pytest.approx(100)
    assert any(figure.protocol == protocol for figure in judged.legacy)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_other_augmentation_differs_from_the_printed_one(name: str) -> None:
    differs = [d for d in said(load_recipe("ukan-busi", {"data.augmentation": name})) if "augmentation" in d]
    assert len(differs) == (name != "flip_rotate")
