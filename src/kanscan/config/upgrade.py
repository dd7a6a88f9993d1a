"""Recipes as version 0.1.0 wrote them into its runs, brought to today's keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanscan.config.family import Family
from kanscan.config.parts import FAMILIES

#: A recipe of a run held every option, also those of other optimizers, schedules and splits: these, with these values.
_IDLE: dict[str, dict[str, Any]] = {
    "split": {
        "seed": None,
        "test_fraction": 0.2,
        "validation_fraction": 0.1,
        "num_folds": 5,
        "fold": 0,
        "file": None,
    },
    "diffusion": {"beta_start": 1e-4, "beta_end": 0.02},
    "optim": {
        "momentum": 0.9,
        "nesterov": False,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "min_lr": 1e-5,
        "schedule_epochs": None,
    },
}


def upgrade(content: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out options that the named optimizer, schedule, split or noise does not have, where they say nothing.

    Args:
        content: Plain values of a recipe file.

    Returns:
        The values without options of others at their former defaults; what was changed stays, and is refused later.
    """
    upgraded = dict(content)
    for group, idle in _IDLE.items():
        if isinstance(content.get(group), Mapping):
            upgraded[group] = _without(content[group], idle, FAMILIES[group])
    return upgraded


def _without(part: Mapping[str, Any], idle: Mapping[str, Any], family: Family) -> dict[str, Any]:
    try:
        known = family.choose(part).model_fields
    except ValueError:
        return dict(part)  # an unknown name: the check of the whole says so
    return {key: value for key, value in part.items() if key in known or key not in idle or value != idle[key]}
