"""The run folder: what it accepts, keeps and refuses."""

import json

import pytest

from kanscan.config.recipe import load_recipe
from kanscan.run import Run
from kanscan.run.environment import environment
from kanscan.run.facts import FORMAT_VERSION, PictureFacts
from kanscan.run.folder import FREE_KEYS

FACTS = PictureFacts(
    model={"name": "ukan", "options": {}},
    num_parameters=1,
    stride=(32, 32),
    preprocessing={"channels": 3, "image_size": None, "normalization": "unit"},
    class_names=("x", "y"),
)
SPLIT = {"train": ["a"], "validation": [], "test": ["b"]}


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", load_recipe(), FACTS, split=SPLIT, device="cpu")


def test_what_was_written_is_read_again(run):
    again = Run.open(run.path)
    assert again.recipe == load_recipe()
    assert again.facts == FACTS
    assert json.loads(run.facts_path.read_text())["format_version"] == FORMAT_VERSION
    assert json.loads(run.split_path.read_text()) == SPLIT
    assert again.curves == []
    assert again.report is None


def test_curves_know_epochs_without_validation(run):
    run.curves_path.write_text("epoch,val_dice\n1,\n2,0.5\n")
    assert run.curves == [{"epoch": 1.0, "val_dice": None}, {"epoch": 2.0, "val_dice": 0.5}]


def test_a_folder_takes_one_run(run, tmp_path):
    before = run.recipe_path.read_bytes()
    with pytest.raises(FileExistsError, match="resume=true"):
        Run.create(run.path, load_recipe("", ["seed=1"]), FACTS, split=SPLIT, device="cpu")
    assert run.recipe_path.read_bytes() == before
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file"):
        Run(file).demand_new()
    with pytest.raises(PermissionError, match=r"cannot write to .* choose another --output"):
        Run.create(file / "below", load_recipe(), FACTS, split=SPLIT, device="cpu")
    assert file.read_text() == "mine"


def test_what_is_no_run_is_refused(tmp_path, run):
    with pytest.raises(ValueError, match="is not a run"):
        Run.open(tmp_path)
    run.facts_path.write_text(json.dumps({"format_version": FORMAT_VERSION + 1}))
    with pytest.raises(ValueError, match="update kanscan"):
        Run.open(run.path)


def test_going_on_keeps_what_the_weights_depend_on(run, tmp_path):
    assert run.check_same(load_recipe("", {"trainer.device": "cpu", "data.num_workers": 2})).data.num_workers == 2
    with pytest.raises(ValueError, match=r"made with optim\.lr=0\.0001, now optim\.lr=0\.01"):
        run.check_same(load_recipe("", ["optim.lr=1e-2"]))
    # The cosine falls over all epochs: more of them change every rate.
    with pytest.raises(ValueError, match=r"trainer\.epochs=400"):
        run.check_same(load_recipe("", ["trainer.epochs=500"]))


def test_more_epochs_under_a_constant_rate(tmp_path):
    recipe = load_recipe("", ["optim.schedule=constant"])
    run = Run.create(tmp_path, recipe, FACTS, split=SPLIT, device="cpu")
    assert run.check_same(load_recipe("", ["optim.schedule=constant", "trainer.epochs=500"])).trainer.epochs == 500


def test_the_folder_of_the_data_is_kept_where_none_is_named(tmp_path):
    run = Run.create(tmp_path, load_recipe("", {"data.root": "/data"}), FACTS, split=SPLIT, device="cpu")
    assert str(run.check_same(load_recipe()).data.root) == "/data"
    assert str(run.check_same(load_recipe("", {"data.root": "/moved"})).data.root) == "/moved"


def test_free_keys_are_keys():
    from kanscan.config.recipe import all_keys

    assert set(FREE_KEYS) <= set(all_keys())


def test_resuming_is_on_record(run):
    run.note_resumed(load_recipe("", ["trainer.device=cpu"]), "another device")
    record = json.loads(run.environment_path.read_text())
    assert record["device"] == "cpu"
    assert [entry["device"] for entry in record["resumed"]] == ["another device"]
    assert run.recipe.trainer.device == "cpu"


def test_a_discarded_run_leaves_what_was_there(run):
    (run.path / "notes.txt").write_text("mine")
    run.checkpoints.mkdir()
    run.discard()
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]
    (run.path / "notes.txt").unlink()
    run.discard()
    assert not run.path.exists()


def test_the_environment_names_versions_and_no_place(tmp_path):
    record = environment("cpu")
    assert record["packages"]["torch"]
    assert str(tmp_path.parent) not in json.dumps(record["platform"])


def test_curves_of_older_runs_have_todays_columns(tmp_path):
    (tmp_path / "curves.csv").write_text("epoch,val_dice,lr,lr_kan,seconds\n1,,0.1,0.2,3\n")
    (row,) = Run(tmp_path).curves
    assert row == {"epoch": 1, "val_dice": None, "lr": 0.1, "kan_lr": 0.2, "seconds": 3}
