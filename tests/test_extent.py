"""What is stored, by voxel and by block."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.config import Network
from unetpipe.errors import UserError
from unetpipe.extent import Extent
from unetpipe.grid import Plan, Region, Shape, triple
from unetpipe.selection import Selection

GEOMETRY = Network(depth=1).geometry


@st.composite
def extents(draw: st.DrawFn) -> tuple[Extent, np.ndarray, Shape]:
    """An extent, all of its voxels one by one, and the shape of the volume."""
    unit = triple([draw(st.integers(1, most)) for most in (4, 9, 30)])
    first = draw(st.integers(0, 5))
    shape = triple([draw(st.integers(1, most)) for most in (9, 50, 60)])
    grid = [-(-(n + o) // u) for n, o, u in zip(shape, (first, 0, 0), unit, strict=True)]
    there = np.random.default_rng(draw(st.integers(0, 99))).random(grid) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    whole = there.repeat(unit[0], 0).repeat(unit[1], 1).repeat(unit[2], 2)
    voxels = whole[first : first + shape[0], : shape[1], : shape[2]]
    image = (shape[0] + first, *shape[1:])
    return Extent(image, unit, np.packbits(there, axis=-1), first), voxels, shape


@given(extents(), st.data())
def test_a_voxel_is_stored_if_its_object_is(made: tuple[Extent, np.ndarray, Shape], data: st.DataObject) -> None:
    extent, voxels, shape = made
    start = [data.draw(st.integers(0, n - 1)) for n in shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
    region = Region(triple(start), triple(stop))
    np.testing.assert_array_equal(extent.voxels(region), voxels[region.slices])


@given(extents(), st.data())
def test_a_block_is_wanted_if_a_voxel_of_it_is_stored(
    made: tuple[Extent, np.ndarray, Shape], data: st.DataObject
) -> None:
    extent, voxels, shape = made
    block = triple([data.draw(st.integers(1, most)) * size for most, size in zip((3, 2, 2), (1, 24, 24), strict=True)])
    plan = Plan(shape, (1, 40, 40), block, block, 1, GEOMETRY)
    if not voxels.any():
        with pytest.raises(UserError, match="not one chunk of its image is stored: nothing would be predicted"):
            Selection.of(plan, extent=extent)
        return
    wanted = Selection.of(plan, extent=extent)
    assert {block.name for block in wanted.blocks(plan)} == {
        block.name for block in plan.blocks() if voxels[block.write.slices].any()
    }
    assert wanted.key == {}
    assert (
        Selection.read({"plan": {"shape": shape, "block": block}, "selection": wanted.as_json()}).count == wanted.count
    )
    np.testing.assert_array_equal(
        [block.name for block, there in zip(plan.blocks(), wanted.wanted(plan), strict=True) if there],
        [block.name for block in wanted.blocks(plan)],
    )
    box = Region((0, 0, 0), triple([max(1, n // 2) for n in shape]))
    if voxels[box.slices].any():
        both = {each.name for each in Selection.of(plan, box, extent=extent).blocks(plan)}
        boxed = {each.name for each in Selection.of(plan, box).blocks(plan)}
        assert both == boxed & {each.name for each in wanted.blocks(plan)}
