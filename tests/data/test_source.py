from __future__ import annotations

from pathlib import Path

import pytest

from kanscan.data.readers.folder import Folder
from kanscan.data.source import CaseNotHereError, open_source
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
    with pytest.raises(CaseNotHereError, match=r"the run names 1 cases that .* does not hold, first 'x'"):
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
    with pytest.raises(FileNotFoundError, match="no folder at"):
        open_source(tmp_path / "gone")
    with pytest.raises(ValueError, match="unknown option"):
        open_source(root, options={"label": 1})
    with pytest.raises(ValueError, match="does not have the layout 'glas'"):
        open_source(root, "glas")


def test_a_folder_is_recognized_and_listed_once(draw, root: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    for name in ("recognizes", "survey"):
        before = getattr(Folder, name)

        def counted(*args, _name=name, _before=before):
            seen.append(_name)
            return _before(*args)

        monkeypatch.setattr(Folder, name, staticmethod(counted) if name == "recognizes" else counted)
    source = open_source(root)
    assert len(source.cases) == 3 and seen == ["recognizes", "survey"]
