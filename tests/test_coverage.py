"""Which shards there are, as a search through all voxels finds them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.config import Network
from unetpipe.coverage import Coverage
from unetpipe.extent import Extent
from unetpipe.grid import Plan, Region, triple
from unetpipe.levels import levels_of
from unetpipe.selection import Selection

GEOMETRY = Network(depth=1).geometry


@given(st.data())
def test_a_shard_is_there_if_it_covers_a_voxel_of_a_wanted_block(data: st.DataObject) -> None:
    shape = triple([data.draw(st.integers(1, most)) for most in (20, 300, 300)])
    block = triple([data.draw(st.integers(1, 3)) * n for n in (2, 24, 24)])
    plan = Plan(shape, (1, 40, 40), block, (1, 24, 24), 1, GEOMETRY)
    start = [data.draw(st.integers(0, n - 1)) for n in shape]
    region = Region(
        triple(start), triple([data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)])
    )
    kind = data.draw(st.sampled_from(["all", "region", "extent"]))
    there = np.pad(np.ones((1, 1, 1), np.uint8), [(a, n - a - 1) for a, n in zip(start, shape, strict=True)])
    extent = Extent(shape, (1, 1, 1), np.packbits(there, axis=-1))
    selection = Selection.of(plan, region if kind == "region" else None, extent=extent if kind == "extent" else None)
    voxels = np.zeros(shape, np.bool_)
    for each in selection.blocks(plan):
        voxels[each.write.slices] = True
    coverage = Coverage(plan, selection)
    levels = levels_of(shape, (40, 4, 4), plan.chunk, plan.block)
    for level in levels:
        covered = [a * b for a, b in zip(level.shard, level.scale, strict=True)]
        expected = {
            index
            for index in np.ndindex(*level.counts)
            if voxels[tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, covered, strict=True))].any()
        }
        assert set(coverage.shards(level)) == expected
        assert not coverage.has(level, level.counts)
        for index in np.ndindex(*level.counts):
            for labels in (False, True):
                name = level.shard_name(index, labels=labels)
                ours = index in expected and (labels or level.number > 0)
                assert coverage.is_made_of(name, levels, labels=True) == ours
                assert coverage.is_made_of(name, levels, labels=False) == (ours and not labels)
    for name in ("x", "1/c/0/0/0", "1/c/0/0/0/x", "99/c/0/0/0/0", "1/c/1/0/0/0", "1/c/0/0/00/0", "other/1/c/0/0/0/0"):
        assert not coverage.is_made_of(name, levels, labels=True)
