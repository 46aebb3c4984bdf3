"""Each form is the same network, with input and output in fp32."""

import json
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_unet import unet

from unetpipe.deploy import forms
from unetpipe.deploy.activations import Range, trace
from unetpipe.deploy.calibrate import calibrate
from unetpipe.deploy.forms import FORMS, write_form
from unetpipe.engines.graph import Editor

ALL = [form for forms in FORMS.values() for form in forms]
NETWORKS = [
    pytest.param({}, (1, 60, 52), id="2D"),
    pytest.param({"sections": 3}, (3, 60, 52), id="2.5D"),
    pytest.param({"kernel": (3, 3, 3), "pooling": (2, 2, 2)}, (44, 44, 48), id="3D"),
]
CHANNELS = (4, 6, 8)


def image(tile: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((2, *tile)).astype(np.float32)


def run(model: onnx.ModelProto, batch: NDArray[np.float32]) -> Any:
    newer = onnx.ModelProto()
    newer.CopyFrom(model)
    # The evaluator does not know quantisation of the opset that the engines read; the newer one says the same.
    newer.opset_import[0].version = max(21, newer.opset_import[0].version)
    return ReferenceEvaluator(newer).run(None, {"image": batch})[0]


def in_form(form: str, settings: dict[str, Any], tile: tuple[int, ...]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = unet(CHANNELS, **settings)
    return model, write_form(model, form, calibrate(model, image(tile), 1) if form.startswith("int8") else {})


@pytest.mark.parametrize(("settings", "tile"), NETWORKS)
@pytest.mark.parametrize(
    ("form", "largest"), [("bf16-hint", 0), ("fp16", 0.01), ("int8-asymmetric", 0.15), ("int8-symmetric", 0.15)]
)
def test_the_network_stays_the_same(form: str, largest: float, settings: dict[str, Any], tile: tuple[int, ...]) -> None:
    model, found = in_form(form, settings, tile)
    difference = np.abs(run(found, image(tile, 1)) - run(model, image(tile, 1)))
    assert difference.max() <= largest
    assert difference.mean() <= largest / 5


@pytest.mark.parametrize(("settings", "tile"), NETWORKS)
@pytest.mark.parametrize("form", ALL)
def test_every_form_says_what_it_is(form: str, settings: dict[str, Any], tile: tuple[int, ...]) -> None:
    model, found = in_form(form, settings, tile)
    metadata = {item.key: json.loads(item.value) for item in found.metadata_props}
    before = {item.key: json.loads(item.value) for item in model.metadata_props}
    assert metadata == before | {"precision": form.split("-")[0], "form": form}
    for value in (*found.graph.input, *found.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert found.graph.input == model.graph.input
    assert found.SerializeToString(deterministic=True) == in_form(form, settings, tile)[1].SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(("form", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
@pytest.mark.parametrize(("settings", "tile"), NETWORKS)
def test_all_weights_and_convolutions_are_of_the_type(
    form: str, kind: int, settings: dict[str, Any], tile: tuple[int, ...]
) -> None:
    _, found = in_form(form, settings, tile)
    stored = {item.name: item.data_type for item in found.graph.initializer}
    assert TensorProto.FLOAT not in stored.values()
    inferred = onnx.shape_inference.infer_shapes(found, strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    convolutions = [node for node in found.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert {kinds[node.output[0]] for node in convolutions} == {kind}


@pytest.mark.parametrize(("settings", "tile"), NETWORKS)
def test_bytes_are_joined_as_they_are(settings: dict[str, Any], tile: tuple[int, ...]) -> None:
    _, found = in_form("int8-asymmetric", settings, tile)
    scales = {item.name: numpy_helper.to_array(item) for item in found.graph.initializer}
    made = {node.output[0]: node for node in found.graph.node}

    def scale(name: str) -> float:
        node = made[name]
        return float(scales[node.input[1]]) if node.op_type == "DequantizeLinear" else scale(node.input[0])

    joins = [node for node in found.graph.node if node.op_type == "Concat"]
    assert len(joins) == 2
    for node in joins:
        assert len({scale(name) for name in node.input}) == 1
    # ReLU and shift put the zero point at 0, which is what stands for it where none is stored.
    quantised = [node for node in found.graph.node if node.op_type == "QuantizeLinear"]
    assert {len(node.input) for node in quantised if node.input[0] != "image"} == {2}
    assert "Relu" not in {node.op_type for node in found.graph.node}


@pytest.mark.parametrize(("form", "spared"), [("int8-asymmetric", 0), ("int8-symmetric", 1)])
def test_convolutions_have_weights_of_bytes(form: str, spared: int) -> None:
    _, found = in_form(form, {}, (1, 60, 52))
    made = {node.output[0]: node.op_type for node in found.graph.node}
    convolutions = [node for node in found.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    quantised = [made.get(node.input[1]) == "DequantizeLinear" for node in convolutions]
    # For GPUs the first and the last stay as they are.
    assert quantised == [False] * spared + [True] * (len(quantised) - 2 * spared) + [False] * spared


@pytest.mark.parametrize(("settings", "tile"), NETWORKS)
def test_stretching_is_exact(settings: dict[str, Any], tile: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    # Without rounding, what is left of the form is the stretching of channels, and its undoing.
    monkeypatch.setattr(forms, "_quantise", lambda editor, source, name, scale, zero: clip(editor, source, name, zero))
    monkeypatch.setattr(
        forms, "_quantise_weights", lambda editor, node, weights: editor.constant(f"{node.output[0]}.w", weights)
    )
    model, found = in_form("int8-asymmetric", settings, tile)
    # The image that the ranges are from: in another one, values could lie beyond them.
    np.testing.assert_allclose(run(found, image(tile)), run(model, image(tile)), atol=1e-4)


def clip(editor: Editor, source: str, name: str, zero: str | None) -> str:
    """All that a zero point of 0 does to a value, if there is no rounding."""
    return editor.add_one("Identity" if zero else "Relu", [source], f"{name}.clipped")


def test_channels_that_give_nothing_are_no_division_by_zero() -> None:
    model = unet(CHANNELS)
    nothing = {
        name: Range(np.zeros(count, np.float32), np.zeros(count, np.float32))
        for name, count in [*trace(model).channels.items(), ("image", 1)]
    }
    weights = next(item for item in model.graph.initializer if list(item.dims) == [6, 4, 3, 3])
    weights.CopyFrom(numpy_helper.from_array(np.zeros((6, 4, 3, 3), np.float32), weights.name))
    found = write_form(model, "int8-asymmetric", nothing)
    assert np.isfinite(run(found, image((1, 44, 44)))).all()


def test_a_network_without_softmax_is_refused() -> None:
    model = unet(CHANNELS)
    model.graph.node[-1].op_type = "Sigmoid"
    with pytest.raises(ValueError, match="ends in Sigmoid"):
        write_form(model, "fp16", {})
