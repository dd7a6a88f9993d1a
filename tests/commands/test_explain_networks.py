"""`explain` for every network of the catalogue, pictures and volumes: what is possible is written, the rest is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

from commands.made import make_data
from data.made_volumes import TINY_RUN, make_msd
from kanscan import load_predictor
from kanscan.commands.explain import CHAPTERS, explain
from kanscan.commands.train import train
from kanscan.explanation import sheets
from kanscan.explanation.chapters import certainty, learned, looking, receiving
from kanscan.models import MODELS
from kanscan.models.base import SegmentationModel
from kanscan.run import Run
from kanscan.run.facts import FORMAT_VERSION, NetworkFacts, VolumeFacts

SEGMENTING = {name: cls for name, cls in MODELS.items() if issubclass(cls, SegmentationModel)}
SPLINES = {"ukan", "all_ukan", "km_unet", "vmkla_unet"}
SCANS = {"km_unet", "vmkla_unet", "vm_unet", "lkm_unet", "u_mamba"}
ALWAYS = {"maps", "receptive_field", "uncertainty", "calibration"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "NUM_EDGES", 1)
    monkeypatch.setattr(learned, "PRUNE_SHARES", (0.5,))
    # Most of the time would go into sheets of splines, one a layer; `test_explain` looks at those.
    monkeypatch.setattr(sheets, "spline_sheet", lambda *arguments: Figure(figsize=(1, 1)))


#: Networks whose panels are drawn: the others' would look alike, and drawing takes most of the time.
DRAWN = {(2, "unet"), (2, "vmkla_unet"), (3, "dynunet"), (3, "lkm_unet")}


def spare_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    for chapter in (looking, receiving, certainty):
        monkeypatch.setattr(chapter, "map_figure", lambda *arguments, **options: Figure(figsize=(1, 1)))


def train_tiny(data: Path, output: Path, **settings: Any) -> Run:
    return train(str(data), {"trainer.device": "cpu", "trainer.epochs": 1, **settings}, output=output)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("pictures")
    options = {"channels": (8, 12, 16)}
    settings = {"model.name": "unet", "model.options": options, "data.image_size": [64, 64], "trainer.batch_size": 8}
    return train_tiny(make_data(folder / "data", patients=6, views=1), folder / "run", **settings)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("volumes")
    settings = {**TINY_RUN, "volume.cache": str(folder / "cache")}
    return train_tiny(make_msd(folder / "data", 6, (14, 16, 12)), folder / "run", **settings)


def with_network(run: Run, name: str, path: Path, **options: Any) -> Run:
    """Copy a run as if it had learned another network, which is as fresh as it was built."""
    # `tiny` is given something that returns the options instead of a network.
    chosen = MODELS[name].tiny.__func__(lambda **found: found, **options)
    torch.manual_seed(0)
    model = MODELS[name](**chosen).eval()
    path.mkdir()
    network = NetworkFacts(name=name, options=chosen)
    facts = run.facts.model_copy(update={"model": network, "stride": tuple(model.stride)})
    if isinstance(facts, VolumeFacts):
        patch_size = tuple(max(16, step) for step in model.stride)
        facts = facts.model_copy(update={"plan": replace(facts.plan, patch_size=patch_size)})
    other = Run(path)
    for source, target in ((run.split_path, other.split_path), (run.recipe_path, other.recipe_path)):
        target.write_bytes(source.read_bytes())
    other.facts_path.write_text(json.dumps({"format_version": FORMAT_VERSION, **facts.model_dump(mode="json")}))
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, other.weights_path)
    return other


def check_explained(run: Run, name: str, folder: Path, spatial_dims: int) -> dict[str, str]:
    result = explain(run.path, output=folder, cases=1, shown=1, device="cpu")
    expected = set(ALWAYS)
    expected |= {"splines", "pruning"} if name in SPLINES else set()
    expected |= {"scans"} if name in SCANS else set()
    expected |= {"attention"} if name == "vmkla_unet" else set()
    assert set(result.chapters) == expected, result.left_out
    assert set(result.left_out) == set(CHAPTERS) - expected
    assert all(" " in why for why in result.left_out.values())
    page = result.page.read_text()
    assert "src=" not in page
    assert "Left out" in page or not result.left_out
    maps = np.load(folder / "maps.npz")
    assert all(maps[key].ndim == spatial_dims for key in maps)
    assert sorted(p.stem for p in folder.glob("*.svg")) == sorted(p.stem for p in folder.glob("*.png"))
    return result.left_out


@pytest.mark.parametrize("name", SEGMENTING)
def test_every_network_of_pictures(name: str, pictures: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (2, name) not in DRAWN:
        spare_drawing(monkeypatch)
    sized = {"image_size": (64, 64)} if name == "unetr" else {}
    other = with_network(pictures, name, tmp_path / "run", in_channels=3, out_channels=1, **sized)
    left_out = check_explained(other, name, tmp_path / "out", 2)
    if name not in SPLINES:
        assert "no KAN layers" in left_out["splines"]
    if name not in SCANS:
        assert "no scans" in left_out["scans"]


@pytest.mark.parametrize("name", [name for name, cls in SEGMENTING.items() if 3 in cls.supports])
def test_every_network_of_volumes(name: str, volumes: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (3, name) not in DRAWN:
        spare_drawing(monkeypatch)
    sized = {"image_size": (16, 16, 16)} if name == "unetr" else {}
    other = with_network(volumes, name, tmp_path / "run", spatial_dims=3, in_channels=1, out_channels=3, **sized)
    check_explained(other, name, tmp_path / "out", 3)


def test_a_volume_that_the_user_names(volumes: Run, tmp_path: Path) -> None:
    volume = sorted((Path(volumes.recipe.data.root) / "imagesTr").glob("*.nii.gz"))[0]
    result = explain(volumes.path, [volume], output=tmp_path / "out", only=["maps", "uncertainty"], device="cpu")
    assert result.chapters == ("maps", "uncertainty")
    assert np.load(tmp_path / "out" / "maps.npz")["c0/activation"].shape == (16, 16, 16)
    assert "patch of 16 x 16 x 16 voxels" in result.page.read_text()
    with pytest.raises(ValueError, match="prune curve needs labels"):
        explain(volumes.path, [volume], output=tmp_path / "two", only=["pruning"], device="cpu")


def test_slices_of_volumes(volumes: Run, tmp_path: Path) -> None:
    settings = {
        "model.name": "ukan",
        "model.options": {"channels": [16, 16, 24], "layer_kinds": ["kan"]},
        "volume.slices": True,
        "volume.batch_size": 2,
        "volume.batches_per_epoch": 1,
        "volume.augmentation": "none",
        "volume.cache": str(tmp_path / "cache"),
        "split.validation_fraction": 0.3,
    }
    run = train_tiny(Path(volumes.recipe.data.root), tmp_path / "run", **settings)
    result = explain(run.path, output=tmp_path / "out", cases=2, shown=1, device="cpu")
    assert set(result.chapters) == ALWAYS | {"splines", "pruning"}
    page = result.page.read_text()
    assert "of each volume the slice of" in page
    assert "All voxels of 2 cases" in page or "All voxels of 1 cases" in page


def test_runs_on_volumes_agree_with_themselves(volumes: Run, tmp_path: Path) -> None:
    other = with_network(volumes, "u_mamba", tmp_path / "other", spatial_dims=3, in_channels=1, out_channels=3)
    chosen: dict[str, Any] = {"cases": 1, "shown": 1, "device": "cpu", "only": ["uncertainty"]}
    explain(volumes.path, ensemble=[volumes.path, other.path], output=tmp_path / "out", **chosen)
    arrays = np.load(tmp_path / "out" / "uncertainty.npz")
    (agreement,) = (arrays[key] for key in arrays if key.endswith("ensemble/agreement"))
    assert agreement.shape == (16, 16, 16)
    # Two of the three are the same run.
    assert set(np.unique(agreement.round(3))) <= {np.float32(0.667), np.float32(1.0)}


def test_runs_are_set_beside_each_other(pictures: Run, tmp_path: Path) -> None:
    vmkla = with_network(pictures, "vmkla_unet", tmp_path / "vmkla", in_channels=3, out_channels=1)
    vm = with_network(pictures, "vm_unet", tmp_path / "vm", in_channels=3, out_channels=1)
    chosen: dict[str, Any] = {"cases": 1, "shown": 1, "device": "cpu"}
    result = explain(vmkla.path, beside=[vm.path], output=tmp_path / "out", only=["attention"], **chosen)
    text = result.page.read_text()
    assert "scan, vm" in text
    assert "scan, same network" in text
    assert "KAN attention, random weights" in text
    explain(vmkla.path, ensemble=[vm.path], output=tmp_path / "two", only=["uncertainty"], **chosen)
    arrays = np.load(tmp_path / "two" / "uncertainty.npz")
    (agreement,) = (arrays[key] for key in arrays if key.endswith("ensemble/agreement"))
    assert set(np.unique(agreement)) <= {0.5, 1.0}
    with pytest.raises(ValueError, match="no 2D scan on a map"):
        explain(vmkla.path, beside=[pictures.path], output=tmp_path / "three", only=["attention"], **chosen)


def test_a_network_that_generates(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", patients=6, views=1)
    settings = {
        "model.options": {"channels": 32, "multipliers": [1, 2], "middle_channels": [32, 64]},
        "data.root": str(data),
        "data.image_size": [16, 16],
        "trainer.batch_size": 4,
        "trainer.device": "cpu",
        "trainer.epochs": 1,
    }
    run = train("ukan_diffusion-quick", settings, output=tmp_path / "run")
    result = explain(run.path, output=tmp_path / "out", cases=3, shown=1, device="cpu", prune=0.5)
    assert result.chapters == ("splines", "pruning", "receptive_field")
    assert result.left_out["maps"] == "the network generates pictures and tells no classes apart"
    assert "the network has no scans" in result.left_out["scans"]
    assert result.pruned is not None
    assert Run.open(result.pruned).facts.pruned_share == 0.5
    with pytest.raises(ValueError, match="name no images"):
        explain(run.path, [data / "images"], output=tmp_path / "two", device="cpu")


def test_a_pruned_run_of_volumes_or_pictures_predicts(pictures: Run, tmp_path: Path) -> None:
    shared = with_network(pictures, "all_ukan", tmp_path / "run", in_channels=3, out_channels=1)
    result = explain(shared.path, output=tmp_path / "out", only=["splines"], cases=1, prune=0.5, device="cpu")
    model = load_predictor(result.pruned, device="cpu").network.model
    layers = [m for m in model.modules() if hasattr(m, "spline_weight")]
    gone = sum(int((m.spline_weight == 0).all(-1).sum()) for m in layers)
    assert gone == round(sum(len(m.spline_weight) for m in layers) / 2)
    assert all(bool(m.base_weight.any()) for m in layers)
