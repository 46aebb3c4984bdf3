"""Plans are legal whatever the volume; the layout that is chosen is the fastest that keeps within the limits."""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rates import made_up

from unetpipe.config import Network
from unetpipe.errors import UserError
from unetpipe.grid import Geometry, Plan, Shape
from unetpipe.layout import Call, Layout, Limits, Rate
from unetpipe.plan import best, calls, choose, cut, one_writer_per_shard

NETWORKS = {
    "2D": Network(depth=4),
    "2.5D": Network(depth=3, sections=5),
    "3D": Network(depth=2, kernel=(3, 3, 3), pooling=(2, 2, 2)),
    "thick sections": Network(
        depth=3, kernel=[(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)], pooling=[(1, 2, 2), (1, 2, 2), (3, 2, 2)]
    ),
}
SHAPES = st.tuples(st.integers(1, 300), st.integers(1, 5000), st.integers(1, 5000))
GEOMETRIES = st.sampled_from(sorted(NETWORKS)).map(lambda name: NETWORKS[name].geometry)
PLENTY = Limits(workers=2, memory_mb=1e6, block_seconds=1e6, classes=2)


def endless() -> Callable[[], float]:
    """A clock by which measuring takes no time, but gives some."""
    return itertools.count(0.0, -1e9).__next__


def chosen(shape: Shape, geometry: Geometry, limits: Limits = PLENTY, **changes: object) -> Layout:
    given: dict[str, object] = {"tile": None, "batch": None, "most_batch": 8, "measure": made_up, "clock": lambda: 0.0}
    return choose(shape, geometry, limits=limits, **(given | changes))  # type: ignore[arg-type]


@given(SHAPES, GEOMETRIES, st.integers(1, 64))
def test_every_volume_can_be_planned(shape: Shape, geometry: Geometry, workers: int) -> None:
    plan = chosen(shape, geometry, replace(PLENTY, workers=workers)).plan
    assert geometry.is_legal(plan.tile)
    for block, kept, chunk, size in zip(plan.block, plan.kept, plan.chunk, shape, strict=True):
        # Whole tiles and whole chunks, and no more of them than the volume needs.
        assert block % kept == block % chunk == 0
        assert block < size + kept
    # A shard has some megabytes, unless a tile has more.
    most = (32, 512, 512) if geometry.dimensions == 3 else (8, 1, 1)
    assert all(b <= max(k, m) for b, k, m in zip(plan.block, plan.kept, most, strict=True))
    one_writer_per_shard(plan.block, plan.block)


@given(SHAPES, GEOMETRIES)
def test_tiles_to_try_are_few_and_waste_little_of_the_volume(shape: Shape, geometry: Geometry) -> None:
    tried = calls(shape, geometry, None, None, 8)
    assert len({call.tile for call in tried}) <= 9
    for call in tried:
        kept = geometry.kept(call.tile)
        for axis, (size, keeps, pooling) in enumerate(zip(shape, kept, geometry.pooling, strict=True)):
            # Equal parts of the volume, but for the poolings and good chunks.
            count = math.ceil(size / keeps)
            assert keeps * count - size < (17 if axis else 1) * pooling * count
    usual = geometry.kept(tried[0].tile)
    assert all(n < most + 17 * p for n, most, p in zip(usual, geometry.most_kept, geometry.pooling, strict=True))


@given(SHAPES, st.integers(1, 6).flatmap(lambda depth: st.just(Network(depth=depth).geometry)))
def test_chunks_are_neither_large_nor_tiny(shape: Shape, geometry: Geometry) -> None:
    for call in calls(shape, geometry, None, 1, 1):
        layout = cut(shape, geometry, call, made_up(call), PLENTY)
        for chunk, kept in zip(layout.plan.chunk[1:], layout.plan.kept[1:], strict=True):
            assert min(64, kept) <= chunk <= 128


def test_a_volume_of_prime_size_has_no_chunks_of_a_voxel() -> None:
    # 1021 is prime: kept as it is, each voxel would be a chunk of its own.
    geometry = Network(depth=1, pooling=(1, 1, 1)).geometry
    plan = chosen((8, 1021, 1021), geometry, tile=None).plan
    assert plan.kept[1:] >= (1021, 1021)
    assert min(plan.chunk[1:]) >= 64


