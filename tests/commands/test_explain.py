"""`explain` on a small run: the page, the arrays, the pruned run, and what may go wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kanscan import load_predictor
from kanscan.commands.explain import CHAPTERS, explain
from kanscan.commands.train import train
from kanscan.data.made.synthetic import write_ultrasound
from kanscan.explanation.chapters import learned

TINY = [
    "model.options.channels=[16,16,24]",
    "model.options.layer_kinds=[kan]",
    "data.image_size=[32,32]",
    "trainer.batch_size=4",
    "trainer.device=cpu",
]


@pytest.fixture(autouse=True)
def few_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "NUM_EDGES", 3)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ultrasound(tmp_path_factory.mktemp("data") / "us", 12, image_size=(40, 50))


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("ukan", [f"data.root={pictures}", *TINY], epochs=2, output=tmp_path_factory.mktemp("runs") / "a").path


def test_a_page_with_everything_the_network_allows(run: Path, tmp_path: Path) -> None:
    result = explain(run, output=tmp_path / "out", cases=3, shown=1, prune=0.5)
    assert set(result.chapters) == set(CHAPTERS) - {"scans", "attention"}
    assert "no scans" in result.left_out["scans"]
    assert "no linear attention" in result.left_out["attention"]
    page = result.page.read_text()
    assert page.count("<svg") >= 4 + 1 + 1 + 1 + 1 + 1
    assert "src=" not in page
    assert page.count("<svg") == page.count('<svg class="chart" role="img"')
    assert "random weights" in page
    splines = np.load(tmp_path / "out" / "splines.npz")
    assert splines["encoder_blocks.0.layers.0/importance"].shape == (16, 16)
    lines = (tmp_path / "out" / "formulas.txt").read_text().splitlines()
    assert len(lines) == 1 + 4 * 3
    assert (tmp_path / "out" / "formulas.tex").read_text().count(r"\phi") == 4 * 3
    assert json.loads((run / "calibration.json").read_text())["temperature"] == pytest.approx(result.temperature)
    assert str(result.page) in str(result.__rich__())


def test_the_pruned_run_predicts_with_half_of_the_edges(run: Path, pictures: Path, tmp_path: Path) -> None:
    result = explain(run, output=tmp_path / "out", only=["splines"], cases=2, prune=0.5)
    whole, pruned = (load_predictor(path, device="cpu").network.model for path in (run, result.pruned))
    layers = [m for m in pruned.modules() if hasattr(m, "spline_weight")]
    edges = sum(m.base_weight.numel() for m in layers)
    assert sum(int((m.base_weight == 0).sum()) for m in layers) == round(edges / 2)
    x = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        assert not torch.equal(whole(x), pruned(x))


def test_images_without_labels(run: Path, pictures: Path, tmp_path: Path) -> None:
    image = next((pictures / "images").iterdir())
    result = explain(run, [image], output=tmp_path / "out", only=["maps", "uncertainty"], ensemble=[run])
    assert result.chapters == ("maps", "uncertainty")
    maps = np.load(tmp_path / "out" / "maps.npz")
    assert maps[f"{image.stem}/activation"].shape == (32, 32)
    assert f"{image.stem}/ensemble/mean" in np.load(tmp_path / "out" / "uncertainty.npz")


def test_an_explanation_is_not_overwritten_unasked(run: Path, tmp_path: Path) -> None:
    explain(run, output=tmp_path / "out", only=["receptive_field"], cases=1)
    before = (tmp_path / "out" / "index.html").read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        explain(run, output=tmp_path / "out", only=["maps"])
    assert (tmp_path / "out" / "index.html").read_bytes() == before
    (tmp_path / "out" / "mine.png").touch()
    explain(run, output=tmp_path / "out", only=["maps"], cases=1, overwrite=True)
    # What belongs to the old page goes with it; the user's own files stay.
    assert not (tmp_path / "out" / "receptive_field.png").exists()
    assert (tmp_path / "out" / "mine.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": ["mapps"]}, "did you mean 'maps'"),
        ({"only": ["scans"]}, "no scans"),
        ({"only": ["maps"], "layer": "nowhere"}, "no layer 'nowhere'"),
        ({"at": "2,0"}, "row,column"),
        ({"only": ["splines"], "prune": 1.5}, "between 0 and 1"),
        ({"at": "0.5,0.5,0.5"}, "have 2 axes"),
        ({"cases": 0}, "--cases must be 1 or more"),
        ({"shown": 0}, "--shown must be 1 or more"),
    ],
)
def test_what_is_wrong_is_named(run: Path, tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        explain(run, output=tmp_path / "out", **{"cases": 1, "shown": 1, **options})
    assert not (tmp_path / "out" / "index.html").exists()
