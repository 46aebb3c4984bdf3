"""Rewritten networks compute the same, in the operations that were asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from unetpipe.engines.rewrite import convolve_sections, convolve_to_upsample, fill_channels, split_input_channels


def network(operation: str, weights: np.ndarray[Any, Any], **attributes: Any) -> onnx.ModelProto:
    """One operation on ``image``, its weights stored with it, with a bias."""
    channels_out = weights.shape[1 if operation == "ConvTranspose" else 0] * attributes.get("group", 1)
    kind = helper.np_dtype_to_tensor_dtype(weights.dtype)
    bias = np.arange(channels_out).astype(weights.dtype)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(operation, ["image", "w", "b"], ["probability"], **attributes)],
            "one",
            [helper.make_tensor_value_info("image", kind, ["n", None, *"zyx"[5 - weights.ndim :]])],
            [helper.make_tensor_value_info("probability", kind, ["n"] + [None] * (weights.ndim - 1))],
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
    dimensions = model.graph.initializer[0].dims[2:]
    image = random(2, channels, *(6, 7, 9)[3 - len(dimensions) :])
    (wanted,) = ReferenceEvaluator(model).run(None, {"image": image})
    (found,) = ReferenceEvaluator(other).run(None, {"image": image})
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


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


@pytest.mark.parametrize(
    ("kernel", "parts"),
    [
        pytest.param((1, 1), [4, 4, 4], id="1 x 1"),
        pytest.param((1, 3, 3), [4, 4, 4], id="1 x 3 x 3"),
        pytest.param((2, 3, 3), [2] * 6, id="2 x 3 x 3"),
        pytest.param((3, 3, 3), [1] * 12, id="3 x 3 x 3"),
        pytest.param((5, 3, 3), [1] * 12, id="5 x 3 x 3"),
    ],
)
def test_convolutions_over_more_voxels_are_split_into_more(kernel: tuple[int, ...], parts: list[int]) -> None:
    model = network("Conv", random(6, 12, *kernel), kernel_shape=kernel)
    found = split_input_channels(model, most=4)
    assert_same(model, found, 12)
    assert [array.dims[1] for array in found.graph.initializer if len(array.dims) > 3] == parts


@pytest.mark.parametrize(
    ("size", "last"),
    [
        pytest.param((2, 2), "DepthToSpace", id="2 x 2"),
        pytest.param((3, 3), "DepthToSpace", id="3 x 3"),
        pytest.param((3, 2), "Reshape", id="3 x 2"),
        pytest.param((1, 2), "Reshape", id="1 x 2"),
        pytest.param((1, 2, 2), "Reshape", id="1 x 2 x 2"),
        pytest.param((2, 2, 2), "Reshape", id="2 x 2 x 2"),
        pytest.param((4, 3, 2), "Reshape", id="4 x 3 x 2"),
    ],
)
def test_transposed_convolutions_without_overlap_become_convolutions(size: tuple[int, ...], last: str) -> None:
    model = network("ConvTranspose", random(5, 4, *size), strides=size)
    found = convolve_to_upsample(model)
    assert operations(found)[0] == "Conv"
    assert operations(found)[-1] == last
    assert "ConvTranspose" not in operations(found)
    assert_same(model, found, 5)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"strides": [1, 1]}, id="overlap"),
        pytest.param({"strides": [2, 2], "group": 2}, id="groups"),
        pytest.param({"strides": [2, 2], "pads": [1, 1, 1, 1]}, id="padding"),
        pytest.param({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, id="padding by name"),
        pytest.param({"strides": [2, 2], "output_padding": [1, 1]}, id="output padding"),
        pytest.param({"strides": [2, 1]}, id="other steps"),
        pytest.param({}, id="no steps"),
    ],
)
def test_other_transposed_convolutions_stay(how: dict[str, Any]) -> None:
    model = network("ConvTranspose", random(4, 4, 2, 2), **how)
    assert operations(convolve_to_upsample(model)) == ["ConvTranspose"]


@pytest.mark.parametrize("size", [(2, 2), (3, 2, 2)], ids=["2D", "3D"])
def test_a_transposed_convolution_without_bias(size: tuple[int, ...]) -> None:
    model = network("ConvTranspose", random(5, 4, *size), strides=size)
    del model.graph.node[0].input[2], model.graph.initializer[1]
    found = convolve_to_upsample(model)
    assert operations(found)[0] == "Conv"
    assert_same(model, found, 5)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    "kernel", [(1, 1, 1), (1, 3, 3), (2, 1, 1), (3, 3, 3), (5, 3, 1), (6, 7, 9)], ids=lambda kernel: str(kernel)
)
def test_convolutions_in_3d_become_sums_of_2d(kernel: tuple[int, ...], bias: bool) -> None:
    model = network("Conv", random(6, 5, *kernel), kernel_shape=kernel)
    if not bias:
        del model.graph.node[0].input[2], model.graph.initializer[1]
    found = convolve_sections(model)
    assert operations(found).count("Conv") == kernel[0]
    assert operations(found).count("Add") == kernel[0] - 1
    assert {len(array.dims) for array in found.graph.initializer} <= {1, 4}
    assert_same(model, found, 5)


@pytest.mark.parametrize(
    ("kernel", "gaps"), [((3, 3, 3), (2, 1, 3)), ((2, 3, 1), (4, 2, 5)), ((1, 3, 3), (7, 3, 4))], ids=str
)
def test_so_do_those_of_voxels_that_are_no_neighbours(kernel: tuple[int, ...], gaps: tuple[int, ...]) -> None:
    model = network("Conv", random(6, 5, *kernel), dilations=gaps)
    found = convolve_sections(model)
    assert operations(found).count("Conv") == kernel[0]
    assert {len(array.dims) for array in found.graph.initializer} <= {1, 4}
    assert_same(model, found, 5)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"pads": [0, 1, 1, 0, 1, 1]}, id="padding"),
        pytest.param({"auto_pad": "SAME_UPPER"}, id="padding by name"),
        pytest.param({"strides": [2, 1, 1]}, id="steps"),
        pytest.param({"group": 2}, id="groups"),
    ],
)
def test_other_convolutions_in_3d_stay(how: dict[str, Any]) -> None:
    model = network("Conv", random(6, 4, 3, 3, 3), **how)
    assert operations(convolve_sections(model)) == ["Conv"]


def test_convolutions_in_2d_are_not_sections() -> None:
    assert operations(convolve_sections(network("Conv", random(6, 4, 3, 3)))) == ["Conv"]


@pytest.mark.parametrize(
    ("channels", "wanted"), [(7, 7), (8, 8), (9, 12), (11, 12), (12, 12), (18, 20)], ids=lambda count: str(count)
)
def test_channels_are_filled_up(channels: int, wanted: int) -> None:
    model = network("Conv", random(6, channels, 3, 3), kernel_shape=[3, 3], pads=[1, 0, 1, 0])
    found = fill_channels(model, multiple=4, least=8)
    assert operations(found) == (["Conv"] if wanted == channels else ["Pad", "Conv"])
    assert [array.dims[1] for array in found.graph.initializer if len(array.dims) == 4] == [wanted]
    assert_same(model, found, channels)


@pytest.mark.parametrize(
    "rewrite",
    [
        pytest.param(convolve_to_upsample, id="convolve_to_upsample"),
        pytest.param(convolve_sections, id="convolve_sections"),
        pytest.param(lambda model: split_input_channels(model, 2), id="split_input_channels"),
        pytest.param(lambda model: fill_channels(model, 3, 2), id="fill_channels"),
    ],
)
def test_quantised_weights_stay(rewrite: Any) -> None:
    # Their sums are of integers, and exact in any order.
    model = network("Conv", random(6, 8, 3, 3))
    model.graph.initializer[0].name = "stored"
    model.graph.node.insert(0, helper.make_node("Identity", ["stored"], ["w"]))
    assert operations(rewrite(model)) == ["Identity", "Conv"]


def test_the_given_network_is_not_touched(thick: Path) -> None:
    model = onnx.load(thick)
    before = model.SerializeToString(deterministic=True)
    fill_channels(convolve_sections(convolve_to_upsample(split_input_channels(model, 4))), 3, 2)
    assert model.SerializeToString(deterministic=True) == before
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
