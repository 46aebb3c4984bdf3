"""Geometry: every voxel is written once, every origin is aligned, every call has the one shape of the plan."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetpipe.grid import Block, Geometry, Plan, Region, unet_geometry

DEPTHS = st.integers(1, 5)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    geometry = Geometry(
        border=tuple(draw(st.integers(0, 7)) for _ in range(3)),
        pooling=tuple(draw(st.sampled_from([1, 2, 4])) for _ in range(3)),
        base=(0, 0, 0),
    )
    geometry = Geometry(
        geometry.border,
        geometry.pooling,
        tuple(2 * b % p for b, p in zip(geometry.border, geometry.pooling, strict=True)),
    )
    tile = geometry.tile_for([draw(st.integers(1, 9)) for _ in range(3)])
    kept = geometry.kept(tile)
    block = tuple(k * draw(st.integers(1, 3)) for k in kept)
    shape = tuple(draw(st.integers(1, 25)) for _ in range(3))
    return Plan(shape=shape, tile=tile, block=block, chunk=kept, batch=draw(st.integers(1, 4)), geometry=geometry)


@given(plans())
def test_every_voxel_is_written_by_one_tile_of_one_block(plan: Plan) -> None:
    count = np.zeros(plan.shape, int)
    for block in plan.blocks():
        for tile in block.tiles():
            inside = tile.clip(plan.shape)
            count[inside.slices] += 1
            assert inside == tile.clip(block.write.stop), "a tile reaches into another block"
    assert (count == 1).all()


@given(plans())
def test_origins_are_aligned_and_calls_have_the_shape_of_the_plan(plan: Plan) -> None:
    for block in plan.blocks():
        for tile in block.tiles():
            read = block.read_of(tile)
            assert all(a % p == 0 for a, p in zip(tile.start, plan.geometry.pooling, strict=True))
            assert read.shape == plan.tile
            assert tuple(a - b for a, b in zip(tile.start, read.start, strict=True)) == plan.geometry.border
            inside = read.relative_to(block.read.start)
            assert inside.clip(block.read.shape) == inside, "the block does not read what its tile needs"


@given(plans())
def test_blocks_start_at_shards(plan: Plan) -> None:
    starts = Counter(block.write.start for block in plan.blocks())
    assert all(a % b == 0 for start in starts for a, b in zip(start, plan.block, strict=True))
    assert len(starts) == math.prod(plan.block_counts)
    assert len({block.name for block in plan.blocks()}) == len(starts)


@given(DEPTHS, st.integers(1, 700), st.integers(1, 700))
def test_tile_for_is_the_smallest_legal_tile(depth: int, y: int, x: int) -> None:
    geometry = unet_geometry(depth)
    tile = geometry.tile_for((1, y, x))
    assert geometry.is_legal(tile)
    assert all(k >= n for k, n in zip(geometry.kept(tile), (1, y, x), strict=True))
    smaller = (1, tile[1] - geometry.pooling[1], tile[2])
    assert not geometry.is_legal(smaller) or geometry.kept(smaller)[1] < y


def test_the_papers_geometry() -> None:
    # arXiv:1505.04597, figure 1
    geometry = unet_geometry(4)
    assert geometry.output((1, 572, 572)) == (1, 388, 388)
    assert geometry.border == (0, 92, 92)
    assert geometry.pooling == (1, 16, 16)
    # 388 = 24 * 16 + 4: four voxels are computed and dropped
    assert geometry.kept((1, 572, 572)) == (1, 384, 384)
    assert not geometry.is_legal((1, 570, 572))


@given(DEPTHS)
def test_an_input_that_keeps_nothing_is_not_legal(depth: int) -> None:
    geometry = unet_geometry(depth)
    assert not geometry.is_legal((1, geometry.base[1], geometry.base[2]))
    assert not geometry.is_legal((0, *geometry.tile_for((1, 1, 1))[1:]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"tile": (1, 571, 572)}, r"cannot take a tile of \(1, 571, 572\)", id="tile"),
        pytest.param({"block": (8, 388, 384)}, r"does not consist of whole tiles", id="block of parts of tiles"),
        pytest.param({"chunk": (8, 128, 100)}, r"does not consist of whole chunks", id="block of parts of chunks"),
        pytest.param({"batch": 0}, "a batch of 0", id="batch"),
    ],
)
def test_impossible_plans_are_refused(change: dict[str, object], message: str) -> None:
    good = {
        "shape": (30, 512, 512),
        "tile": (1, 572, 572),
        "block": (8, 384, 384),
        "chunk": (8, 128, 128),
        "batch": 1,
        "geometry": unet_geometry(4),
    }
    Plan(**good)
    with pytest.raises(ValueError, match=message):
        Plan(**(good | change))


REGIONS = st.builds(Region.of, st.tuples(*[st.integers(-20, 20)] * 3), st.tuples(*[st.integers(1, 20)] * 3))


@given(REGIONS, st.tuples(*[st.integers(0, 9)] * 3))
def test_growing_keeps_the_middle(region: Region, border: tuple[int, int, int]) -> None:
    grown = region.grow(border)
    assert grown.shape == tuple(n + 2 * b for n, b in zip(region.shape, border, strict=True))
    assert region.relative_to(grown.start).start == border


@given(REGIONS)
def test_relative_to_moves(region: Region) -> None:
    assert region.relative_to(region.start) == Region((0, 0, 0), region.shape)
    assert region.voxels == math.prod(region.shape)


def test_block_names_are_their_indices() -> None:
    plan = Plan((9, 40, 40), (1, 48, 48), (8, 32, 32), (8, 32, 32), 1, unet_geometry(1))
    assert [block.name for block in plan.blocks()][:3] == ["0.0.0", "0.0.1", "0.1.0"]
    assert Block(plan, (1, 1, 1)).write == Region((8, 32, 32), (9, 40, 40))


def test_clip_of_a_region_outside_is_empty() -> None:
    assert Region((5, 5, 5), (6, 6, 6)).clip((3, 3, 3)).voxels == 0
