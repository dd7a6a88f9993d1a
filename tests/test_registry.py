from __future__ import annotations

import pytest

from kanscan.registry import Registry, nearest, unknown


def test_right_names_are_items() -> None:
    registry = Registry("fruit", {"apple": 1})
    registry["pear"] = 2
    assert registry["pear"] == 2
    assert sorted(registry) == ["apple", "pear"]


def test_wrong_names_get_the_nearest() -> None:
    registry = Registry("fruit", {"apple": 1, "pear": 2, "grape": 3})
    with pytest.raises(ValueError, match=r"unknown fruit 'aple': did you mean 'apple'.*known are apple, grape, pear"):
        registry["aple"]
    with pytest.raises(ValueError, match=r"unknown fruit 'xyz': known are"):
        registry["xyz"]


def test_substrings_count() -> None:
    assert nearest("kan", ["vm_unet", "ukan", "all_ukan"])[0] in ("ukan", "all_ukan")
    assert unknown("thing", "a", []) == "unknown thing 'a': known are none"
