"""Small U-Nets as ONNX files, written without PyTorch: 2D, 2.5D and 3D."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from unetpipe.config import Network
from unetpipe.grid import Shape

CLASSES = ("membrane", "inside", "outside")


class _Graph:
    """Collects nodes and random weights, for (y, x) or (z, y, x)."""

    def __init__(self, seed: int, dimensions: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.dimensions = dimensions
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, array: NDArray[np.generic]) -> str:
        name = f"constant{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operation: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [output], name=output, **attributes))
        return output

    def convolution(self, source: str, channels: tuple[int, int], kernel: Shape = (1, 1, 1)) -> str:
        size = self.spatial(kernel)
        shape = (channels[1], channels[0], *size)
        weights = self.rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        bias = self.rng.normal(0, 0.1, channels[1]).astype(np.float32)
        return self.add("Conv", source, self.constant(weights), self.constant(bias), kernel_shape=size)

    def pair(self, source: str, before: int, after: int, kernel: Shape) -> str:
        for channels in ((before, after), (after, after)):
            source = self.add("Relu", self.convolution(source, channels, kernel))
        return source

    def pool(self, source: str, pooling: Shape) -> str:
        size = self.spatial(pooling)
        return self.add("MaxPool", source, kernel_shape=size, strides=size)

    def up(self, source: str, before: int, after: int, pooling: Shape) -> str:
        size = self.spatial(pooling)
        weights = self.rng.normal(0, np.sqrt(2 / before), (before, after, *size)).astype(np.float32)
        bias = self.rng.normal(0, 0.1, after).astype(np.float32)
        return self.add(
            "ConvTranspose", source, self.constant(weights), self.constant(bias), kernel_shape=size, strides=size
        )

    def crop(self, source: str, margin: Sequence[int]) -> str:
        axes = [axis for axis in range(self.dimensions) if margin[axis] > 0]
        margins = np.array([margin[axis] for axis in axes], np.int64)
        bounds = [margins, -margins, np.array(axes, np.int64) + 2]
        return self.add("Slice", source, *(self.constant(values) for values in bounds))

    def unsqueeze(self, source: str, axis: int) -> str:
        return self.add("Unsqueeze", source, self.constant(np.array([axis], np.int64)))

    def spatial(self, shape: Shape) -> list[int]:
        return list(shape[3 - self.dimensions :])


def unet(channels: Sequence[int], seed: int = 0, **settings: object) -> onnx.ModelProto:
    """An unpadded U-Net with so many channels per level, as ``export`` writes it.

    ``settings``: kernel, pooling and sections, as in the settings of a network.
    """
    network = Network.model_validate({"depth": len(channels) - 1, **settings})
    geometry, kernels, poolings = network.geometry, network.kernels, network.poolings
    flat = geometry.dimensions == 2
    graph, skips = _Graph(seed, geometry.dimensions), []
    source = "image" if flat else graph.unsqueeze("image", 1)
    first = network.sections if flat else 1
    for level, (before, after) in enumerate(zip([first, *channels[:-1]], channels, strict=True)):
        source = graph.pair(source, before, after, kernels[level])
        if level < network.depth:
            skips.append(source)
            source = graph.pool(source, poolings[level])
    lost = np.array(graph.spatial(kernels[-1])) - 1
    for level in reversed(range(network.depth)):
        before, after = channels[level + 1], channels[level]
        source = graph.up(source, before, after, poolings[level])
        lost *= graph.spatial(poolings[level])
        skip = graph.crop(skips.pop(), lost.tolist())
        source = graph.pair(graph.add("Concat", skip, source, axis=1), 2 * after, after, kernels[level])
        lost += 2 * (np.array(graph.spatial(kernels[level])) - 1)
    logits = graph.convolution(source, (channels[0], len(CLASSES)))
    graph.add("Softmax", graph.unsqueeze(logits, 2) if flat else logits, output="probability", axis=1)
    sizes: list[int | str] = [network.sections if flat else "z", "y", "x"]
    left = [f"{name} - {2 * border}" if border else name for name, border in zip("zyx", geometry.border, strict=True)]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "unetpipe",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", *sizes])],
            [
                helper.make_tensor_value_info(
                    "probability", TensorProto.FLOAT, ["n", len(CLASSES), *([1, *left[1:]] if flat else left)]
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
        "form": "fp32",
        "checkpoint_digest": "0" * 64,
    }
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    onnx.checker.check_model(model, full_check=True)
    return model
