"""What a study is made of: printed tables, files of one's own, changes; and the cells that follow."""

import pytest
import yaml

from kanscan.config.recipe import load_recipe
from kanscan.papers import load_paper
from kanscan.run.lock import locked
from kanscan.workflows.study.cells import cell_key, distinct, plan_cells
from kanscan.workflows.study.spec import load_study, study_names

OWN = {
    "models": {
        "U-KAN": {"model": "ukan", "preset": "base"},
        "U-KAN 0.5": {"model": "ukan", "preset": "base", "options": {"channels": [16, 16, 24]}},
        "closed": {"why": "No code is known."},
    },
    "datasets": {"a": {"recipe": "ukan-busi"}, "b": {"recipe": "ukan-busi", "overrides": {"data.root": "b"}}},
    "seeds": [1, 2],
}


@pytest.fixture
def own(tmp_path):
    def write(**changes):
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump({**OWN, **changes}, sort_keys=False))
        return str(path)

    return write


def test_the_study_of_a_printed_table_has_its_rows_sets_seeds_and_scores():
    study = load_study("u_kan/table1")
    assert list(study.models) == list(load_paper("u_kan").tables["table1"].rows)
    assert {name: data.recipe for name, data in study.datasets.items()} == {
        "busi": "ukan-busi",
        "glas": "ukan-glas",
        "cvc": "ukan-cvc",
    }
    assert study.seeds == (2981, 6142, 1187) and study.metrics == ("iou", "dice")


@pytest.mark.parametrize("key", study_names())
def test_every_cell_of_every_printed_study_is_a_recipe_or_says_why_not(key, tmp_path):
    study = load_study(key)
    cells = plan_cells(study, tmp_path)
    for cell in cells:
        network = study.models[cell.model]
        if network.model:
            assert cell.recipe is not None, cell.sentence
            assert (cell.recipe.model.name, cell.recipe.model.preset) == (network.model, network.preset)
            assert network.options.items() <= cell.recipe.model.options.items()
            assert cell.recipe.seed == cell.seed
        else:
            assert cell.recipe is None and cell.sentence == network.why
    assert len(cells) == len(study.models) * len(study.datasets) * len(study.seeds)


def test_cells_are_models_by_options_by_sets_by_seeds_by_splits_by_folds(own, tmp_path):
    options = {"plain": {}, "fast": {"optim.lr": 0.01}}
    study = load_study(own(options=options, splits=[7, 8], folds=3))
    cells = plan_cells(study, tmp_path)
    assert len(cells) == 3 * 2 * 2 * 2 * 2 * 3
    assert len(distinct(cells)) == len([c for c in cells if c.recipe]) == 2 * 2 * 2 * 2 * 2 * 3
    one = next(c for c in cells if (c.row, c.seed, c.split) == ("U-KAN 0.5, fast", 2, "split 8, fold 2 of 3"))
    recipe = one.recipe
    assert (recipe.optim.lr, recipe.seed, recipe.model.options) == (0.01, 2, {"channels": [16, 16, 24]})
    assert (recipe.split.kind, recipe.split.fold, recipe.split.num_folds, recipe.split.seed) == ("kfold", 1, 3, 8)


def test_all_seeds_see_the_same_folds(own, tmp_path):
    cells = [c for c in plan_cells(load_study(own(folds=2)), tmp_path) if c.recipe]
    assert {cell.recipe.split.seed for cell in cells} == {1}
    assert {cell.split for cell in cells} == {"fold 1 of 2", "fold 2 of 2"}


