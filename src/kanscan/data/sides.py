"""Left and right in class names: what a mirroring would exchange."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Of a volume's D, H, W: the axis from left to right.
SIDES = 2

_LEFT, _RIGHT = ("left", "lh", "l"), ("right", "rh", "r")


def names_sides(class_names: Sequence[str]) -> bool:
    """Tell whether class names say left and right, so that a mirrored image would be labelled wrongly.

    Args:
        class_names: In any order.

    Example:
        >>> names_sides(["background", "left kidney", "Kidney_R"]), names_sides(["background", "liver"])
        (True, False)
    """
    words = {word.lower() for name in class_names for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    # A lone letter stands for a side only where the other one is met too.
    letters = {"l", "r"} <= words
    sides = {word for word in words if word in (*_LEFT, *_RIGHT) and (len(word) > 1 or letters)}
    return bool(sides)
