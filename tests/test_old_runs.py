"""Runs written by version 0.1.0 stay readable; two small ones lie beside this file with the figures they gave then."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kanscan import load_predictor
from kanscan.data.volume import Volume
from kanscan.run import Run
from kanscan.run.facts import FORMAT_VERSION, GenerationFacts, PictureFacts, VolumeFacts

OLD = Path(__file__).parent / "runs_of_0_1_0"


def test_a_run_on_pictures_predicts_as_it_did() -> None:
    run = Run.open(OLD / "pictures")
    facts = run.facts
    assert isinstance(facts, PictureFacts) and facts.class_names == ("background", "lesion")
    assert facts.label_map is not None and facts.label_map.values == {0: 0, 255: 1}
    assert facts.model.options["channels"] == [8, 8, 8] and facts.stride == (32, 32)
    assert run.recipe.optim.name == "adam" and run.recipe.data.image_size == (32, 32)
    assert [row["epoch"] for row in run.curves] == [1, 2] and "kan_lr" in run.curves[0]
    rows, columns = np.mgrid[:40, :50]
    found = load_predictor(run.path)(((rows * 5 + columns * 3) % 256).astype(np.uint8))
    assert found.label.shape == (40, 50) and found.label.sum() == 0
    assert found.probabilities[1].mean(dtype=float) == pytest.approx(0.462086, abs=1e-5)


def test_a_run_on_volumes_predicts_as_it_did() -> None:
    run = Run.open(OLD / "volumes")
    facts = run.facts
    assert isinstance(facts, VolumeFacts) and facts.plan.patch_size == (16, 16, 16)
    array = (np.indices((20, 18, 16)).sum(0).astype(np.float32) * 7) % 50
    found = load_predictor(run.path)(Volume(array, np.eye(4)), probabilities=True)
    assert found.label.sum() == 851
    assert found.probabilities[1].mean(dtype=float) == pytest.approx(0.372342, abs=1e-5)


def test_a_run_that_generates_keeps_its_process() -> None:
    facts = Run.open(OLD / "generation").facts
    assert isinstance(facts, GenerationFacts) and facts.class_names == ()
    assert (facts.diffusion.num_steps, facts.diffusion.schedule) == (10, "linear")
    assert facts.preprocessing.crop == 288


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda facts: [], "expected keys and values"),
        (lambda facts: {**facts, "format_version": FORMAT_VERSION + 1}, "update kanscan"),
        (lambda facts: {k: v for k, v in facts.items() if k != "model"}, "model in"),
        (lambda facts: {**facts, "preprocessing": {"channels": "many"}}, "preprocessing.channels in"),
        (lambda facts: {**facts, "plan": 3}, "plan in"),
        (lambda facts: {**facts, "plan": {"spacing": 1}}, "is damaged"),
        (lambda facts: {**facts, "label_map": {"values": {"a": 1}}}, "label_map.values"),
    ],
)
def test_junk_is_named_with_its_file(change, said, tmp_path: Path) -> None:
    shutil.copytree(OLD / "pictures", tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=said) as caught:
        Run.open(tmp_path / "run")
    assert "run.json" in str(caught.value) and "\n" not in str(caught.value)
