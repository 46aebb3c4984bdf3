"""The network in other precisions, each in the form that a library takes.

A precision is a property of the ONNX file. Input and output stay float32.
"""

import json
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from unetpipe.config import Precision
from unetpipe.deploy.activations import Activations, Range, Stretch, stretch, trace
from unetpipe.engines.graph import Editor
from unetpipe.engines.onnx_file import IMAGE
from unetpipe.engines.rewrite import convolve_to_upsample

FORMS: dict[Precision, tuple[str, ...]] = {
    "fp32": (),
    "bf16": ("bf16", "bf16-hint"),
    "fp16": ("fp16",),
    "int8": ("int8-asymmetric", "int8-symmetric"),
}
"""Those of each precision; fp32 is the file from ``export``."""

_KINDS = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}

_OPSET_OF_BF16 = 22
"""The oldest whose convolutions are defined for it."""

_LEVELS = {"int8-asymmetric": 255, "int8-symmetric": 127}
_WEIGHT_LEVELS = 127


def write_form(model: onnx.ModelProto, form: str, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """``model``, the network in fp32, in ``form``; ``ranges`` of its layers are needed for int8 alone."""
    if form == "bf16-hint":
        new = onnx.ModelProto()
        new.CopyFrom(model)
    elif form in _KINDS:
        # TensorRT-RTX builds no transposed convolution of bf16.
        new = _typed(convolve_to_upsample(model) if form == "bf16" else model, _KINDS[form])
    elif form == "int8-asymmetric":
        new = _asymmetric(model, ranges)
    else:
        new = _symmetric(model, ranges)
    precision = next(precision for precision, forms in FORMS.items() if form in forms)
    for item in new.metadata_props:
        if item.key in ("precision", "form"):
            item.value = json.dumps(precision if item.key == "precision" else form)
    onnx.checker.check_model(new, full_check=True)
    return new


def _typed(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """Weights, biases and all values of ``kind``, from after the image until before the softmax.

    For libraries that compute in what the file is typed in.
    """
    editor = Editor(model)
    image, last = f"{IMAGE}.narrow", model.graph.node[-1]
    if last.op_type != "Softmax":
        raise ValueError(f"the network ends in {last.op_type}, not in Softmax")
    editor.add("Cast", [IMAGE], [image], to=kind)
    floats = {item.name for item in model.graph.initializer if item.data_type == TensorProto.FLOAT}
    for node in model.graph.node[:-1]:
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in floats:
                changed.input[index] = editor.tensor(f"{name}.narrow", _narrow(editor.array(name), kind))
            elif name == IMAGE:
                changed.input[index] = image
        editor.keep(changed)
    wide = editor.add_one("Cast", [last.input[0]], f"{last.input[0]}.wide", to=TensorProto.FLOAT)
    softmax = onnx.NodeProto()
    softmax.CopyFrom(last)
    softmax.input[0] = wide
    editor.keep(softmax)
    new = editor.model()
    if kind == TensorProto.BFLOAT16:
        for opset in new.opset_import:
            opset.version = max(opset.version, _OPSET_OF_BF16)
    return new


def _narrow(array: NDArray[np.generic], kind: int) -> onnx.TensorProto:
    return numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(kind)))


