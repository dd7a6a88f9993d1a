"""The selective scan in every way to compute it, every dtype and awkward sizes, against the definition in float64."""

from __future__ import annotations

from functools import cache, partial
from math import prod

import pytest
import torch
from torch import Tensor

from kanscan.ops import native
from kanscan.ops.scan_order import CORNERS, CROSS, SPIRAL, VOLUME_CORNERS, order_index
from kanscan.ops.selective_scan import DISCRETIZATIONS, selective_scan
from kanscan.ops.selective_scan.directions import directional_scan
from ops.accuracy import LAYOUTS, both_ways, demand_close, laid_out, leaves

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
OPTIONAL = frozenset(NAMES[5:])
NOTHING: frozenset[str] = frozenset()
#: batch, channels, length, states, groups of B and of C
SIZES = [
    (0, 4, 5, 3, 1, 1),
    (1, 1, 1, 1, 1, 1),
    (2, 4, 1, 16, 2, 2),
    (2, 6, 63, 3, 2, 2),
    (1, 17, 63, 1, 1, 1),
    (2, 5, 63, 2, 1, 1),
    (1, 2, 1000, 1, 1, 1),
    (1, 2, 1000, 16, 1, 1),
    (1, 12, 33, 17, 4, 6),
    (1, 3, 20, 64, 1, 3),
    (1, 1000, 3, 2, 1, 1),
]
HALVES = [torch.bfloat16, torch.float16]
#: State updates that Triton's interpreter gets through in a second or two.
INTERPRETED_UPDATES = 2300
Size = tuple[int, ...]


def draw(*shapes: Size) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return [torch.randn(shape, generator=generator) for shape in shapes]


@cache
def given(size: Size, extras: frozenset[str] = OPTIONAL) -> tuple[Tensor | None, ...]:
    """Every tensor that a scan takes; None in the place of what is left out."""
    batch, channels, length, states, groups_B, groups_C = size
    sequence, matrix = (batch, channels, length), (batch, 1, states, length)
    shapes = [sequence, sequence, (channels, states), matrix, matrix, (channels,), sequence, (channels,)]
    shapes[3], shapes[4] = (batch, groups_B, states, length), (batch, groups_C, states, length)
    tensors: list[Tensor | None] = [*draw(*shapes, (batch, channels, states))]
    tensors[1], tensors[2] = tensors[1] - 1, -torch.exp(tensors[2])
    if not extras:
        # Without a softplus steps must not be negative, or states grow beyond any tolerance.
        tensors[1] = torch.exp(tensors[1])
    return tuple(t if place < 5 or NAMES[place] in extras else None for place, t in enumerate(tensors))


def scan(*tensors: Tensor | None, **options: object) -> tuple[Tensor, ...]:
    u, delta, A, B, C, D, z, delta_bias, initial_state = tensors
    softplus = any(t is not None for t in tensors[5:])
    options = {"delta_softplus": softplus, "return_last_state": True, "initial_state": initial_state, **options}
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, **options)


def kinds_of(dtypes: tuple[torch.dtype, torch.dtype]) -> list[torch.dtype]:
    return [dtypes[0], *[dtypes[1]] * 8]


@cache
def exact(
    size: Size, extras: frozenset[str], discretization: str, dtypes: tuple[torch.dtype, torch.dtype]
) -> list[Tensor]:
    rounded = [t if t is None else t.to(kind) for t, kind in zip(given(size, extras), kinds_of(dtypes), strict=True)]
    return both_ways(
        partial(scan, discretization=discretization, backend="reference"), leaves(rounded, [torch.float64] * 9)
    )


def check(
    backend: str,
    size: Size,
    discretization: str,
    extras: frozenset[str] = OPTIONAL,
    dtypes: tuple[torch.dtype, torch.dtype] = (torch.float32, torch.float32),
    layout: str = "contiguous",
) -> None:
    if backend == "triton" and prod(size[:4]) > INTERPRETED_UPDATES:
        pytest.skip("takes Triton's interpreter too long")
    tensors = leaves(given(size, extras), kinds_of(dtypes), layout)
    ours = both_ways(partial(scan, discretization=discretization, backend=backend), tensors)
    assert [t.dtype for t in ours[:2]] == [dtypes[0], torch.float32]
    assert [t.dtype for t in ours[2:]] == [t.dtype for t in tensors if t is not None]
    demand_close(ours, exact(size, extras, discretization, dtypes))


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_sizes(backend: str, size: Size, discretization: str) -> None:
    check(backend, size, discretization)


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("extras", [NOTHING, *(frozenset({name}) for name in sorted(OPTIONAL))], ids=",".join)
@pytest.mark.parametrize("states", [1, 2, 5])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_what_may_be_left_out(backend: str, states: int, extras: frozenset[str], discretization: str) -> None:
    check(backend, (1, 4, 40, states, 2, 1), discretization, extras)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("rest", ["half", "float32"])
