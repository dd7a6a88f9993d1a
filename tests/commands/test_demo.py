from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import kanscan.commands.demo as module
from kanscan.commands.demo import DemoResult, choose_source, demo
from kanscan.run import Run

QUICK = ["trainer.epochs=2", "data.image_size=[32, 32]", "model.options.channels=[8, 8, 8]"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoResult]:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    return folder, demo(QUICK, output=folder, data="ultrasound")


def test_ends_with_a_page_and_a_dice_for_each_class(first: tuple[Path, DemoResult]):
    folder, result = first
    assert result.page == folder.resolve() / "report.html"
    assert result.page.read_text(encoding="utf-8").startswith("<!")
    assert set(result.dice) == {"lesion"}
    assert 0 <= result.dice["lesion"] <= 1
    assert result.report.num_cases == 16


def test_says_what_the_figures_do_not_say(first: tuple[Path, DemoResult]):
    folder, result = first
    text = str(result.__rich__())
    assert str(result.page) in text
    assert f"{result.dice['lesion']:.3f}" in text
    assert "nothing about generalization" in text
    assert "nothing about generalization" in (folder / "report.html").read_text(encoding="utf-8")


def test_no_patient_is_on_both_sides(first: tuple[Path, DemoResult]):
    from kanscan.data.splits import Split

    split = Split.load(Run.open(first[0]).split_path)
    patients = [{name.split("_")[0] for name in part} for part in (split.train, split.validation, split.test)]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]


def test_a_second_time_nothing_is_trained_or_changed(first: tuple[Path, DemoResult], capsys: pytest.CaptureFixture):
    folder, result = first
    names = ("model.safetensors", "curves.csv", "report.json", "report.html")
    before = {name: (folder / name).stat().st_mtime_ns for name in names}
    again = demo(QUICK, output=folder)
    assert again.dice == result.dice
    assert {name: (folder / name).stat().st_mtime_ns for name in names} == before
    said = capsys.readouterr().err
    assert "already holds a demo" in said
    assert "nothing was left to train" in said


def test_a_lost_report_and_lost_pictures_come_back(first: tuple[Path, DemoResult], tmp_path: Path):
    folder, result = first
    copy = tmp_path / "demo"
    shutil.copytree(folder, copy)
    (copy / "report.json").unlink()
    shutil.rmtree(copy / "data")
    assert demo(QUICK, output=copy).dice == pytest.approx(result.dice)


def test_other_settings_are_not_mixed_into_a_run(first: tuple[Path, DemoResult]):
    with pytest.raises(ValueError, match=r"optim\.lr"):
        demo([*QUICK, "optim.lr=0.5"], output=first[0])


def test_a_folder_with_another_run_is_left_alone(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("name: mine\n")
    facts = {"format_version": 2, "kind": "pictures", "model": {"name": "ukan", "options": {}}, "num_parameters": 1}
    facts |= {"stride": [32, 32], "class_names": ["a", "b"]}
    facts["preprocessing"] = {"channels": 3, "image_size": None, "normalization": "unit"}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    with pytest.raises(FileExistsError, match="not a demo"):
        demo(output=tmp_path)
    assert not (tmp_path / "data").exists()


def test_own_pictures_in_the_data_folder_are_left_alone(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        demo(QUICK, output=tmp_path, data="ultrasound")
    assert (tmp_path / "data" / "mine.png").read_bytes() == b"mine"


def test_without_nilearn_pictures_are_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    name, note = choose_source("auto", tmp_path)
    assert name == "ultrasound"
    assert "kanscan[demo]" in note
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    assert choose_source("auto", tmp_path) == ("mni152", "")


def test_unknown_pictures(tmp_path: Path):
    with pytest.raises(ValueError, match="did you mean 'mni152'"):
        demo(output=tmp_path, data="mni")


@pytest.mark.parametrize("name", ["mni152", "ultrasound"])
def test_the_recipes_fit_their_pictures(name: str):
    from kanscan.config.recipe import load_recipe
    from kanscan.data import READERS

    recipe = load_recipe(module.SOURCES[name].recipe)
    assert recipe.name == module.SOURCES[name].recipe
    reader = READERS[recipe.data.reader]()
    assert reader.channels == 1
    assert recipe.split.kind == "group"
