from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from commands.made import make_data, make_run
from kanscan.commands.evaluate import evaluate
from kanscan.data.pictures.files import write_label
from kanscan.report import Report
from kanscan.run.lock import locked


@pytest.fixture
def run(tmp_path, monkeypatch):
    return make_run(tmp_path / "run", make_data(tmp_path / "data"), monkeypatch)


def test_a_run_is_judged_on_its_test_part_and_the_report_lies_in_it(run):
    report = evaluate(run.path, output=None)
    assert report.num_cases == 8 and report.num_groups == 4
    assert {case.id[:3] for case in report.cases} == {"p04", "p05", "p06", "p07"}
    for name in ("report.json", "report.md", "report.html", "cases.csv"):
        assert (run.path / name).stat().st_size > 0
    # The figures are those of the moved masks, taken by hand.
    image = np.asarray(Image.open(run.recipe.data.root / "images" / "p04_v0.png")).mean(-1) > 127.5
    label = np.asarray(Image.open(run.recipe.data.root / "masks" / "p04_v0.png")) > 0
    expected = 2 * (image & label).sum() / (image.sum() + label.sum())
    assert report.cases[0].value("dice") == pytest.approx(expected)
    assert 0.5 < report.mean("dice") < 1
    row = report.row("dice")
    assert row.low < row.mean < row.high and row.num_groups == 4
    assert run.report["num_cases"] == 8


def test_the_report_says_where_the_figures_come_from(run):
    report = evaluate(run.path)
    here = report.provenance
    assert here.part == "test" and here.split_kind == "group" and here.split_groups == "by patient"
    assert here.part_sizes == {"train": 6, "validation": 2, "test": 8}
    assert here.epoch == 3 and "best Dice of the validation cases (0.830)" in here.selection
    assert here.reference == "data" and here.num_parameters == 1
    assert report.curves["val_dice"] == pytest.approx([0.5, 0.75, 1 - 0.5 / 3])
    assert report.environment["device"] == "cpu" and report.environment["packages"]["torch"]
    assert "8 cases of 4 groups only" in " ".join(here.caveats)


def test_the_report_says_whether_probabilities_mean_what_they_say(run):
    report = evaluate(run.path)
    found = report.reliability
    pixels = [np.asarray(Image.open(p)).shape for p in sorted((run.recipe.data.root / "masks").glob("p0[4-7]*"))]
    assert sum(found.count) == sum(height * width for height, width in pixels)
    # Bright or dark beyond doubt, and wrong where the masks were moved.
    assert found.count[-1] == max(found.count) and found.confidence[-1] > 0.99
    wrong = 1 - found.accuracy[-1]
    assert found.error > 0.01 and found.error == pytest.approx(wrong, abs=0.01)
    page, text = (run.path / "report.html").read_text(), (run.path / "report.md").read_text()
    assert "<h2>Reliability</h2>" in page and "## Reliability" in text
    assert f"Expected calibration error {found.error:.3f}" in page
    assert Report.load(run.path).reliability == found


@pytest.mark.parametrize(("subset", "said"), [("train", "were trained on"), ("validation", "chose the epoch")])
def test_other_parts_say_so_and_leave_the_test_report_alone(run, subset, said):
    evaluate(run.path)
    before = run.report_path.read_bytes()
    report = evaluate(run.path, subset=subset)
    assert report.folder == run.path / f"evaluation-{subset}"
    assert said in " ".join(report.provenance.caveats)
    assert run.report_path.read_bytes() == before


def test_the_papers_split_says_that_the_test_part_chose_the_epoch(run):
    content = json.loads(run.split_path.read_text())
    content["validation"] = content["test"]
    run.split_path.write_text(json.dumps(content))
    assert "also chose the epoch" in " ".join(evaluate(run.path).provenance.caveats)


def test_moved_data(run, tmp_path):
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"if the data have moved: kanscan evaluate .* DATA"):
        evaluate(run.path)
    assert evaluate(run.path, tmp_path / "elsewhere").num_cases == 8


