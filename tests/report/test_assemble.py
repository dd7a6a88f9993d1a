from __future__ import annotations

import math

import numpy as np
import pytest

from kanscan.report import ALL_CLASSES, Provenance, Report, assemble, judge, worth_a_look

NAMES = ("background", "grey", "white")


def provenance(**facts) -> Provenance:
    return Provenance(title="t", source="s", date="d", **facts)


def case(name: str, wrong: int, group: str | None = None):
    """A case whose Dice falls with the number of wrong pixels; class "white" is missing from both in even cases."""
    label = np.zeros((20, 30), np.uint8)
    label[2:12, 2:12] = 1
    if int(name[-1]) % 2:
        label[14:18, 20:28] = 2
    prediction = label.copy()
    prediction[2, 2 : 2 + wrong] = 0
    return judge(name, prediction, label, NAMES, group=group)


@pytest.fixture
def report() -> Report:
    judged = [case(f"c{i}", i, group=f"g{i // 2}") for i in range(8)]
    return assemble(judged, NAMES, provenance(part="test"), samples=200)


def test_means_are_over_cases_and_missing_classes_are_counted_apart(report):
    grey = [2 * (100 - i) / (200 - i) for i in range(8)]
    row = report.row("dice", "grey")
    assert row.mean == pytest.approx(np.mean(grey)) and row.sd == pytest.approx(np.std(grey, ddof=1))
    assert row.median == pytest.approx(np.median(grey))
    assert row.low <= row.mean <= row.high and row.num_groups == 4
    white = report.row("dice", "white")
    assert white.num_cases == 4 and white.mean == 1
    assert report.missing_counts == {"grey": {}, "white": {"both": 4}}
    both = [(g + 1) / 2 if i % 2 else g for i, g in enumerate(grey)]
    assert report.headline == ALL_CLASSES and report.mean("dice") == pytest.approx(np.mean(both))
    # The mean of two classes' sizes would mean nothing.
    assert report.row("size_error") is None and report.row("size_error", "grey") is not None


def test_legacy_figures_are_pooled(report):
    pooled = {(f.protocol, f.class_name, f.metric): f.value for f in report.legacy}
    wrong, foreground = sum(range(8)), 8 * 100 + 4 * 32
    assert pooled["batch_pooled", "", "iou"] == pytest.approx((foreground - wrong) / foreground)
    assert pooled["pixel_pooled", "grey", "dice"] == pytest.approx(2 * (800 - wrong) / (1600 - wrong))


def test_one_class_is_its_own_headline():
    judged = [judge(f"c{i}", [[0, 1], [0, i]], [[0, 1], [1, 1]], ("background", "lesion")) for i in (0, 1)]
    report = assemble(judged, ("background", "lesion"), provenance())
    assert report.headline == "lesion" and {row.class_name for row in report.summary} == {"lesion"}
    assert report.num_groups is None and "2 cases only" in report.provenance.caveats[0]


def test_a_single_case_has_no_interval():
    report = assemble([case("c1", 3)], NAMES, provenance())
    assert report.row("dice").low is None and report.row("dice").sd is None
    assert "too few for an interval" in report.provenance.caveats[0]


def test_nothing_applicable_gives_no_row_and_nan():
    empty = np.zeros((5, 5), np.uint8)
    report = assemble([judge("c", empty, empty, ("background", "lesion"))], ("background", "lesion"), provenance())
    assert report.row("dice") is None and math.isnan(report.mean("dice"))
    assert report.mean("specificity") == 1


def test_bad_cases_are_named():
    with pytest.raises(ValueError, match=r"case 'x': .*shape"):
        judge("x", np.zeros((2, 2), int), np.zeros((2, 3), int), NAMES)
    with pytest.raises(ValueError, match="no case"):
        assemble([], NAMES, provenance())


@pytest.mark.parametrize(
    ("count", "kinds"),
    [
        (1, ["worst"]),
        (2, ["best", "worst"]),
        (3, ["best", "median", "worst"]),
        (7, ["best"] * 2 + ["median"] * 2 + ["worst"] * 2),
        (20, ["best"] * 3 + ["median"] * 3 + ["worst"] * 3),
    ],
)
def test_worth_a_look(count, kinds):
    cases = [case(f"c{i:02d}", i % 10, None).scores for i in range(count)]
    chosen = worth_a_look(cases)
    assert [kind for kind, _ in chosen] == kinds
    assert len({c.id for _, c in chosen}) == len(chosen)
    scores = [c.value("dice") for _, c in chosen]
    assert scores == sorted(scores, reverse=True) and scores[-1] == min(c.value("dice") for c in cases)


def test_nothing_to_look_at():
    empty = np.zeros((5, 5), np.uint8)
    assert worth_a_look([judge("c", empty, empty, ("background", "lesion")).scores]) == []
