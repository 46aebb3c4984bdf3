"""The worst places are found, and each once."""

import numpy as np

from unetpipe.quality.places import MOST, Cells, Place, worst
from unetpipe.quality.squares import Square

SQUARE = Square(256, 512, 128, 448)


def cells(voxels: np.ndarray, there: list[bool] | None = None, first: int = 10) -> list[Place]:
    found = Cells(first, np.array(there or [True] * len(voxels)))
    found.add(SQUARE, voxels)
    return found.worst


def test_a_place_says_where_it_is_and_how_bad() -> None:
    voxels = np.zeros((3, 256, 320), bool)
    voxels[1, 70:80, 130:150] = True
    (place,) = cells(voxels)
    assert place == Place(section=11, y=(320, 384), x=(256, 320), amount=200.0, share=200 / 64**2)
    assert place.centre == (11, 352, 288)
    z, y, x = place.centre
    assert (z - 10, y - 256, x - 128) == (1, 96, 160)


def test_the_worst_come_first_and_none_is_near_a_worse_one() -> None:
    rng = np.random.default_rng(4)
    found = cells(rng.random((30, 256, 320)) ** 3)
    assert len(found) == MOST
    assert [place.amount for place in found] == sorted((place.amount for place in found), reverse=True)
    for n, one in enumerate(found):
        for other in found[:n]:
            apart = np.abs(np.subtract(one.centre, other.centre))
            assert apart[0] >= 4 or apart[1] >= 128 or apart[2] >= 128


def test_missing_sections_have_no_places() -> None:
    voxels = np.zeros((2, 256, 320))
    voxels[0, 5, 5], voxels[1, 9, 9] = 7, 3
    assert [place.section for place in cells(voxels, [False, True])] == [11]


def test_where_all_is_well_there_is_none() -> None:
    assert cells(np.zeros((4, 256, 320))) == []


def test_equal_ones_are_told_in_one_order() -> None:
    places = [Place(z, (0, 64), (x, x + 64), 5.0, 0.1) for z in (0, 8) for x in (0, 512)]
    assert worst(places) == worst(reversed(places)) == places
