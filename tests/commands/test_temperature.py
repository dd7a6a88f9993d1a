"""The temperature that `explain` keeps in a run, and `predict --probabilities` uses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commands.made import make_data, make_run
from data.made_volumes import TINY_RUN, make_msd
from kanscan import load_predictor
from kanscan.commands.explain import explain
from kanscan.commands.predict import predict
from kanscan.commands.train import train
from kanscan.data.pictures.files import read_image
from kanscan.run import Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return make_run(tmp_path / "run", make_data(tmp_path / "data"), monkeypatch, flips=True)


def probabilities(run: Run, output: Path, **options: object) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    picture = sorted((Path(run.recipe.data.root) / "images").iterdir())[0]
    done = predict(run.path, [picture], output=output, probabilities=True, device="cpu", **options)
    label = read_image(output / f"{picture.stem}.png")
    return np.load(output / f"{picture.stem}_probabilities.npz")["probabilities"], label, done.notes


def odds(p: np.ndarray) -> np.ndarray:
    """Logarithm of foreground over background, where the former is small and therefore exact."""
    return np.where((p[1] > 0) & (p[1] < 0.1), np.log(np.maximum(p[1], 1e-38)) - np.log(np.maximum(p[0], 0.5)), np.nan)


def test_explain_keeps_it_and_predict_scales_probabilities_and_no_label(run: Run, tmp_path: Path) -> None:
    plain, label, notes = probabilities(run, tmp_path / "before", flips=False)
    assert notes == ()
    result = explain(run.path, output=tmp_path / "out", only=["calibration"], cases=4, device="cpu")
    kept = json.loads(run.calibration_path.read_text())
    assert kept["temperature"] == result.temperature > 0
    kept["temperature"] = 2.0
    run.calibration_path.write_text(json.dumps(kept))
    scaled, same, notes = probabilities(run, tmp_path / "after", flips=False)
    assert "temperature 2.000" in notes[0] and "--no-temperature" in notes[0]
    np.testing.assert_array_equal(label, same)
    np.testing.assert_allclose(scaled.sum(0), 1, atol=1e-5)
    known = ~np.isnan(odds(plain)) & ~np.isnan(odds(scaled))
    assert known.mean() > 0.5
    np.testing.assert_allclose(odds(scaled)[known], odds(plain)[known] / 2, rtol=1e-3)
    again, _, notes = probabilities(run, tmp_path / "off", flips=False, temperature=False)
    np.testing.assert_array_equal(plain, again)
    assert notes == ()


def test_of_flips_the_scaled_probabilities_are_averaged(run: Run) -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    serve = load_predictor(run.path, device="cpu", flips=True)
    plain = serve(image)
    serve.temperature = 3.0
    scaled = serve(image)
    np.testing.assert_array_equal(plain.label, scaled.label)
    np.testing.assert_array_equal(plain.network_label, scaled.network_label)
    assert plain.probabilities.shape == scaled.probabilities.shape
    assert np.abs(scaled.probabilities - 0.5).mean() < np.abs(plain.probabilities - 0.5).mean()


def test_one_fitted_to_other_weights_is_told_and_not_used(run: Run, tmp_path: Path) -> None:
    plain, _, _ = probabilities(run, tmp_path / "before")
    run.calibration_path.write_text(json.dumps({"temperature": 2.0, "weights": "others"}))
    same, _, notes = probabilities(run, tmp_path / "after")
    np.testing.assert_array_equal(plain, same)
    assert "fitted to other weights" in notes[0]
    run.calibration_path.write_text(json.dumps({"temperature": -1}))
    with pytest.raises(ValueError, match="holds no temperature above 0"):
        probabilities(run, tmp_path / "wrong")


def test_volumes(tmp_path: Path) -> None:
    settings = {**TINY_RUN, "volume.cache": str(tmp_path / "cache"), "trainer.device": "cpu", "trainer.epochs": 1}
    data = make_msd(tmp_path / "data", 6)
    run = train(str(data), settings, output=tmp_path / "run")
    result = explain(run.path, output=tmp_path / "out", only=["calibration"], cases=2, device="cpu")
    assert "voxels of" in result.page.read_text()
    volume = data / "imagesTr" / "c0.nii.gz"
    found = {}
    for name, options in (("on", {}), ("off", {"temperature": False})):
        done = predict(run.path, [volume], output=tmp_path / name, probabilities=True, device="cpu", **options)
        found[name] = np.load(tmp_path / name / "c0_probabilities.npz")["probabilities"]
        assert any("temperature" in note for note in done.notes) == (name == "on")
    logs = {name: np.log(p[1:] / p[:1]) for name, p in found.items()}
    np.testing.assert_allclose(logs["on"], logs["off"] / result.temperature, rtol=1e-2, atol=1e-3)
