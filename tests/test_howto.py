"""The pages on adding things, followed to the letter."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str, language: str = "python") -> list[str]:
    text = (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.fixture
def pictures(tmp_path):
    """Eight gray squares with masks."""
    random = np.random.default_rng(0)
    for place in ("images", "masks"):
        (tmp_path / "data" / place).mkdir(parents=True)
    for i in range(8):
        mask = np.zeros((32, 32), np.uint8)
        mask[4 + i : 20 + i, 8:24] = 255
        gray = np.clip(mask * 0.4 + random.integers(0, 120, mask.shape), 0, 255).astype(np.uint8)
        Image.fromarray(gray).save(tmp_path / "data" / "images" / f"p{i}.png")
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"p{i}.png")
    return tmp_path / "data"


SETTINGS = ["data.image_size=[32,32]", "trainer.batch_size=2", "trainer.device=cpu", "optim.lr=1e-3"]


@pytest.mark.export
def test_add_a_model(pictures, tmp_path, capsys):
    from kanscan import MODELS, train
    from kanscan.commands.show import show

    here: dict[str, object] = {}
    try:
        for block in blocks("add-a-model.md"):
            exec(block, here)
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == 9
        assert all(line.endswith(" fine") for line in printed)
        run = train(str(pictures), SETTINGS, model="small", epochs=1, output=tmp_path / "run")
        assert run.weights_path.is_file()
        (_, *_rest) = show("model", "small").rows
    finally:
        MODELS.pop("small", None)
    assert "kanscan.models" in blocks("add-a-model.md", "toml")[0]


def test_add_a_loss(pictures, tmp_path):
    from kanscan import load_recipe, train
    from kanscan.config.parts import LOSSES
    from kanscan.training import losses

    here: dict[str, object] = {}
    (block,) = blocks("add-a-loss.md")
    try:
        exec(block, here)
        settings = [*SETTINGS, "loss.name=log_cosh_dice", "loss.steepness=2"]
        run = train(str(pictures), ["model.preset=small", *settings], epochs=1, output=tmp_path / "run")
        assert run.recipe.loss.steepness == 2
        assert 0 < run.curves[0]["train_loss"] < 2
        with pytest.raises(ValueError, match=r"no effect with loss\.name=bce_dice; .*loss\.name=log_cosh_dice"):
            load_recipe("", ["loss.name=bce_dice", "loss.steepness=2"])
    finally:
        LOSSES.choices["name"].pop("log_cosh_dice", None)
        losses.LOSSES.pop(here["LogCosh"], None)
