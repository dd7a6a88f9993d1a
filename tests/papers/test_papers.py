from __future__ import annotations

import pytest

from kanscan.papers import find_claims, load_paper, paper_names


@pytest.mark.parametrize("name", paper_names())
def test_papers_load(name: str) -> None:
    paper = load_paper(name)
    assert paper.key == name
    assert all(claim.value == claim.value for claim in paper.claims())
    assert all(claim.unit for claim in paper.claims()), "every printed number says its unit"


def test_claims_are_found_by_key() -> None:
    found = {claim.metric: claim.value for claim in find_claims(["u_kan/table1/busi"])}
    assert found == {"iou": 63.38, "dice": 76.40}


@pytest.mark.parametrize("key", ["u_kan/table1", "u_kan/table1/bussi", "ukan/table1/busi"])
def test_wrong_keys_are_named(key: str) -> None:
    with pytest.raises(ValueError, match=r"claim|paper"):
        find_claims([key])


def test_every_recipe_claims_what_is_printed() -> None:
    from kanscan.config import load_recipe, recipe_names

    for name in recipe_names():
        find_claims(load_recipe(name).claims)
