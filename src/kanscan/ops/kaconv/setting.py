"""What decides a KAonv beside its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kanscan.ops.bspline.grid import Grid

Pair = tuple[int, int]


class Setting(NamedTuple):
    """Window, groups, reading of the padding, and spline grid."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    padding_contributes: bool
    grid: Grid

    def output_size(self, size: Sequence[int]) -> Pair:
        """Return (height, width) of the result for a map of `size`."""
        height, width = (
            (size[axis] + 2 * self.padding[axis] - self.dilation[axis] * (self.kernel[axis] - 1) - 1)
            // self.stride[axis]
            + 1
            for axis in range(2)
        )
        return height, width