@pytest.mark.parametrize("states", [1, 3])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_half_precision(backend: str, states: int, rest: str, half: torch.dtype) -> None:
    dtypes = (half, half if rest == "half" else torch.float32)
    for discretization in DISCRETIZATIONS:
        check(backend, (2, 6, 63, states, 2, 2), discretization, dtypes=dtypes)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("states", [1, 2, 5])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_layouts(backend: str, states: int, layout: str) -> None:
    check(backend, (2, 6, 63, states, 2, 2), "euler", layout=layout)
    check(backend, (1, 17, 63, states, 1, 1), "zoh", layout=layout)


def expanded(states: int, place: int, axis: int) -> list[Tensor]:
    tensors = list(given((2, 6, 20, states, 2, 2)))
    tensors[place] = tensors[place].narrow(axis, 0, 1).expand(tensors[place].shape)
    return tensors


@cache
def exact_expanded(states: int, place: int, axis: int) -> list[Tensor]:
    return both_ways(partial(scan, backend="reference"), leaves(expanded(states, place, axis), [torch.float64] * 9))


@pytest.mark.parametrize("states", [1, 2, 5])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_one_number_in_memory_may_stand_for_many(backend: str, states: int) -> None:
    for place, axis in ((0, 1), (0, 2), (1, 0), (1, 2), (3, 1), (4, 3), (2, 1)):
        tensors = leaves(expanded(states, place, axis), [torch.float32] * 9)
        assert tensors[place].stride(axis) == 0 or tensors[place].shape[axis] == 1
        demand_close(both_ways(partial(scan, backend=backend), tensors), exact_expanded(states, place, axis))


#: Directions over a map of this size, their channels, and states.
MAPS = [
    ((7, 9), (*CROSS, *CORNERS, *SPIRAL, "windows_2x3", "lattice_3x2"), 3, 2),
    ((7, 9), CROSS, 17, 5),
    ((7, 9), CROSS, 16, 1),
    ((1, 1), CROSS, 2, 3),
    ((25, 40), (CROSS[3],), 2, 3),
    ((2, 3, 4), (*VOLUME_CORNERS, "windows_2x2x3"), 2, 2),
    ((3, 5), CROSS[:2], 3, 17),
]


@cache
def directions_of(where: int, shared: bool, batch: int) -> tuple[Tensor, ...]:
    size, orders, channels, states = MAPS[where]
    number, length = len(orders), prod(size)
    sequences = [(batch, 1 if shared else number, channels, length), (batch, number, channels, length)]
    matrices = [(batch, number, states, length)] * 2
    shapes = [*sequences, (number * channels, states), *matrices, (number * channels,), (number * channels,)]
    u, delta, A, *rest = draw(*shapes)
    return u, delta - 1, -torch.exp(A), *rest


def over_map(*tensors: Tensor | None, order: Tensor, **options: object) -> Tensor:
    u, delta, A, B, C, D, delta_bias = tensors
    return directional_scan(u, delta, A, B, C, order, D, delta_bias, delta_softplus=True, **options)


@cache
def exact_over_map(where: int, shared: bool, batch: int, discretization: str, dtype: torch.dtype) -> list[Tensor]:
    tensors = [t.to(dtype) for t in directions_of(where, shared, batch)]
    op = partial(over_map, order=order_of(where), discretization=discretization, backend="reference")
    return both_ways(op, leaves(tensors, [torch.float64] * 7))


def order_of(where: int) -> Tensor:
    size, orders, *_ = MAPS[where]
    return torch.stack([order_index(name, size) for name in orders])


def check_map(
    backend: str, where: int, shared: bool, dtype: torch.dtype = torch.float32, layout: str = "", batch: int = 1
) -> None:
    discretization = DISCRETIZATIONS[where % 2]
    op = partial(over_map, order=order_of(where), discretization=discretization, backend=backend)
    ours = both_ways(op, leaves(directions_of(where, shared, batch), [dtype] * 7, layout))
    assert {t.dtype for t in ours} == {dtype}
    demand_close(ours, exact_over_map(where, shared, batch, discretization, dtype))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("where", range(len(MAPS)))
