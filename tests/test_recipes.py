"""Every recipe of the package: built without memory, and stepped once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kanscan.config.recipe import Recipe, load_recipe, recipe_names
from kanscan.data import READERS
from kanscan.data.case import Case
from kanscan.data.splits import make_split
from kanscan.data.volumes.fingerprint import STATISTICS, Fingerprint
from kanscan.data.volumes.plan import VolumePlan, make_plan
from kanscan.models import create_model
from kanscan.papers import find_claims
from kanscan.pipelines import GENERATION, PICTURES, check_names, generates
from kanscan.pipelines.generation import generation_task
from kanscan.pipelines.parts import build_model, segmentation_task
from kanscan.pipelines.planning import options_of_volumes

HIPPOCAMPUS = Fingerprint(((1.0, 1.0, 1.0),) * 20, ((36, 50, 35),) * 20, 1.0, (dict.fromkeys(STATISTICS, 1.0),))


def is_of_volumes(recipe: Recipe) -> bool:
    return recipe.name == "volumes" or (recipe.data.reader != "auto" and READERS[recipe.data.reader].spatial_dims == 3)


def plan_of(recipe: Recipe) -> VolumePlan:
    """Plan for the hippocampus, or what a recipe of volumes says itself."""
    part = recipe.volume
    plan = make_plan(HIPPOCAMPUS, 3, spacing_mm=part.spacing_mm, patch_size=part.patch_size, slices=part.slices)
    return replace(plan, copies=recipe.data.channels or 1)


def size_of(recipe: Recipe) -> tuple[int, ...]:
    """The pictures' size, or the planned patch."""
    return plan_of(recipe).network_size if is_of_volumes(recipe) else recipe.data.image_size


def without_weights(recipe: Recipe):
    if is_of_volumes(recipe):
        with torch.device("meta"):
            return create_model(recipe.model.name, **options_of_volumes(recipe, plan_of(recipe), 3))
    num_classes = 3 if recipe.loss.name.startswith("ce_dice") else 2
    options = GENERATION.options(recipe, 3) if generates(recipe) else PICTURES.options(recipe, 3, num_classes)
    with torch.device("meta"):
        return build_model(recipe, options)


def first_of_each_network() -> list:
    """Name one recipe for every network and preset; the fast run steps those of U-KAN."""
    first: dict[str, str] = {}
    for name in recipe_names():
        recipe = load_recipe(name)
        first.setdefault(repr((recipe.model, recipe.loss.deep_supervision)), name)
    slow = pytest.mark.slow
    return [pytest.param(name, marks=() if name.startswith("ukan") else slow) for name in first.values()]


@pytest.mark.parametrize("name", recipe_names())
def test_every_name_in_a_recipe_is_known(name):
    check_names(load_recipe(name, {"trainer.device": "cpu", "trainer.precision": "float32"}))


@pytest.mark.parametrize("name", first_of_each_network())
def test_a_recipe_is_built_and_stepped_once(name):
    """Shapes run through the whole step at the recipe's own sizes; no number is computed."""
    recipe = load_recipe(name)
    model = without_weights(recipe)
    task = (generation_task(recipe, model, 2) if generates(recipe) else segmentation_task(recipe, model)).train()
    optimizer = task.configure_optimizers()["optimizer"]
    image = torch.empty(2, model.in_channels, *size_of(recipe), device="meta")
    if generates(recipe):
        model(image, torch.zeros(2, dtype=torch.long, device="meta")).square().mean().backward()
    else:
        label = torch.empty(2, *size_of(recipe), dtype=torch.long, device="meta")
        task.loss(task.logits(image), label).backward()
    optimizer.step()
    assert optimizer.state
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", recipe_names())
def test_the_printed_figures_a_recipe_claims_exist(name):
    claims = find_claims(load_recipe(name).claims)
    assert len(claims) >= len(load_recipe(name).claims)


def test_printed_and_coded_settings_differ_where_the_paper_and_its_code_do():
    printed, coded = load_recipe("ukan-busi"), load_recipe("ukan-busi-release")
    assert (printed.optim.kan_lr, coded.optim.kan_lr) == (None, 1e-2)
    assert (printed.data.normalization, coded.data.normalization) == ("imagenet", "release")
    assert printed.split.kind == coded.split.kind == "paper"
    assert load_recipe("ukan-glas").data.image_size == (512, 512)


@pytest.mark.parametrize(("year", "training", "test"), [(2017, 1500, 650), (2018, 1886, 808)])
def test_km_unet_splits_isic_into_the_printed_numbers(year, training, test):
    part = load_recipe(f"km_unet-isic{year}").split
    cases = [Case(f"{i:04d}", (Path("none"),)) for i in range(training + test)]
    split = make_split(cases, part)
    assert (len(split.train), len(split.validation), len(split.test)) == (training, 0, test)


def test_the_default_size_of_each_paper_network():
    counts = {name: sum(p.numel() for p in without_weights(load_recipe(name)).parameters()) for name in PRINTED}
    assert counts == PRINTED


#: Parameters of the networks that the papers train, as counted in the released code.
PRINTED = {
    "ukan-busi": 6_356_689,
    "ukan-cvc-release": 6_356_689,
    "ukan-quick": 1_848_633,
    "ukan_diffusion-cvc-release": 26_871_811,
    "km_unet-busi-release": 7_002_778,
    "vm_unet-isic2017-release": 27_427_561,
}
