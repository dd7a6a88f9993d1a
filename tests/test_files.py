from __future__ import annotations

from pathlib import Path

import pytest

from kanscan.files import atomic, read_json, write_json, write_text


def test_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    target = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_folders_are_made_and_the_suffix_is_kept(tmp_path: Path) -> None:
    with atomic(tmp_path / "x" / "y.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"1")
    assert (tmp_path / "x" / "y.nii.gz").read_bytes() == b"1"


def test_json(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"path": tmp_path, "letter": "µ"})
    assert read_json(path) == {"path": str(tmp_path), "letter": "µ"}
    path.write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(path)
