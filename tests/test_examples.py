from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_layer_finds_both_curves(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert load("look_at_splines").main(tmp_path) < 0.02
    assert (tmp_path / "splines.png").stat().st_size > 10_000
    assert "differ by at most" in capsys.readouterr().out


def test_from_a_folder_to_label_maps(tmp_path: Path, capsys: pytest.CaptureFixture):
    from PIL import Image

    from kanscan.data.made.synthetic import write_ultrasound

    root = write_ultrasound(tmp_path / "data", 20, image_size=(64, 48))
    quick = ("model.options.channels=[8, 8, 8]", "data.image_size=[32, 32]")
    load("train_on_your_folder").main(root, tmp_path / "run", epochs=1, overrides=quick)
    said = capsys.readouterr().out
    assert "95 % interval" in said
    assert "20 label maps" in said
    with Image.open(tmp_path / "run" / "predictions" / "patient001_view1.png") as label:
        assert label.size == (48, 64)


def test_a_network_and_a_data_set_from_outside(tmp_path: Path):
    from kanscan import MODELS, READERS

    example = load("your_own_model_and_dataset")
    try:
        assert 0 <= example.main(tmp_path, epochs=2) <= 1
        assert (tmp_path / "run" / "report.html").is_file()
    finally:
        del MODELS["pocket_kan"], READERS["clinic"]


def test_with_and_without_generated_pairs(tmp_path: Path, capsys: pytest.CaptureFixture):
    from kanscan.data.made.synthetic import write_ultrasound

    root = write_ultrasound(tmp_path / "data", 24, image_size=(40, 40))
    generator = (
        "model.options={channels: 32, multipliers: [1], num_res_blocks: 1, middle_channels: [32, 32]}",
        "diffusion.num_steps=6",
        "diffusion.beta_end=0.3",
        "trainer.batch_size=4",
        "trainer.validate_every=1",
    )
    change = load("augment_with_samples").main(
        root,
        tmp_path / "run",
        num_train=8,
        num_samples=8,
        seeds=(1, 2),
        epochs=(1, 1),
        steps=3,
        generator=generator,
        segmentation=("model.options.channels=[8, 8, 8]",),
    )
    said = capsys.readouterr().out
    assert -1 <= change.mean <= 1
    assert "8 samples with label maps" in said
    assert "with pairs" in said
    from kanscan import Run

    alone, together = (Run.open(tmp_path / "run" / f"{name}_s1") for name in ("without", "with"))
    assert (alone.facts.data.num_extra, together.facts.data.num_extra) == (0, 8)
    # Twice the cases, half the epochs: equally many steps.
    assert (len(alone.curves), len(together.curves)) == (2, 1)
