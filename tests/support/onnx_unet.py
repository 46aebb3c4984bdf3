"""Small U-Nets as ONNX files, written without PyTorch."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from unetpipe.grid import unet_geometry

CLASSES = ("membrane", "inside", "outside")


class _Graph:
    """Collects nodes and random weights."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, array: NDArray[np.generic]) -> str:
        name = f"constant{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operation: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [output], name=output, **attributes))
        return output

    def convolution(self, source: str, channels: tuple[int, int], size: int = 3) -> str:
        shape = (channels[1], channels[0], size, size)
        weights = self.rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        bias = self.rng.normal(0, 0.1, channels[1]).astype(np.float32)
        return self.add("Conv", source, self.constant(weights), self.constant(bias), kernel_shape=[size, size])

    def pair(self, source: str, before: int, after: int) -> str:
        for channels in ((before, after), (after, after)):
            source = self.add("Relu", self.convolution(source, channels))
        return source

    def up(self, source: str, before: int, after: int) -> str:
        weights = self.rng.normal(0, np.sqrt(2 / before), (before, after, 2, 2)).astype(np.float32)
        bias = self.rng.normal(0, 0.1, after).astype(np.float32)
        return self.add(
            "ConvTranspose", source, self.constant(weights), self.constant(bias), kernel_shape=[2, 2], strides=[2, 2]
        )

    def crop(self, source: str, margin: int) -> str:
        bounds = [np.array(values, np.int64) for values in ([margin] * 2, [-margin] * 2, [2, 3])]
        return self.add("Slice", source, *(self.constant(values) for values in bounds))


def unet(channels: Sequence[int], seed: int = 0) -> onnx.ModelProto:
    """An unpadded U-Net with so many channels per level, as ``export`` writes it."""
    graph, skips, source = _Graph(seed), [], "image"
    for before, after in zip([1, *channels[:-1]], channels, strict=True):
        source = graph.pair(source, before, after)
        skips.append(source)
        source = graph.add("MaxPool", source, kernel_shape=[2, 2], strides=[2, 2])
    # The lowest level is not pooled.
    graph.nodes.pop()
    source, lost = skips.pop(), 4
    for before, after in zip(channels[:0:-1], channels[-2::-1], strict=True):
        source = graph.up(source, before, after)
        skip = graph.crop(skips.pop(), lost)
        source = graph.pair(graph.add("Concat", skip, source, axis=1), 2 * after, after)
        lost = 2 * lost + 8
    logits = graph.convolution(source, (channels[0], len(CLASSES)), size=1)
    graph.add("Softmax", logits, output="probability", axis=1)
    geometry = unet_geometry(len(channels) - 1)
    border = 2 * geometry.border[1]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "unetpipe",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, "y", "x"])],
            [
                helper.make_tensor_value_info(
                    "probability", TensorProto.FLOAT, ["n", len(CLASSES), f"y - {border}", f"x - {border}"]
                )
            ],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    metadata = {
        "classes": CLASSES,
        "geometry": asdict(geometry),
        "precision": "fp32",
        "checkpoint_digest": "0" * 64,
    }
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    onnx.checker.check_model(model, full_check=True)
    return model
