"""Every key of a recipe, for every kind of work: a changed value is read, or refused in one sentence."""

import pytest

from kanscan.config.foreign import refuse_foreign
from kanscan.config.keys import described_keys
from kanscan.config.parts import FAMILIES
from kanscan.config.recipe import Recipe, load_recipe, values
from kanscan.pipelines import PIPELINES

#: Keys whose value says nothing of the training itself.
SPOKEN = {"name", "description", "claims"}
KEYS = [key for key in described_keys() if key.name not in SPOKEN]
#: What cannot be guessed from the default.
OTHERS: dict[str, object] = {
    "model.name": "unet",
    "model.preset": "small",
    "model.options": {"channels": [8, 8, 8]},
    "data.options": {"a": 1},
    "data.channels": 3,
    "data.image_size": [64, 64],
    "data.crop_place": "random",
    "volume.patch_size": [8, 8, 8],
    "volume.spacing_mm": [1, 1, 1],
    "trainer.precision": "bf16-mixed",
    "trainer.select_by": "loss",
    "diffusion.loss": "mean",
    "diffusion.ema_decay": 0.5,
    "evaluation.nsd_tolerances": {"a": 1},
    "optim.betas": [0.8, 0.9],
    "model.freeze": ["encoder"],
    "loss.class_weights": [1, 2],
}


def changed(key) -> Recipe:
    """A recipe that differs from the default in this key, and in the names under which it has an effect."""
    group, _, option = key.name.rpartition(".")
    settings = dict(name.split("=") for name in key.only_with.split(", ")[:1] if name)
    default = key.default
    if group in FAMILIES and option in FAMILIES[group].choices:
        value: object = next(name for name in FAMILIES[group].choices[option] if name != default)
    elif key.name in OTHERS:
        value = OTHERS[key.name]
    elif isinstance(default, bool):
        value = not default
    elif isinstance(default, int | float):
        value = default + 1 if isinstance(default, int) else default / 2 or 0.5
    elif default is None:
        value = 1 if "int" in str(key.kind) or "float" in str(key.kind) else "elsewhere"
    else:
        value = "another"
    recipe = load_recipe("", settings | {key.name: value})
    assert values(recipe)[key.name] != default
    return recipe


@pytest.mark.parametrize("kind", PIPELINES)
@pytest.mark.parametrize("key", KEYS, ids=[f"{key.name}{'/' * bool(key.only_with)}{key.only_with}" for key in KEYS])
def test_a_changed_key_is_read_or_refused(kind, key):
    reads, recipe = PIPELINES[kind].reads, changed(key)
    group = key.name.partition(".")[0]
    is_read = key.name in reads or (group in FAMILIES and any(f"{group}.{t}" in reads for t in FAMILIES[group].choices))
    if is_read:
        refuse_foreign(recipe, reads, kind)
    else:
        with pytest.raises(ValueError, match=f"{group}.* has no effect on .*; ") as caught:
            refuse_foreign(recipe, reads, kind)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", PIPELINES)
def test_what_is_declared_as_read_is_read(kind):
    """The key is looked up somewhere below: its group's option stands in the code of what builds or uses a training."""
    import inspect
    from pathlib import Path

    import kanscan

    root = Path(inspect.getfile(kanscan)).parent
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for room in ("pipelines", "workflows", "training", "data", "inference", "run", "config/recipe.py")
        for path in ([root / room] if room.endswith(".py") else (root / room).rglob("*.py"))
    )
    unread = {key for key in PIPELINES[kind].reads if f".{key.rpartition('.')[2]}" not in code}
    # Read through their part whole: losses take their options as keywords.
    assert {key for key in unread if not key.startswith("loss.")} - SPOKEN == set()
