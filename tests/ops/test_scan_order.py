from __future__ import annotations

from itertools import pairwise, product
from math import prod

import pytest
import torch

from kanscan.ops import scan_order
from kanscan.ops.scan_order import (
    CORNERS,
    CROSS,
    ORDERS,
    SPIRAL,
    VOLUME_CORNERS,
    inverse,
    order_index,
    spiral,
)

PLANES = [(1, 1), (1, 6), (5, 1), (4, 4), (3, 7), (6, 5)]
VOLUMES = [(1, 1, 1), (2, 3, 4), (3, 1, 5)]
PLANE_ORDERS = [name for name in ORDERS if name not in VOLUME_CORNERS]
VOLUME_ORDERS = [name for name in ORDERS if name not in (*CORNERS, *SPIRAL)]
CASES = [
    *product([*PLANE_ORDERS, "windows_2x3", "lattice_2x3", "windows_40x40", "lattice_1x2"], PLANES),
    *product([*VOLUME_ORDERS, "windows_2x3x2", "lattice_2x3x2"], VOLUMES),
]


@pytest.mark.parametrize(("name", "size"), CASES)
def test_every_order_visits_each_pixel_once_and_has_an_inverse(name: str, size: tuple[int, ...]) -> None:
    index = order_index(name, size)
    assert torch.equal(index.sort().values, torch.arange(prod(size)))
    x = torch.randn(prod(size))
    assert torch.equal(x[index][inverse(index)], x)
    assert torch.equal(inverse(inverse(index)), index)


def positions(name: str, size: tuple[int, ...]) -> list[tuple[int, ...]]:
    places = list(product(*[range(s) for s in size]))
    return [places[i] for i in order_index(name, size).tolist()]


def test_rows_and_columns() -> None:
    size = (2, 3)
    assert order_index("raster", size).tolist() == [0, 1, 2, 3, 4, 5]
    assert order_index("column", size).tolist() == [0, 3, 1, 4, 2, 5]
    assert order_index("raster_reversed", size).tolist() == [5, 4, 3, 2, 1, 0]
    assert order_index("column_reversed", size).tolist() == [5, 2, 4, 1, 3, 0]
    assert len(set(CROSS)) == 4


def test_corners() -> None:
    size = (2, 3)
    assert order_index("top_left", size).tolist() == [0, 1, 2, 3, 4, 5]
    assert order_index("top_right", size).tolist() == [2, 1, 0, 5, 4, 3]
    assert order_index("bottom_left", size).tolist() == [3, 4, 5, 0, 1, 2]
    assert order_index("bottom_right", size).tolist() == [5, 4, 3, 2, 1, 0]
    starts = {positions(name, (2, 3, 4))[0] for name in VOLUME_CORNERS}
    assert starts == set(product((0, 1), (0, 2), (0, 3)))


@pytest.mark.parametrize("size", PLANES)
def test_spiral_walks_inwards(size: tuple[int, int]) -> None:
    places = positions("spiral", size)
    assert places[0] == (0, 0)
    assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in pairwise(places))
    layers = [min(i, j, size[0] - 1 - i, size[1] - 1 - j) for i, j in places]
    assert layers == sorted(layers)
    assert positions("spiral_reversed", size) == places[::-1]


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_windows_are_contiguous_tiles(size: tuple[int, int]) -> None:
    literal = [
        (i, j)
        for top, left in product(range(0, size[0], 2), range(0, size[1], 3))
        for i, j in product(range(top, min(top + 2, size[0])), range(left, min(left + 3, size[1])))
    ]
    assert positions("windows_2x3", size) == literal


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_lattices_jump_by_the_window(size: tuple[int, int]) -> None:
    literal = [
        (i, j)
        for top, left in product(range(2), range(3))
        for i, j in product(range(top, size[0], 2), range(left, size[1], 3))
    ]
    assert positions("lattice_2x3", size) == literal


def test_orders_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean"):
        order_index("rasterr", (2, 2))
    with pytest.raises(ValueError, match="plane"):
        spiral((2, 2, 2))
    with pytest.raises(ValueError, match="axes"):
        order_index("top_left", (2, 2, 2))
    with pytest.raises(ValueError, match="window"):
        order_index("windows_2x2", (2, 2, 2))
    with pytest.raises(ValueError, match="window"):
        order_index("windows_0x2", (2, 2))


@pytest.mark.parametrize("name", ["raster", "column_reversed", "top_right", "spiral", "windows_2x3", "lattice_2x3"])
def test_an_order_first_asked_for_where_tensors_hold_nothing_can_be_used_later(name: str) -> None:
    scan_order._cached.cache_clear()
    with torch.device("meta"):
        order_index(name, (4, 6))
    assert sorted(order_index(name, (4, 6)).tolist()) == list(range(24))


def test_an_order_first_asked_for_in_inference_serves_training() -> None:
    scan_order._cached.cache_clear()
    with torch.inference_mode():
        order_index("spiral", (4, 6))
    x = torch.randn(24, requires_grad=True)
    x[order_index("spiral", (4, 6))].square().sum().backward()
    assert x.grad is not None
