"""The published folders themselves, where they are at hand (KANSCAN_DATA); names only, but for two that read pixels."""

from __future__ import annotations

from pathlib import Path

import pytest

from kanscan.data import make_reader, open_folder, recognize
from kanscan.data.grouping import group_cases
from kanscan.data.readers.cvc import sequence_of
from kanscan.data.similarity import near_pairs, read_signature
from kanscan.data.splits import make_split


@pytest.mark.parametrize(
    ("name", "key", "num_cases", "options"),
    [
        ("BUSI_256x256", "busi", 647, {}),
        ("Dataset_BUSI_with_GT", "busi", 48, {}),
        ("Dataset_BUSI_with_GT", "busi", 52, {"normal": True}),
        ("CVC-ClinicDB", "cvc", 612, {}),
        ("CVC-ClinicDB", "cvc", 5, {"format": "tif"}),
        ("GlaS", "glas", 165, {}),
        ("GlaS", "glas", 80, {"sets": ["testA", "testB"]}),
        ("GlaS_original_layout", "glas", 2, {}),
        ("Kvasir-SEG", "kvasir", 30, {}),
        ("ISIC2017", "isic", 5, {}),
        ("PH2Dataset", "ph2", 2, {}),
        ("ISBI2012_membrane", "isbi2012", 30, {}),
        ("segmentation_WBC", "paired", 100, {}),
    ],
)
def test_published_folders(real_data: Path, name: str, key: str, num_cases: int, options: dict):
    root = real_data / name
    if not root.is_dir():
        pytest.skip(f"no {name}")
    assert recognize(root) == key
    survey = open_folder(root, options=options).survey
    assert len(survey.cases) == num_cases and not survey.problems
    assert all(case.labels for case in survey.cases)


def test_busi_look_alikes_stay_together(real_data: Path):
    root = real_data / "BUSI_256x256"
    if not root.is_dir():
        pytest.skip("no BUSI_256x256")
    cases = make_reader("auto", root).cases(root)
    assert sum(len(case.labels) > 1 for case in cases) == 17
    groups = list(group_cases(cases).values())
    assert any({"benign (433)", "malignant (145)"} <= set(group) for group in groups)
    assert any({"benign (139)", "benign (65)"} <= set(group) for group in groups)
    assert max(map(len, groups)) <= 4
    split = make_split(cases, seed=1187)
    for group in groups:
        assert sum(bool(set(group) & set(part)) for part in (split.train, split.validation, split.test)) == 1


@pytest.mark.slow
def test_cvc_look_alikes_lie_within_their_sequence(real_data: Path):
    root = real_data / "CVC-ClinicDB"
    if not root.is_dir():
        pytest.skip("no CVC-ClinicDB")
    cases = make_reader("auto", root).cases(root)
    assert all(case.group == sequence_of(case.id) for case in cases)
    pairs = near_pairs([read_signature(case.images[0]) for case in cases])
    assert len(pairs) > 50 and all(cases[i].group == cases[j].group for i, j in pairs)
