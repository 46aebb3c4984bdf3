"""What is particular to OpenVINO."""

import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as openvino_library
import pytest
from onnx import TensorProto, helper, numpy_helper

from unetpipe.config import Precision
from unetpipe.engines import onnx_file, openvino
from unetpipe.engines.contract import Profile
from unetpipe.engines.devices import Processor
from unetpipe.engines.openvino import OpenVINO
from unetpipe.errors import UserError

PROFILE = Profile((1, 1, 1), (1, 124, 124))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is but one core")
def test_workers_are_not_bound_to_one_core(small: Path, tmp_path: Path) -> None:
    # Left to itself, OpenVINO binds the first thread of every process to the first core while it computes.
    OpenVINO().build(small, tmp_path / "engine", PROFILE)
    engine = OpenVINO().load(tmp_path / "engine", PROFILE.tile, batch=1, threads=1)
    image = np.zeros((1, *PROFILE.tile), np.float32)
    caller, stop, seen = threading.get_native_id(), threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            seen.append(len(os.sched_getaffinity(caller)))
            stop.wait(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(50):
        engine.run(image)
    stop.set()
    watcher.join()
    assert min(seen) == len(os.sched_getaffinity(0)) > 1


def test_no_convolution_sums_over_more_channels_than_fit_into_one_block(make_network: object, tmp_path: Path) -> None:
    network = make_network(4, 300)  # type: ignore[operator]
    OpenVINO().build(network, tmp_path / "engine", Profile((1, 1, 1), (1, 24, 24)))
    model = onnx.load(tmp_path / "engine")
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    widths = [constants[node.input[1]].shape[1] for node in model.graph.node if node.op_type == "Conv"]
    assert widths.count(100) == 3
    assert max(widths) <= 128


def test_kernels_of_more_voxels_take_fewer_channels(make_network: object, tmp_path: Path) -> None:
    network = make_network(4, 100, kernel=(3, 3, 3), pooling=(2, 2, 2))  # type: ignore[operator]
    OpenVINO().build(network, tmp_path / "engine", Profile((1, 1, 1), (20, 20, 20)))
    model = onnx.load(tmp_path / "engine")
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    weights = [constants[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    assert [array.shape[1] for array in weights].count(34) == 1
    assert max(array[0].size for array in weights) <= 128 * 9


def test_an_operation_that_it_does_not_know(small: Path, tmp_path: Path) -> None:
    model = onnx.load(small)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Unheard", "nowhere"
    model.opset_import.add(domain="nowhere", version=1)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"compiled by openvino (.|\n)*Unheard(.|\n)*engine\.backend"):
        OpenVINO().build(tmp_path / "model.onnx", tmp_path / "engine", PROFILE)


def computed_in(engine: Path, precision: Precision, tile: Any) -> Counter[str]:
    """How many convolutions OpenVINO computes in what."""
    compiled = openvino._compile(engine, precision, (1, *tile), threads=1)
    return Counter(
        layer.rt_info["runtimePrecision"].astype(str)
        for layer in compiled.get_runtime_model().get_ordered_ops()
        if layer.rt_info["layerType"].astype(str) in ("Convolution", "Deconvolution")
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_convolutions_are_computed_in_what_was_asked_for(
    precision: Precision, case: Any, in_form: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    library = OpenVINO()
    if reason := library.unavailable("run", precision):
        pytest.skip(reason)
    network = in_form(case.network, library.form(precision))
    library.build(network, tmp_path / "engine", Profile((1, 1, 1), case.tile))
    found = computed_in(tmp_path / "engine", precision, case.tile)
    convolutions = sum(node.op_type in ("Conv", "ConvTranspose") for node in onnx.load(network).graph.node)
    if precision == "int8":
        assert found == {"u8": convolutions}
    else:
        assert found == {{"fp32": "f32", "bf16": "bf16"}[precision]: convolutions}


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_another_precision_than_was_asked_for_is_refused(
    precision: Precision,
    small: Path,
    in_form: Callable[[Path, str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino, "_COMPUTES_IN", {"bf16": {"f16"}, "int8": {"i4"}})
    network = in_form(small, OpenVINO().form(precision))
    with pytest.raises(UserError, match=rf"were to be computed in {precision}(.|\n)*it computes \d+ in "):
        OpenVINO().build(network, tmp_path / "engine", PROFILE)


@pytest.mark.parametrize(
    ("precision", "words"),
    [("bf16", r"bf16 \(amx_bf16, avx512_bf16\)"), ("int8", r"int8 \(amx_int8, avx512_vnni, avx_vnni\)")],
)
def test_processors_without_the_instructions(precision: Precision, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "processor", lambda: Processor("Old Processor", ("avx2", "fma")))
    assert OpenVINO().unavailable("run", "fp32") is None
    reason = OpenVINO().unavailable("run", precision) or ""
    assert re.search(f"Old Processor has no instructions for products of {words}", reason)


def test_one_voxel_alone_is_refused(make_network: Any, tmp_path: Path) -> None:
    # Its softmax would have other last bits than that of more voxels.
    network = make_network(4, 6, pooling=(1, 1, 1))
    geometry = onnx_file.read(network)[1].geometry
    one, two = geometry.tile_for((1, 1, 1)), geometry.tile_for((1, 2, 2))
    with pytest.raises(UserError, match="one voxel comes out of such a tile") as caught:
        OpenVINO().build(network, tmp_path / "engine", Profile((1, 1, 1), one))
    assert str(list(two[1:])) in caught.value.repair
    OpenVINO().build(network, tmp_path / "engine", Profile((1, 1, 1), two))
    with pytest.raises(UserError, match="one voxel comes out of such a tile"):
        OpenVINO().load(tmp_path / "engine", one, batch=1, threads=1)


def test_half_precision_is_for_gpus() -> None:
    assert "not in fp16" in (OpenVINO().unavailable("build", "fp16") or "")


@pytest.mark.parametrize(
    ("channels", "settings"),
    [
        pytest.param((4, 600), {}, id="2D"),
        pytest.param((4, 200), {"kernel": (3, 3, 3), "pooling": (2, 2, 2)}, id="3D"),
        pytest.param((16, 32), {"sections": 301}, id="few results"),
    ],
)
def test_sums_that_bf16_would_add_in_another_order_are_refused(
    channels: tuple[int, ...],
    settings: dict[str, Any],
    make_network: Callable[..., Path],
    in_form: Callable[[Path, str], Path],
    tmp_path: Path,
) -> None:
    network = in_form(make_network(*channels, **settings), "bf16-hint")
    tile = onnx_file.read(network)[1].geometry.tile_for((1, 8, 8))
    with pytest.raises(UserError, match=r"sums of \d+ products come out in another order(.|\n)*int8"):
        OpenVINO().build(network, tmp_path / "engine", Profile((1, 1, 1), tile))


@pytest.mark.parametrize(
    ("channels", "results", "kernel"),
    [
        pytest.param(512, 64, (3, 3), id="2D"),
        pytest.param(256, 8, (3, 3), id="2D, few results"),
        pytest.param(170, 64, (3, 3, 3), id="3D"),
    ],
)
def test_the_longest_sums_of_bf16_have_one_order(channels: int, results: int, kernel: tuple[int, ...]) -> None:
    # One convolution, whose result is not rounded: the last bit of its sums shows.
    if reason := OpenVINO().unavailable("run", "bf16"):
        pytest.skip(reason)
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.03, (results, channels, *kernel)).astype(np.float32)
    sizes = ["n", channels, *"zyx"[3 - len(kernel) :]]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["probability"], kernel_shape=kernel)],
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", results, *[None] * len(kernel)])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    openvino._check_sums_of_bf16(model, Path("one.onnx"))
    volume = rng.standard_normal((1, channels, *[5] * (len(kernel) - 2), 24, 64)).astype(np.float32)

    def convolve(image: Any, threads: int) -> Any:
        network = openvino_library.Core().read_model(model.SerializeToString())
        network.reshape({"image": list(image.shape)})
        hints = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": str(threads)}
        return openvino_library.Core().compile_model(network, "CPU", hints)({0: image})[0]

    wanted = convolve(volume, 1)
    for height, width, threads in [(3, 3, 1), (4, 7, 2), (24, 9, 1), (24, 16, 2), (5, 33, 1), (24, 64, 2)]:
        found = convolve(np.ascontiguousarray(volume[..., :height, :width]), threads)
        np.testing.assert_array_equal(found, wanted[..., : height - 2, : width - 2], err_msg=f"{height} x {width}")
