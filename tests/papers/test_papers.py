from __future__ import annotations

import importlib

import pytest

from kanscan.papers import Claim, Network, find_claims, load_paper, paper_names
from kanscan.papers.schema import Cell, Paper, PrintedTable


@pytest.mark.parametrize("name", paper_names())
def test_papers_load(name: str) -> None:
    paper = load_paper(name)
    assert paper.key == name
    assert all(claim.value == claim.value for claim in paper.claims())
    assert all(claim.unit for claim in paper.claims()), "every printed number says its unit"


@pytest.mark.parametrize("name", paper_names())
def test_every_key_of_a_paper_resolves(name: str) -> None:
    """A misspelled key is a fact that nobody finds."""
    paper = load_paper(name)
    metrics = {metric for table in paper.tables.values() for _, metric in table.places}
    assert metrics == set(paper.units), "every unit belongs to a column, every column has a unit"
    methods = {method for table in paper.tables.values() for method, row in table.rows.items() if row.network is None}
    assert methods == set(paper.networks), "every named network is a row, every row has a network"
    assert {paper.experiment(table) for table in paper.tables} <= set(paper.settings)
    assert any(claim.method == paper.own_method for claim in paper.claims())
    for table in paper.tables.values():
        for row in table.rows.values():
            assert set(row.ours) <= {metric for _, metric in table.places}


@pytest.mark.parametrize("name", paper_names())
def test_equations_lead_to_code(name: str) -> None:
    for place in load_paper(name).equations.values():
        module, _, attribute = place.rpartition(".")
        try:
            importlib.import_module(place)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), place


def test_the_papers_whose_code_pools_say_how() -> None:
    pooling = {name: load_paper(name).pooling for name in paper_names()}
    assert pooling == {
        "all_ukan": "batch_pooled",
        "km_unet": "batch_pooled",
        "lkm_unet": None,
        "u_kan": "batch_pooled",
        "vmkla_unet": "pixel_pooled",
    }


@pytest.mark.parametrize(
    ("printed", "read"),
    [
        (14.02, (14.02, None, "")),
        ("63.38 ± 2.83", (63.38, 2.83, "")),
        (">24", (24.0, None, ">")),
    ],
)
def test_a_cell_is_read_as_it_is_printed(printed: object, read: tuple[object, ...]) -> None:
    cell = Cell.model_validate(printed)
    assert (cell.value, cell.sd, cell.bound) == read
    assert str(cell) == str(printed)


def test_a_row_that_does_not_fill_its_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        PrintedTable.model_validate({"caption": "t", "columns": {"busi": ["iou"]}, "rows": {"U-Net": [1, 2]}})


def test_a_row_without_a_network_must_say_why() -> None:
    with pytest.raises(ValueError, match="says why"):
        Network()


def test_how_a_printed_number_stands() -> None:
    def claim(ours: float | None) -> Claim:
        cell, network = Cell(value=6.35), Network(model="ukan")
        return Claim(paper="p", table="t", dataset="d", method="m", metric="x", cell=cell, network=network, ours=ours)

    assert [claim(ours).state for ours in (None, 6.356689, 6.5)] == ["not tried", "met", "differs"]


def test_claims_are_found_by_key() -> None:
    found = {claim.metric: claim.value for claim in find_claims(["u_kan/table1/busi"])}
    assert found == {"iou": 63.38, "dice": 76.40}


def test_keys_of_older_recipes_lead_to_the_same_numbers() -> None:
    for old, new in (("segmentation/isic2017", "text/isic2017"), ("segmentation/etis", "table10/etis")):
        assert find_claims([f"vmkla_unet/{old}"]) == find_claims([f"vmkla_unet/{new}"]) != []


def test_a_method_is_named_by_its_row() -> None:
    found = find_claims(["u_kan/table1/cvc/U-Net", "u_kan/table5/busi/MLP+KAN+KAN"])
    assert [claim.value for claim in found] == [83.79, 91.06, 64.12, 77.86, 14.29]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("u_kan/table1", "must read paper/table/dataset"),
        ("u_kan/table1/bussi", "u_kan/table1/busi"),
        ("ukan/table1/busi", "u_kan"),
        ("u_kan/table1/busi/U-net", "u_kan/table1/busi/U-Net"),
        ("u_kan/table4/busi", "1 KAN layer"),
    ],
)
def test_wrong_keys_are_named(key: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"claim|paper|name one") as error:
        find_claims([key])
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("network", "method"),
    [
        (Network(model="ukan", preset="base"), "U-KAN"),
        (Network(model="unet"), "U-Net"),
        # A variant of the paper's own network stands beside it, one of another's beside that one's row.
        (Network(model="ukan", preset="small"), "U-KAN"),
        (Network(model="unext", options={"channels": (8, 16, 32, 64, 128)}), "U-NeXt"),
        (Network(model="segresnet"), None),
    ],
)
def test_a_network_finds_its_own_row_or_none(network: Network, method: str | None) -> None:
    found = find_claims(["u_kan/table1/cvc"], network)
    assert {claim.method for claim in found} == ({method} if method else set())


def test_a_network_finds_the_row_built_like_it() -> None:
    linear = Network(model="ukan", preset="base", options={"layer_kinds": ("linear", "linear", "linear")})
    assert {claim.method for claim in find_claims(["u_kan/table5/busi"], linear)} == {"MLP x 3"}
    assert find_claims(["u_kan/table5/busi"], Network(model="ukan", preset="small")) == []
    assert find_claims(["u_kan/table1/cvc/U-KAN"], Network(model="unet")) == []


def test_every_recipe_claims_what_is_printed() -> None:
    from kanscan.config.recipe import load_recipe, recipe_names

    for name in recipe_names():
        find_claims(load_recipe(name).claims)


def test_settings_of_a_set_win_over_the_common_ones() -> None:
    experiment = load_paper("u_kan").settings["segmentation"]
    assert experiment.settings("glas").image_size == (512, 512)
    assert experiment.settings("busi").image_size == experiment.settings("elsewhere").image_size == (256, 256)


def test_words_about_no_setting_are_refused() -> None:
    paper = load_paper("u_kan").model_dump()
    paper["settings"]["segmentation"]["words"] = {"epoch": "400"}
    with pytest.raises(ValueError, match="epoch"):
        Paper.model_validate(paper)
