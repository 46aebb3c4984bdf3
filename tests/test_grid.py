"""Geometry: every voxel is written once, every origin is aligned, every call has the one shape of the plan."""

import itertools
import json
import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from unetpipe.config import Network
from unetpipe.errors import UserError
from unetpipe.grid import AXES, Block, Geometry, Plan, Region, Shape, triple, unet_geometry
from unetpipe.plan import one_writer_per_shard

DEPTHS = st.integers(1, 5)
SHAPES = st.tuples(*[st.integers(1, 4)] * 3)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Of networks of any dimension, with a kernel and a pooling for each level and axis."""
    depth = draw(DEPTHS)
    flat = draw(st.booleans())
    kernels, poolings = (
        [triple([1, *shape[1:]]) if flat else shape for shape in draw(st.lists(SHAPES, min_size=n, max_size=n))]
        for n in (depth + 1, depth)
    )
    odd = [triple([2 * n - 1 for n in kernel]) for kernel in kernels]
    geometry = unet_geometry(odd, poolings)
    return unet_geometry(odd, poolings, draw(st.sampled_from([1, 3, 5]))) if geometry.dimensions == 2 else geometry


def lost_and_pooled(kernels: list[int], poolings: list[int], size: int) -> int:
    """What goes through the network along one axis comes out as so much; 0 if it cannot."""
    passed = []
    for kernel, pooling in zip(kernels, poolings, strict=False):
        size -= 2 * (kernel - 1)
        passed.append(size)
        if size <= 0 or size % pooling:
            return 0
        size //= pooling
    size -= 2 * (kernels[-1] - 1)
    for kernel, pooling, skip in zip(kernels[-2::-1], poolings[::-1], passed[::-1], strict=True):
        size = size * pooling
        if size <= 0 or (skip - size) % 2:
            return 0
        size -= 2 * (kernel - 1)
    return max(0, size)


@given(
    st.integers(1, 4).flatmap(
        lambda depth: st.tuples(
            st.lists(st.sampled_from([1, 3, 5]), min_size=depth + 1, max_size=depth + 1),
            st.lists(st.integers(1, 4), min_size=depth, max_size=depth),
        )
    ),
    st.integers(1, 400),
    st.sampled_from(range(3)),
)
def test_legal_sizes_are_those_that_pass_through_all_levels(
    levels: tuple[list[int], list[int]], size: int, axis: int
) -> None:
    kernels, poolings = levels
    # The other axes only make it a 3D network; each of them has a legal size.
    geometry = unet_geometry(
        [triple([kernel if i == axis else 3 for i in range(3)]) for kernel in kernels],
        [triple([pooling if i == axis else 1 for i in range(3)]) for pooling in poolings],
    )
    assume(axis > 0 or geometry.dimensions == 3)
    tile = triple([size if i == axis else n for i, n in enumerate(geometry.tile_for((1, 1, 1)))])
    output = lost_and_pooled(kernels, poolings, size)
    # A tile that keeps less than one pooling comes through, but gives nothing aligned.
    assert geometry.is_legal(tile) == (output >= geometry.pooling[axis])
    if output:
        assert geometry.output(tile)[axis] == output


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
        dimensions=3,
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


@given(geometries(), st.tuples(*[st.integers(1, 700)] * 3), st.sampled_from(range(3)))
def test_tile_for_is_the_smallest_legal_tile(geometry: Geometry, wanted: tuple[int, int, int], axis: int) -> None:
    tile = geometry.tile_for(wanted)
    assert geometry.is_legal(tile)
    if geometry.dimensions == 2:
        # One section, whatever is asked for.
        assert geometry.kept(tile)[0] == geometry.output(tile)[0] == 1
        wanted = (1, *wanted[1:])
    assert all(k >= n for k, n in zip(geometry.kept(tile), wanted, strict=True))
    smaller = triple([n - geometry.pooling[i] * (i == axis) for i, n in enumerate(tile)])
    assert not geometry.is_legal(smaller) or geometry.kept(smaller)[axis] < wanted[axis]


@given(geometries())
def test_json_keeps_all_of_a_geometry(geometry: Geometry) -> None:
    assert Geometry.of(json.loads(json.dumps(asdict(geometry)))) == geometry


@pytest.mark.parametrize(
    ("network", "border", "pooling"),
    [
        pytest.param(Network(depth=1), (0, 8, 8), (1, 2, 2), id="2D"),
        pytest.param(Network(depth=1, sections=5), (2, 8, 8), (1, 2, 2), id="2.5D"),
        # arXiv:1606.06650, figure 2: 132 x 132 x 116 voxels give 44 x 44 x 28.
        pytest.param(Network(depth=3, kernel=(3, 3, 3), pooling=(2, 2, 2)), (44, 44, 44), (8, 8, 8), id="3D U-Net"),
        pytest.param(
            Network(depth=2, kernel=[(1, 3, 3), (3, 3, 3), (3, 3, 3)], pooling=[(1, 2, 2), (2, 2, 2)]),
            # Twice one voxel a side in the middle level, once two of twice its size in the lowest.
            (8, 20, 20),
            (2, 4, 4),
            id="thick sections",
        ),
    ],
)
def test_border_and_pooling_of_each_axis(
    network: Network, border: tuple[int, int, int], pooling: tuple[int, int, int]
) -> None:
    assert (network.geometry.border, network.geometry.pooling) == (border, pooling)
    assert network.geometry.dimensions == (3 if pooling[0] > 1 else 2)


@pytest.mark.parametrize("sections", [1, 3, 7])
def test_along_z_a_2d_network_takes_its_sections_alone(sections: int) -> None:
    network = Network(depth=2, sections=sections)
    assert network.tile((44, 48)) == (sections, 44, 48)
    assert network.geometry.is_legal((sections, 44, 48))
    assert not any(network.geometry.is_legal((z, 44, 48)) for z in range(1, 12) if z != sections)


@pytest.mark.parametrize(
    ("network", "voxels", "message"),
    [
        pytest.param(Network(), (1, 300, 300), r"has 3 axes; this network takes tiles \(y, x\)", id="2D"),
        pytest.param(
            Network(kernel=(3, 3, 3)), (300, 300), r"has 2 axes; this network takes tiles \(z, y, x\)", id="3D"
        ),
    ],
)
def test_a_tile_has_the_axes_of_the_network(network: Network, voxels: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network.tile(voxels)


def test_the_papers_geometry() -> None:
    # arXiv:1505.04597, figure 1
    geometry = Network(depth=4).geometry
    assert geometry.output((1, 572, 572)) == (1, 388, 388)
    assert geometry.border == (0, 92, 92)
    assert geometry.pooling == (1, 16, 16)
    # 388 = 24 * 16 + 4: four voxels are computed and dropped
    assert geometry.kept((1, 572, 572)) == (1, 384, 384)
    assert not geometry.is_legal((1, 570, 572))


@given(geometries(), st.sampled_from(range(3)))
def test_an_input_that_keeps_nothing_is_not_legal(geometry: Geometry, axis: int) -> None:
    smallest = geometry.tile_for((1, 1, 1))
    assert not geometry.is_legal([n - geometry.pooling[i] * (i == axis) for i, n in enumerate(smallest)])
    assert not geometry.is_legal([geometry.base[i] if i == axis else n for i, n in enumerate(smallest)])


@given(geometries())
def test_a_chosen_tile_keeps_about_as_many_voxels_in_every_dimension(geometry: Geometry) -> None:
    assert 2**19 <= math.prod(geometry.most_kept) <= 2**21
    assert (geometry.most_kept[AXES.index("z")] == 1) == (geometry.dimensions == 2)


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
        "geometry": Network(depth=4).geometry,
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
    plan = Plan((9, 40, 40), (1, 48, 48), (8, 32, 32), (8, 32, 32), 1, Network(depth=1).geometry)
    assert [block.name for block in plan.blocks()][:3] == ["0.0.0", "0.0.1", "0.1.0"]
    assert Block(plan, (1, 1, 1)).write == Region((8, 32, 32), (9, 40, 40))


def test_clip_of_a_region_outside_is_empty() -> None:
    assert Region((5, 5, 5), (6, 6, 6)).clip((3, 3, 3)).voxels == 0


SIZES = st.tuples(*[st.integers(1, 12)] * 3)


@given(block=SIZES, shard=SIZES, shape=st.tuples(*[st.integers(1, 30)] * 3))
@example(block=(4, 6, 6), shard=(2, 3, 6), shape=(9, 13, 13)).via("whole shards")
@example(block=(4, 6, 6), shard=(4, 6, 12), shape=(4, 6, 13)).via("a shard of two blocks")
@example(block=(4, 6, 6), shard=(3, 6, 6), shape=(8, 6, 6)).via("a shard between two blocks")
def test_no_layout_is_accepted_in_which_two_blocks_share_a_shard(block: Shape, shard: Shape, shape: Shape) -> None:
    geometry = Geometry((0, 0, 0), (1, 1, 1), (0, 0, 0), dimensions=3)
    writers: dict[tuple[int, ...], set[str]] = {}
    for each in Plan(shape, block, block, block, 1, geometry).blocks():
        touched = (range(a // n, -(-b // n)) for (a, b), n in zip(each.write.spans, shard, strict=True))
        for index in itertools.product(*touched):
            writers.setdefault(index, set()).add(each.name)
    whole = all(b % n == 0 for b, n in zip(block, shard, strict=True))
    if max(map(len, writers.values())) > 1 or not whole:
        with pytest.raises(UserError, match="two blocks could write one shard"):
            one_writer_per_shard(block, shard)
    else:
        one_writer_per_shard(block, shard)