@pytest.mark.usefixtures("unwritten_is_nan")
def test_directions(backend: str, where: int, shared: bool) -> None:
    check_map(backend, where, shared)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_directions_of_other_dtypes_layouts_and_batches(backend: str, shared: bool) -> None:
    for half in HALVES:
        check_map(backend, 6, shared, half)
    for layout in LAYOUTS[1:]:
        check_map(backend, 6, shared, layout=layout)
    for batch in (0, 2):
        check_map(backend, 6, shared, batch=batch)


@pytest.mark.parametrize("where", [2, 6])
@pytest.mark.usefixtures("unwritten_is_nan")
def test_a_map_that_is_expanded_for_its_directions_has_a_gradient_for_each(backend: str, where: int) -> None:
    u, *rest = directions_of(where, True, 2)
    shape = (-1, rest[0].shape[1], -1, -1)
    op = partial(over_map, order=order_of(where))
    wide = leaves([u.expand(shape), *rest], [torch.float64] * 7)
    # Channels last, as layers have them.
    last = laid_out(u.transpose(2, 3).contiguous().transpose(2, 3), "contiguous").expand(shape).requires_grad_()
    ours = both_ways(partial(op, backend=backend), [last, *leaves(rest, [torch.float32] * 6)])
    demand_close(ours, both_ways(partial(op, backend="reference"), wide))


def spoiled(states: int, name: str, value: float) -> list[Tensor]:
    """One number is not finite: that of the first sample's second channel at step 40, where the tensor has such."""
    tensors = [t.clone() for t in given((2, 3, 70, states, 1, 1))]
    where = {
        "A": (1, 0),
        "B": (0, 0, 0, 40),
        "C": (0, 0, 0, 40),
        "D": (1,),
        "delta_bias": (1,),
        "initial_state": (0, 1, 0),
    }
    tensors[NAMES.index(name)][where.get(name, (0, 1, 40))] = value
    return tensors


@cache
def finite_places(states: int, name: str, value: float, discretization: str) -> list[Tensor]:
    wide = [t.double() for t in spoiled(states, name, value)]
    return [t.isfinite() for t in scan(*wide, discretization=discretization, backend="reference")]


@pytest.mark.parametrize("backend", ["torch", *native.LANES, "triton"], indirect=True)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("states", [1, 2, 5])
def test_not_a_number_and_infinity_come_out_where_they_belong(backend: str, states: int, value: float) -> None:
    if backend == "triton" and states > 1:
        pytest.skip("takes Triton's interpreter too long")
    for discretization in DISCRETIZATIONS:
        op = partial(scan, discretization=discretization, backend=backend)
        clean = both_ways(op, leaves(given((2, 3, 70, states, 1, 1)), [torch.float32] * 9))
        for name in NAMES:
            ours = both_ways(op, leaves(spoiled(states, name, value), [torch.float32] * 9))
            for one, finite in zip(ours[:2], finite_places(states, name, value, discretization), strict=True):
                assert torch.equal(one.isfinite(), finite), (name, discretization)
            if name not in ("A", "D", "delta_bias"):
                # The other sample knows nothing of it: y, last state, gradients of u, delta, B, C, z, initial state.
                for place in (0, 1, 2, 3, 5, 6, 8, 10):
                    torch.testing.assert_close(ours[place][1], clean[place][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["float64", "constant B", "constant C", "no states"])
def test_what_a_kernel_refuses_is_computed_elsewhere(way: str) -> None:
    size = (2, 6, 20, 0 if way == "no states" else 3, 1, 1)
    tensors = list(given(size))
    if way.startswith("constant"):
        tensors["ABC".index(way[-1]) + 2] = draw((6, 3))[0]
    kind = torch.float64 if way == "float64" else torch.float32
    lain = leaves(tensors, [kind] * 9)
    expected = both_ways(partial(scan, backend="reference"), leaves(tensors, [torch.float64] * 9))
    if kind == torch.float32:
        demand_close(both_ways(scan, lain), expected)
    else:
        torch.testing.assert_close(both_ways(scan, lain), expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="cannot be used"):
        scan(*lain, backend="cpu")


def test_directions_in_float64_are_computed_elsewhere() -> None:
    tensors = directions_of(6, True, 1)
    ours = both_ways(partial(over_map, order=order_of(6)), leaves(tensors, [torch.float64] * 7))
    expected = exact_over_map(6, True, 1, "euler", torch.float32)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="cannot be used"):
        over_map(*[t.double() for t in tensors], order=order_of(6), backend="cpu")
