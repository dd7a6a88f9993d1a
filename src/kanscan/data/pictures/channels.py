"""How many channels the pictures of a data set have, by their headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from kanscan.data.case import Case
from kanscan.data.pictures.files import read_header


def stored_channels(cases: Sequence[Case]) -> tuple[int, list[str]]:
    """Tell the channels a network is best given: those of the pictures, three where any has color.

    Returns:
        1, 3, or more where all pictures have so many; and a sentence where they differ.
    """

    def look(case: Case) -> int | None:
        try:
            if case.frame is not None and case.images[0].suffix.lower() == ".npy":
                return 3
            return sum(read_header(path).channels for path in case.images)
        except (OSError, ValueError):
            return None  # reading the case says what is wrong

    with ThreadPoolExecutor(4) as pool:
        counts = Counter(found for found in pool.map(look, cases) if found is not None)
    if not counts:
        return 3, []
    if len(counts) == 1:
        return next(iter(counts)), []
    listed = ", ".join(f"{number} with {channels}" for channels, number in sorted(counts.items()))
    if set(counts) == {1, 3}:
        return 3, [f"{counts[1]} pictures are stored gray and {counts[3]} in color: all are given as color, 3 channels"]
    return max(counts), [f"the pictures have different numbers of channels ({listed}); one number must suit all"]