@pytest.mark.parametrize(
    ("network", "shape", "tile", "block"),
    [
        # Whole sections fit into one tile. 1008 + 2 * 92 = 1192 is no legal size, 1196 = 12 + 74 * 16 is one.
        pytest.param("2D", (30, 1000, 512), (1, 1196, 700), (8, 1008, 512), id="2D"),
        # 512 + 2 * 44 = 600; the next legal size is 604 = 4 + 75 * 8.
        pytest.param("2.5D", (30, 512, 512), (5, 604, 604), (8, 512, 512), id="2.5D"),
        # 125 sections in 4 tiles of 32, 512 voxels in 3 of 172 each; two tiles make a block of at most 512 voxels.
        pytest.param("3D", (125, 512, 512), (72, 212, 212), (32, 344, 344), id="3D"),
        pytest.param("3D", (3, 100, 5), (44, 140, 48), (4, 100, 8), id="small"),
    ],
)
def test_the_usual_tile_and_its_blocks(network: str, shape: Shape, tile: Shape, block: Shape) -> None:
    geometry = NETWORKS[network].geometry
    usual = calls(shape, geometry, None, None, 1)[0]
    assert usual == Call(tile, 1)
    assert cut(shape, geometry, usual, made_up(usual), replace(PLENTY, workers=1)).plan.block == block


@pytest.mark.parametrize(
    ("network", "tile"),
    [
        pytest.param(Network(depth=2), [1, 101, 100], id="2D"),
        pytest.param(Network(depth=2), [3, 100, 100], id="sections of a 2D network"),
        pytest.param(NETWORKS["3D"], [45, 60, 60], id="3D"),
        pytest.param(NETWORKS["3D"], [2, 60, 60], id="too few sections"),
    ],
)
def test_a_tile_that_the_network_cannot_take_is_refused(network: Network, tile: list[int]) -> None:
    with pytest.raises(UserError, match="cannot take a tile of") as caught:
        chosen((1, 50, 50), network.geometry, tile=tile)
    assert str(tile) in caught.value.found
    near = json.loads(caught.value.repair.removeprefix("set predict.tile to a size such as ").split(", or")[0])
    assert network.geometry.is_legal(network.tile(near))


SPEEDS: dict[str, Callable[[Call], float]] = {
    "all voxels cost the same": lambda call: call.voxels / 1e6,
    "large calls leave the cache": lambda call: call.voxels / 1e6 * (1 + call.voxels / 2e6),
    "calls cost a lot by themselves": lambda call: 0.5 + call.voxels / 1e7,
}


@given(SHAPES, GEOMETRIES, st.sampled_from(sorted(SPEEDS)), st.integers(1, 16))
def test_the_fastest_layout_is_taken_or_one_that_keeps_much_and_is_nearly_as_fast(
    shape: Shape, geometry: Geometry, speed: str, workers: int
) -> None:
    limits = replace(PLENTY, workers=workers)
    tried: list[Layout] = []

    def measure(call: Call) -> Rate:
        rate = made_up(call, SPEEDS[speed])
        tried.append(cut(shape, geometry, call, rate, limits))
        return rate

    # All the time of the world: of what promises enough, everything is measured.
    found = chosen(shape, geometry, limits, measure=measure, clock=endless())
    assert found in tried
    fastest = max(layout.voxels_per_second for layout in tried)
    roomy = [
        layout.voxels_per_second
        for layout in tried
        if layout.plan.kept_fraction >= 0.8 and layout.voxels_per_second >= 0.95 * fastest
    ]
    assert found.voxels_per_second == (max(roomy) if roomy else fastest)
    assert found.plan.kept_fraction >= 0.8 or not roomy


def layout_of(kept: int, seconds: float) -> Layout:
    geometry = Geometry((0, 50, 50), (1, 1, 1), (0, 0, 0))
    call = Call((1, kept + 100, kept + 100), 1)
    rate = made_up(call, lambda call: seconds)
    block = (1, kept, kept)
    return Layout(Plan((1, kept, kept), call.tile, block, block, 1, geometry), rate, PLENTY)


@pytest.mark.parametrize(
    ("slower", "taken"),
    [pytest.param(1.04, 900, id="costs little"), pytest.param(1.07, 300, id="costs too much")],
)
def test_keeping_much_is_worth_five_per_cent(slower: float, taken: int) -> None:
    # 300 of 400 keeps 56 %, 900 of 1000 keeps 81 %.
    layouts = [layout_of(300, 1.0), layout_of(900, 9.0 * slower)]
    assert best(layouts).plan.kept[1] == taken


