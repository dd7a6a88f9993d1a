"""The outline of a reference stands out from every class and every picture, by numbers."""

from __future__ import annotations

import numpy as np
import pytest

from kanscan.drawing.colors import (
    CASING_COLOR,
    CLASS_COLORS,
    GROUNDS,
    REFERENCE_COLOR,
    class_color,
    distance,
    hexadecimal,
    standing_out,
)
from kanscan.drawing.images import overlay

#: Two colors so far apart are told apart at a glance: amber and the yellow that it was outlined in are 17 apart.
APART = 25


def test_distances_are_those_of_oklab():
    assert distance((0, 0, 0), (255, 255, 255)) == pytest.approx(100, abs=0.01)
    # Oklab of red, as its author prints it: 0.628, 0.225, 0.126.
    assert distance((255, 0, 0), (0, 0, 0)) == pytest.approx(100 * np.linalg.norm([0.628, 0.225, 0.126]), abs=0.1)
    assert distance((230, 159, 0), (240, 228, 66)) < 20


@pytest.mark.parametrize("color", [*CLASS_COLORS, *GROUNDS])
def test_the_outline_is_far_from_every_class_and_ground(color):
    assert distance(REFERENCE_COLOR, color) > APART


def test_the_outline_is_far_from_tinted_pictures_too():
    for ground in GROUNDS:
        for index in range(1, len(CLASS_COLORS) + 1):
            tinted = tuple(round(0.65 * g + 0.35 * c) for g, c in zip(ground, class_color(index), strict=True))
            # Where it is as bright and green as the outline, the dark edge tells them apart.
            assert max(distance(REFERENCE_COLOR, tinted), distance(CASING_COLOR, tinted)) > APART


@pytest.mark.parametrize("ground", [(0, 0, 0), (128, 128, 128), (255, 255, 255), (180, 80, 60), (205, 135, 180)])
@pytest.mark.parametrize("index", range(1, 7))
def test_on_a_picture_the_outline_and_its_edge_are_there(ground, index):
    image = np.full((90, 120, 3), ground, np.uint8)
    label, reference = np.zeros((2, 90, 120), np.uint8)
    label[20:70, 20:80], reference[25:75, 30:90] = index, index
    drawn = overlay(image, label, reference=reference)
    assert tuple(drawn[25, 60]) == REFERENCE_COLOR and tuple(drawn[50, 89]) == REFERENCE_COLOR
    assert tuple(drawn[24, 60]) == tuple(drawn[50, 90]) == CASING_COLOR
    inside = tuple(map(int, drawn[45, 50]))
    assert max(distance(REFERENCE_COLOR, inside), distance(CASING_COLOR, inside)) > APART


def test_what_stands_out_is_the_farthest():
    assert standing_out([(0, 0, 0), (255, 255, 255)], [(10, 10, 10)]) == (255, 255, 255)
    assert hexadecimal((1, 160, 255)) == "#01a0ff"


def test_a_border_of_two_classes_is_drawn_once():
    reference = np.ones((60, 60), np.uint8)
    reference[:, 30:] = 2
    drawn = overlay(np.zeros((60, 60)), reference, reference=reference)
    row = [tuple(pixel) for pixel in drawn[30].tolist()]
    assert [place for place, color in enumerate(row) if color == REFERENCE_COLOR] == [30]
    assert row[29] == row[31] == CASING_COLOR
