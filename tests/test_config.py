"""Recipes: what is read, what is refused, and with which words."""

import pytest

from kanscan.config.foreign import keys_under, refuse_foreign
from kanscan.config.keys import described_keys
from kanscan.config.parts import FAMILIES, OPTIMIZERS, SGD, SPLITS, BCEDice, Constant
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


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["optim.momentum=0.5"],
            r"optim\.momentum=0\.5 .*no effect with optim\.name=adam; .*option of optim\.name=sgd",
        ),
        (
            ["optim.name=sgd", "optim.betas=[0.8,0.9]"],
            r"with optim\.name=sgd; .*optim\.name=adam and optim\.name=adamw",
        ),
        (["optim.schedule=constant", "optim.min_lr=0"], r"with optim\.schedule=constant; .*optim\.schedule=cosine"),
        (["split.fold=1"], r"with split\.kind=auto; .*split\.kind=kfold and split\.kind=nnunet"),
        (["split.kind=paper", "split.test_fraction=0.3"], r"with split\.kind=paper; .*split\.kind=group"),
        (["diffusion.schedule=cosine", "diffusion.beta_end=0.1"], r"option of diffusion\.schedule=linear"),
        (["optim.name=adm"], r"unknown optim\.name 'adm': did you mean 'adam'"),
        (["optim.name=[sgd]"], "unknown optim.name"),
        (["loss=dice"], "loss in the defaults: a group of settings is expected"),
        (["optim.momentm=0.5"], r"unknown key 'optim\.momentm' .*did you mean optim\.momentum"),
    ],
)
def test_options_of_another_choice_are_refused(overrides, words):
    with pytest.raises(ValueError, match=words) as caught:
        load_recipe("", overrides)
    assert "\n" not in str(caught.value)


def test_every_option_of_a_choice_is_refused_under_every_other():
    checked = 0
    for family in FAMILIES.values():
        for tag, classes in family.choices.items():
            for value, option in ((v, o) for v in classes for o in family.options() if o not in family.choices):
                part = {tag: value, option: "?"}
                if option not in family.choose(part).model_fields:
                    checked += 1
                    with pytest.raises(ValueError, match=f"{option}=. .*has no effect with {family.group}"):
                        check_recipe({family.group: part})
    assert checked > 20


def test_another_choice_does_not_inherit_the_options_of_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optim: {name: sgd, lr: 0.1, momentum: 0.8, min_lr: 0.01}\nsplit: {kind: kfold, num_folds: 3}\n")
    recipe = load_recipe(path, ["optim.name=adamw", "optim.schedule=polynomial", "split.kind=group"])
    assert recipe.optim.lr == 0.1
    assert not {"momentum", "min_lr"} & set(type(recipe.optim).model_fields)
    assert load_recipe(path, ["optim.lr=0.2"]).optim.momentum == 0.8
    # What is asked for is not dropped.
    with pytest.raises(ValueError, match="momentum"):
        load_recipe(path, ["optim.name=adamw", "optim.momentum=0.7"])


def test_one_part_is_optimizer_and_schedule_at_once():
    optim = load_recipe("", ["optim.name=sgd", "optim.schedule=constant"]).optim
    assert isinstance(optim, SGD)
    assert isinstance(optim, Constant)
    assert Recipe(loss=BCEDice(dice_weight=2)).loss == BCEDice(dice_weight=2)


#: Of a run of version 0.1.0: every option is there, also those of other optimizers and splits.
OLD = """
split: {kind: KIND, seed: null, test_fraction: 0.2, validation_fraction: 0.1, num_folds: 5, fold: 0, file: null}
loss: {name: auto, cross_entropy_weight: null, dice_weight: 1.0, deep_supervision: false}
diffusion: {num_steps: 1000, schedule: NOISE, beta_start: 0.0001, beta_end: 0.02, loss: sum, ema_decay: null,
  with_label: false}
optim: {name: NAME, lr: 0.001, kan_lr: 0.001, weight_decay: 0.0001, momentum: 0.9, nesterov: false,
  betas: [0.9, 0.999], eps: 1.0e-08, schedule: SCHEDULE, min_lr: 1.0e-05, schedule_epochs: null, clip_norm: null}
"""


@pytest.mark.parametrize("kind", SPLITS.choices["kind"])
@pytest.mark.parametrize("name", OPTIMIZERS.choices["name"])
@pytest.mark.parametrize("schedule", OPTIMIZERS.choices["schedule"])
def test_complete_recipes_of_older_runs_are_read(tmp_path, kind, name, schedule):
    path = tmp_path / "recipe.yaml"
    text = OLD.replace("KIND", kind).replace("SCHEDULE", schedule).replace("NAME", name).replace("NOISE", "cosine")
    path.write_text(text)
    recipe = load_recipe(path)
    assert (recipe.split.kind, recipe.optim.name, recipe.optim.schedule) == (kind, name, schedule)
    assert recipe.optim.lr == 0.001
    # It stays what it was when it is written again.
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe


def test_an_older_option_that_was_changed_is_not_dropped_in_silence(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("optim: {name: adam, momentum: 0.8}")
    with pytest.raises(ValueError, match=r"momentum=0\.8"):
        load_recipe(path)


def test_settings_that_nothing_reads_are_refused_with_what_does_their_job():
    reads = keys_under("name", "description", "model", "data", "trainer", "optim", "split", "loss", "evaluation")
    refuse_foreign(Recipe(), reads, "pictures")
    changed = {
        "volume.patch_size": ([8, 8, 8], "data.image_size does that there"),
        "volume.batch_size": (3, "trainer.batch_size does that there"),
        "volume.foreground": (0.5, "leave it out"),
        "diffusion.schedule": ("cosine", "leave it out"),
        "diffusion.beta_end": (0.1, "leave it out"),
        "seed": (5, "leave it out"),
    }
    for key, (value, words) in changed.items():
        with pytest.raises(ValueError, match=f"{key}=.* has no effect on pictures; {words}"):
            refuse_foreign(load_recipe("", {key: value}), reads, "pictures")
    refuse_foreign(load_recipe("", {"optim.name": "sgd", "optim.momentum": 0.5}), reads, "pictures")
    with pytest.raises(KeyError, match="volumen"):
        keys_under("volumen")


def test_every_key_is_described_with_its_conditions():
    keys = described_keys()
    assert {key.name for key in keys} == set(all_keys())
    only = {key.name: key.only_with for key in keys}
    assert only["optim.momentum"] == "optim.name=sgd"
    assert only["optim.min_lr"] == "optim.schedule=cosine, optim.schedule=warmup_cosine"
    assert only["optim.lr"] == only["seed"] == only["trainer.epochs"] == ""