def test_a_tile_and_a_batch_that_are_given_are_taken() -> None:
    geometry = NETWORKS["2D"].geometry
    plan = chosen((30, 3000, 3000), geometry, tile=[1, 572, 572], batch=3).plan
    assert (plan.tile, plan.batch) == ((1, 572, 572), 3)


def test_small_tiles_are_computed_together_where_that_is_faster() -> None:
    geometry = Network(depth=2).geometry
    dear = chosen((800, 120, 120), geometry, measure=lambda call: made_up(call, lambda call: 1.0), clock=endless())
    assert dear.plan.batch == 8
    cheap = chosen((800, 120, 120), geometry, measure=lambda call: made_up(call, lambda call: call.batch * 1.1))
    assert cheap.plan.batch == 1
    few = chosen(
        (800, 120, 120),
        geometry,
        most_batch=5,
        measure=lambda call: made_up(call, lambda call: 1.0),
        clock=endless(),
    )
    assert few.plan.batch == 4


@given(SHAPES, GEOMETRIES, st.integers(300, 20_000), st.floats(0.2, 1000))
def test_memory_and_seconds_of_a_block_are_bounded(
    shape: Shape, geometry: Geometry, memory_mb: int, seconds: float
) -> None:
    limits = Limits(workers=2, memory_mb=memory_mb, block_seconds=seconds, classes=3)
    found, refusal = attempt(shape, geometry, limits)
    assert (found is None) == bool(refusal)
    if found is not None:
        assert found.memory_mb <= memory_mb
        assert found.block_seconds <= seconds
    else:
        assert "predict.memory_mb" in refusal or "predict.block_seconds" in refusal


def attempt(shape: Shape, geometry: Geometry, limits: Limits) -> tuple[Layout | None, str]:
    try:
        return chosen(shape, geometry, limits), ""
    except UserError as error:
        return None, str(error)


@given(SHAPES, GEOMETRIES)
def test_less_memory_gives_smaller_tiles_and_then_a_refusal(shape: Shape, geometry: Geometry) -> None:
    free = chosen(shape, geometry)
    assume(free.memory_mb > 400)
    less, refusal = attempt(shape, geometry, replace(PLENTY, memory_mb=free.memory_mb - 1))
    assert "predict.memory_mb" in refusal if less is None else less.memory_mb < free.memory_mb
    with pytest.raises(UserError, match=r"predict\.memory_mb"):
        chosen(shape, geometry, replace(PLENTY, memory_mb=100))


def test_what_a_worker_holds_counts() -> None:
    """Beside the calls, three blocks."""
    found = chosen((8, 1000, 1000), NETWORKS["2D"].geometry, tile=[1, 1196, 1196])
    held = found.memory_mb - found.rate.memory_mb
    block = 4 * 1196**2 * 4 + 4 * 1008**2 * 2
    assert found.plan.block[0] == 4
    assert held >= 3 * block / 2**20


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8, 16])
@pytest.mark.parametrize("sections", [1, 4, 8, 30, 1000])
def test_workers_are_busy_until_the_end(sections: int, workers: int) -> None:
    shape = (sections, 384, 384)
    found = chosen(shape, NETWORKS["2D"].geometry, replace(PLENTY, workers=workers), batch=1)
    section = found.rate.seconds_per_call
    # As if every section were a block, give or take a twentieth.
    assert found.work_seconds <= math.ceil(sections / workers) * section / 0.95 + 1e-9
    # And blocks are not smaller than that needs.
    larger = replace(found.plan, block=(found.plan.block[0] + 1, *found.plan.block[1:]), chunk=(1, 128, 128))
    if found.plan.block[0] < min(8, sections):
        assert replace(found, plan=larger).work_seconds > found.work_seconds


@given(st.tuples(st.integers(1, 40), st.integers(1, 900), st.integers(1, 900)), st.integers(1, 4), st.integers(1, 3))
def test_seconds_are_those_of_all_calls(shape: Shape, batch: int, workers: int) -> None:
    geometry = Network(depth=1).geometry
    rate = made_up(Call((1, 300, 300), batch), lambda call: 3.0, seconds_per_voxel=1e-6)
    found = cut(shape, geometry, rate.call, rate, replace(PLENTY, workers=workers))
    seconds = [math.ceil(len(block.tiles()) / batch) * 3.0 + block.write.voxels * 1e-6 for block in found.plan.blocks()]
    assert found.tiles == sum(len(block.tiles()) for block in found.plan.blocks())
    assert found.block_seconds == pytest.approx(max(seconds))
    assert sum(seconds) / workers <= found.work_seconds + 1e-6
    assert found.work_seconds <= sum(seconds) / workers + max(seconds) + 1e-6
    assert found.seconds == found.work_seconds + rate.start_seconds


