"""The same network in operations whose last bit does not depend on the shape of the call.

A sum of many floating-point products depends on its order. The libraries choose the order for speed, some of them by
the shape of the call: then a tile would differ in its last bits from the whole section. Where a library does that, the
network is put in operations for which it has but one order.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def split_input_channels(model: onnx.ModelProto, most: int) -> onnx.ModelProto:
    """Write each convolution over more than ``most`` channels as a sum of convolutions over at most so many.

    oneDNN, which OpenVINO computes with on x86, sums over blocks of input channels, as many as fit into the caches
    beside a stretch of the output's row; how long that stretch is depends on the row. Up to 128 channels fit with every
    kernel that it has, so there is one block whatever the shape. (Seen with 256 and 512 channels, in rows of fewer than
    about 16 voxels: differences of 1e-6.)
    """
    editor = _Editor(model)
    for node in model.graph.node:
        weights = editor.weights(node) if node.op_type == "Conv" else None
        # Parts in less than single precision would be rounded before they are added.
        single = weights is not None and weights.dtype == np.float32
        if weights is None or not single or weights.shape[1] <= most or _attribute(node, "group", 1) != 1:
            editor.keep(node)
            continue
        parts = np.array_split(weights, -(-weights.shape[1] // most), axis=1)
        source, result = node.input[0], node.output[0]
        names = [f"{result}.part{index}" for index in range(len(parts))]
        sizes = editor.constant(f"{result}.sizes", np.array([part.shape[1] for part in parts], np.int64))
        editor.add("Split", [source, sizes], names, axis=1)
        total = ""
        for index, (name, part) in enumerate(zip(names, parts, strict=True)):
            inputs = [name, editor.constant(f"{name}.weight", part)]
            # The bias once, with the first part.
            inputs += list(node.input[2:]) if index == 0 else []
            convolution = helper.make_node("Conv", inputs, [f"{name}.sum"], name=f"{name}.conv")
            convolution.attribute.extend(node.attribute)
            editor.keep(convolution)
            if index == 0:
                total = f"{name}.sum"
                continue
            partial = result if index == len(parts) - 1 else f"{name}.total"
            editor.add("Add", [total, f"{name}.sum"], [partial])
            total = partial
    return editor.model()


def convolve_to_upsample(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write each transposed convolution whose stride equals its kernel as a 1x1 convolution and DepthToSpace.

    Each output voxel of such a transposed convolution sees one input voxel, so the two are the same sums. ONNX Runtime
    computes transposed convolutions as products of matrices; where there are more than 128 channels, it sums in other
    blocks if there are at most 64 voxels (or 64 for each thread). Its convolutions sum in one order. (Seen with 256 and
    512 channels: differences of 1e-6.)
    """
    editor = _Editor(model)
    for node in model.graph.node:
        weights = editor.weights(node) if node.op_type == "ConvTranspose" else None
        if weights is None or not _is_patchwise(node, weights.shape[2:]):
            editor.keep(node)
            continue
        channels_in, channels_out, size, _ = weights.shape
        # (in, out, i, j) -> (out * i * j, in, 1, 1), the order in which DepthToSpace takes them with mode CRD
        pointwise = weights.transpose(1, 2, 3, 0).reshape(channels_out * size * size, channels_in, 1, 1)
        result = node.output[0]
        inputs = [node.input[0], editor.constant(f"{result}.weight", pointwise)]
        if len(node.input) > 2:
            bias = editor.array(node.input[2])
            inputs.append(editor.constant(f"{result}.bias", np.repeat(bias, size * size)))
        editor.add("Conv", inputs, [f"{result}.deep"], kernel_shape=[1, 1])
        editor.add("DepthToSpace", [f"{result}.deep"], [result], blocksize=size, mode="CRD")
    return editor.model()


def _is_patchwise(node: onnx.NodeProto, kernel: Sequence[int]) -> bool:
    """Whether each output voxel sees one input voxel, with the same step along y and x."""
    plain: dict[str, int | list[int]] = {
        "group": 1,
        "dilations": [1, 1],
        "pads": [0, 0, 0, 0],
        "output_padding": [0, 0],
    }
    return (
        len(set(kernel)) == 1
        and _attribute(node, "strides", [1, 1]) == list(kernel)
        and all(_attribute(node, name, value) == value for name, value in plain.items())
    )


def _attribute(node: onnx.NodeProto, name: str, default: int | list[int]) -> int | list[int]:
    for attribute in node.attribute:
        if attribute.name == name:
            value: int | list[int] = helper.get_attribute_value(attribute)
            return value
    return default


class _Editor:
    """Collects the nodes and constants of a graph that takes the place of the old one."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._old = model
        self._constants = {constant.name: constant for constant in model.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []

    def array(self, name: str) -> NDArray[np.generic]:
        return numpy_helper.to_array(self._constants[name])

    def weights(self, node: onnx.NodeProto) -> NDArray[np.generic] | None:
        """The weights of a two-dimensional convolution, if they are stored as they are: quantised sums are exact."""
        if node.input[1] not in self._constants:
            return None
        array = self.array(node.input[1])
        return array if array.ndim == 4 else None

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def keep(self, node: onnx.NodeProto) -> None:
        self._nodes.append(node)

    def add(self, operation: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        node = helper.make_node(operation, inputs, outputs, name=f"{outputs[0]}.{operation}", **attributes)
        self._nodes.append(node)

    def model(self) -> onnx.ModelProto:
        used = {name for node in self._nodes for name in node.input}
        new = onnx.ModelProto()
        new.CopyFrom(self._old)
        del new.graph.node[:], new.graph.initializer[:], new.graph.value_info[:]
        new.graph.node.extend(self._nodes)
        new.graph.initializer.extend(item for name, item in self._constants.items() if name in used)
        return new
