"""The table of a study, from made reports whose figures are known."""

import csv
import io
import json
import math

import numpy as np
import pytest

from kanscan.config.recipe import load_recipe
from kanscan.drawing.charts import Series
from kanscan.report import Provenance, assemble, judge
from kanscan.report.study import Measured, StudyTable, build_table, write_table
from kanscan.report.study.page import Shown

NAMES = ("background", "lesion")
NUM_CASES = 12


def report(level, *, recipe=None, names=NAMES, noise=0.0, seed=0):
    """A report whose cases hold about the share `level` of their reference and nothing else."""
    random = np.random.default_rng(seed)
    judged = []
    for index in range(NUM_CASES):
        label = np.zeros((20, 20), np.uint8)
        label[:10] = 1
        if len(names) > 2:
            label[10:] = 2
        kept = np.clip(level + noise * random.normal(), 0, 1)
        prediction = label * (np.arange(400).reshape(20, 20) % 200 < 200 * kept)
        judged.append(judge(f"c{index}", prediction, label, names, group=f"p{index}"))
    here = Provenance(title="t", source="s", part="test", split_kind="paper", date="d", num_parameters=1000)
    text = "" if recipe is None else recipe.to_yaml()
    return assemble(judged, names, here, samples=0).model_copy(update={"recipe_yaml": text})


def measured(row, dataset, seed, found, split=None, **facts):
    words = f"{row} on {dataset}, seed {seed}"
    return Measured(row, dataset, row, dataset, seed, split or f"split {seed}", words, found, **facts)


@pytest.fixture(scope="module")
def runs():
    """Three networks on two sets with two seeds: the first clearly best, the others alike; one run is missing."""
    levels = {"U-KAN": 0.95, "U-Net": 0.6, "U-NeXt": 0.6}
    found = []
    for row, level in levels.items():
        for dataset in ("busi", "glas"):
            for seed in (1, 2):
                noise = 0.02 if row != "U-KAN" else 0.01
                one = report(
                    level,
                    recipe=load_recipe(f"ukan-{dataset}", ["trainer.epochs=3"]),
                    noise=noise,
                    seed=7 * seed + len(row),
                )
                found.append(measured(row, dataset, seed, one, macs=2_000_000))
    found[-1] = measured("U-NeXt", "glas", 2, None, sentence="no folder at x")
    return [*found, measured("nnFormer", "busi", 1, None, sentence="No code is known.", can_be_made=False)]


@pytest.fixture(scope="module")
def table(runs):
    return build_table(runs, "Small", ("dice", "iou"), "u_kan/table1")


def test_entries_are_means_and_deviations_of_the_runs_own_means(runs, table):
    means = [r.report.mean("dice") for r in runs if (r.row, r.dataset) == ("U-Net", "busi")]
    entry = table.entry("U-Net", "busi", "dice")
    assert entry.mean == pytest.approx(np.mean(means)) and entry.sd == pytest.approx(np.std(means, ddof=1))
    # Each patient was seen by two runs, and is one group all the same.
    assert (entry.num_runs, entry.num_cases, entry.num_groups) == (2, 24, 12)
    assert entry.low < entry.mean < entry.high
    assert table.entry("U-NeXt", "glas", "dice").num_runs == 1 and table.entry("U-NeXt", "glas", "dice").sd is None
    over = table.entry("U-KAN", "mean of data sets", "dice")
    assert over.mean == pytest.approx(np.mean([table.entry("U-KAN", d, "dice").mean for d in ("busi", "glas")]))


def test_printed_figures_stand_beside_ours_in_their_unit(table):
    cell = table.printed_cell("U-KAN", "busi", "iou")
    assert cell.value == pytest.approx(0.6338) and cell.text == "63.38 ± 2.83" and table.percent
    assert table.printed_cell("U-KAN", "mean of data sets", "iou").value == pytest.approx((0.6338 + 0.8764) / 2)
    assert table.entry("U-KAN", "busi", "iou").pooled == pytest.approx(
        table.entry("U-KAN", "busi", "iou").mean, abs=0.01
    )
    # What holds for all is said once, what holds for some with their names.
    assert "u_kan, epochs: printed run 400; this run 3" in table.differences
    [network] = [text for text in table.differences if "network: printed run unet;" in text]
    assert network.endswith("[U-Net on busi; U-Net on glas]")


