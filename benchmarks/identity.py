"""An engine that hands on what lies in the middle of its tile: all but the network of a prediction."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.certificates import write_certificate
from unetpipe import config
from unetpipe.deploy.candidate import compile_engine, profile_for
from unetpipe.engines import device_class
from unetpipe.engines.select import BUILD, ENGINE, Networks, choose

NETWORK = config.Network(depth=4)
"""Whose border it has."""

CLASSES = ("grey",)
_BACKEND = "openvino"


def make_engine(folder: Path) -> Path:
    """The certificate of the engine, which lies beside it in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    geometry = NETWORK.geometry
    border = geometry.border[1]
    bounds = {"starts": [border, border], "ends": [-border, -border], "axes": [2, 3]}
    nodes = [
        helper.make_node("Slice", ["image", *bounds], ["middle"]),
        # Between 0 and 1, as a probability is.
        helper.make_node("Sigmoid", ["middle"], ["bounded"]),
        helper.make_node("Unsqueeze", ["bounded", "section"], ["probability"]),
    ]
    constants = {**bounds, "section": [2]}
    middle = ["n", 1, 1, *(f"{axis} - {2 * border}" for axis in "yx")]
    graph = helper.make_graph(
        nodes,
        "identity",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, "y", "x"])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, middle)],
        [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    described = {
        "classes": CLASSES, "geometry": asdict(geometry), "precision": "fp32", "form": "fp32",
        "checkpoint_digest": "0" * 64,
    }  # fmt: skip
    for name, value in described.items():
        model.metadata_props.add(key=name, value=json.dumps(value))
    onnx.save(model, folder / "model.onnx")
    settings = config.Engine(backend=_BACKEND, precision="fp32")
    networks = Networks(folder / "model.onnx", None)
    profile = profile_for(geometry, None, 1, settings.max_batch)
    choice = choose(settings, "fp32", networks, profile)
    compile_engine(
        networks.of(choice.backend, "fp32"), folder / ENGINE, folder / BUILD,
        choice=choice, asked=settings.backend, profile=profile,
    )  # fmt: skip
    return write_certificate(folder, geometry, device_class=device_class(_BACKEND), backend=_BACKEND)
