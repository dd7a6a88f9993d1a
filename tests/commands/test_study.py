"""`study` as users meet it: a small table, made once, taken up again, and what fails in it."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest
import yaml

from kanscan.commands.study import study
from kanscan.data.made.synthetic import write_ultrasound
from kanscan.run import Run
from kanscan.run.lock import locked
from kanscan.workflows.study import cell as cell_module

FORMS = ("table.json", "table.csv", "table.md", "table.tex", "table.html")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A study of two networks, one data set and two seeds; a third network cannot take the pictures."""
    folder = tmp_path_factory.mktemp("data")
    root = write_ultrasound(folder / "us", 12, image_size=(40, 50))
    content = {
        "name": "Small",
        "models": {
            "U-KAN": {"model": "ukan", "options": {"channels": [16, 16, 24]}},
            "the same": {"model": "ukan", "options": {"channels": [16, 16, 24]}},
            "U-NeXt": {"model": "unext", "options": {"channels": [8, 8, 16, 16, 24]}},
            "closed": {"why": "No code is known."},
        },
        "datasets": {"us": {"recipe": "ukan", "overrides": {"data.root": str(root)}}},
        "seeds": [1, 2],
        "overrides": {"data.image_size": [32, 32], "trainer.batch_size": 4, "trainer.device": "cpu"},
    }
    content["overrides"] |= {"trainer.epochs": 2, "split.kind": "random"}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


