"""All engines give the network's probabilities, and the same bits however the calls are made."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from tiling import Build, assert_tiles_are_the_whole, image

from unetpipe.config import Precision
from unetpipe.engines import onnx_file
from unetpipe.engines.contract import Engine, Profile
from unetpipe.engines.select import backend
from unetpipe.grid import Shape

CLASSES = 3
CAPABILITIES = ["8.0", "8.6", "8.9", "12.0", "12.1"]
Kind = tuple[str, Precision]

ON_PROCESSORS: list[Kind] = [
    ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"),
]  # fmt: skip
ALL = [
    *(pytest.param(kind, id="-".join(kind)) for kind in ON_PROCESSORS),
    *(
        pytest.param((name, precision), id=f"{name}-{precision}", marks=pytest.mark.gpu)
        for name in ("tensorrt", "tensorrt_rtx")
        for precision in ("fp32", "fp16", "bf16", "int8")
    ),
]
TOLERANCE: dict[str, float] = {"fp32": 1e-5, "fp16": 2e-2, "bf16": 1e-1, "int8": 1e-1}
"""TF32 or bf16 in place of fp32 would be off by 1e-3."""

InForm = Callable[[Path, str], Path]
Open = Callable[..., Engine]


@pytest.fixture
def open_engine(tmp_path: Path, in_form: InForm) -> Iterator[Open]:
    """A function that builds a network for one shape of call and loads the engine."""
    builds: dict[tuple[Kind, Path], Build] = {}

    def make(kind: Kind, network: Path, tile: Shape, batch: int = 1, threads: int = 1) -> Engine:
        name, precision = kind
        library = backend(name, CAPABILITIES)
        if reason := library.unavailable("run", precision):
            pytest.skip(reason)
        if (kind, network) not in builds:
            form = in_form(network, library.form(precision))
            builds[kind, network] = Build(library, form, tmp_path / f"engine-{len(builds)}")
        return builds[kind, network].open(tile, batch, threads)

    yield make
    for build in builds.values():
        build.close()


@pytest.mark.parametrize("kind", ALL)
def test_probabilities_are_those_of_the_network(kind: Kind, case: Any, open_engine: Open, in_form: InForm) -> None:
    engine = open_engine(kind, case.network, case.tile, batch=2)
    batch = image(2, *case.tile)
    found = engine.run(batch)
    assert found.dtype == np.float32
    assert found.shape == (2, CLASSES, *onnx_file.read(case.network)[1].geometry.output(case.tile))
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    # The definitions of the operations, in NumPy: of the network that is rounded to bytes, or in fp32.
    name, precision = kind
    network = in_form(case.network, "int8-asymmetric") if precision == "int8" else case.network
    model = onnx.load(network)
    # The evaluator does not know the quantisation of the opset that the engines read; the newer one says the same.
    model.opset_import[0].version = 21
    wanted: Any
    (wanted,) = ReferenceEvaluator(model).run(None, {"image": batch})
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE[precision])
    assert engine.library.split()[0] == name
    assert engine.device


@pytest.mark.parametrize("kind", ALL)
def test_the_place_in_a_batch_does_not_matter(kind: Kind, case: Any, open_engine: Open) -> None:
    engine = open_engine(kind, case.network, case.tile, batch=3)
    first, second, third = image(3, *case.tile)
    together = engine.run(np.stack([first, second, third]))
    other = engine.run(np.stack([third, first, np.zeros_like(first)]))
    np.testing.assert_array_equal(together[0], other[1])
    np.testing.assert_array_equal(together[2], other[0])


@pytest.mark.parametrize("kind", ALL)
def test_a_stream_keeps_order_and_takes_one_array_again_and_again(kind: Kind, case: Any, open_engine: Open) -> None:
    engine = open_engine(kind, case.network, case.tile)
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


@pytest.mark.parametrize("kind", ALL)
def test_results_are_in_memory_of_their_own(kind: Kind, small: Path, open_engine: Open) -> None:
    engine = open_engine(kind, small, (1, 60, 52))
    first = engine.run(image(1, 1, 60, 52))
    copy = first.copy()
    engine.run(image(1, 1, 60, 52, seed=1))
    np.testing.assert_array_equal(first, copy)
    first[...] = 0


@pytest.mark.parametrize("kind", ALL)
def test_calls_of_another_shape_are_refused(kind: Kind, thick: Path, open_engine: Open) -> None:
    engine = open_engine(kind, thick, (20, 44, 52), batch=2)
    with pytest.raises(ValueError, match=r"a call of shape \(2, 18, 44, 52\) to an engine for \(2, 20, 44, 52\)"):
        engine.run(image(2, 18, 44, 52))


@pytest.mark.parametrize("kind", ALL)
def test_views_and_other_types_are_taken(kind: Kind, small: Path, open_engine: Open) -> None:
    engine = open_engine(kind, small, (1, 60, 52))
    batch = image(1, 1, 60, 104)[..., ::2]
    np.testing.assert_array_equal(engine.run(batch.astype(np.float64)), engine.run(batch.copy()))  # type: ignore[arg-type]


NETWORKS = [
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
]

# Sums of integers are exact in any order. What is left to show there, and in bf16, needs fewer networks.
IN_FEWER_BITS = {
    "bf16": {
        "2D, depth 2, wide",
        "2D, many channels at the bottom",
        "2.5D",
        "3D, thick sections",
        "3D, no multiple of 4",
    },
    "int8": {
        "2D, many channels at the bottom",
        "2D, no multiple of 4",
        "2.5D",
        "3D, thick sections",
        "3D, each axis another",
    },
}


def networks(precision: Precision) -> list[Any]:
    return [case for case in NETWORKS if case.id in IN_FEWER_BITS.get(precision, {case.id})]


@pytest.mark.parametrize(
    ("kind", "channels", "settings"),
    [
        pytest.param(kind, *case.values, id=f"{'-'.join(kind)}-{case.id}")
        for kind in ON_PROCESSORS
        for case in networks(kind[1])
    ],
)
def test_tiles_are_the_whole_bit_for_bit(
    kind: Kind,
    channels: tuple[int, ...],
    settings: dict[str, Any],
    make_network: Callable[..., Path],
    open_engine: Open,
) -> None:
    network = make_network(*channels, **settings)
    assert_tiles_are_the_whole(
        network, lambda tile, batch=1, threads=1: open_engine(kind, network, tile, batch, threads)
    )


@pytest.mark.parametrize("batch", [(0, 1, 2), (2, 1, 2), (1, 3, 2)], ids=str)
def test_a_profile_needs_ordered_batches(batch: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="least, usual, most"):
        Profile(batch, (1, 60, 52))
