"""The range of values that each layer gives on some tiles."""

from collections.abc import Iterable

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from unetpipe.deploy.activations import Range, trace
from unetpipe.engines.onnx_file import IMAGE
from unetpipe.engines.onnxruntime import same_bits

_EXTREMES = ("ReduceMin", "ReduceMax")
_ERRORS_ALONE = 3


def calibrate(model: onnx.ModelProto, tiles: Iterable[NDArray[np.float32]], cores: int) -> dict[str, Range]:
    """The range of each channel of each layer that :func:`unetpipe.deploy.activations.trace` names, and of the image.

    The same tiles give the same bits, however many the cores are. Only the extremes leave the library: the memory that
    this takes is that of one call.

    Parameters
    ----------
    model:
        The network in fp32.
    tiles:
        Normalised grey values (z, y, x).
    """
    names = sorted(trace(model).channels)
    session = _session(_observed(model, names), cores)
    found: dict[str, Range] = {}
    for tile in tiles:
        values = session.run(None, {IMAGE: tile[None]})
        seen = [(name, *values[2 * index : 2 * index + 2]) for index, name in enumerate(names)]
        for name, least, most in [*seen, (IMAGE, tile.min(axis=(1, 2)), tile.max(axis=(1, 2)))]:
            before = found.get(name, Range(least, most))
            found[name] = Range(np.minimum(before.least, least), np.maximum(before.most, most))
    return found


def _observed(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The network with least and largest value of each channel of ``names`` as its results, in this order."""
    observed = same_bits(model)
    graph = observed.graph
    del graph.output[:]
    dimensions = len(graph.input[0].type.tensor_type.shape.dim)
    weights = [len(item.dims) for item in model.graph.initializer]
    dimensions = max(dimensions, *weights)
    graph.initializer.append(
        helper.make_tensor("calibrate.axes", TensorProto.INT64, [dimensions - 1], [0, *range(2, dimensions)])
    )
    for name in names:
        for operation in _EXTREMES:
            result = f"{name}.{operation}"
            graph.node.append(helper.make_node(operation, [name, "calibrate.axes"], [result], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, [None]))
    return observed


def _session(model: onnx.ModelProto, cores: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ALONE
    options.use_deterministic_compute = True
    return onnxruntime.InferenceSession(
        model.SerializeToString(deterministic=True), options, providers=["CPUExecutionProvider"]
    )
