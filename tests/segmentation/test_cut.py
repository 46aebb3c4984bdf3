"""Pieces of a prediction: each voxel that was predicted lies in one, and no chunk and no block in two."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.grid import Plan, Region, stack_geometry, triple
from unetpipe.segmentation import cut
from unetpipe.segmentation.cut import Cut
from unetpipe.selection import Selection

GEOMETRY = stack_geometry([(1, 1, 1)])


@given(
    shape=st.tuples(*(st.integers(1, n) for n in (9, 20, 20))),
    chunk=st.tuples(*(st.integers(1, n) for n in (3, 6, 6))),
    times=st.tuples(*[st.integers(1, 6)] * 3),
    at_once=st.integers(1, 3000),
    data=st.data(),
)
def test_each_predicted_voxel_lies_in_one_piece(
    shape: tuple[int, int, int],
    chunk: tuple[int, int, int],
    times: tuple[int, int, int],
    at_once: int,
    data: st.DataObject,
) -> None:
    block = triple([c * n for c, n in zip(chunk, times, strict=True)])
    plan = Plan(shape, (1, 1, 1), block, chunk, 1, GEOMETRY)
    start = [data.draw(st.integers(0, n - 1)) for n in shape]
    region = Region(
        triple(start), triple([data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)])
    )
    selection = Selection.of(plan, region)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut, "_AT_ONCE", at_once)
        found = Cut.of(plan, selection)
    assert all(b % p == 0 and p % c == 0 for b, p, c in zip(block, found.piece, chunk, strict=True))
    assert math.prod(found.piece) <= at_once or found.piece == chunk
    count = np.zeros(shape, np.int64)
    for index in found.indices():
        count[found.region(index).slices] += 1
        for axis in range(3):
            beyond = found.beyond(index, axis)
            if beyond is not None:
                assert found.wants(beyond)
                assert found.region(beyond).start[axis] == found.region(index).stop[axis]
    np.testing.assert_array_equal(count, selection.voxels(Region((0, 0, 0), shape)).astype(int))
    assert found.total == len(list(found.indices()))
