"""In which order a scan visits the pixels of a map: permutations as data.

An order is an index: position l of the sequence reads pixel `index[l]`, pixels being numbered row by row (depth, then
height, then width). `inverse(index)` puts a sequence back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from math import prod

import torch
from jaxtyping import Int64
from torch import Tensor

from kanscan.registry import Registry, unknown

Size = tuple[int, ...]
Order = Callable[[Size], Tensor]

#: The four scans of SS2D as released (VMamba, VM-UNet, KM-UNet): rows and columns, forward and back.
CROSS = ("raster", "column", "raster_reversed", "column_reversed")
#: One row-wise scan from each corner of the plane (KM-UNet Eq. 1).
CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
#: One row-wise scan from each corner of a volume.
VOLUME_CORNERS = tuple(f"{depth}_{corner}" for depth in ("front", "back") for corner in CORNERS)
#: From the outer layers toward the center, and back (KM-UNet, third contribution).
SPIRAL = ("spiral", "spiral_reversed")
#: Forward and back along the rows.
BIDIRECTIONAL = ("raster", "raster_reversed")


def raster(size: Size) -> Tensor:
    """Row by row from the first pixel."""
    return torch.arange(prod(size), device="cpu")


def column(size: Size) -> Tensor:
    """Column by column: the first axis runs fastest, the last slowest."""
    return _grid(size).permute(*reversed(range(len(size)))).flatten()


def from_corner(size: Size, far: Sequence[bool]) -> Tensor:
    """Row by row from a corner.

    Args:
        size: Size of the map.
        far: For each axis, whether the scan starts at its end.
    """
    return _grid(size).flip([axis for axis, end in enumerate(far) if end]).flatten()


def spiral(size: Size) -> Tensor:
    """Around the plane from its top left corner, clockwise, layer by layer toward the center.

    Raises:
        ValueError: The map is not a plane.
    """
    if len(size) != 2:
        raise ValueError(f"a spiral runs in a plane: expected a size (height, width), got {tuple(size)}")
    rest, turns = _grid(size), []
    while rest.numel():
        turns.append(rest[0])
        # What is left, turned so that its next side lies on top.
        rest = rest[1:].t().flip(0)
    return torch.cat(turns) if turns else torch.arange(0, device="cpu")


def windows(size: Size, window: Sequence[int]) -> Tensor:
    """Contiguous tiles of `window` pixels, one after the other, each row by row (LKM-UNet section 2.2).

    Tiles at the far ends are smaller where the window does not divide the size.
    """
    _check_window(size, window)
    return _by_key(size, [lambda i, w=w: i // w for w in window], [lambda i, w=w: i % w for w in window])


def lattice(size: Size, window: Sequence[int]) -> Tensor:
    """Dilated lattices: pixels that lie `window` apart form a sequence, one for each place inside the window.

    This is what the released LKM-UNet does in the place of its windows.
    """
    _check_window(size, window)
    return _by_key(size, [lambda i, w=w: i % w for w in window], [lambda i, w=w: i // w for w in window])


def reverse_of(order: Order) -> Order:
    """Return the order that visits the same pixels from the last to the first."""
    return lambda size: order(size).flip(0)


def _corner(far: Sequence[bool]) -> Order:
    def order(size: Size) -> Tensor:
        if len(size) != len(far):
            raise ValueError(f"this corner belongs to maps of {len(far)} axes, got size {tuple(size)}")
        return from_corner(size, far)

    return order


ORDERS: Registry[Order] = Registry(
    "scan order",
    {
        "raster": raster,
        "raster_reversed": reverse_of(raster),
        "column": column,
        "column_reversed": reverse_of(column),
        "spiral": spiral,
        "spiral_reversed": reverse_of(spiral),
        **{name: _corner(far) for name, far in zip(CORNERS, product((False, True), repeat=2), strict=True)},
        **{name: _corner(far) for name, far in zip(VOLUME_CORNERS, product((False, True), repeat=3), strict=True)},
    },
)

_WITH_WINDOW = {"windows": windows, "lattice": lattice}


def order_index(name: str, size: Sequence[int]) -> Int64[Tensor, " l"]:
    """Return the index of an order by name; computed once for each size.

    Args:
        name: A key of `ORDERS`, or "windows_5x4" and "lattice_5x4" with the window in pixels.
        size: (height, width) or (depth, height, width).

    Returns:
        Which pixel each position of the sequence reads. Shared by all callers: not to be written to.

    Raises:
        ValueError: The order is unknown or does not exist for maps of this size.

    Example:
        >>> order_index("spiral", (3, 3))
        tensor([0, 1, 2, 5, 8, 7, 6, 3, 4])
    """
    size = tuple(int(s) for s in size)
    # A traced tensor must not outlive its trace, nor one of inference mode be saved for a gradient.
    if torch.compiler.is_compiling():
        return _order(name, size)
    return _cached(name, size, torch.is_inference_mode_enabled())


def inverse(index: Int64[Tensor, " l"]) -> Int64[Tensor, " l"]:
    """Return the index that undoes `index`."""
    return torch.empty_like(index).scatter_(0, index, torch.arange(index.shape[0], device=index.device))


@lru_cache(maxsize=1024)
def _cached(name: str, size: Size, inference: bool) -> Tensor:
    return _order(name, size)


def _order(name: str, size: Size) -> Tensor:
    kind, _, window = name.partition("_")
    if kind in _WITH_WINDOW and re.fullmatch(r"\d+(x\d+)*", window):
        return _WITH_WINDOW[kind](size, tuple(int(w) for w in window.split("x")))
    if name not in ORDERS:
        raise ValueError(unknown("scan order", name, [*ORDERS, "windows_5x5", "lattice_5x5"]))
    return ORDERS[name](size)


def _grid(size: Size) -> Tensor:
    # Here and above the device is named because a network may be built without memory, on the meta device.
    return torch.arange(prod(size), device="cpu").view(*size)


def _check_window(size: Size, window: Sequence[int]) -> None:
    if len(window) != len(size) or min(window) < 1:
        raise ValueError(
            f"a window of a map of size {tuple(size)} needs {len(size)} positive lengths, got {tuple(window)}"
        )


def _by_key(size: Size, outer: Sequence[Callable], inner: Sequence[Callable]) -> Tensor:
    """Sort the pixels by their outer coordinates first and their inner ones second."""
    axes = torch.meshgrid(*[torch.arange(s, device="cpu") for s in size], indexing="ij")
    key = torch.zeros(size, dtype=torch.int64, device="cpu")
    for axis, extent, place in [*zip(axes, size, outer, strict=True), *zip(axes, size, inner, strict=True)]:
        key = key * extent + place(axis)
    return torch.argsort(key.flatten())
