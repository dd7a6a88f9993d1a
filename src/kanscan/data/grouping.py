"""Which cases must stay in one part of a split: those of one patient or video, and pictures that look the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from kanscan.data.case import Case
from kanscan.data.similarity import Signature, case_signature, near_pairs


def group_cases(cases: Sequence[Case], *, by_content: bool = True) -> dict[str, list[str]]:
    """Find which cases must stay together.

    Args:
        cases: Cases with their declared groups; a case without one is a group of its own.
        by_content: Read the pictures, and join groups that share an identical one or two that look the same.

    Returns:
        Group name -> ids, both in sorted order.
    """
    parent = {case.id: case.id for case in cases}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    def join(one: str, other: str) -> None:
        parent[root(other)] = root(one)

    first_with: dict[str, str] = {}
    signatures = _signatures(cases) if by_content else []
    for position, case in enumerate(cases):
        keys = [f"group {case.group}"] if case.group is not None else []
        keys += [signatures[position].digest] if by_content else []
        for key in keys:
            join(first_with.setdefault(key, case.id), case.id)
    for i, j in near_pairs(signatures):
        join(cases[i].id, cases[j].id)
    names = {case.id: case.group for case in cases}
    found: dict[str, list[str]] = {}
    for case in sorted(cases, key=lambda c: c.id):
        found.setdefault(root(case.id), []).append(case.id)
    return {names[members[0]] or members[0]: members for members in found.values()}


def _signatures(cases: Sequence[Case]) -> list[Signature]:
    # Decoding leaves Python's lock, so threads help.
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(case_signature, cases))


def describe_groups(groups: Mapping[str, Sequence[str]]) -> str:
    """Say in words what kept cases together."""
    total = sum(len(members) for members in groups.values())
    if len(groups) == total:
        return f"no groups known, {total} cases are taken as independent"
    sizes = [len(members) for members in groups.values()]
    return f"{total} cases in {len(groups)} groups of {min(sizes)} to {max(sizes)}"
