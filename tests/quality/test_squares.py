"""What is looked at is bounded, the same in all sections, and lies where something was to be predicted."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from unetpipe.config import Network
from unetpipe.extent import Extent
from unetpipe.grid import Plan, Region
from unetpipe.quality.squares import EDGE, RUN, Sample, Square
from unetpipe.selection import Selection


def plan(shape: Sequence[int], block: tuple[int, int, int] = (8, 256, 256)) -> Plan:
    net = Network(depth=1).geometry
    return Plan(tuple(shape), net.tile_for((1, 16, 16)), block, block, 1, net)  # type: ignore[arg-type]


def covered(sample: Sample, shape: Sequence[int]) -> np.ndarray:
    """How often each voxel of a section is looked at."""
    found = np.zeros(shape[1:], int)
    for square in sample.squares:
        found[square.y0 : square.y1, square.x0 : square.x1] += 1
    return found


@pytest.mark.parametrize("size", [(1, 1), (40, 300), (256, 257), (511, 513), (600, 700), (1024, 1000)])
def test_a_small_section_is_looked_at_as_a_whole_and_once(size: tuple[int, int]) -> None:
    shape = (5, *size)
    sample = Sample.of_selection(Selection.of(plan(shape)), 16)
    assert (covered(sample, shape) == 1).all()
    assert sample.voxels == np.prod(shape)
    assert len(sample.squares) == sample.of


@pytest.mark.parametrize("size", [(1500, 1500), (12_345, 6_789), (100_000, 80_000)])
def test_of_a_large_section_so_much_is_looked_at_and_no_more(size: tuple[int, int]) -> None:
    shape = (1_000_000, *size)
    sample = Sample.of_selection(Selection.of(plan(shape, (16, 1024, 1024))), 16)
    assert len(sample.squares) == 16 < sample.of
    for square in sample.squares:
        assert EDGE / 2 <= square.y1 - square.y0 <= 1.5 * EDGE
        assert EDGE / 2 <= square.x1 - square.x0 <= 1.5 * EDGE
        # Whole chunks, but at the ends.
        assert square.y0 % EDGE == 0
        assert square.x0 % EDGE == 0
    assert (sample.first, sample.end) == (0, 1_000_000)
    # They are strewn: neither one row nor one column has most of them.
    for axis in ("y0", "x0"):
        assert len({getattr(square, axis) for square in sample.squares}) >= min(5, size[0] // EDGE)


def test_looks_cover_the_sample_once() -> None:
    squares = tuple(Square(0, 10, 10 * n, 10 * n + 10) for n in range(9))
    sample = Sample(50, 200, squares, 9)
    seen = [
        (z, square) for first, end, group in sample.looks for z, square in itertools.product(range(first, end), group)
    ]
    assert sorted(seen, key=repr) == sorted(itertools.product(range(50, 200), squares), key=repr)
    # They are cut at sections that depend on nothing else.
    assert {first for first, _, _ in sample.looks} == {50, RUN, 2 * RUN, 3 * RUN}


def test_only_what_was_to_be_predicted_is_looked_at() -> None:
    shape = (40, 2000, 2000)
    selection = Selection.of(plan(shape), Region((9, 1100, 300), (17, 1200, 310)))
    sample = Sample.of_selection(selection, 16)
    assert (sample.first, sample.end) == (8, 24)
    (square,) = sample.squares
    assert (square.y0, square.y1, square.x0, square.x1) == (1024, 1280, 256, 512)


def test_so_it_is_where_little_of_an_image_is_stored() -> None:
    shape = (40, 4096, 4096)
    bits = np.zeros((5, 16, 2), np.uint8)
    bits[2, 3, 0] = 0b00100000
    bits[3, 9, 1] = 0b00000001
    stored = Extent(shape, (8, 256, 256), bits)
    selection = Selection.of(plan(shape), extent=stored)
    sample = Sample.of_selection(selection, 16)
    assert (sample.first, sample.end) == (16, 32)
    assert {(s.y0, s.x0) for s in sample.squares} == {(3 * 256, 2 * 256), (9 * 256, 15 * 256)}


def test_the_places_are_the_same_whatever_the_blocks() -> None:
    shape = (10, 3000, 3000)
    first, *others = (
        Sample.of_selection(Selection.of(plan(shape, block)), 16)
        for block in ((1, 16, 16), (8, 64, 64), (2, 1024, 1024))
    )
    assert all(other == first for other in others)
