"""Causes of spread, against figures worked out by hand."""

import numpy as np
import pytest

from kanscan.metrics import spread_by_cause


def test_spread_is_of_the_split_or_of_the_seed():
    split, seed = spread_by_cause({1: [0.5, 0.6], 2: [0.5, 0.6]})
    assert split == 0 and seed == pytest.approx(np.std([0.5, 0.6], ddof=1))
    split, seed = spread_by_cause({1: [0.5, 0.5], 2: [0.6, 0.6], 3: [0.7, 0.7]})
    assert seed == 0 and split == pytest.approx(0.1)
    assert spread_by_cause({1: [0.5, 0.6]}) is None and spread_by_cause({1: [0.5], 2: [0.6]}) is None


def test_spread_finds_both_causes_of_many_runs():
    random = np.random.default_rng(0)
    runs = {k: list(c + random.normal(0, 0.02, 30)) for k, c in enumerate(random.normal(0.7, 0.05, 200))}
    split, seed = spread_by_cause(runs)
    assert split == pytest.approx(0.05, rel=0.1) and seed == pytest.approx(0.02, rel=0.05)
