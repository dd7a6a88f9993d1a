"""What the texts claim, measured again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kanscan import show
from kanscan.complexity import complexity
from kanscan.models import create_model
from kanscan.papers import load_paper, paper_names
from kanscan.papers.schema import Counted


def counted() -> list:
    return [
        pytest.param(count, id=f"{paper}-{name}")
        for paper in paper_names()
        for statement in load_paper(paper).statements
        for name, count in statement.counted.items()
    ]


@pytest.mark.parametrize("count", counted())
def test_networks_cost_what_is_set_beside_a_claim(count: Counted) -> None:
    network = count.network
    with torch.device("meta"):
        model = create_model(network.model, preset=network.preset, **network.options)
    cost = complexity(model, (3, count.size, count.size))
    assert cost.macs / 1e9 == pytest.approx(count.gmacs, abs=6e-4)
    assert count.parameters in (None, cost.num_parameters)


@pytest.mark.parametrize("paper", ["km_unet", "vmkla_unet", "lkm_unet"])
def test_cost_is_linear_in_the_number_of_pixels(paper: str) -> None:
    (small, large) = next(s.counted.values() for s in load_paper(paper).statements if "linear in" in s.says)
    assert large.size == 2 * small.size
    assert large.gmacs / small.gmacs == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("paper", paper_names())
def test_every_claim_is_measured_or_said_not_to_be(paper: str) -> None:
    listing = show("paper", paper, claims=True)
    assert listing.columns == ("claim", "where", "measured here", "command")
    assert len(listing.rows) == len(load_paper(paper).statements) > 0
    for statement in load_paper(paper).statements:
        assert statement.found or not statement.counted
        assert statement.command or statement.measured == "Not measured."


@pytest.mark.parametrize("what", [("papers",), ("model", "ukan")])
def test_claims_are_of_one_paper(what: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="show paper NAME --claims"):
        show(*what, claims=True)


GROWTH = """
import json, sys, torch
from pathlib import Path
from kanscan.models import create_model

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))

torch.set_num_threads(1)
model, x = create_model("all_ukan", **json.loads(sys.argv[1])).train(), torch.randn(2, 3, 64, 64)
before = status("VmRSS")
# The peak counts from here on.
Path("/proc/self/clear_refs").write_text("5")
model(x).square().mean().backward()
print((status("VmHWM") - before) / 1024)
"""


def growth_mib(**options: object) -> float:
    run = [sys.executable, "-c", GROWTH, json.dumps(options)]
    return float(subprocess.run(run, check=True, capture_output=True, text=True, timeout=600).stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="peaks are counted anew on Linux only")
def test_memory_of_a_step_of_all_ukan() -> None:
    """The order that the paper claims: KAN everywhere, without gradients of splines, shared splines."""
    everywhere = growth_mib(preset="kan_everywhere_wide")
    without_gradients = growth_mib(preset="kan_everywhere_wide", spline_gradient=False)
    shared, ukan = growth_mib(preset="paper"), growth_mib(preset="ukan")
    assert everywhere > 1.3 * without_gradients > 1.3 * 3 * shared > 0
    assert shared < 1.5 * ukan
