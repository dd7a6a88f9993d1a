"""Recipes: what is read, what is refused, and with which words."""

import pytest

from kanscan.config.recipe import (
    Recipe,
    all_keys,
    check_recipe,
    differences,
    load_recipe,
    parse_overrides,
    recipe_names,
    with_root,
)


def test_defaults_are_a_recipe_and_survive_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    recipe = load_recipe("", {"optim.lr": 2e-4, "model.options": {"channels": [16, 16, 24]}})
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe
    assert load_recipe("") == Recipe()


def test_overrides_are_yaml_values_and_scientific_numbers_are_numbers():
    assert parse_overrides(["optim.lr=1e-4", "data.cache=false", "data.image_size=[64, 96]", "optim.kan_lr=null"]) == {
        "optim.lr": 1e-4,
        "data.cache": False,
        "data.image_size": [64, 96],
        "optim.kan_lr": None,
    }
    assert parse_overrides(["name=release"]) == {"name": "release"}
    recipe = load_recipe("", ["data.image_size=[64,96]", "optim.lr=3e-4", "model.options.channels=[16,16,24]"])
    assert recipe.data.image_size == (64, 96)
    assert recipe.model.options == {"channels": [16, 16, 24]}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["epochs=3"], r"unknown key 'epochs' .* trainer\.epochs"),
        (["optim.learning_rate=3"], "unknown key 'optim.learning_rate'"),
        (["trainer.epoch=3"], r"did you mean trainer\.epochs"),
        (["trainer.epochs=0"], "trainer.epochs in .*greater than or equal to 1, got 0"),
        (["trainer.epochs=many"], "trainer.epochs in .*got 'many'"),
        (["loss.name.x=1"], "cannot set loss.name.x"),
        (["trainer.epochs"], "written key=value"),
        (["data.image_size=5"], "data.image_size"),
        (["model=unext"], "model in the defaults"),
    ],
)
def test_wrong_keys_and_values_are_one_sentence(overrides, words):
    with pytest.raises(ValueError, match=words) as caught:
        load_recipe("", {"loss.name": "auto"} | parse_overrides(overrides) if "=" in overrides[0] else overrides)
    assert "\n" not in str(caught.value)


def test_wrong_files(tmp_path):
    with pytest.raises(ValueError, match="no recipe file at"):
        load_recipe(tmp_path / "none.yaml")
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_recipe(path)
    path.write_text("- a")
    with pytest.raises(ValueError, match="got a list"):
        load_recipe(path)
    with pytest.raises(ValueError, match="unknown recipe 'ukan-quik': did you mean 'ukan-quick'"):
        load_recipe("ukan-quik")


def test_another_network_does_not_inherit_preset_and_options():
    assert load_recipe("ukan-quick").model.preset == "small"
    assert load_recipe("ukan-quick", ["model.name=unext"]).model.preset is None
    assert load_recipe("ukan-quick", ["model.name=ukan"]).model.preset == "small"
    assert load_recipe("ukan-quick", ["model.preset=large", "model.name=unet"]).model.preset == "large"


def test_every_key_is_listed_once_and_known():
    keys = all_keys()
    assert len(keys) == len(set(keys))
    assert {"seed", "model.options", "optim.kan_lr", "evaluation.flips"} <= set(keys)


def test_a_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().seed = 3


def test_differences_name_keys_and_values(tmp_path):
    one = load_recipe("", {"model.options": {"channels": [1, 2, 3]}})
    other = load_recipe("", {"model.options": {"channels": [1, 2, 4]}, "seed": 5})
    assert differences(one, other) == {
        "seed": (2981, 5),
        "model.options": ({"channels": [1, 2, 3]}, {"channels": [1, 2, 4]}),
    }
    assert differences(one, one) == {}
    assert set(differences(one, with_root(one, tmp_path))) == {"data.root"}


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_of_the_package_are_legal_and_say_what_they_are(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    assert check_recipe(recipe.model_dump()) == recipe
