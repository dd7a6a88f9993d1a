"""The readme's table of speeds and its figure say what the committed results say."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_draw", ROOT / "benchmarks" / "draw.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_says_what_was_measured(draw: ModuleType):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert draw.readme(text) == text, "run `python benchmarks/draw.py`"
    assert draw.FIGURE.read_text(encoding="utf-8") == draw.figure(), "run `python benchmarks/draw.py`"


def test_every_line_is_measured(draw: ModuleType):
    for line in draw.LINES:
        assert draw.times(line), line.label


def test_ratios_follow_the_tables(draw: ModuleType):
    line = draw.kaonv(2)
    with (ROOT / "benchmarks" / "results" / "ka_conv.csv").open(newline="") as file:
        rows = {(row["work"], row["candidate"]): float(row["ratio_to_floor"]) for row in csv.DictReader(file)}
    assert draw.times(line)[0] == pytest.approx(rows[line.work, "kanscan cpu"], abs=1e-3)
    assert draw.shown([0.614, 1 / 32]) == "0.61 x · 1/32"
    assert draw.shown([]) == "-"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*_memory.csv")), ids=lambda p: p.name)
def test_peaks_are_measured_where_they_can_be_seen(path: Path):
    # With freed blocks kept, what a form takes may be there already.
    with path.open(newline="") as file:
        assert not any("tuned" in row["work"] for row in csv.DictReader(file))


def test_slow_candidates_take_part_in_fewer_rounds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from protocol import interleave

    calls: list[str] = []
    names = ("fast", "slow")
    times = interleave({name: lambda name=name: calls.append(name) for name in names}, {"fast": 5, "slow": 2})
    assert set(times) == set(names)
    # One call of each to warm up, then turns.
    assert (calls.count("fast"), calls.count("slow")) == (6, 3)
    assert calls[2] == "fast"
    assert "slow" not in calls[2:4]


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "benchmarks" / "results").glob("*.csv")))
def test_every_table_says_where_it_was_measured(name: str):
    with (ROOT / "benchmarks" / "results" / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert {"device", "threads", "torch", "commit"} <= set(rows[0])