def test_changes_hold_for_all_cells_or_for_those_of_a_set_or_row(own, tmp_path):
    changes = {
        **{"trainer.epochs": 3, "datasets.b.data.image_size": [32, 32], "models.U-KAN 0.5.optim.lr": 0.5},
        **{"seeds": 9, "rows": ["U-KAN", "U-KAN 0.5"]},
    }
    cells = plan_cells(load_study(own(), changes), tmp_path)
    assert {cell.recipe.trainer.epochs for cell in cells} == {3} and {cell.seed for cell in cells} == {9}
    assert {cell.recipe.data.image_size for cell in cells if cell.dataset == "b"} == {(32, 32)}
    assert {cell.recipe.data.image_size for cell in cells if cell.dataset == "a"} == {(256, 256)}
    assert {cell.recipe.optim.lr for cell in cells if cell.row == "U-KAN 0.5"} == {0.5}
    assert {cell.recipe.optim.lr for cell in cells if cell.row == "U-KAN"} == {1e-4}
    assert [cell.dataset for cell in plan_cells(load_study(own(), {"datasets": "b"}), tmp_path)[:1]] == ["b"]


def test_a_study_written_down_is_the_same_study(own, tmp_path):
    study = load_study(own(), {"trainer.epochs": 3})
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    assert load_study(str(tmp_path)) == study


def test_a_cell_is_named_by_what_decides_its_figures():
    recipe = load_recipe("ukan-busi")
    same = ["data.root=elsewhere", "trainer.device=cpu", "name=x", "claims=[]", "data.num_workers=2"]
    assert {cell_key("busi", load_recipe("ukan-busi", [change])) for change in same} == {cell_key("busi", recipe)}
    other = ["seed=1", "optim.lr=0.1", "data.image_size=[64,64]", "evaluation.flips=true", "trainer.epochs=5"]
    keys = {cell_key("busi", load_recipe("ukan-busi", [change])) for change in other}
    assert len(keys | {cell_key("busi", recipe), cell_key("glas", recipe)}) == 7


def test_how_far_a_cell_is(own, tmp_path):
    cell = plan_cells(load_study(own()), tmp_path)[0]
    assert cell.state() == "waiting"
    cell.failure.note("no such file")
    assert cell.state() == "failed: no such file"
    with locked(cell.folder, "training"):
        assert "training is under way" in cell.state()
    cell.failure.note("")
    assert cell.state() == "waiting"


@pytest.mark.parametrize(
    ("target", "changes", "words"),
    [
        ("u_kan/table9", {}, "unknown table of u_kan 'table9': did you mean"),
        ("u_kan/table2", {}, "not made by trainings on a data set; those that are: .*u_kan/table1"),
        ("u_kann/table1", {}, "unknown study 'u_kann/table1': did you mean 'u_kan/table1'"),
        ("no.yaml", {}, "no study at no.yaml"),
        ("u_kan/table1", {"rows": ["U-CAN"]}, "unknown row 'U-CAN': did you mean"),
        ("u_kan/table1", {"datasets": ["bus"]}, "unknown dataset 'bus': did you mean 'busi'"),
        ("u_kan/table1", {"datasets.bus.data.root": "x"}, "unknown dataset 'bus'"),
        ("u_kan/table1", {"metrics": ["dices"]}, "unknown metric 'dices'"),
        ("u_kan/table1", {"seeds": []}, "seeds is empty"),
        ("u_kan/table1", {"folds": 1}, "folds in u_kan/table1: .*greater than or equal to 2"),
    ],
)
def test_what_is_wrong_is_one_sentence(target, changes, words):
    with pytest.raises(ValueError, match=words):
        load_study(target, changes)


def test_a_key_that_is_wrong_for_all_cells_is_refused_and_for_one_row_its_sentence(own, tmp_path):
    with pytest.raises(ValueError, match=r"unknown key 'trainer.epoch' .* did you mean trainer.epochs"):
        plan_cells(load_study(own(), {"trainer.epoch": 3}), tmp_path)
    cells = plan_cells(load_study(own(), {"models.U-KAN.trainer.epoch": 3}), tmp_path)
    assert all("did you mean trainer.epochs" in c.sentence for c in cells if c.model == "U-KAN")
    assert all(cell.recipe for cell in cells if cell.model == "U-KAN 0.5")


def test_a_file_with_an_unknown_key_is_refused(own):
    with pytest.raises(ValueError, match="unknown key of a study 'seed': did you mean 'seeds'"):
        load_study(own(seed=1))