def test_reading_and_writing_hide_behind_a_device_of_its_own() -> None:
    call = Call((1, 300, 300), 1)
    shape, geometry = (8, 200, 200), Network(depth=1).geometry
    alone, hidden, slow = (
        cut(shape, geometry, call, made_up(call, lambda call: 1.0, **facts), replace(PLENTY, workers=1)).work_seconds
        for facts in (
            {"seconds_per_voxel": 1e-5},
            {"seconds_per_voxel": 1e-5, "overlaps": True},
            {"seconds_per_voxel": 1e-3, "overlaps": True},
        )
    )
    assert (alone, hidden, slow) == pytest.approx((8 + 3.2, 8, 320))


class Clock:
    """Measuring takes as long as ``cost`` says."""

    def __init__(self, cost: Callable[[Call], float]) -> None:
        self.now = 0.0
        self.measured: list[Call] = []
        self._cost = cost

    def measure(self, call: Call) -> Rate:
        self.measured.append(call)
        self.now += self._cost(call)
        return made_up(call)

    def __call__(self) -> float:
        return self.now


def test_for_a_small_volume_one_layout_is_measured() -> None:
    clock = Clock(lambda call: 3.0)
    chosen((8, 1500, 1500), NETWORKS["2D"].geometry, measure=clock.measure, clock=clock)
    assert len(clock.measured) == 1


def test_measuring_takes_some_seconds_at_most() -> None:
    geometry = NETWORKS["2D"].geometry
    clock = Clock(lambda call: 0.5 + 3 * call.voxels / 1e6)
    chosen((1000, 20_000, 20_000), geometry, measure=clock.measure, clock=clock)
    assert len(clock.measured) > 1
    # The first one has to be measured.
    assert clock.now - (0.5 + 3 * clock.measured[0].voxels / 1e6) <= 10


def test_what_an_engine_cannot_take_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def measure(call: Call) -> Rate:
        if call.voxels > 1e6:
            raise UserError("a call was to be made", "there is not enough memory of the GPU", "take less")
        return made_up(call)

    found = chosen((50, 4000, 4000), NETWORKS["2D"].geometry, measure=measure)
    assert math.prod(found.plan.tile) <= 1e6
    assert "not enough memory of the GPU" in caplog.text


def test_an_engine_that_takes_nothing_says_why() -> None:
    def measure(call: Call) -> Rate:
        raise UserError("a call was to be made", f"the file is damaged: {call}", "build it again")

    with pytest.raises(UserError, match="the file is damaged: 1 x 1 x 1196 x 1196"):
        chosen((50, 1000, 1000), NETWORKS["2D"].geometry, measure=measure)


SMALL = st.tuples(*(st.integers(1, 6) for _ in range(3)))


@given(SMALL, SMALL)
def test_layouts_in_which_two_blocks_could_write_one_shard_are_refused(block: Shape, shard: Shape) -> None:
    # Along each axis, enough blocks that any overlap shows.
    writers: dict[tuple[int, int], set[int]] = {}
    for axis, (size, part) in enumerate(zip(block, shard, strict=True)):
        for voxel in range(size * 7):
            writers.setdefault((axis, voxel // part), set()).add(voxel // size)
    shared = any(len(blocks) > 1 for blocks in writers.values())
    if shared:
        with pytest.raises(UserError, match="two blocks could write one shard"):
            one_writer_per_shard(block, shard)
    else:
        one_writer_per_shard(block, shard)


def test_blocks_go_from_large_to_small() -> None:
    """The least block is one tile, whatever the limits."""
    geometry = NETWORKS["3D"].geometry
    call = Call((44, 60, 60), 1)
    shape = (100, 400, 400)
    per_tile = made_up(call, lambda call: 1.0)
    sizes = [
        math.prod(cut(shape, geometry, call, per_tile, replace(PLENTY, block_seconds=limit)).plan.block)
        for limit in (1e6, 1000, 100, 10, 1)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == math.prod(geometry.kept(call.tile))
    with pytest.raises(UserError, match=r"takes 1 s; predict\.block_seconds allows 0\.5"):
        cut(shape, geometry, call, per_tile, replace(PLENTY, block_seconds=0.5))
    assert all(a != b for a, b in itertools.pairwise(sizes[1:]))
