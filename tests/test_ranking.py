"""Several networks at once: pairs, ranks and critical differences against numbers by hand and by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kanscan.drawing.charts import inline_svg, rank_diagram
from kanscan.metrics import paired_difference
from kanscan.metrics.ranking import adjust_by_holm, compare_pairs, rank
from kanscan.report import Provenance, Report, assemble, compare_reports, judge
from kanscan.report.ranking import rank_networks


def test_holm_by_hand():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03 = 0.06, then 0.04, which may not fall below what came before.
    assert adjust_by_holm({"b": 0.01, "d": 0.04, "a": 0.005, "c": 0.03}) == pytest.approx(
        {"a": 0.02, "b": 0.03, "c": 0.06, "d": 0.06}
    )
    assert adjust_by_holm({"a": 0.8, "b": 0.9}) == {"a": 1.0, "b": 1.0} and adjust_by_holm({}) == {}


def test_pairs_are_the_paired_differences_with_holm():
    rng = np.random.default_rng(0)
    base = rng.beta(6, 2, 30)
    scores = {"a": base, "b": base - 0.05 + rng.normal(0, 0.02, 30), "c": base + rng.normal(0, 0.02, 30)}
    groups = [f"g{i // 2}" for i in range(30)]
    pairs = {(p.first, p.second): p for p in compare_pairs(scores, groups)}
    assert list(pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    plain = {key: paired_difference(scores[key[0]], scores[key[1]], groups) for key in pairs}
    assert {key: p.found for key, p in pairs.items()} == plain
    smallest = min(plain, key=lambda key: plain[key].p_value)
    assert pairs[smallest].p_value == pytest.approx(3 * plain[smallest].p_value)
    assert pairs["a", "b"].p_value < 0.05 < pairs["a", "c"].p_value
    nothing = compare_pairs({"a": [math.nan], "b": [0.5]})
    assert nothing[0].found is None and nothing[0].p_value is None


def test_ranks_by_hand():
    # Ranks of the columns: 1 2 3, 1 3 2, 1.5 1.5 3, 1 2 3.
    found = rank({"c": [0.7, 0.8, 0.1, 0.2], "a": [0.9, 0.9, 0.5, 0.8], "b": [0.8, 0.7, 0.5, 0.3]})
    assert found.mean_ranks == pytest.approx({"a": 4.5 / 4, "b": 8.5 / 4, "c": 11 / 4})
    assert list(found.mean_ranks) == ["a", "b", "c"]
    lower = rank({"c": [3.0, 3.0], "a": [1.0, 1.0], "b": [2.0, 2.0]}, higher_is_better=False)
    assert lower.mean_ranks == {"a": 1, "b": 2, "c": 3}


def test_the_statistic_is_scipys():
    table = np.random.default_rng(1).random((4, 12)) + np.array([[0.3], [0.2], [0.0], [0.0]])
    found = rank(dict(zip("abcd", table, strict=True)))
    expected = stats.friedmanchisquare(*table)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))


@pytest.mark.parametrize(("count", "quantile"), [(3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_differences_are_those_of_the_printed_table(count, quantile):
    """Demšar 2006, Table 5a; with 4 networks on 14 data sets he finds 1.25."""
    found = rank({str(k): np.random.default_rng(k).random(14) for k in range(count)})
    assert found.critical_difference == pytest.approx(quantile * math.sqrt(count * (count + 1) / (6 * 14)), rel=5e-4)
    if count == 4:
        assert found.critical_difference == pytest.approx(1.25, abs=0.005)


def test_networks_that_are_alike_are_joined_and_none_twice():
    rng = np.random.default_rng(3)
    level = {"a": 0.9, "b": 0.89, "c": 0.6, "d": 0.59}
    found = rank({name: value + rng.normal(0, 0.03, 40) for name, value in level.items()})
    assert [set(names) for names in found.alike] == [{"a", "b"}, {"c", "d"}]
    same = rank({name: [0.5, 0.6, 0.7, 0.4] for name in "abc"})
    assert same.statistic == 0 and same.p_value == 1 and same.alike == (("a", "b", "c"),)


def test_too_little_is_said_to_be_too_little():
    assert rank({"a": [1.0], "b": [2.0]}) is None
    assert rank({name: [math.nan] for name in "abc"}) is None
    # Two data sets, however they agree, prove nothing of three networks.
    assert rank({"a": [3, 3], "b": [2, 2], "c": [1, 1]}).p_value is None
    with pytest.raises(ValueError, match="the same data sets"):
        rank({"a": [1.0], "b": [1.0, 2.0], "c": [1.0]})
    skipped = rank({"a": [3, math.nan, 3, 3], "b": [2, 1, 2, 2], "c": [1, 1, 1, 1]})
    assert skipped.num_blocks == 3


def report(shift: int, data: str = "set", count: int = 12, seed: int = 0) -> Report:
    rng = np.random.default_rng(seed)
    judged = []
    for i in range(count):
        label = np.zeros((20, 24), np.uint8)
        label[4:14, 5 : 15 + i % 3] = 1
        moved = np.roll(label, shift + int(rng.integers(0, 2)), axis=1)
        judged.append(judge(f"case{i}", moved, label, ("background", "lesion"), group=f"p{i}"))
    here = Provenance(title="t", source="s", reference=data, date="today")
    return assemble(judged, ("background", "lesion"), here, samples=50)


def test_on_one_data_set_cases_are_ranked_and_words_say_what_it_means():
    networks = {"good": report(0, seed=1), "same": report(0, seed=2), "bad": report(4)}
    found = rank_networks({name: {"set": one} for name, one in networks.items()})
    assert (found.blocks, found.ranks.num_blocks, list(found.ranks.mean_ranks)[-1]) == ("groups", 12, "bad")
    verdicts = {(p.first, p.second): p.verdict for p in found.pairs}
    assert verdicts == {
        ("good", "same"): "no evidence of a difference",
        ("good", "bad"): "better",
        ("same", "bad"): "better",
    }
    said = " ".join(found.sentences)
    assert "The 3 networks differ (Friedman, p = " in said and "over 12 groups" in said
    assert (
        "No evidence of a difference, mean ranks closer than" in said and " and same." in said
    ) or " and good." in said
    assert "| bad | 3.00 |" in found.markdown()
    by_distance = rank_networks({name: {"set": one} for name, one in networks.items()}, "hd95")
    assert list(by_distance.ranks.mean_ranks)[-1] == "bad"
    with pytest.raises(ValueError, match="ranks nothing"):
        rank_networks({}, "size_error")


def test_over_data_sets_their_means_are_ranked():
    names = ("u", "v", "w", "x", "y")
    found = rank_networks(
        {name: {data: report(shift, data, seed=k) for k, data in enumerate(names)} for shift, name in enumerate("abc")}
    )
    assert (found.blocks, found.ranks.num_blocks) == ("data sets", 5)
    assert found.ranks.mean_ranks == {"a": 1, "b": 2, "c": 3}
    assert found.ranks.p_value == pytest.approx(stats.chi2.sf(10, 2))
    assert len(found.pairs) == 15 and {p.data for p in found.pairs} == set(names)
    few = rank_networks({name: {"u": report(k, "u"), "v": report(k, "v")} for k, name in enumerate("abc")})
    assert few.sentences == ["Ranks over 2 data sets are too few to tell 3 networks apart."]


def test_no_evidence_is_said_so():
    networks = {name: {"set": report(1, seed=k)} for k, name in enumerate("abc")}
    (said,) = rank_networks(networks).sentences
    assert said.startswith("No evidence of a difference between the 3 networks (Friedman, p = ")


def test_a_comparison_of_three_ranks_them():
    found = compare_reports({"good": report(0), "fair": report(2), "bad": report(5)})
    assert list(found.ranking.ranks.mean_ranks) == ["good", "fair", "bad"]
    assert "## Every pair" in found.markdown() and found.to_dict()["ranking"]["blocks"] == "groups"
    assert compare_reports({"good": report(0), "bad": report(5)}).ranking is None


def test_the_diagram_names_every_network_at_its_rank():
    figure = rank_diagram({"<a>": 1.25, "b": 1.5, "c": 3.25}, 0.8, [("<a>", "b")])
    assert "&lt;a&gt; 1.25" in inline_svg(figure, "t")
    bar = [line for line in figure.axes[0].lines if line.get_linewidth() == 3]
    assert len(bar) == 1 and bar[0].get_xdata().tolist() == pytest.approx([1.21, 1.54])
