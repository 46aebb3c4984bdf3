"""Levels halve a volume until a viewer shows it with one read, and lie where their voxels lie."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.levels import MOST, Level, levels_of

SHAPES = st.tuples(*[st.integers(1, 5000)] * 3)
SIZES = st.tuples(*[st.floats(1, 200)] * 3)
CHUNKS = st.tuples(st.integers(1, 64), *[st.integers(1, MOST)] * 2)


@st.composite
def pyramids(draw: st.DrawFn) -> tuple[list[Level], tuple[float, float, float]]:
    """The levels of any volume, and the size of its voxels."""
    size, chunk = draw(SIZES), draw(CHUNKS)
    shard = [n * draw(st.integers(1, 12)) for n in chunk]
    return levels_of(draw(SHAPES), size, chunk, shard), size


def test_thin_voxels_are_put_together_until_they_are_as_long_as_wide_and_then_along_all_axes() -> None:
    found = levels_of((2000, 20000, 20000), (40, 4, 4), (8, 128, 128), (8, 1024, 1024))
    assert [level.factors for level in found] == [(1, 1, 1), *[(1, 2, 2)] * 3, *[(2, 2, 2)] * 5]
    assert found[3].voxel_size_nm((40, 4, 4)) == [40, 32, 32]
    assert [level.shape for level in found][-2:] == [(125, 157, 157), (63, 79, 79)]


@pytest.mark.parametrize(
    ("size", "factors"),
    [
        pytest.param((8, 8, 8), (2, 2, 2), id="as long as wide"),
        pytest.param((10, 8, 8), (2, 2, 2), id="nearly"),
        pytest.param((30, 8, 8), (1, 2, 2), id="thick sections"),
        pytest.param((4, 8, 8), (2, 1, 1), id="thin sections"),
        pytest.param((16, 8, 4), (1, 2, 2), id="all different"),
    ],
)
def test_what_is_put_together_first(size: tuple[float, float, float], factors: tuple[int, int, int]) -> None:
    assert levels_of((200, 200, 200), size, (8, 64, 64), (8, 64, 64))[1].factors == factors


@pytest.mark.parametrize("shape", [(1, 1, 1), (128, 128, 128), (3, 128, 7)], ids=str)
def test_a_small_volume_has_one_level(shape: tuple[int, int, int]) -> None:
    (level,) = levels_of(shape, (40, 4, 4), (1, 64, 32), (8, 128, 64))
    assert level == Level(0, shape, (1, 1, 1), (1, 1, 1), (1, 64, 32), (8, 128, 64))


@given(pyramids())
def test_each_level_halves_the_one_below_and_the_last_one_fits_in_a_chunk(
    made: tuple[list[Level], tuple[float, float, float]],
) -> None:
    found, _ = made
    assert [level.number for level in found] == list(range(len(found)))
    assert max(found[-1].shape) <= MOST
    for below, level in itertools.pairwise(found):
        assert max(below.shape) > MOST
        assert set(level.factors) == {1, 2} or level.factors == (2, 2, 2)
        assert level.shape == tuple(math.ceil(n / f) for n, f in zip(below.shape, level.factors, strict=True))
        assert level.scale == tuple(a * f for a, f in zip(below.scale, level.factors, strict=True))
        assert all(f == 1 or n > 1 for n, f in zip(below.shape, level.factors, strict=True))


@given(pyramids())
def test_shards_are_whole_chunks_and_no_chunk_is_read_for_two_of_them(
    made: tuple[list[Level], tuple[float, float, float]],
) -> None:
    for below, level in itertools.pairwise(made[0]):
        axes = zip(level.shard, level.chunk, level.factors, below.chunk, strict=True)
        for shard, chunk, factor, chunk_below in axes:
            assert shard % chunk == 0
            assert chunk <= MOST
            assert shard * factor % chunk_below == 0
        assert math.prod(level.shard) <= max(1 << 23, math.prod(level.chunk))


@given(pyramids(), st.tuples(*[st.floats(-1e4, 1e4)] * 3), st.data())
def test_a_voxel_lies_at_the_middle_of_what_it_covers(
    made: tuple[list[Level], tuple[float, float, float]], origin: tuple[float, float, float], data: st.DataObject
) -> None:
    found, size = made
    level = data.draw(st.sampled_from(found))
    for axis in range(3):
        index = data.draw(st.integers(0, 1000))
        covered = origin[axis] + size[axis] * np.arange(index * level.scale[axis], (index + 1) * level.scale[axis])
        here = level.origin_nm(size, origin)[axis] + index * level.voxel_size_nm(size)[axis]
        assert here == pytest.approx(covered.mean(), rel=1e-9, abs=1e-6)


@given(pyramids())
def test_no_two_shards_share_a_name(made: tuple[list[Level], tuple[float, float, float]]) -> None:
    names = [level.shard_name((0, 1, 2), labels=labels) for level in made[0] for labels in (False, True)]
    assert len(set(names)) == len(names)
    assert names[:2] == ["0/c/0/0/1/2", "labels/classes/0/c/0/1/2"]
