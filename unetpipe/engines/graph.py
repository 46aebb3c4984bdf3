"""Writing an ONNX graph anew, node by node."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Value = int | bytes | list[int]
"""Of an attribute."""


def attribute_of(node: onnx.NodeProto, name: str, default: Value) -> Value:
    """The attribute ``name`` of ``node``, or ``default`` if it has none of that name."""
    for attribute in node.attribute:
        if attribute.name == name:
            value: Value = helper.get_attribute_value(attribute)
            return value
    return default


class Editor:
    """Collects the nodes and constants of a graph that takes the place of the old one."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._old = model
        self._constants = {constant.name: constant for constant in model.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []

    def array(self, name: str) -> NDArray[np.generic]:
        """The constant ``name``."""
        return numpy_helper.to_array(self._constants[name])

    def weights(self, node: onnx.NodeProto) -> NDArray[np.generic] | None:
        """The weights of a convolution, if they are stored as they are: quantised sums are exact."""
        return self.array(node.input[1]) if node.input[1] in self._constants else None

    def constant(self, name: str, array: NDArray[np.generic] | list[int]) -> str:
        """Store ``array``; gives back its name."""
        stored = np.array(array, np.int64) if isinstance(array, list) else np.asarray(array, order="C")
        self._constants[name] = numpy_helper.from_array(stored, name)
        return name

    def tensor(self, name: str, tensor: onnx.TensorProto) -> str:
        """Store ``tensor`` under ``name``, which it gives back."""
        self._constants[name] = onnx.TensorProto()
        self._constants[name].CopyFrom(tensor)
        self._constants[name].name = name
        return name

    def keep(self, node: onnx.NodeProto) -> None:
        """Add ``node`` as it is."""
        self._nodes.append(node)

    def add(self, operation: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Add a node."""
        node = helper.make_node(operation, inputs, outputs, name=f"{outputs[0]}.{operation}", **attributes)
        self._nodes.append(node)

    def add_one(self, operation: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node of one result; gives back its name."""
        self.add(operation, inputs, [output], **attributes)
        return output

    def add_sum(
        self, like: onnx.NodeProto, sources: list[str], weights: Sequence[NDArray[np.generic]], result: str
    ) -> None:
        """Convolutions ``like`` one, each of a source and weights of its own, added in their order."""
        total = ""
        for index, (source, part) in enumerate(zip(sources, weights, strict=True)):
            inputs = [source, self.constant(f"{source}.weight", part)]
            # The bias once, with the first part.
            inputs += list(like.input[2:]) if index == 0 else []
            last = index == len(sources) - 1
            convolved = result if last and index == 0 else f"{source}.sum"
            convolution = helper.make_node("Conv", inputs, [convolved], name=f"{source}.conv")
            convolution.attribute.extend(like.attribute)
            self.keep(convolution)
            if index == 0:
                total = convolved
                continue
            partial = result if last else f"{source}.total"
            self.add("Add", [total, convolved], [partial])
            total = partial

    def model(self) -> onnx.ModelProto:
        """The model with the new graph, and only the constants that it uses."""
        used = {name for node in self._nodes for name in node.input}
        new = onnx.ModelProto()
        new.CopyFrom(self._old)
        del new.graph.node[:], new.graph.initializer[:], new.graph.value_info[:]
        new.graph.node.extend(self._nodes)
        new.graph.initializer.extend(item for name, item in self._constants.items() if name in used)
        return new
