from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kanscan.config.parts import FileSplit, FoldersSplit, GroupSplit, KFoldSplit, PaperSplit, RandomSplit
from kanscan.data.case import Case
from kanscan.data.grouping import group_cases
from kanscan.data.similarity import NEAR, near_pairs, read_signature, sign
from kanscan.data.splits import Split, make_split


@pytest.fixture
def cases(draw, tmp_path: Path) -> list[Case]:
    """30 cases: 20 in five groups of four, ten alone."""
    found = []
    for number in range(30):
        path = draw(tmp_path / f"{number:02d}.png", "L", size=(8, 8), seed=number)
        found.append(Case(f"{number:02d}", (path,), (path,), group=f"p{number // 4}" if number < 20 else None))
    return found


def parts_of(split: Split) -> list[set[str]]:
    return [set(split.train), set(split.validation), set(split.test)]


def test_no_group_straddles_for_any_seed(cases):
    for seed in range(30):
        split = make_split(cases, GroupSplit(test_fraction=0.3, validation_fraction=0.2), seed=seed)
        parts = parts_of(split)
        assert set.union(*parts) == {c.id for c in cases} and sum(map(len, parts)) == 30
        for group in {c.group for c in cases if c.group}:
            members = {c.id for c in cases if c.group == group}
            assert sum(bool(members & part) for part in parts) == 1
        assert 5 <= len(split.test) <= 13 and split.validation
    assert make_split(cases, seed=1) == make_split(list(reversed(cases)), seed=1) != make_split(cases, seed=2)


def test_equal_and_look_alike_pictures_stay_together(draw, cases, tmp_path: Path):
    smooth = np.random.default_rng(5).normal(size=(8, 8)).cumsum(0).cumsum(1).repeat(10, 0).repeat(10, 1)
    for name, noise in (("near", 0.3), ("nearby", 0.0)):
        values = smooth + noise * np.random.default_rng(6).normal(size=smooth.shape)
        np.save(tmp_path / f"{name}.npy", values.astype(np.float32))
        cases.append(Case(name, (tmp_path / f"{name}.npy",), (tmp_path / f"{name}.npy",)))
    copy = draw(tmp_path / "copy.bmp", "L", size=(8, 8), seed=3)
    cases.append(Case("copy", (copy,), (copy,)))
    groups = group_cases(cases)
    assert ["near", "nearby"] in groups.values()
    assert ["00", "01", "02", "03", "copy"] in groups.values()
    assert len(group_cases(cases, by_content=False)) == 5 + 13
    for seed in range(10):
        for part in parts_of(make_split(cases, seed=seed)):
            assert len(part & {"near", "nearby"}) != 1 and len(part & {"03", "copy"}) != 1


def test_signatures_see_content_not_container(draw, tmp_path: Path):
    grey = read_signature(draw(tmp_path / "a.png", "L", seed=1))
    same = read_signature(draw(tmp_path / "a.bmp", "L", seed=1))
    other = read_signature(draw(tmp_path / "b.png", "L", seed=2))
    assert grey.digest == same.digest != other.digest
    assert near_pairs([grey, same, other]) == [(0, 1)] and 0.9 < NEAR < 1
    flat = sign(np.full((5, 5), 9, np.uint8), (5, 5))
    assert not flat.thumbnail.any() and near_pairs([flat, flat]) == []


@pytest.mark.parametrize("num_folds", [2, 5, 15])
def test_folds_test_every_case_once_and_keep_groups(cases, num_folds: int):
    seen: Counter[str] = Counter()
    for fold in range(num_folds):
        split = make_split(cases, KFoldSplit(fold=fold, num_folds=num_folds))
        seen.update(split.test)
        for case in cases:
            members = {c.id for c in cases if case.group and c.group == case.group}
            assert sum(bool(members & part) for part in parts_of(split)) <= 1
        assert len(split.test) <= 30 / num_folds + 4 and split.train and split.validation
    assert seen == dict.fromkeys((c.id for c in cases), 1)


def test_folds_that_do_not_exist(cases):
    with pytest.raises(ValueError, match=r"fold must lie in 0\.\.4, got 5"):
        make_split(cases, KFoldSplit(fold=5))
    with pytest.raises(ValueError, match="16 folds need as many groups, the data has 15"):
        make_split(cases, KFoldSplit(num_folds=16))


