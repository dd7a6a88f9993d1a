from __future__ import annotations

import csv
import json
import shutil

import pytest

from commands.made import make_data, make_run
from kanscan.commands.compare import compare
from kanscan.commands.evaluate import evaluate
from kanscan.run import Run


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Two seeds of one recipe, and a network that sees too much as bright."""
    tmp_path = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        return evaluated(tmp_path, monkeypatch)


@pytest.fixture
def runs(originals, tmp_path):
    copies = {name: Run(tmp_path / name) for name in originals}
    for name, run in originals.items():
        shutil.copytree(run.path, copies[name].path)
    return copies


def evaluated(tmp_path, monkeypatch):
    data = make_data(tmp_path / "data", patients=16)
    made = {
        "one": make_run(tmp_path / "one", data, monkeypatch),
        "two": make_run(tmp_path / "two", data, monkeypatch, seed=2),
        "worse": make_run(tmp_path / "worse", data, monkeypatch, shift=0.41, flips=True),
    }
    for run in made.values():
        evaluate(run.path)
    evaluate(made["two"].path, subset="train", output=made["two"].path / "training")
    return made


def test_runs_and_printed_numbers_in_one_table(runs, tmp_path):
    found = compare([str(run.path) for run in runs.values()] + ["u_kan/table1/busi"])
    by_name = {row.name: row for row in found.rows}
    assert list(by_name)[:3] == ["one", "two", "worse"]
    one = runs["one"].report
    mean = next(row for row in one["summary"] if row["metric"] == "dice")
    assert by_name["one"].scores["dice"] == (mean["mean"], mean["low"], mean["high"])
    printed = by_name["printed: u_kan, table1"]
    assert printed.pooled == {"batch_pooled iou": pytest.approx(0.6338), "batch_pooled f1": pytest.approx(0.7640)}
    assert not printed.scores
    assert any("with caution" in note for note in found.notes)


def test_the_difference_is_paired(runs):
    found = compare([runs["one"].path, runs["two"].path, runs["worse"].path])
    two, worse = found.paired
    assert two.difference == 0 and two.verdict == "no evidence of a difference"
    assert worse.difference < 0 and worse.high < 0 and worse.verdict == "worse"
    assert worse.num_cases == 16 and worse.p_value < 0.05
    scores = [{case["id"]: case["scores"]["foreground"]["dice"] for case in runs[n].report["cases"]} for n in runs]
    by_hand = [scores[2][name] - scores[0][name] for name in scores[0]]
    assert worse.difference == pytest.approx(sum(by_hand) / len(by_hand))
    assert compare([runs["one"].path, runs["worse"].path], metric="size_error").paired[0].verdict == "larger"
    # Of a distance the larger one is the worse one.
    assert compare([runs["one"].path, runs["worse"].path], metric="hd95").paired[0].verdict == "worse"


def test_runs_that_differ_in_the_seed_alone_are_averaged(runs):
    rows = compare([run.path for run in runs.values()]).rows
    (mean,) = [row for row in rows if row.kind == "mean of runs"]
    assert mean.name == "mean ± sd of 2 runs: one, two"
    assert mean.scores["dice"][0] == pytest.approx(rows[0].scores["dice"][0]) and mean.spread["dice"] == 0


def test_other_cases_are_not_compared(runs):
    shutil.copytree(runs["two"].path / "training", runs["two"].path / "evaluation-train")
    found = compare([runs["one"].path, runs["two"].path / "evaluation-train"])
    assert found.rows[1].name == "two/evaluation-train"
    assert found.paired[0].difference is None and found.paired[0].verdict == "cannot be compared case by case"
    assert "judged on other cases" in " ".join(found.notes)


def test_changed_references_are_left_out(runs):
    path = runs["two"].report_path
    content = json.loads(path.read_text())
    content["cases"][0]["reference_pixels"]["foreground"] += 1
    path.write_text(json.dumps(content))
    found = compare([runs["one"].path, runs["two"].path])
    assert found.paired[0].num_cases == 15
    assert "1 cases of one name have different references" in " ".join(found.notes)


def test_the_table_as_a_file(runs, tmp_path):
    paths = [run.path for run in runs.values()]
    compare(paths, output=tmp_path / "t.md")
    assert "| one | brightness" in (tmp_path / "t.md").read_text()
    compare(paths, output=tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["metric"] == "dice"
    compare(paths, output=tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["dice_low"]) < float(rows[0]["dice"]) < float(rows[0]["dice_high"])
    with pytest.raises(FileExistsError, match="--overwrite"):
        compare(paths, output=tmp_path / "t.csv")
    compare(paths, output=tmp_path / "t.csv", overwrite=True)


def test_bad_calls_are_one_sentence(runs, tmp_path):
    runs["two"].report_path.unlink()
    for items, options, kind, said in [
        ([tmp_path / "none"], {}, FileNotFoundError, "nothing at"),
        ([runs["two"].path], {}, FileNotFoundError, "kanscan evaluate"),
        ([runs["one"].path], {"metric": "dise"}, ValueError, "did you mean 'dice'"),
        ([runs["one"].path, "u_kan/table1/bus"], {}, ValueError, "unknown claim"),
        (["u_kan/table1/busi"], {}, ValueError, "at least one run"),
        ([runs["one"].path], {"output": tmp_path / "t.xlsx"}, ValueError, r"must end in \.md"),
        ([runs["one"].recipe_path], {}, ValueError, "not valid JSON"),
    ]:
        with pytest.raises(kind, match=said) as caught:
            compare(items, **options)
        assert "\n" not in str(caught.value)
