"""What files showed is kept between starts, trusted never, and pictures are compared in bounded memory."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from kanscan.data import open_folder
from kanscan.data.grouping import case_signatures, group_cases
from kanscan.data.pictures import label_values
from kanscan.data.similarity import Joining, Signature, near_blocks, near_pairs


@pytest.fixture
def root(draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KANSCAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("kanscan.data.remembered._UNSETTLED", -1.0)
    for name in "abc":
        draw(tmp_path / "set" / "images" / f"{name}.png")
        draw(tmp_path / "set" / "masks" / f"{name}.png", "L", value=255)
    return tmp_path / "set"


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the pictures and masks that are decoded from now on."""
    seen: list[str] = []
    for module, name in ((label_values, "read_stored_labels"), ("kanscan.data.grouping", "case_signature")):
        target = f"{module.__name__ if not isinstance(module, str) else module}.{name}"
        before = label_values.read_stored_labels if name == "read_stored_labels" else _signature_reader()

        def counted(case, _before=before):
            seen.append(case.id)
            return _before(case)

        monkeypatch.setattr(target, counted)
    return seen


def _signature_reader():
    from kanscan.data.similarity import case_signature

    return case_signature


def test_a_second_start_reads_nothing_again(root: Path, monkeypatch: pytest.MonkeyPatch):
    seen = count_reads(monkeypatch)
    first = open_folder(root)
    groups = group_cases(first.cases)
    assert sorted(seen) == ["a", "a", "b", "b", "c", "c"]
    second = open_folder(root)
    assert group_cases(second.cases) == groups and second.label_map == first.label_map
    assert len(seen) == 6


def test_a_changed_file_is_read_again(draw, root: Path, monkeypatch: pytest.MonkeyPatch):
    open_folder(root)
    seen = count_reads(monkeypatch)
    draw(root / "masks" / "a.png", "L", value=1)
    draw(root / "masks" / "b.png", "L", value=1)
    draw(root / "masks" / "c.png", "L", value=1)
    assert open_folder(root).label_map.num_classes == 2 and sorted(seen) == ["a", "b", "c"]


@pytest.mark.parametrize("junk", [b"no database", b""])
def test_a_damaged_cache_is_begun_anew(root: Path, monkeypatch: pytest.MonkeyPatch, junk: bytes, tmp_path: Path):
    open_folder(root)
    (tmp_path / "cache" / "pictures.sqlite").write_bytes(junk)
    seen = count_reads(monkeypatch)
    assert len(open_folder(root).cases) == 3 and len(seen) == 3
    assert len(open_folder(root).cases) == 3 and len(seen) == 3


def test_junk_in_the_cache_is_read_over(root: Path, tmp_path: Path):
    import sqlite3

    opened = open_folder(root)
    expected = case_signatures(opened.cases)
    with sqlite3.connect(tmp_path / "cache" / "pictures.sqlite") as connection:
        connection.execute("UPDATE findings SET content = x'00ff'")
    connection.close()
    assert open_folder(root).label_map == opened.label_map
    assert [one.digest for one in case_signatures(opened.cases)] == [one.digest for one in expected]


def test_without_a_place_for_the_cache_all_works(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KANSCAN_CACHE", str(tmp_path / "file" / "below"))
    assert len(open_folder(root).cases) == 3


def test_a_file_that_has_just_changed_is_not_remembered(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kanscan.data.remembered._UNSETTLED", 2.0)
    seen = count_reads(monkeypatch)
    for _ in range(2):
        open_folder(root)
    assert len(seen) == 6


def signatures(thumbnails: np.ndarray) -> list[Signature]:
    centered = thumbnails - thumbnails.mean(axis=1, keepdims=True)
    unit = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    return [Signature(str(k), one.astype(np.float32)) for k, one in enumerate(unit)]


def test_blocks_find_what_the_table_of_all_pairs_finds():
    random = np.random.default_rng(3)
    scenes = random.normal(size=(900, 576))
    thumbnails = np.concatenate([scenes, scenes[::2] + random.normal(0, 0.12, (450, 576)), scenes[:1150:3] * 1.001])
    known = signatures(thumbnails)
    table = np.stack([one.thumbnail for one in known]).astype(np.float32)
    rows, columns = np.nonzero(np.triu(table @ table.T, 1) > 0.99)
    expected = set(zip(rows.tolist(), columns.tolist(), strict=True))
    found = near_pairs(known)
    assert len(found) == len(set(found)) and len(expected) > 300
    # Sums in another order may part on the very border.
    borders = {(i, j) for i, j in expected ^ set(found) if abs(float(table[i] @ table[j]) - 0.99) > 1e-4}
    assert not borders


def test_thousands_of_equal_frames_are_one_group_in_bounded_memory():
    random = np.random.default_rng(4)
    known = signatures(random.normal(size=576) + random.normal(0, 0.02, (5000, 576)))
    tracemalloc.start()
    joining, pairs = Joining(len(known)), 0
    for one, other in near_blocks(known):
        joining.join(one, other)
        pairs += len(one)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pairs == 5000 * 4999 // 2 and len(set(joining.labels.tolist())) == 1
    # A list of all pairs would take a gigabyte, their table 100 MB.
    assert peak < 80 * 2**20


def test_pairs_join_to_groups_whatever_their_order():
    joining = Joining(6)
    for one, other in (([0], [1]), ([4], [3]), ([1, 2], [2, 2])):
        joining.join(np.array(one), np.array(other))
    groups = joining.labels.tolist()
    assert groups[0] == groups[1] == groups[2] and groups[3] == groups[4] and len(set(groups)) == 3


def test_a_name_that_is_no_utf8_is_written_harmlessly(draw, tmp_path: Path):
    root = tmp_path / "set"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
        for name in (b"l\xe9sion", b"esc\x1b[31m", b"plain"):
            path = os.fsencode(root / part) + b"/" + name + b".png"
            written = draw(tmp_path / "x.png", "L", value=255)
            try:
                Path(os.fsdecode(path)).write_bytes(written.read_bytes())
            except OSError:
                pytest.skip("this file system takes no such names")
    opened = open_folder(root)
    assert [case.id for case in opened.cases] == ["esc%1B[31m", "l%E9sion", "plain"]
    assert all(case.id.isprintable() and case.id.encode() for case in opened.cases)
    assert len(group_cases(opened.cases)) == 1  # all three are the same picture
