"""The page on adding a data set, followed to the letter."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from kanscan import READERS, check, evaluate, train


@pytest.mark.slow
def test_the_reader_of_the_page_is_found_trained_and_judged(tmp_path):
    page = (ROOT / "docs" / "how-to" / "add-a-dataset.md").read_text(encoding="utf-8")
    before = dict(READERS)
    exec(re.findall(r"```python\n(.*?)```", page, re.S)[0], {})
    assert set(READERS) - set(before) == {"polyps"}
    try:
        for clip in range(5):
            for number in range(2):
                random = np.random.default_rng(10 * clip + number)
                label = np.zeros((40, 48), np.uint8)
                label[8 + clip : 28 + clip, 10:34] = 255
                image = np.clip(random.normal(60, 20, (40, 48, 3)) + (label / 3)[..., None], 0, 255).astype(np.uint8)
                for folder, array in (("frames", image), ("outlines", label)):
                    (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
                    Image.fromarray(array).save(tmp_path / "data" / folder / f"c{clip}_{number}.png")
        found = check(tmp_path / "data", sheet=False)
        assert (found.reader, found.num_cases, found.num_groups, found.errors) == ("polyps", 10, 5, ())
        run = train(
            str(tmp_path / "data"),
            {"data.image_size": [32, 32], "trainer.batch_size": 2, "model.options": {"channels": [8, 8, 8]}},
            epochs=1,
            device="cpu",
            output=tmp_path / "run",
        )
        assert run.facts.data.reader == "polyps"
        assert {case.group for case in evaluate(run.path).cases} <= {f"c{clip}" for clip in range(5)}
    finally:
        del READERS["polyps"]
