from __future__ import annotations

from pathlib import Path

import pytest

from kanscan.data.source import open_source
from kanscan.data.splits import Split


@pytest.fixture
def root(draw, tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        draw(tmp_path / "set" / "images" / f"{name}.png")
        draw(tmp_path / "set" / "masks" / f"{name}.png", "L", value=255)
    return tmp_path / "set"


def test_labelled_cases_are_served_and_the_others_counted(draw, root: Path):
    draw(root / "images" / "d.png")
    source = open_source(root)
    assert [case.id for case in source.cases] == ["a", "b", "c"] and source.num_unlabelled == 1
    assert source.label_map is source.reader.label_map
    assert [case.id for case in source.only(["c", "a"], "the run")] == ["c", "a"]
    with pytest.raises(ValueError, match=r"the run names 1 cases that .* does not hold, first 'x'"):
        source.only(["a", "x"], "the run")


def test_parts_of_a_split(root: Path):
    source = open_source(root)
    split = Split(("a",), (), ("b",))
    assert [case.id for case in source.select("test", split, "the run").cases] == ["b"]
    assert len(source.select("all", split, "the run").cases) == 3
    with pytest.raises(ValueError, match="has no validation cases"):
        source.select("validation", split, "the run")
    with pytest.raises(ValueError, match="did you mean 'test'"):
        source.select("tst", split, "the run")


def test_what_cannot_be_opened(draw, root: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no data folder"):
        open_source(tmp_path / "gone")
    with pytest.raises(ValueError, match="unknown option"):
        open_source(root, options={"label": 1})
    with pytest.raises(ValueError, match="does not have the layout 'glas'"):
        open_source(root, "glas")
