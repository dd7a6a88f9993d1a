"""Regular expressions that users give: tried on names in a process of its own, with a limit of time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kanscan.data.case import Case

#: Some expressions take time that doubles with each letter of a name; a good one takes microseconds.
SECONDS = 10.0
_MATCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
found = map(re.compile(pattern).search, names)
json.dump([m and m[1 if m.re.groups else 0] for m in found], sys.stdout)
"""


def check_pattern(pattern: str | None) -> str | None:
    """Refuse the option `group_pattern` if it is no regular expression; give it back.

    Raises:
        ValueError: It is none.
    """
    try:
        if pattern:
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"group_pattern {pattern!r} is no regular expression: {error}") from None
    return pattern or None


def match_groups(pattern: str, names: Sequence[str], seconds: float = SECONDS) -> list[str | None]:
    """Tell what an expression matches in each name: its first bracket, or all of it where it has none.

    Raises:
        ValueError: It takes longer than the limit.
    """
    # Python's own matching cannot be stopped; a process can.
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCH],
            input=json.dumps([pattern, list(names)]),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"group_pattern {pattern!r} was tried on {len(names)} names for {seconds:g} seconds without an end; "
            "repeats inside repeats such as (a+)+ do that: write it simpler"
        ) from None
    found: list[str | None] = json.loads(done.stdout)
    return found


def with_groups(cases: Iterable[Case], pattern: str | None, names: Sequence[str] | None = None) -> list[Case]:
    """Give each case the group that a pattern finds in its name.

    Args:
        cases: The cases.
        pattern: As `check_pattern` gave it; None changes nothing.
        names: Their names, where these are not their ids.

    Raises:
        ValueError: The pattern takes too long.
    """
    listed = list(cases)
    if pattern is None or not listed:
        return listed
    found = match_groups(pattern, [case.id for case in listed] if names is None else names)
    return [replace(case, group=group or None) for case, group in zip(listed, found, strict=True)]


def group_notes(cases: Sequence[Case], pattern: str | None) -> list[str]:
    """Say what the option `group_pattern` did not match."""
    without = [case.id for case in cases if case.group is None]
    if pattern is None or not without:
        return []
    return [f"group_pattern matches no part of {len(without)} of {len(cases)} names, first {without[0]!r}"]