def test_pairs_are_told_apart_only_where_they_differ(table):
    words = {(p.first, p.second): p for p in table.pairs if (p.dataset, p.metric) == ("busi", "dice")}
    assert words["U-KAN", "U-Net"].verdict == words["U-KAN", "U-NeXt"].verdict == "worse"
    assert words["U-KAN", "U-Net"].p_adjusted == pytest.approx(3 * words["U-KAN", "U-Net"].p_value, rel=1)
    assert words["U-KAN", "U-Net"].num_groups == 12
    assert words["U-Net", "U-NeXt"].verdict == "no evidence of a difference"
    assert any("of 1 other pairs there is no evidence of a difference" in text for text in table.findings)


def test_networks_that_do_not_differ_are_said_not_to():
    alike = [measured(row, "busi", 1, report(0.6, noise=0.05, seed=k)) for k, row in enumerate(("a", "b"))]
    assert build_table(alike, "t", ("dice",)).findings == ["busi: no evidence of a difference in Dice between a and b."]


def test_what_is_missing_is_a_sentence_and_an_error_only_where_it_could_be_made(table):
    assert table.errors == ["U-NeXt on glas, seed 2: no folder at x"]
    assert table.not_made == ["nnFormer: No code is known."]
    assert "nnFormer" in table.rows and table.cells()[3][1] == "\N{EN DASH}"


def test_ranks_need_all_sets_and_are_those_of_the_means(table):
    [dice, iou] = table.ranks
    assert dice.mean_ranks["U-KAN"] == 1 and dice.num_sets == 2 and iou.metric == "iou"


def test_causes_of_spread(table):
    entangled = {spread.words for spread in table.spreads}
    assert len(entangled) == 1 and "cannot be told apart" in entangled.pop()
    runs = [
        measured("a", "busi", seed, report(level + 0.02 * seed), split=split)
        for split, level in (("x", 0.5), ("y", 0.7))
        for seed in (1, 2)
    ]
    [spread] = build_table(runs, "t", ("dice",)).spreads
    assert spread.split_sd > 3 * spread.seed_sd > 0
    [spread] = build_table(runs[:2], "t", ("dice",)).spreads
    assert spread.split_sd is None and spread.seed_sd > 0


def test_several_classes_have_a_table_of_their_own(tmp_path):
    names = ("background", "a", "b")
    table = build_table([measured("x", "d", 1, report(0.8, names=names))], "t", ("dice",))
    assert table.class_names == ["", "a", "b"]
    assert "Class by class" in written(table, tmp_path)["table.md"]


def written(table, folder, curves=None, shown=()):
    write_table(table, folder, curves or {}, shown)
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_every_form_says_the_same_and_is_the_same_each_time(table, tmp_path):
    picture = np.zeros((8, 8, 3), np.uint8)
    curves = {"busi": [Series("U-KAN", [0.1, None, 0.3]), Series("U-Net", [0.2, 0.2])]}
    shown = [Shown("busi", "c1", ("image", "reference", "U-KAN"), (picture,) * 3)]
    found = written(table, tmp_path / "a", curves, shown)
    assert found == written(table, tmp_path / "b", curves, shown)
    assert StudyTable.model_validate(json.loads(found["table.json"])).to_dict() == table.to_dict()
    rows = list(csv.DictReader(io.StringIO(found["table.csv"])))
    one = next(r for r in rows if (r["row"], r["dataset"], r["metric"]) == ("U-KAN", "busi", "iou"))
    assert float(one["mean"]) == table.entry("U-KAN", "busi", "iou").mean and float(one["printed"]) == 0.6338
    assert float(one["macs"]) == 2e6
    text = f"{100 * table.entry('U-KAN', 'busi', 'iou').mean:.2f}"
    for name in ("table.md", "table.tex", "table.html"):
        assert text in found[name] and "63.38" in found[name], name
    for heading in ("Scores", "Differences case by case", "Ranks over the data sets", "Score against cost", "Cases"):
        assert f"<h2>{heading}</h2>" in found["table.html"], heading
    assert found["table.html"].count("<svg") >= 4 + 2 + 2 + 2 + 1 and "data:image/png" in found["table.html"]
    assert found["table.tex"].count("&") == len(table.rows) * (len(table.columns()) - 1) + len(table.columns()) - 1


def test_names_cannot_harm_any_form(tmp_path):
    name = "<img onerror=x>_50% & $1 \\x"
    found = written(build_table([measured(name, "d", 1, report(0.8))], name, ("dice",)), tmp_path)
    assert "<img onerror" not in found["table.html"]
    assert r"\_50\% \& \$1 \textbackslash{}x" in found["table.tex"]


def test_a_study_of_which_nothing_is_made_yet_has_a_table(tmp_path):
    table = build_table([measured("a", "d", 1, None, sentence="not made yet")], "t", ("dice",))
    assert table.cells() == [["a", *["\N{EN DASH}"] * 3]] and not math.isnan(len(written(table, tmp_path)))