def test_another_data_set(run, tmp_path):
    other = make_data(tmp_path / "other", patients=3, views=1)
    for folder in ("images", "masks"):
        for path in (other / folder).iterdir():
            path.rename(path.with_name(f"new-{path.name}"))
    with pytest.raises(ValueError, match="--subset all"):
        evaluate(run.path, other)
    report = evaluate(run.path, other, subset="all")
    assert report.num_cases == 3 and report.folder == run.path / "evaluation-all-other"
    assert "another data set" in " ".join(report.provenance.caveats)
    # The same names as in training are suspicious.
    assert "6 of these 16 cases" in " ".join(evaluate(run.path, subset="all").provenance.caveats)


def test_flips_and_output(run, tmp_path):
    report = evaluate(run.path, flips=True, output=tmp_path / "out")
    assert report.provenance.flips and (tmp_path / "out" / "report.html").is_file()
    assert not run.report_path.exists()


def test_a_fixed_size_pools_on_the_networks_grid(tmp_path, monkeypatch):
    data = make_data(tmp_path / "data")
    run = make_run(tmp_path / "run", data, monkeypatch, size=[32, 48])
    report = evaluate(run.path)
    assert "32 x 48 grid" in report.legacy_note
    pooled = {(f.protocol, f.metric): f.value for f in report.legacy}
    assert pooled["batch_pooled", "f1"] == pytest.approx(report.mean("dice"), abs=0.05)
    assert pooled["batch_pooled", "f1"] != report.mean("dice")


def test_bad_calls_are_one_sentence_and_write_nothing(run, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for arguments, kind, said in [
        ({"run": tmp_path / "none"}, FileNotFoundError, "nothing at"),
        ({"run": tmp_path / "data"}, ValueError, "is not a run.*REFERENCES"),
        ({"run": run.path, "subset": "tst"}, ValueError, "did you mean 'test'"),
        ({"run": run.path, "output": file}, NotADirectoryError, "is a file, expected a folder"),
    ]:
        with pytest.raises(kind, match=said) as caught:
            evaluate(**arguments)
        assert "\n" not in str(caught.value)
    assert not run.report_path.exists() and file.read_text() == ""


def test_look_alikes_are_resampled_together(tmp_path, monkeypatch):
    data = make_data(tmp_path / "data")
    run = make_run(tmp_path / "run", data, monkeypatch)
    for folder in ("images", "masks"):
        shutil.copy(data / folder / "p04_v0.png", data / folder / "p07_v0.png")
    report = evaluate(run.path)
    assert report.num_groups == 3
    groups = {case.id: case.group for case in report.cases}
    assert groups["p04_v1"] == groups["p04_v0"] == groups["p07_v0"] == groups["p07_v1"] != groups["p05_v0"]


def test_a_broken_test_image_is_named(run):
    (run.recipe.data.root / "images" / "p05_v0.png").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"p05_v0\.png"):
        evaluate(run.path)
    assert not run.report_path.exists()


def masks(folder, values, count=4):
    folder.mkdir()
    for index in range(count):
        label = np.zeros((30, 40), int)
        label[5:15, 5 : 15 + index] = 1
        if len(values) > 2:
            label[20:28, 20:35] = 2
        write_label(folder / f"case{index}.png", np.array(values)[label])
    return folder


def test_masks_against_masks_need_no_run(tmp_path):
    ours, theirs = masks(tmp_path / "ours", [0, 1]), masks(tmp_path / "theirs", [0, 255])
    report = evaluate(ours, theirs)
    assert report.num_cases == 4 and report.mean("dice") == 1 and report.mean("hd95") == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours", "theirs"]
    written = evaluate(ours, theirs, output=tmp_path / "out")
    assert len(written.pictures) == 3 and not written.provenance.has_images
    assert Report.load(tmp_path / "out").mean("iou") == 1
    single = evaluate(ours / "case1.png", theirs / "case0.png")
    assert single.mean("dice") == pytest.approx(2 * 100 / (110 + 100))


