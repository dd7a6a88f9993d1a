"""Every printed row that names a network of ours is built, and costs what it is said to cost."""

from __future__ import annotations

import pytest
import torch

from kanscan.complexity import complexity
from kanscan.config.recipe import load_recipe
from kanscan.models import create_model
from kanscan.models.fitting import check_fit
from kanscan.papers import Network, StudyCell, load_paper, paper_names

#: (Paper, row) whose printed cost is not that of the network here; the row says so.
DIFFERING = {
    ("all_ukan", "ALL U-KAN"),
    ("all_ukan", "ALL U-KAN with lambda_j"),
    ("all_ukan", "SaKAN + KAonv, with spline gradients"),
    ("km_unet", "KM-UNet"),
    ("km_unet", "U-Mamba"),
    ("u_kan", "U-Mamba"),
}


def rows() -> list:
    found = []
    for name in paper_names():
        paper = load_paper(name)
        for table, printed in paper.tables.items():
            found += [pytest.param(name, table, m, id=f"{name}-{table}-{m}") for m in printed.rows]
    return found


def built(network: Network, **more: object) -> torch.nn.Module:
    with torch.device("meta"):
        return create_model(network.model, preset=network.preset, **{**network.options, **more})


@pytest.mark.parametrize(("name", "table", "method"), rows())
def test_a_row_is_built_and_costs_what_is_said(name: str, table: str, method: str) -> None:
    paper = load_paper(name)
    row, network = paper.tables[table].rows[method], paper.network(table, method)
    if not network.model:
        assert not row.ours and network.why
        return
    model = built(network, **({"spatial_dims": 3} if any("_ct" in c for c in paper.tables[table].columns) else {}))
    if not row.ours:
        assert not {"parameters_million", "gflops_as_printed"} & {m for _, m in paper.tables[table].places}
        return
    cost = complexity(model, (3, 256, 256))
    counted = {"parameters_million": cost.num_parameters / 1e6, "gflops_as_printed": cost.paper_gflops}
    assert row.ours == pytest.approx({metric: counted[metric] for metric in row.ours}, abs=5e-5)


def test_only_known_differences_stand_beside_printed_costs() -> None:
    differing = [c for n in paper_names() for c in load_paper(n).claims() if c.state == "differs"]
    assert {(c.paper, c.method) for c in differing} == DIFFERING
    assert all(claim.note for claim in differing)


def cells() -> list[StudyCell]:
    papers = [load_paper(name) for name in paper_names()]
    return [cell for paper in papers for table in paper.tables for cell in paper.study(table)]


def test_every_cell_of_a_study_is_a_recipe() -> None:
    """The recipe of the paper's own network with the row's network in its place."""
    seen = cells()
    for cell in seen:
        recipe = load_recipe(cell.recipe, cell.overrides)
        assert (recipe.model.name, recipe.model.preset) == (cell.network.model, cell.network.preset)
        model = Network(model=recipe.model.name, preset=recipe.model.preset, options=recipe.model.options)
        dims = 3 if cell.dataset == "abdomen_ct" else 2
        network = built(model, **({"spatial_dims": 3} if dims == 3 else {}))
        # Patches of volumes are rounded up to what the network takes.
        check_fit(network, None if dims == 3 else recipe.data.image_size, recipe.loss.deep_supervision, dims)
    assert len(seen) == 219


def test_a_row_keeps_what_the_recipe_of_its_network_needs() -> None:
    (windows, *_) = load_paper("lkm_unet").study("supplement_table1")
    options = load_recipe(windows.recipe, windows.overrides).model.options
    assert options["windows"] == [[5, 7, 6]] * 6
    assert options["channels"] == [32, 64, 128, 256, 320, 320]


def test_the_tables_that_studies_are_made_of() -> None:
    first = {(cell.method, cell.dataset) for cell in load_paper("u_kan").study("table1")}
    assert first == {
        (method, dataset)
        for method in ("U-Net", "Att-Unet", "U-Net++", "U-NeXt", "Rolling-UNet", "U-Mamba", "U-KAN")
        for dataset in ("busi", "glas", "cvc")
    }
    sets = {cell.method: set() for cell in load_paper("lkm_unet").study("table1")}
    assert {"SegResNet", "nnU-Net", "UNETR", "SwinUNETR", "nnFormer", "U-Mamba", "LKM-UNet"} == set(sets)
    constant = [c for c in load_paper("km_unet").study("ablations") if c.method == "constant rate"]
    assert {load_recipe(c.recipe, c.overrides).optim.schedule for c in constant} == {"constant"}
