"""The page that tells how to add a metric, followed to the letter."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from rich.console import Console

from kanscan.config.parts import TrainerConfig
from kanscan.metrics import METRICS, EmptyRule, case_scores, empty_rule_text, metric_named
from kanscan.metrics.validation import image_scores, validated
from kanscan.report import Provenance, assemble, compare_reports, judge, write_report
from kanscan.training.checkpoint import columns, selections

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "add-a-metric.md"


@pytest.fixture
def added() -> Iterator[None]:
    before = dict(METRICS)
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[1], {})
    yield
    METRICS.clear()
    METRICS.update(before)


def cases() -> list:
    label = np.zeros((8, 10), np.uint8)
    label[2:6, 2:6] = 1
    wide = label.copy()
    wide[2:6, 6:8] = 1  # 16 right, 8 wrong
    return [judge(name, wide, label, ("background", "lesion")) for name in "abcdefg"]


def test_it_is_in_everything_that_is_written(added, tmp_path):
    here = Provenance(title="t", source="s", date="today")
    report = write_report(assemble(cases(), ("background", "lesion"), here, samples=50), tmp_path)
    assert report.mean("fdr") == pytest.approx(1 / 3)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "cases.csv").read_text())))
    assert {row["fdr"] for row in rows} == {"0.333333"}
    page = (tmp_path / "report.html").read_text()
    assert page.count("False discoveries ↓") == 2 and "the share of the prediction that is wrong" in page
    assert "False discoveries ↓ | 0.333" in (tmp_path / "report.md").read_text()
    compared = compare_reports({"one": report, "two": report}, metric="fdr")
    assert "False discoveries" in compared.columns
    console = Console(file=io.StringIO(), width=200)
    console.print(compared)
    assert "False discoveries" in console.file.getvalue()


def test_its_rule_for_empty_masks_holds_and_is_said(added):
    nothing, lesion = np.zeros((2, 4, 4), int)
    lesion[1:3, 1:3] = 1
    assert math.isnan(case_scores(nothing, nothing)[1]["fdr"])
    assert case_scores(lesion, nothing)[1]["fdr"] == 1 and math.isnan(case_scores(nothing, lesion)[1]["fdr"])
    assert "False discoveries" in empty_rule_text()


def test_of_each_epoch_it_is_computed_where_it_says_so(added):
    from dataclasses import replace

    METRICS["fdr"] = replace(METRICS["fdr"], validation=True)
    assert "val_fdr" in columns() and selections()["fdr"] == ("val_fdr", False)
    label = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]]])
    logits = torch.tensor([[[[1.0, 1, 1, -1]]], [[[-1.0, -1, -1, -1]]]])
    found = image_scores(logits, label)
    assert found["fdr"][0].item() == pytest.approx(1 / 3) and found["fdr"][1].isnan()


def test_the_sentence_about_empty_masks_is_the_one_of_before():
    assert empty_rule_text() == (
        "A class missing from both prediction and reference is not applicable: its Dice, IoU, Sensitivity, "
        "Precision, HD95 and NSD are left out of every mean and the case is counted apart. "
        "Missing from one of the two: Dice, IoU and NSD are 0 and HD95 is the image diagonal. "
        "Any other ratio with a zero denominator is left out."
    )


def test_what_may_choose_the_epoch_is_what_is_validated():
    assert set(get_args(TrainerConfig.model_fields["select_by"].annotation)) == set(selections())
    assert list(validated()) == ["val_dice", "val_iou"]


def test_papers_names_lead_to_ours():
    assert metric_named("DSC") is metric_named("F1") is METRICS["dice"] and metric_named("mIoU") is METRICS["iou"]
    assert metric_named("parameters") is None


@pytest.mark.parametrize("name", METRICS)
def test_records_are_whole(name):
    metric = METRICS[name]
    assert metric.name == name and metric.definition and isinstance(metric.empty_rule, EmptyRule)