@pytest.fixture(scope="module")
def made(own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "a"
    return study(own, output=folder), folder


def forms(folder):
    return {name: (folder / name).read_bytes() for name in FORMS}


def test_a_study_is_runs_and_a_table(made):
    table, folder = made
    assert not table.errors and table.not_made == ["closed: No code is known."]
    assert [entry.num_runs for entry in table.entries] == [2] * 6
    runs = [Run.open(path) for path in (folder / "cells").iterdir()]
    # Rows that are the same run are trained once.
    assert len(runs) == 4 and {run.recipe.seed for run in runs} == {1, 2}
    assert table.entry("U-KAN", "us", "dice").mean == table.entry("the same", "us", "dice").mean
    listed = (folder / "cells.csv").read_text().splitlines()
    assert len(listed) == 1 + 8 and all((folder / line.split(",")[0]).is_dir() for line in listed[1:7])
    assert {cost.row: cost.macs > 0 for cost in table.costs} == {"U-KAN": True, "the same": True, "U-NeXt": True}
    assert set(FORMS) <= {path.name for path in folder.iterdir()}


def test_made_again_nothing_is_done_twice_and_the_table_is_the_same(made, own, monkeypatch):
    _, folder = made
    before = forms(folder)
    monkeypatch.setattr(cell_module, "train_run", lambda *args, **kwargs: pytest.fail("trained again"))
    study(own, output=folder)
    assert forms(folder) == before
    study(str(folder))  # the folder knows what it is
    assert forms(folder) == before


def test_status_and_forecast_write_nothing(made, own, tmp_path):
    _, folder = made
    states = [cell.state for cell in study(own, output=folder, status=True).cells]
    assert states == ["done"] * 6 + ["cannot be made: No code is known."] * 2
    assert {c.state for c in study(own, output=tmp_path / "b", status=True).cells[:6]} == {"waiting"}
    found = study(own, output=tmp_path / "b", dry_run=True)
    assert (found.num_cells, found.num_left) == (4, 4) and found.minutes > 0 and found.disk_mib > 0
    assert {row[0]: row[5] for row in found.rows}["the same"] == "the same run as another row"
    assert study(own, output=folder, dry_run=True).num_left == 0
    assert not (tmp_path / "b").exists()


def test_a_cell_that_fails_is_a_sentence_and_tried_again_by_the_next_call(own, made, tmp_path, monkeypatch):
    tries = []
    train = cell_module.train_run

    def failing(recipe, path, **options):
        tries.append(recipe.seed)
        if recipe.seed == 2:
            raise RuntimeError("the moon is full")
        return train(recipe, path, **options)

    monkeypatch.setattr(cell_module, "train_run", failing)
    changes = ["rows=[U-NeXt]"]
    table = study(own, changes, output=tmp_path / "b", retry=2)
    assert tries == [1, 2, 2, 2]
    assert table.errors == ["U-NeXt on us, seed 2: RuntimeError: the moon is full"]
    assert "the moon is full" in (tmp_path / "b" / "table.md").read_text()
    assert "moon" in study(own, changes, output=tmp_path / "b", status=True).cells[1].state
    monkeypatch.setattr(cell_module, "train_run", train)
    table = study(own, changes, output=tmp_path / "b")
    assert not table.errors and table.entry("U-NeXt", "us", "dice").num_runs == 2
    assert table.entry("U-NeXt", "us", "dice") == made[0].entry("U-NeXt", "us", "dice")


def test_what_would_fail_alike_is_not_tried_again(own, tmp_path, monkeypatch):
    tries = []

    def failing(recipe, path, **options):
        tries.append(recipe.seed)
        raise ValueError("case3.png is broken")

    monkeypatch.setattr(cell_module, "train_run", failing)
    assert len(study(own, ["rows=[U-NeXt]"], output=tmp_path / "b", retry=5).errors) == 2
    assert tries == [1, 2]


def test_two_makers_of_one_study_are_refused(own, tmp_path):
    with locked(tmp_path / "b", "study"), pytest.raises(ValueError, match=r"study is under way in .*b \(process"):
        study(own, output=tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on": "slurmm"}, "unknown place to run"),
        ({"jobs": -1}, "--jobs must be"),
        ({"retry": -1}, "--retry must be"),
        ({"minutes": 0}, "--minutes must be"),
    ],
)
def test_wrong_options_are_one_sentence_and_write_nothing(own, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        study(own, output=tmp_path / "b", **options)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_processes_of_this_machine_make_the_same_table(own, made, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study(own, output=tmp_path / "b", jobs=2)
    assert forms(tmp_path / "b") == forms(made[1])


def children_of(pid):
    answer = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in answer.stdout.split()]


@pytest.mark.slow
def test_killed_at_random_it_ends_in_the_table_of_an_uninterrupted_study(own, made, tmp_path):
    """SIGKILL hits workers and the study itself; each time the same command is given again."""
    chance, folder, kills = random.Random(0), tmp_path / "b", 0
    command = [sys.executable, "-m", "kanscan.cli", "study", own, "-o", str(folder), "--jobs", "2", "--retry", "9"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(60):
        maker = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        is_last_word = kills >= 12
        while maker.poll() is None:
            try:
                maker.wait(chance.uniform(1, 12) if not is_last_word else 600)
            except subprocess.TimeoutExpired:
                victims = children_of(maker.pid)
                victim = chance.choice([*victims, maker.pid]) if victims else maker.pid
                os.kill(victim, signal.SIGKILL)
                kills += 1
        if maker.returncode == 0:
            break
    assert maker.returncode == 0 and kills >= 1
    assert forms(folder) == forms(made[1])
    print(f"{kills} kills")


def slurm_is_here():
    try:
        return subprocess.run(["sinfo", "-h", "-o", "%a"], capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


@pytest.mark.slow
def test_slurm_makes_the_same_table(own, made, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is not installed")
    if "up" not in slurm_is_here():
        pytest.skip("no Slurm answers here (sinfo)")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    table = study(own, output=tmp_path / "b", on="slurm", minutes=10, memory=2.0, cpus=1)
    assert not table.errors
    assert forms(tmp_path / "b") == forms(made[1])


@pytest.mark.slow
def test_ray_makes_the_same_table(own, made, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    try:
        table = study(own, output=tmp_path / "b", on="ray", jobs=2, cpus=1, retry=2)
    finally:
        ray.shutdown()
    assert not table.errors
    assert forms(tmp_path / "b") == forms(made[1])


def test_the_table_is_read_again_as_it_was(made):
    table, folder = made
    assert json.loads((folder / "table.json").read_text()) == table.to_dict()
