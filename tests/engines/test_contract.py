"""All engines give the network's probabilities, and the same bits however the calls are made."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from unetpipe.engines import onnx_file
from unetpipe.engines.contract import Engine, Profile
from unetpipe.engines.select import backend
from unetpipe.grid import Region, Shape, triple

CLASSES = 3
CAPABILITIES = ["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"]
ON_PROCESSORS = [pytest.param("openvino", id="openvino"), pytest.param("onnxruntime", id="onnxruntime")]
ALL = [
    *ON_PROCESSORS,
    pytest.param("tensorrt", id="tensorrt", marks=pytest.mark.gpu),
    pytest.param("tensorrt_rtx", id="tensorrt_rtx", marks=pytest.mark.gpu),
]

Open = Callable[..., Engine]


@pytest.fixture
def open_engine(tmp_path: Path) -> Iterator[Open]:
    """A function that builds a network for one shape of call and loads the engine."""
    engines = []

    def make(name: str, network: Path, tile: Shape, batch: int = 1, threads: int = 1) -> Engine:
        library = backend(name, CAPABILITIES)
        if reason := library.unavailable("run"):
            pytest.skip(reason)
        library.build(network, tmp_path / "engine", Profile((1, batch, batch), tile))
        engine = library.load(tmp_path / "engine", tile, batch, threads)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def image(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", ALL)
def test_probabilities_are_those_of_the_network(name: str, case: Any, open_engine: Open) -> None:
    engine = open_engine(name, case.network, case.tile, batch=2)
    batch = image(2, *case.tile)
    found = engine.run(batch)
    assert found.dtype == np.float32
    assert found.shape == (2, CLASSES, *onnx_file.read(case.network)[1].geometry.output(case.tile))
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    # The definitions of the operations, in NumPy. TF32 or bf16 would be off by 1e-3.
    (wanted,) = ReferenceEvaluator(onnx.load(case.network)).run(None, {"image": batch})
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert engine.library.split()[0] == name
    assert engine.device


@pytest.mark.parametrize("name", ALL)
def test_the_place_in_a_batch_does_not_matter(name: str, case: Any, open_engine: Open) -> None:
    engine = open_engine(name, case.network, case.tile, batch=3)
    first, second, third = image(3, *case.tile)
    together = engine.run(np.stack([first, second, third]))
    other = engine.run(np.stack([third, first, np.zeros_like(first)]))
    np.testing.assert_array_equal(together[0], other[1])
    np.testing.assert_array_equal(together[2], other[0])


@pytest.mark.parametrize("name", ALL)
def test_a_stream_keeps_order_and_takes_one_array_again_and_again(name: str, case: Any, open_engine: Open) -> None:
    engine = open_engine(name, case.network, case.tile)
    calls = [image(1, *case.tile, seed=seed) for seed in range(5)]
    wanted = [engine.run(call) for call in calls]

    def reused() -> Iterator[NDArray[np.float32]]:
        array = np.empty((1, *case.tile), np.float32)
        for call in calls:
            array[...] = call
            yield array

    found = list(engine.stream(reused()))
    assert len(found) == 5
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    # A stream that is left early does no harm to the next.
    left = engine.stream(reused())
    next(left)
    np.testing.assert_array_equal(engine.run(calls[3]), wanted[3])


@pytest.mark.parametrize("name", ALL)
def test_results_are_in_memory_of_their_own(name: str, small: Path, open_engine: Open) -> None:
    engine = open_engine(name, small, (1, 60, 52))
    first = engine.run(image(1, 1, 60, 52))
    copy = first.copy()
    engine.run(image(1, 1, 60, 52, seed=1))
    np.testing.assert_array_equal(first, copy)
    first[...] = 0


@pytest.mark.parametrize("name", ALL)
def test_calls_of_another_shape_are_refused(name: str, thick: Path, open_engine: Open) -> None:
    engine = open_engine(name, thick, (20, 44, 52), batch=2)
    with pytest.raises(ValueError, match=r"a call of shape \(2, 18, 44, 52\) to an engine for \(2, 20, 44, 52\)"):
        engine.run(image(2, 18, 44, 52))


@pytest.mark.parametrize("name", ALL)
def test_views_and_other_types_are_taken(name: str, small: Path, open_engine: Open) -> None:
    engine = open_engine(name, small, (1, 60, 52))
    batch = image(1, 1, 60, 104)[..., ::2]
    np.testing.assert_array_equal(engine.run(batch.astype(np.float64)), engine.run(batch.copy()))  # type: ignore[arg-type]


# What a volume is cut into, in units of the poolings: tiles that keep so much along (z, y, x), so many a call, threads.
CUTS = {
    2: [((1, 1, 1), 3, 1), ((1, 2, 3), 1, 2), ((1, 6, 2), 2, 1), ((1, 1, 24), 1, 3), ((1, 3, 12), 4, 2)],
    3: [((1, 1, 1), 3, 1), ((2, 1, 4), 1, 2), ((4, 3, 2), 2, 1), ((1, 1, 12), 1, 3), ((4, 3, 6), 2, 2)],
}
VOLUME = {2: (1, 6, 24), 3: (4, 3, 12)}


@pytest.mark.parametrize(
    ("channels", "settings"),
    [
        pytest.param((4, 8), {}, id="2D, depth 1"),
        pytest.param((6, 12, 24), {}, id="2D, depth 2"),
        pytest.param((16, 32, 64), {}, id="2D, depth 2, wide"),
        pytest.param((4, 8, 16, 32), {}, id="2D, depth 3"),
        # So many channels that a library which chooses the order of sums by the shape of the call does so here.
        pytest.param((8, 512), {}, id="2D, many channels at the bottom"),
        pytest.param((160, 8), {}, id="2D, many channels at the top"),
        # Libraries have other kernels for channels that do not fill their registers.
        pytest.param((18, 36), {}, id="2D, no multiple of 4"),
        pytest.param((6, 300), {"kernel": (1, 5, 3), "pooling": (1, 3, 1)}, id="2D, other along y than along x"),
        pytest.param((6, 12), {"sections": 5}, id="2.5D"),
        pytest.param(
            (4, 8, 12),
            {"kernel": [(1, 3, 3), (3, 3, 3), (3, 3, 3)], "pooling": [(1, 2, 2), (2, 2, 2)]},
            id="3D, thick sections",
        ),
        pytest.param((18, 36), {"kernel": (3, 3, 3), "pooling": (2, 2, 2)}, id="3D, no multiple of 4"),
        pytest.param((6, 256), {"kernel": (3, 3, 3), "pooling": (2, 2, 2)}, id="3D, many channels at the bottom"),
        pytest.param((160, 8), {"kernel": [(1, 3, 3), (3, 3, 3)]}, id="3D, never pooled along z, many channels"),
        pytest.param((64, 8), {"kernel": (3, 3, 3), "pooling": (2, 2, 2)}, id="3D, many channels at the top"),
        pytest.param((6, 150), {"kernel": (3, 5, 3), "pooling": (3, 2, 1)}, id="3D, each axis another"),
    ],
)
@pytest.mark.parametrize("name", ON_PROCESSORS)
def test_tiles_are_the_whole_bit_for_bit(
    name: str,
    channels: tuple[int, ...],
    settings: dict[str, Any],
    make_network: Callable[..., Path],
    open_engine: Open,
) -> None:
    network = make_network(*channels, **settings)
    geometry = onnx_file.read(network)[1].geometry
    kept = times(VOLUME[geometry.dimensions], geometry.pooling)
    whole = geometry.tile_for(kept)
    volume = image(1, *whole)
    within = (slice(None), *(slice(size) for size in kept))
    wanted = open_engine(name, network, whole).run(volume)[0][within]
    for threads in (2, 3):
        found = open_engine(name, network, whole, threads=threads).run(volume)[0][within]
        np.testing.assert_array_equal(found, wanted, err_msg=f"{threads} threads")
    for units, batch, threads in CUTS[geometry.dimensions]:
        step = times(units, geometry.pooling)
        tile = geometry.tile_for(step)
        starts = list(itertools.product(*(range(0, size, one) for size, one in zip(kept, step, strict=True))))
        tiles = np.stack([volume[0][Region.of(start, tile).slices] for start in starts])
        assert tiles.shape[1:] == tile
        engine = open_engine(name, network, tile, batch, threads)
        missing = -len(tiles) % batch
        tiles = np.concatenate([tiles, np.zeros((missing, *tile), np.float32)])
        results = np.concatenate(list(engine.stream(np.split(tiles, len(tiles) // batch))))
        for start, result in zip(starts, results[: len(starts)], strict=True):
            np.testing.assert_array_equal(
                result[(slice(None), *(slice(size) for size in step))],
                wanted[(slice(None), *Region.of(start, step).slices)],
                err_msg=f"tile {tile} at {start}, batches of {batch}, {threads} threads",
            )


def times(shape: Shape, factors: Shape) -> Shape:
    return triple([size * factor for size, factor in zip(shape, factors, strict=True)])


@pytest.mark.parametrize("batch", [(0, 1, 2), (2, 1, 2), (1, 3, 2)], ids=str)
def test_a_profile_needs_ordered_batches(batch: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="least, usual, most"):
        Profile(batch, (1, 60, 52))
