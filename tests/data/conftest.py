from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Draw = Callable[..., Path]


@pytest.fixture
def draw() -> Draw:
    """Write a picture: random color, or a disc of `value` on black for a mask; `mode` is Pillow's."""

    def write(
        path: Path,
        mode: str = "RGB",
        *,
        size: tuple[int, int] = (24, 32),
        value: int | None = None,
        seed: int | None = None,
        corner: bool = False,
        **options: object,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if value is None:
            rng = np.random.default_rng(seed if seed is not None else abs(hash(path.as_posix())) % 2**32)
            array = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(array).convert(mode).save(path, **options)
            return path
        rows, columns = np.mgrid[: size[0], : size[1]]
        inside = (rows - size[0] // 2) ** 2 + (columns - size[1] // 2) ** 2 < (min(size) // 4) ** 2
        if corner:
            inside = (rows < 5) & (columns < 5)
        array = np.where(inside, value, 0).astype(np.uint8)
        picture = Image.fromarray(array)
        if mode == "1":
            picture = Image.fromarray(array > 0)
        elif mode == "RGBA":
            # As drawing programs write it: the alpha channel is full everywhere.
            picture = Image.fromarray(np.dstack([array, array, array, np.full_like(array, 255)]))
        elif mode == "P":
            picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [9] * 759)
        elif mode != "L":
            picture = picture.convert(mode)
        picture.save(path, **options)
        return path

    return write
