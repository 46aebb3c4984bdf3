"""Values are followed from convolution to convolution."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_unet import unet

from unetpipe.deploy.activations import Range, stretch, trace

NETWORKS = [
    pytest.param({}, id="2D"),
    pytest.param({"sections": 3}, id="2.5D"),
    pytest.param({"kernel": (3, 3, 3), "pooling": (2, 2, 2)}, id="3D"),
]


def operations(model: onnx.ModelProto, *kinds: str) -> list[str]:
    return [node.output[0] for node in model.graph.node if node.op_type in kinds]


@pytest.mark.parametrize("settings", NETWORKS)
def test_what_is_joined_is_one_group_and_all_else_stands_alone(settings: dict[str, Any]) -> None:
    model = unet((4, 6, 8), **settings)
    found = trace(model)
    ups, values = operations(model, "ConvTranspose"), operations(model, "Relu", "ConvTranspose")
    assert found.linear == set(ups)
    assert sorted(found.channels) == sorted(values)
    assert sorted(name for group in found.groups for name in group) == sorted(values)
    pairs = [group for group in found.groups if len(group) > 1]
    assert len(pairs) == 2
    for group in pairs:
        assert len(group) == 2
        assert len(found.linear.intersection(group)) == 1


@pytest.mark.parametrize("settings", NETWORKS)
def test_the_first_and_the_last_convolution_are_not_inner(settings: dict[str, Any]) -> None:
    model = unet((4, 6, 8), **settings)
    convolutions = operations(model, "Conv", "ConvTranspose")
    assert trace(model).inner == set(convolutions[1:-1])


def test_channels_are_read_in_the_order_in_which_they_are_joined() -> None:
    model = unet((4, 6))
    found = trace(model)
    (join,) = [node for node in model.graph.node if node.op_type == "Concat"]
    (up,) = found.linear
    (reader,) = [name for name, names in found.read.items() if len(names) == 2]
    assert found.read[reader][1] == up
    assert join.input[1] == up


@pytest.mark.parametrize("attribute", [{"pads": [1, 1, 1, 1]}, {"auto_pad": "SAME_UPPER"}], ids=str)
def test_padding_is_refused(attribute: dict[str, Any]) -> None:
    # A shift of values could not be moved into a bias then.
    model = unet((4, 6))
    model.graph.node[2].attribute.append(helper.make_attribute(*next(iter(attribute.items()))))
    with pytest.raises(ValueError, match="is padded"):
        trace(model)


def test_other_operations_are_refused() -> None:
    model = unet((4, 6))
    model.graph.node[1].op_type = "Sigmoid"
    with pytest.raises(ValueError, match=r"Sigmoid of .* none of the operations that bytes are followed through"):
        trace(model)


@pytest.fixture
def joined() -> tuple[str, str, Any]:
    """Names of the two tensors that a U-Net of depth 1 joins, the linear one first, and what is traced."""
    found = trace(unet((2, 3)))
    (group,) = (group for group in found.groups if len(group) == 2)
    (up,) = found.linear
    (skip,) = set(group) - {up}
    return up, skip, found


def test_linear_channels_fill_the_range_of_what_they_are_joined_with(joined: tuple[str, str, Any]) -> None:
    up, skip, found = joined
    ranges = {name: Range(np.zeros(n, np.float32), np.ones(n, np.float32)) for name, n in found.channels.items()}
    ranges[skip] = Range(np.zeros(2, np.float32), np.array([3, 8], np.float32))
    least, most = np.array([-0.5, 0.25], np.float32), np.array([1.5, 2], np.float32)
    ranges[up] = Range(least, most)
    stretches, largest = stretch(found, ranges)
    assert set(stretches) == {up}
    assert largest[up] == largest[skip] == 8
    assert {largest[name] for name in found.channels if name not in (up, skip)} == {1}
    factor, offset = stretches[up].factor, stretches[up].offset
    np.testing.assert_allclose(factor * most + offset, 8)
    # 0 stays in the range: what is positive is not shifted.
    np.testing.assert_allclose(factor * np.minimum(least, 0) + offset, 0)


@pytest.mark.parametrize("nothing", ["up", "skip"])
def test_channels_without_values_are_not_stretched(nothing: str, joined: tuple[str, str, Any]) -> None:
    up, skip, found = joined
    ranges = {name: Range(-np.ones(n, np.float32), np.ones(n, np.float32)) for name, n in found.channels.items()}
    ranges[up if nothing == "up" else skip] = Range(np.zeros(2, np.float32), np.zeros(2, np.float32))
    stretches, _ = stretch(found, ranges)
    np.testing.assert_array_equal(stretches[up].factor, 1)
    assert np.isfinite(stretches[up].offset).all()