def test_several_classes_stored_alike_or_as_indices(tmp_path):
    theirs = masks(tmp_path / "theirs", [0, 128, 255])
    for name, values in (("same", [0, 128, 255]), ("indices", [0, 1, 2])):
        report = evaluate(masks(tmp_path / name, values), theirs)
        assert report.class_names == ["class 1", "class 2"] and report.mean("dice") == 1
    assert "class indices" in " ".join(report.provenance.caveats)
    with pytest.raises(ValueError, match=r"predictions hold the values 0, 7, 200, the references .*128"):
        evaluate(masks(tmp_path / "odd", [0, 7, 200]), theirs)
    with pytest.raises(ValueError, match="the references above the middle"):
        evaluate(masks(tmp_path / "three", [0, 1, 2]), masks(tmp_path / "two", [0, 255]))


def test_a_missing_prediction_is_an_error_a_superfluous_one_a_note(tmp_path):
    ours, theirs = masks(tmp_path / "ours", [0, 255], 3), masks(tmp_path / "theirs", [0, 255], 4)
    with pytest.raises(ValueError, match=r"1 of 4 references have no prediction.*case3\.png.*flatter"):
        evaluate(ours, theirs)
    assert "1 predictions have no reference" in " ".join(evaluate(theirs, ours).provenance.caveats)


def test_pictures_among_the_references_are_not_taken_for_masks(tmp_path):
    ours, theirs = masks(tmp_path / "ours", [0, 255]), masks(tmp_path / "theirs", [0, 255])
    for path in list(theirs.iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)).save(path)
    assert evaluate(ours, theirs).mean("dice") == 1


def test_masks_of_other_sizes_are_named(tmp_path):
    ours, theirs = masks(tmp_path / "ours", [0, 255]), masks(tmp_path / "theirs", [0, 255])
    write_label(ours / "case2.png", 255 * np.eye(9, dtype=np.uint8))
    report = evaluate(ours, theirs)
    assert report.num_cases == 3 and len(report.errors) == 1 and "case2.png" in report.errors[0]
    assert "1 cases could not be judged" in report.provenance.caveats[0]


def test_cases_csv_has_a_row_a_case(run):
    report = evaluate(run.path)
    with (run.path / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert float(rows[0]["dice"]) == pytest.approx(report.cases[0].value("dice"), rel=1e-5)
    assert rows[0]["group"] == "p04" and rows[0]["size"] == "45x70"


def test_a_report_that_another_process_writes_is_not_written_over(run, tmp_path):
    with locked(run.path, "evaluation"), pytest.raises(ValueError, match=r"evaluation is under way in .*run"):
        evaluate(run.path)
    evaluate(run.path)
    assert not list(run.path.glob(".*"))


def test_what_the_values_of_masks_mean_can_be_said(tmp_path):
    ground, disc, cup = 255, 128, 0
    label = np.full((30, 30), ground, np.uint8)
    label[5:25, 5:25] = disc
    label[10:20, 10:20] = cup
    moved = np.roll(label, 2, axis=0)
    for folder, array in (("ours", moved), ("theirs", label)):
        (tmp_path / folder).mkdir()
        write_label(tmp_path / folder / "a.png", array)
    report = evaluate(tmp_path / "ours", tmp_path / "theirs", ["labels={255: background, 128: disc, 0: cup}"])
    assert sorted(report.class_names) == ["cup", "disc"]
    for name, value in (("disc", disc), ("cup", cup)):
        both = ((moved == value) & (label == value)).sum()
        expected = 2 * both / ((moved == value).sum() + (label == value).sum())
        assert report.mean("dice", name) == pytest.approx(expected)
    with pytest.raises(ValueError, match="unknown option 'label'"):
        evaluate(tmp_path / "ours", tmp_path / "theirs", ["label=nonzero"])
