"""What a prediction reads is what its blocks read."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rates import made_up

from unetpipe.config import Network
from unetpipe.forecast import Stored, amount, bytes_read, duration, forecast, told
from unetpipe.grid import Plan, Shape
from unetpipe.layout import Call, Layout, Limits
from unetpipe.volume import read_mirrored

NETWORKS = {
    "2D": Network(depth=1),
    "2.5D": Network(depth=1, sections=3),
    "3D": Network(depth=1, kernel=(3, 3, 3), pooling=(2, 2, 2)),
}


class Counting:
    """An array that counts the voxels of the chunks which are read."""

    def __init__(self, shape: Shape, chunk: Shape) -> None:
        self.array = np.zeros(shape, np.uint16)
        self.chunk = chunk
        self.voxels = 0

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        count = 1
        for part, chunk, size in zip(box, self.chunk, self.array.shape, strict=True):
            chunks = {voxel // chunk for voxel in range(part.start, part.stop)}
            count *= sum(min(chunk, size - index * chunk) for index in chunks)
        self.voxels += count
        return self.array[box]


@settings(max_examples=50)
@given(
    st.sampled_from(sorted(NETWORKS)),
    st.tuples(st.integers(1, 9), st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 5), st.integers(5, 40), st.integers(5, 40)),
    st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2)),
    st.integers(0, 3),
)
def test_bytes_read_are_those_of_all_chunks_that_blocks_read(
    network: str, shape: Shape, chunk: Shape, tiles: Shape, first: int
) -> None:
    geometry = NETWORKS[network].geometry
    tile = geometry.tile_for((2, 20, 14))
    block = tuple(n * k for n, k in zip(tiles, geometry.kept(tile), strict=True))
    plan = Plan(shape, tile, block, block, 1, geometry)  # type: ignore[arg-type]
    array = Counting((shape[0] + first, *shape[1:]), chunk)
    for each in plan.blocks():
        read_mirrored(array, each.read, shape, first)  # type: ignore[arg-type]
    image = Stored(array.array.shape, chunk, array.array.itemsize, first)  # type: ignore[arg-type]
    assert bytes_read(plan, image) == 2 * array.voxels


def test_a_volume_of_many_terabytes_is_forecast_at_once() -> None:
    geometry = Network(depth=4).geometry
    shape = (20_000, 100_000, 100_000)
    call = Call(geometry.tile_for((1, 2048, 2048)), 1)
    block = (8, 2048, 2048)
    layout = Layout(Plan(shape, call.tile, block, (8, 128, 128), 1, geometry), made_up(call), Limits(64, 1e5, 60, 2))
    blocks = 2500 * 49 * 49
    found = forecast(layout, Stored(shape, (8, 128, 128), 1), blocks)
    assert found["bytes_written"] == 2 * 20_000 * 100_000**2
    # Each voxel once, and borders again.
    assert 1 < found["bytes_read"] / 2e14 < 1.5
    assert found["files"] == blocks + 5 + 64
    text = told(layout.plan, found)
    assert text["writes"].startswith("400 TB before compression, 6,002,569 files")
    assert text["tiles"].startswith("48,020,000 of 1 x 2236 x 2236 that keep 1 x 2048 x 2048 (84 %)")
    assert text["time"].split(":")[0].endswith("days")


def test_mirror_images_are_told() -> None:
    geometry = Network(depth=2).geometry
    call = Call((1, 84, 84), 2)
    plan = Plan((4, 88, 88), call.tile, (4, 44, 44), (4, 44, 44), 2, geometry)
    plain, mirrored = (
        forecast(Layout(plan, made_up(call, mirror=axes), Limits(1, 1e5, 60, 2)), Stored(plan.shape, plan.chunk, 1), 4)
        for axes in ((), ("y", "x"))
    )
    assert (plain["mirror"], mirrored["mirror"]) == ([], ["y", "x"])
    assert told(plan, mirrored)["tiles"].endswith(", 2 a call, in 4 mirror images (along y, x)")
    assert " s a call of 2 x 1 x 84 x 84, in 4 mirror images (along y, x), " in told(plan, mirrored)["basis"]
    assert "mirror" not in str(told(plan, plain))
    # As an earlier version wrote it.
    del plain["mirror"]
    assert "mirror" not in str(told(plan, plain))


@pytest.mark.parametrize(("wanted", "turns"), [(1, 1), (3, 1), (4, 1), (5, 2), (36, 9)])
def test_few_blocks_take_as_long_as_whoever_has_most_of_them(wanted: int, turns: int) -> None:
    call = Call((1, 112, 112), 1)
    geometry = Network(depth=2).geometry
    block = geometry.kept(call.tile)
    shape = (4, 3 * block[1], 3 * block[2])
    layout = Layout(Plan(shape, call.tile, block, block, 1, geometry), made_up(call), Limits(4, 1e5, 60, 2))
    found = forecast(layout, Stored(shape, block, 1), wanted)
    assert found["seconds"] - found["start_seconds"] == pytest.approx(turns * layout.block_seconds, abs=2e-3)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_000, "1.23 MB"), (5e13, "50 TB"), (5e16, "5e+04 TB")],
)
def test_amounts(count: float, text: str) -> None:
    assert amount(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.123, "0.12 s"), (9.96, "10 s"), (65, "65 s"), (600, "10 min"), (7200, "2.0 h"), (1e6, "11.6 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
