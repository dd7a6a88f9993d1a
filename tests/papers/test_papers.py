from __future__ import annotations

import pytest
import torch

from kanscan.complexity import complexity
from kanscan.models import create_model
from kanscan.papers import Claim, Row, find_claims, load_paper, paper_names


@pytest.mark.parametrize("name", paper_names())
def test_papers_load(name: str) -> None:
    paper = load_paper(name)
    assert paper.key == name
    assert all(claim.value == claim.value for claim in paper.claims())
    assert all(claim.unit for claim in paper.claims()), "every printed number says its unit"


def built_rows() -> list:
    rows = [(n, row) for n in paper_names() for table in load_paper(n).tables.values() for row in table.rows]
    return [pytest.param(row, id=f"{name}-{row.method}") for name, row in rows if row.model]


@pytest.mark.parametrize("row", built_rows())
def test_costs_set_beside_printed_ones_are_those_of_the_network(row: Row) -> None:
    with torch.device("meta"):
        model = create_model(row.model, **row.options)
    cost = complexity(model, (3, 256, 256))
    counted = {"parameters_million": cost.num_parameters / 1e6, "gflops_as_printed": cost.paper_gflops}
    assert row.ours
    assert row.ours == pytest.approx({metric: counted[metric] for metric in row.ours}, abs=5e-5)


def test_how_a_printed_number_stands() -> None:
    def claim(ours: float | None) -> Claim:
        return Claim(paper="p", table="t", dataset="d", method="m", metric="x", value=6.35, ours=ours)

    assert [claim(ours).state for ours in (None, 6.356689, 6.5)] == ["not tried", "met", "differs"]


def test_only_known_differences_stand_beside_printed_costs() -> None:
    differing = {(c.paper, c.method) for n in paper_names() for c in load_paper(n).claims() if c.state == "differs"}
    assert differing == {("km_unet", "KM-UNet"), ("all_ukan", "ALL U-KAN"), ("all_ukan", "ALL U-KAN with lambda")}


def test_claims_are_found_by_key() -> None:
    found = {claim.metric: claim.value for claim in find_claims(["u_kan/table1/busi"])}
    assert found == {"iou": 63.38, "dice": 76.40}


@pytest.mark.parametrize("key", ["u_kan/table1", "u_kan/table1/bussi", "ukan/table1/busi"])
def test_wrong_keys_are_named(key: str) -> None:
    with pytest.raises(ValueError, match=r"claim|paper"):
        find_claims([key])


def test_every_recipe_claims_what_is_printed() -> None:
    from kanscan.config.recipe import load_recipe, recipe_names

    for name in recipe_names():
        find_claims(load_recipe(name).claims)
