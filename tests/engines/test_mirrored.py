"""The mean over mirror images is that of NumPy, and keeps the law that engines are held to."""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiling import assert_tiles_are_the_whole, image

from unetpipe.engines import Engine, Profile, mirrored
from unetpipe.engines.mirrored import mirror_images
from unetpipe.engines.select import backend
from unetpipe.grid import Shape

LIBRARIES = ["openvino", "onnxruntime"]
ANSWER = {(): (), (-3,): (2,), (-2,): (3,), (-1,): (4,), (-3, -2): (2, 3), (-3, -1): (2, 4), (-2, -1): (3, 4),
          (-3, -2, -1): (2, 3, 4)}  # fmt: skip
"""By the axes (z, y, x) of an image, those of the answer (n, classes, z, y, x)."""

Load = Callable[..., Engine]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """A function that builds and loads an engine in fp32."""
    engines = []

    def make(name: str, network: Path, tile: Shape, batch: int = 1, threads: int = 1) -> Engine:
        library = backend(name)
        if reason := library.unavailable("run", "fp32"):
            pytest.skip(reason)
        library.build(network, tmp_path / "engine", Profile((1, batch, batch), tile))
        engines.append(library.load(tmp_path / "engine", tile, batch, threads))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.mark.parametrize(
    ("axes", "images"),
    [
        ("", [()]),
        ("z", [(), (-3,)]),
        ("x", [(), (-1,)]),
        ("xy", [(), (-2,), (-1,), (-2, -1)]),
        ("zyx", [(), (-3,), (-2,), (-1,), (-3, -2), (-3, -1), (-2, -1), (-3, -2, -1)]),
    ],
)
def test_images_are_all_combinations_in_one_order(axes: str, images: list[tuple[int, ...]]) -> None:
    assert mirror_images(tuple(axes)) == mirror_images(tuple(reversed(axes))) == images


@pytest.mark.parametrize("axes", ["x", "y", "yx", "zyx"])
@pytest.mark.parametrize("name", LIBRARIES)
def test_the_mean_is_that_of_numpy_bit_for_bit(name: str, axes: str, case: Any, load: Load) -> None:
    if "z" in axes and case.tile[0] < 4:
        axes = axes.replace("z", "")
    engine = load(name, case.network, case.tile, batch=2)
    batch = image(2, *case.tile)
    answers = [np.flip(engine.run(np.flip(batch, along)), ANSWER[along]) for along in mirror_images(tuple(axes))]
    mean = functools.reduce(np.add, answers) / np.float32(len(answers))
    found = mirrored(engine, tuple(axes)).run(batch)
    assert found.dtype == mean.dtype == np.float32
    np.testing.assert_array_equal(found, mean)
    # Not the answer to one of the images, and not their mean in any order.
    assert all((found != answer).any() for answer in answers)
    if len(answers) > 4:
        assert (functools.reduce(np.add, answers[::-1]) / np.float32(len(answers)) != mean).any()


def test_what_comes_out_is_mirrored_where_what_goes_in_is(small: Path, load: Load) -> None:
    engine = mirrored(load("openvino", small, (1, 60, 52)), ("y", "x"))
    batch = image(1, 1, 60, 52)
    for along in ((-1,), (-2,), (-2, -1)):
        # The sums are of the same terms, in another order.
        np.testing.assert_allclose(engine.run(np.flip(batch, along)), np.flip(engine.run(batch), along), atol=2e-7)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_stream_keeps_order_and_takes_one_array_again_and_again(name: str, small: Path, load: Load) -> None:
    engine = mirrored(load(name, small, (1, 60, 52)), ("y", "x"))
    calls = [image(1, 1, 60, 52, seed=seed) for seed in range(4)]
    wanted = [engine.run(call) for call in calls]

    def reused() -> Iterator[NDArray[np.float32]]:
        array = np.empty((1, 1, 60, 52), np.float32)
        for call in calls:
            array[...] = call
            yield array

    for one, other in zip(engine.stream(reused()), wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    next(engine.stream(reused()))
    np.testing.assert_array_equal(engine.run(calls[3]), wanted[3])


class Ahead(Engine):
    """Takes three calls before it gives the first answer, as a GPU does: the voxels themselves, without a border."""

    def __init__(self) -> None:
        super().__init__("some library 1.0", "some device", (2, 3, 4, 5))
        self.asked = 0
        self.most_waiting = 0
        self.closed = False

    def _stream(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        waiting = []
        for batch in batches:
            self.asked += 1
            waiting.append(batch[:, None].copy())
            self.most_waiting = max(self.most_waiting, len(waiting))
            if len(waiting) == 3:
                yield waiting.pop(0)
        yield from waiting

    def close(self) -> None:
        self.closed = True


def test_calls_of_an_engine_that_works_ahead_still_overlap() -> None:
    plain = Ahead()
    engine = mirrored(plain, ("z", "y", "x"))
    assert (engine.library, engine.device, engine.shape) == (plain.library, plain.device, plain.shape)
    # Sums of small whole numbers are exact.
    calls = [np.rint(100 * image(2, 3, 4, 5, seed=seed)) for seed in range(3)]
    for call, result in zip(calls, engine.stream(calls), strict=True):
        # Mirrored and mirrored back, a voxel is what it was.
        np.testing.assert_array_equal(result, call[:, None])
    assert (plain.asked, plain.most_waiting) == (24, 3)
    with pytest.raises(ValueError, match="a call of shape"):
        engine.run(calls[0][:1])
    engine.close()
    assert plain.closed


def test_without_axes_the_engine_is_left_alone() -> None:
    plain = Ahead()
    assert mirrored(plain, ()) is plain


@pytest.mark.parametrize(
    ("channels", "settings", "axes"),
    [
        # What comes out of a tile is 2 more than a multiple of 9 along y.
        pytest.param(
            (6, 8, 12), {"kernel": [(1, 5, 3), (1, 3, 3), (1, 3, 3)], "pooling": (1, 3, 2)}, "yx",
            id="2D, other along y than along x",
        ),
        pytest.param((6, 12), {"sections": 5}, "yx", id="2.5D"),
        pytest.param((6, 16), {"kernel": (3, 5, 3), "pooling": (3, 2, 1)}, "zyx", id="3D, each axis another"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", LIBRARIES)
def test_tiles_are_the_whole_bit_for_bit(
    name: str, channels: tuple[int, ...], settings: dict[str, Any], axes: str, make_network: Any, load: Load
) -> None:
    network = make_network(*channels, **settings)
    assert_tiles_are_the_whole(
        network,
        lambda tile, batch=1, threads=1: mirrored(load(name, network, tile, batch, threads), tuple(axes)),
        alone=name != "openvino",
    )
