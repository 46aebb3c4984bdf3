"""Rewritten networks compute the same, in the operations that were asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from unetpipe.engines.rewrite import convolve_to_upsample, split_input_channels


def network(operation: str, weights: np.ndarray[Any, Any], **attributes: Any) -> onnx.ModelProto:
    """One operation on ``image``, its weights stored with it, with a bias."""
    channels_out = weights.shape[1 if operation == "ConvTranspose" else 0] * attributes.get("group", 1)
    kind = helper.np_dtype_to_tensor_dtype(weights.dtype)
    bias = np.arange(channels_out).astype(weights.dtype)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(operation, ["image", "w", "b"], ["probability"], **attributes)],
            "one",
            [helper.make_tensor_value_info("image", kind, ["n", None, "y", "x"])],
            [helper.make_tensor_value_info("probability", kind, ["n", None, None, None])],
            [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    model.metadata_props.add(key="classes", value="[]")
    return model


def random(*shape: int, kind: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(kind)


def operations(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def assert_same(model: onnx.ModelProto, other: onnx.ModelProto, channels: int) -> None:
    onnx.checker.check_model(other, full_check=True)
    assert other.metadata_props == model.metadata_props
    image = random(2, channels, 7, 9)
    (wanted,) = ReferenceEvaluator(model).run(None, {"image": image})
    (found,) = ReferenceEvaluator(other).run(None, {"image": image})
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "parts"), [(4, [4]), (5, [3, 2]), (8, [4, 4]), (11, [4, 4, 3])], ids=["fits", "5", "8", "11"]
)
def test_convolutions_over_many_channels_are_split(channels: int, parts: list[int]) -> None:
    model = network("Conv", random(6, channels, 3, 3), kernel_shape=[3, 3], pads=[1, 0, 1, 0], strides=[2, 1])
    found = split_input_channels(model, most=4)
    assert_same(model, found, channels)
    widths = [array.dims[1] for array in found.graph.initializer if len(array.dims) == 4]
    assert sorted(widths, reverse=True) == parts
    assert operations(found).count("Add") == len(parts) - 1
    # Nothing of the old weights stays in the file.
    assert sum(len(array.raw_data) for array in found.graph.initializer if len(array.dims) == 4) == 6 * channels * 9 * 4


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(network("Conv", random(6, 2, 3, 3), group=3), id="groups"),
        pytest.param(network("Conv", random(6, 8, 3, 3, kind=np.float16)), id="half precision"),
    ],
)
def test_other_convolutions_stay(model: onnx.ModelProto) -> None:
    assert (
        split_input_channels(model, most=1 if len(model.graph.node[0].attribute) else 4).graph.node == model.graph.node
    )


@pytest.mark.parametrize("size", [2, 3])
def test_transposed_convolutions_without_overlap_become_convolutions(size: int) -> None:
    model = network("ConvTranspose", random(5, 4, size, size), strides=[size, size])
    found = convolve_to_upsample(model)
    assert operations(found) == ["Conv", "DepthToSpace"]
    assert_same(model, found, 5)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"strides": [1, 1]}, id="overlap"),
        pytest.param({"strides": [2, 2], "group": 2}, id="groups"),
        pytest.param({"strides": [2, 2], "pads": [1, 1, 1, 1]}, id="padding"),
        pytest.param({"strides": [2, 2], "output_padding": [1, 1]}, id="output padding"),
        pytest.param({"strides": [2, 1]}, id="other steps"),
        pytest.param({}, id="no steps"),
    ],
)
def test_other_transposed_convolutions_stay(how: dict[str, Any]) -> None:
    model = network("ConvTranspose", random(4, 4, 2, 2), **how)
    assert operations(convolve_to_upsample(model)) == ["ConvTranspose"]


def test_a_transposed_convolution_without_bias() -> None:
    model = network("ConvTranspose", random(5, 4, 2, 2), strides=[2, 2])
    del model.graph.node[0].input[2], model.graph.initializer[1]
    found = convolve_to_upsample(model)
    assert operations(found) == ["Conv", "DepthToSpace"]
    assert_same(model, found, 5)


@pytest.mark.parametrize("rewrite", [convolve_to_upsample, lambda model: split_input_channels(model, 2)])
def test_quantised_weights_stay(rewrite: Any) -> None:
    # Their sums are of integers, and exact in any order.
    model = network("Conv", random(6, 8, 3, 3))
    model.graph.initializer[0].name = "stored"
    model.graph.node.insert(0, helper.make_node("Identity", ["stored"], ["w"]))
    assert operations(rewrite(model)) == ["Identity", "Conv"]


def test_the_given_network_is_not_touched(small: Path) -> None:
    model = onnx.load(small)
    before = model.SerializeToString(deterministic=True)
    convolve_to_upsample(split_input_channels(model, 4))
    assert model.SerializeToString(deterministic=True) == before
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
