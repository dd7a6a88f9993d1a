"""Every printed number, counted and summed here, and compared one by one with the transcript beside the checkout."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from kanscan.papers import Claim, load_paper, paper_names

TRANSCRIPT = Path(__file__).resolve().parents[3] / "shared" / "papers" / "printed_tables.csv"
#: Metrics and data sets whose names here are others than the papers'.
OURS = {"f1": "dice", "dsc": "dice", "clinicdb": "cvc", "colondb": "cvc_colondb", "ALL-U-KAN": "ALL U-KAN"}

#: Paper -> table -> cells, deviations among them, sum of the values, sum of the deviations.
SUMS: dict[str, dict[str, tuple[int, int, float, float]]] = {
    "all_ukan": {
        "table1": (48, 48, 3904.57, 69.59),
        "table2": (36, 0, 1340.14, 0),
        "text_4.4": (3, 0, 23.267, 0),
        "table3": (12, 0, 38.57, 0),
    },
    "km_unet": {
        "table1": (70, 0, 5775.74, 0),
        "table2": (28, 0, 5650.45, 0),
        "text": (2, 0, 169.08, 0),
        "figure7": (4, 0, 175.36, 0),
    },
    "lkm_unet": {
        "table1": (28, 0, 2191.53, 0),
        "table2": (6, 0, 478.53, 0),
        "table3": (14, 0, 1116.38, 0),
        "supplement_table1": (6, 0, 529.11, 0),
        "supplement_table2": (14, 0, 1235.27, 0),
    },
    "u_kan": {
        "table1": (42, 42, 3398.22, 56.25),
        "table2": (28, 14, 5623.36, 18.91),
        "table3": (24, 0, 847.05, 0),
        "table4": (15, 0, 785.05, 0),
        "table5": (15, 0, 781.93, 0),
        "table6": (9, 0, 504.88, 0),
    },
    "vmkla_unet": {
        "text": (21, 0, 940.14, 0),
        "table9": (4, 0, 340.32, 0),
        "table10": (16, 0, 1280.91, 0),
    },
}


def printed(paper: str) -> list[Claim]:
    """List what the paper itself prints."""
    found = load_paper(paper)
    return [claim for claim in found.claims() if found.tables[claim.table].printed_by == "paper"]


def sums(paper: str) -> dict[str, tuple[int, int, float, float]]:
    found: dict[str, list[Claim]] = {}
    for claim in printed(paper):
        found.setdefault(claim.table, []).append(claim)
    return {
        table: (
            len(claims),
            sum(claim.sd is not None for claim in claims),
            round(sum(claim.value for claim in claims), 3),
            round(sum(claim.sd or 0 for claim in claims), 3),
        )
        for table, claims in found.items()
    }


@pytest.mark.parametrize("paper", paper_names())
def test_numbers_are_complete(paper: str) -> None:
    assert sums(paper) == SUMS[paper]


def test_all_445_are_there() -> None:
    assert sum(len(printed(paper)) for paper in paper_names()) == 445


def of(paper: str, table: str, method: str, metric: str) -> list[Claim]:
    return [c for c in printed(paper) if (c.table, c.method, c.metric) == (table, method, metric)]


@pytest.mark.parametrize("paper", ["u_kan", "km_unet"])
@pytest.mark.parametrize("metric", ["iou", "dice"])
def test_printed_means_follow_from_printed_rows(paper: str, metric: str) -> None:
    """A number read from the wrong row or column shows here; the papers round to two digits."""
    for method in load_paper(paper).tables["table1"].rows:
        (mean,) = of(paper, "table2", method, metric)
        rows = of(paper, "table1", method, metric)
        assert mean.value == pytest.approx(sum(claim.value for claim in rows) / len(rows), abs=0.011), method
        # The paper's own slip: of these two the printed deviations are a little larger than their means.
        if mean.sd is not None and method not in ("U-Mamba", "U-KAN"):
            assert mean.sd == pytest.approx(sum(claim.sd or 0 for claim in rows) / len(rows), abs=0.011), method


def test_rows_that_stand_in_two_tables_agree() -> None:
    for metric in ("dice", "nsd"):
        (ct, mr) = of("lkm_unet", "table1", "LKM-UNet", metric)
        assert [ct.value] == [c.value for c in of("lkm_unet", "supplement_table2", "PiM + PaM + BiM", metric)]
        assert [mr.value] == [c.value for c in of("lkm_unet", "table3", "PiM + PaM + BiM", metric)]
    for metric in ("iou", "dice"):
        for method in load_paper("u_kan").tables["table1"].rows:
            if method != "U-KAN":
                copied = of("km_unet", "table1", method, metric)[:3]
                assert [c.value for c in copied] == [c.value for c in of("u_kan", "table1", method, metric)]


def transcript() -> dict[tuple[str, ...], tuple[str, str]]:
    found = {}
    with TRANSCRIPT.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            table = row["table"].removesuffix(" (text)").replace(" ", "_")
            method = re.sub(r" \(row \d.*\)$", "", OURS.get(row["method"], row["method"]))
            metric = row["metric"].replace("miou", "iou").replace(" at batch 1", "_at_batch_1")
            dataset = OURS.get(row["setting"], row["setting"])
            key = (row["paper"], table, method, dataset, OURS.get(metric, metric))
            assert key not in found
            found[key] = (row["value"], row["sd"])
    return found


@pytest.mark.skipif(not TRANSCRIPT.is_file(), reason="the transcript of the tables lies beside the checkout only")
def test_every_number_is_that_of_the_transcript() -> None:
    ours = {
        (c.paper, c.table, c.method, c.dataset, c.metric): (c.cell.bound, c.value, c.sd)
        for paper in paper_names()
        for c in printed(paper)
    }
    theirs = {
        key: (">" if value.startswith(">") else "", float(value.lstrip(">")), float(sd) if sd else None)
        for key, (value, sd) in transcript().items()
    }
    assert ours == theirs
