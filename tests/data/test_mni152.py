from __future__ import annotations

import builtins
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kanscan.data.made import mni152
from kanscan.data.made.generated import GeneratedCase


@pytest.fixture(scope="module")
def cases() -> list[GeneratedCase]:
    pytest.importorskip("nilearn")
    return list(mni152.mni152_cases())


def test_twelve_slabs_of_four_slices_with_gaps_between_slabs(cases: list[GeneratedCase]):
    assert len(cases) == 48 and len({c.id for c in cases}) == 48
    slabs: dict[str, list[int]] = {}
    for case in cases:
        slabs.setdefault(case.group, []).append(case.facts["z_mm"])
    assert len(slabs) == 12 and all(len(z) == 4 for z in slabs.values())
    inside = {b - a for z in slabs.values() for a, b in itertools.pairwise(z)}
    ordered = [slabs[name] for name in sorted(slabs)]
    between = {b[0] - a[-1] for a, b in itertools.pairwise(ordered)}
    assert inside == {2} and between == {4}


def test_every_slice_shows_both_tissues_whole_and_fluid_is_background(cases: list[GeneratedCase]):
    for case in cases:
        assert case.image.shape == case.label.shape == (192, 160)
        assert set(np.unique(case.label)) == {0, 1, 2}, case.id
        # Nothing touches the frame: the box holds the whole brain.
        frame = np.concatenate([case.label[0], case.label[-1], case.label[:, 0], case.label[:, -1]])
        assert not frame.any(), case.id


def test_white_matter_is_brighter_than_grey_and_grey_than_the_rest(cases: list[GeneratedCase]):
    image, label = (np.stack([getattr(c, name) for c in cases]) for name in ("image", "label"))
    background, grey, white = (image[label == k].mean() for k in range(3))
    assert white - 20 > grey > 100 > background


def test_the_front_of_the_head_is_up_and_the_halves_mirror_each_other(cases: list[GeneratedCase]):
    middle = next(c for c in cases if c.facts["z_mm"] == 0)
    # At the level of the commissures the back of the head is the wider end.
    brain = middle.label > 0
    rows = np.flatnonzero(brain.any(1))
    quarter = (rows[-1] - rows[0]) // 4
    assert brain[rows[0] : rows[0] + quarter].sum() < brain[rows[-1] - quarter : rows[-1]].sum()
    columns = np.flatnonzero(brain.any(0))
    cut = brain[:, columns[0] : columns[-1] + 1]
    assert (cut == cut[:, ::-1]).mean() > 0.95


def test_the_masks_are_readable_and_the_manifest_names_the_classes(tmp_path: Path):
    pytest.importorskip("nilearn")
    root = mni152.write_mni152(tmp_path / "brain")
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["values"] == {"background": 0, "grey matter": 128, "white matter": 255}
    mask = np.asarray(Image.open(root / "masks" / f"{manifest['cases'][20]['id']}.png"))
    assert set(np.unique(mask)) == {0, 128, 255}


def test_without_nilearn_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def missing(name: str, *args, **kwargs):
        if name.startswith("nilearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r'pip install "kanscan\[demo\]"'):
        next(mni152.mni152_cases())
