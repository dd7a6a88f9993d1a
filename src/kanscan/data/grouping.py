"""Which cases must stay in one part of a split: those of one patient or video, and pictures that look the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kanscan.data.case import Case
from kanscan.data.remembered import remembered
from kanscan.data.similarity import SIGNATURES, Joining, Signature, case_signature, near_blocks


def group_cases(cases: Sequence[Case], *, by_content: bool = True) -> dict[str, list[str]]:
    """Find which cases must stay together.

    Args:
        cases: Cases with their declared groups; a case without one is a group of its own.
        by_content: Read the pictures, and join groups that share an identical one or two that look the same.

    Returns:
        Group name -> ids, both in sorted order.
    """
    joining = Joining(len(cases))
    signatures = case_signatures(cases) if by_content else []
    first_with: dict[str, int] = {}
    pairs: list[tuple[int, int]] = []
    for position, case in enumerate(cases):
        keys = [f"group {case.group}"] if case.group is not None else []
        keys += [signatures[position].digest] if by_content else []
        pairs += [(first_with.setdefault(key, position), position) for key in keys]
    if pairs:
        joining.join(*np.array(pairs).T)
    for one, other in near_blocks(signatures):
        joining.join(one, other)
    names = {case.id: case.group for case in cases}
    found: dict[int, list[str]] = {}
    for position in sorted(range(len(cases)), key=lambda k: cases[k].id):
        found.setdefault(int(joining.labels[position]), []).append(cases[position].id)
    return {names[members[0]] or members[0]: members for members in found.values()}


def case_signatures(cases: Sequence[Case]) -> list[Signature]:
    """Read the signatures of all cases, those of files seen before from the cache."""
    return remembered("signature", [_files(case) for case in cases], lambda k: case_signature(cases[k]), SIGNATURES)


def _files(case: Case) -> tuple[tuple[Path, ...], object]:
    if case.stacked or case.series is not None or case.images[0].is_dir():
        return (), None  # of several files, or of a part of a folder: not remembered
    return case.images[:1], case.frame


def describe_groups(groups: Mapping[str, Sequence[str]]) -> str:
    """Say in words what kept cases together."""
    total = sum(len(members) for members in groups.values())
    if len(groups) == total:
        return f"no groups known, {total} cases are taken as independent"
    sizes = [len(members) for members in groups.values()]
    return f"{total} cases in {len(groups)} groups of {min(sizes)} to {max(sizes)}"
