"""A quantised network in operations on bytes, for ONNX Runtime.

In the file, values are rounded to bytes and back around convolutions in floating point; that a library sees whole
integer convolutions in it is up to its optimiser. Here they are written out: none can be passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from unetpipe.engines.graph import Editor
from unetpipe.engines.rewrite import upsample_patches

_ON_BYTES = ("MaxPool", "Slice", "Unsqueeze", "Concat")
"""Operations that give values which they were given."""

_MOST = np.iinfo(np.int32).max


@dataclass(frozen=True)
class _Bytes:
    """A tensor in uint8, and the names of its scale and of the value that stands for 0."""

    name: str
    scale: str
    zero: str


def convolve_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, in the form int8-asymmetric, with its quantised convolutions as QLinearConv.

    Transposed convolutions become convolutions of one voxel, and a transpose of bytes: see
    :func:`unetpipe.engines.rewrite.convolve_to_upsample`. Sums are of int32, and exact; biases are rounded to the
    steps of the products.
    """
    editor = Editor(model)
    zero = editor.constant("bytes.zero", np.zeros((), np.uint8))
    values: dict[str, _Bytes] = {}
    weights: dict[str, onnx.NodeProto] = {}
    convolutions: dict[str, onnx.NodeProto] = {}
    constants = {item.name for item in model.graph.initializer}
    rounded = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for node in model.graph.node:
        source, result = node.input[0], node.output[0]
        if node.op_type == "DequantizeLinear" and source in constants:
            weights[result] = node
        elif node.op_type == "DequantizeLinear":
            values[result] = _Bytes(source, *node.input[1:], *[zero][: 3 - len(node.input)])
        elif node.op_type in ("Conv", "ConvTranspose") and result in rounded:
            convolutions[result] = node
        elif node.op_type == "QuantizeLinear" and source in convolutions:
            convolution = convolutions[source]
            stored = weights[convolution.input[1]]
            _convolve(editor, convolution, stored, values[convolution.input[0]], _Bytes(result, node.input[1], zero))
        elif node.op_type in _ON_BYTES and source in values:
            kept = onnx.NodeProto()
            kept.CopyFrom(node)
            for index, name in enumerate(node.input):
                kept.input[index] = values[name].name if name in values else name
            kept.output[0] = f"{result}.bytes"
            editor.keep(kept)
            values[result] = replace(values[source], name=kept.output[0])
        else:
            _keep_in_floating_point(editor, node, values, weights)
    return editor.model()


def _keep_in_floating_point(
    editor: Editor, node: onnx.NodeProto, values: Mapping[str, _Bytes], weights: Mapping[str, onnx.NodeProto]
) -> None:
    """The last convolution too: QLinearConv rounds what it gives."""
    for name in node.input:
        if name in values:
            item = values[name]
            editor.add("DequantizeLinear", [item.name, item.scale, item.zero], [name])
        elif name in weights:
            stored, scales = (editor.array(item).astype(np.float32) for item in weights[name].input[:2])
            editor.constant(name, stored * scales.reshape(-1, *[1] * (stored.ndim - 1)))
    editor.keep(node)


def _convolve(editor: Editor, node: onnx.NodeProto, stored: onnx.NodeProto, source: _Bytes, target: _Bytes) -> None:
    weights, scales = editor.array(stored.input[0]), editor.array(stored.input[1]).astype(np.float32)
    bias = editor.array(node.input[2]).astype(np.float64)
    result, name, kernel = target.name, node.output[0], weights.shape[2:]
    channels = len(bias)
    if node.op_type == "ConvTranspose":
        voxels = int(np.prod(kernel))
        result = f"{name}.deep"
        # (in, out, *size) -> (out * voxels, in, 1, …): the voxels of a patch as channels beside each other
        weights = np.moveaxis(weights, 0, -1).reshape(channels * voxels, -1, *[1] * len(kernel))
        scales, bias = np.repeat(scales, voxels), np.repeat(bias, voxels)
    steps = scales.astype(np.float64) * float(editor.array(source.scale))
    inputs = [
        *(source.name, source.scale, source.zero),
        *(
            editor.constant(f"{name}.weight.bytes", weights),
            editor.constant(f"{name}.weight.scale", scales),
            editor.constant(f"{name}.weight.zero", np.zeros(len(scales), np.int8)),
        ),
        *(target.scale, target.zero),
        editor.constant(f"{name}.bias.steps", _rounded(bias / steps)),
    ]
    editor.add("QLinearConv", inputs, [result], kernel_shape=list(weights.shape[2:]))
    if node.op_type == "ConvTranspose":
        upsample_patches(editor, result, target.name, channels, kernel)


def _rounded(bias: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.clip(np.rint(bias), -_MOST, _MOST).astype(np.int32)
