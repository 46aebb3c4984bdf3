"""What is particular to OpenVINO."""

import os
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from unetpipe.engines.contract import Profile
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