def _asymmetric(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """All values between convolutions in uint8 with the zero point 0, as the integer products of processors want them.

    ReLU is the lower end of the range. What comes out of a transposed convolution may be negative: there, each channel
    is stretched and shifted to the whole range, and the convolutions that read it undo that in their weights and
    biases. Without padding that is exact. Values that are joined have one scale, so that joining them copies bytes.
    """
    activations = trace(model)
    stretches, largest = stretch(activations, ranges)
    scales = {name: _scale(value, _LEVELS["int8-asymmetric"]) for name, value in largest.items()}
    editor = Editor(model)
    renamed = {IMAGE: _quantise_image(editor, ranges[IMAGE])}
    for node in model.graph.node:
        result = node.output[0]
        changed = _renamed(node, renamed)
        if result in activations.read:
            weights, bias = _stretched(editor, node, activations, stretches)
            changed.input[1] = _quantise_weights(editor, node, weights)
            changed.input[2:] = [editor.constant(f"{result}.bias", bias)]
        if node.op_type == "Relu" and node.input[0] in activations.read:
            renamed[result] = _quantise(editor, changed.input[0], result, scales[result], None)
            continue
        editor.keep(changed)
        if result in activations.linear:
            renamed[result] = _quantise(editor, result, result, scales[result], None)
    return editor.model()


def _symmetric(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """All values between convolutions in int8 with the zero point 0, and biases in fp32, as TensorRT wants them.

    The first convolution and the last stay in fp32.
    """
    activations = trace(model)
    editor = Editor(model)
    renamed: dict[str, str] = {}
    zero = editor.constant("quantize.zero", np.zeros((), np.int8))
    for node in model.graph.node:
        result = node.output[0]
        changed = _renamed(node, renamed)
        if result in activations.read and result in activations.inner:
            changed.input[1] = _quantise_weights(editor, node, editor.array(node.input[1]).astype(np.float32))
        editor.keep(changed)
        if result in activations.channels:
            found = ranges[result]
            largest = float(np.maximum(found.most, -found.least).max())
            scale = _scale(largest, _LEVELS["int8-symmetric"])
            renamed[result] = _quantise(editor, result, result, scale, zero)
    return editor.model()


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of ``node`` that reads other tensors."""
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    for index, name in enumerate(node.input):
        changed.input[index] = names.get(name, name)
    return changed


def _scale(largest: float, levels: int) -> np.float32:
    """The size of one of so many steps from 0 to ``largest``; of a layer that gives nothing, any."""
    return np.float32((largest or 1.0) / levels)


def _quantise(editor: Editor, source: str, name: str, scale: np.float32, zero: str | None) -> str:
    """Round ``source`` to bytes; the name of what comes back. ``zero``: the zero point of int8, None for uint8."""
    parameters = [editor.constant(f"{name}.scale", np.asarray(scale)), *([] if zero is None else [zero])]
    editor.add("QuantizeLinear", [source, *parameters], [f"{name}.bytes"])
    return editor.add_one("DequantizeLinear", [f"{name}.bytes", *parameters], f"{name}.rounded")


def _quantise_image(editor: Editor, found: Range) -> str:
    """Round the image to bytes, of which one is exactly 0."""
    least, most = min(float(found.least.min()), 0.0), max(float(found.most.max()), 0.0)
    scale = _scale(most - least, _LEVELS["int8-asymmetric"])
    zero = np.asarray(np.rint(-least / scale), np.uint8)
    return _quantise(editor, IMAGE, IMAGE, scale, editor.constant(f"{IMAGE}.zero", zero))


def _quantise_weights(editor: Editor, node: onnx.NodeProto, weights: NDArray[np.float32]) -> str:
    """Weights in int8, with a scale for each channel that comes out; the name of what comes back from them."""
    axis = int(node.op_type == "ConvTranspose")
    others = tuple(index for index in range(weights.ndim) if index != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(_WEIGHT_LEVELS)
    name = f"{node.output[0]}.weight"
    stored = editor.constant(f"{name}.bytes", np.rint(weights / scale).astype(np.int8))
    scales = editor.constant(f"{name}.scale", scale.reshape(-1))
    return editor.add_one("DequantizeLinear", [stored, scales], f"{name}.rounded", axis=axis)


def _stretched(
    editor: Editor, node: onnx.NodeProto, activations: Activations, stretches: Mapping[str, Stretch]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights and bias of a convolution that reads stretched values, and that gives some if it is linear."""
    result, weights = node.output[0], editor.array(node.input[1]).astype(np.float64)
    linear = result in activations.linear
    count_out = weights.shape[1 if linear else 0]
    bias = editor.array(node.input[2]).astype(np.float64) if len(node.input) > 2 else np.zeros(count_out)
    if linear:
        # (in, out, *size)
        factor = stretches[result].factor.astype(np.float64)
        weights = weights * factor.reshape(-1, *[1] * (weights.ndim - 2))
        bias = bias * factor + stretches[result].offset
        return weights.astype(np.float32), bias.astype(np.float32)
    start = 0
    for name in activations.read[result]:
        stop = start + (activations.channels[name] if name in activations.channels else int(weights.shape[1]))
        if name in stretches:
            # (out, in, *size): what the offset adds to every sum
            moved = stretches[name]
            weights[:, start:stop] /= moved.factor.reshape(-1, *[1] * (weights.ndim - 2))
            bias = bias - weights[:, start:stop].reshape(count_out, stop - start, -1).sum(axis=-1) @ moved.offset
        start = stop
    return weights.astype(np.float32), bias.astype(np.float32)