#: First and last validation indices of the papers' split of n sorted names; from the published recipe.
PAPERS = {(647, 2981): [128, 568, 62, 84, 286], (612, 2981): None}


def test_the_papers_split_is_the_permutation_of_sorted_names():
    path = Path("x.png")
    cases = [Case(f"benign ({k})", (path,), (path,)) for k in range(1, 438)]
    cases += [Case(f"malignant ({k})", (path,), (path,)) for k in range(1, 211)]
    split = make_split(cases, PaperSplit(), seed=2981)
    names = sorted(f"{case.id}.png" for case in cases)
    assert [names.index(f"{i}.png") for i in split.validation[:5]] == PAPERS[647, 2981]
    assert (len(split.train), len(split.validation)) == (517, 130)
    assert split.test == split.validation and "optimistic" in split.caveat


def test_the_papers_splits_as_published(reference: Path):
    content = json.loads((reference / "golden" / "u_kan" / "splits.json").read_text())
    for name, expected in content["splits"].items():
        path = Path("x.png")
        cases = [Case(f"{k:05d}", (path,), (path,)) for k in range(expected["n"])]
        split = make_split(cases, PaperSplit(), seed=int(name.rpartition("/")[2]))
        assert [int(i) for i in split.validation] == expected["val_indices"], name
        assert len(split.train) == expected["n_train"]


def test_random_ignores_groups_and_says_so(cases):
    split = make_split(cases, RandomSplit(), seed=0)
    assert "ignored" in split.caveat and (len(split.train), len(split.validation), len(split.test)) == (21, 3, 6)
    straddling = [
        group
        for group in {c.group for c in cases if c.group}
        if sum(any(c.id in part for c in cases if c.group == group) for part in parts_of(split)) > 1
    ]
    assert straddling


def test_folders(cases):
    from dataclasses import replace

    subsets = ["train"] * 16 + ["validation"] * 4 + ["test"] * 10
    whole = [replace(c, subset=s) for c, s in zip(cases, subsets, strict=True)]
    split = make_split(whole, FoldersSplit())
    assert [len(p) for p in parts_of(split)] == [16, 4, 10] and not split.caveat
    no_test = [c for c in whole if c.subset != "test"]
    split = make_split(no_test, FoldersSplit())
    assert set(split.test) == {c.id for c in no_test if c.subset == "validation"}
    assert "val folder is reported" in split.caveat and "held back" in split.caveat and split.validation
    with pytest.raises(ValueError, match="lies in none"):
        make_split(cases, FoldersSplit())


def test_a_split_is_a_file(cases, tmp_path: Path):
    split = make_split(cases)
    path = split.save(tmp_path / "split.json")
    assert Split.load(path) == split and json.loads(path.read_text())["sha256"] == split.sha256
    (tmp_path / "mine.json").write_text(json.dumps({"train": ["00", "01"], "val": ["02"], "test": ["03"]}))
    mine = make_split(cases, FileSplit(file=tmp_path / "mine.json"))
    assert mine.validation == ("02",) and "26 of 30 cases are in no part" in mine.caveat


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"train": ["00"], "test": ["00"]}', "both in train and in test"),
        ('{"train": ["00", "00"]}', "a case twice in train"),
        ('{"train": ["2O"], "test": ["01"]}', r"no case '2O' .* did you mean '2"),
        ('{"train": [1]}', "must be a list of case ids"),
        ('{"test": ["00"]}', "must hold"),
        ('{"train": []}', "train is empty"),
        ("[", "not valid JSON"),
    ],
)
def test_wrong_split_files(cases, tmp_path: Path, content: str, words: str):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        make_split(cases, FileSplit(file=tmp_path / "s.json"))


def test_impossible_splits(cases):
    with pytest.raises(FileNotFoundError, match="no split file"):
        make_split(cases, FileSplit(file="gone.json"))
    with pytest.raises(ValueError, match=r"needs split\.file"):
        make_split(cases, FileSplit())
    with pytest.raises(ValueError, match="form 1 group, 3 are needed"):
        make_split(cases[:4])
    with pytest.raises(ValueError, match="the same id"):
        make_split([cases[0], cases[0]])
    with pytest.raises(ValueError, match="no case to split"):
        make_split([])
