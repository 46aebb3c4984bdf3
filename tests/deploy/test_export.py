"""The ONNX file is the network, in every size, and says nothing of the machine that wrote it."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import unetpipe
from unetpipe.deploy.export import export, fold
from unetpipe.errors import UserError
from unetpipe.files import digest, read_json
from unetpipe.nets.checkpoint import load_checkpoint

CLASSES = ["membrane", "inside", "outside"]
BORDER = 20  # of depth 2: 4 + 8 voxels of the levels that are passed twice, 8 of the lowest


def dimensions(value: Any) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 1, 44, 44), id="smallest"),
        pytest.param((2, 1, 52, 76), id="wide"),
        pytest.param((5, 1, 100, 44), id="tall, many"),
        pytest.param((1, 1, 180, 204), id="large"),
    ],
)
def test_it_gives_the_probabilities_of_the_network_in_every_size(exported: Any, shape: tuple[int, ...]) -> None:
    network, _ = load_checkpoint(exported.checkpoint)
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(image)).softmax(dim=1).numpy()
    session = onnxruntime.InferenceSession(exported.onnx, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probability"], {"image": image})
    assert found.dtype == np.float32
    assert found.shape == (shape[0], len(CLASSES), shape[2] - 2 * BORDER, shape[3] - 2 * BORDER)
    assert np.ptp(wanted) > 0.5
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_input_output_and_operations_are_those_that_engines_expect(exported: Any) -> None:
    model = onnx.load(exported.onnx)
    onnx.checker.check_model(model, full_check=True)
    (image,), (probability,) = model.graph.input, model.graph.output
    assert (image.name, dimensions(image)) == ("image", ["n", 1, "y", "x"])
    assert (probability.name, dimensions(probability)) == ("probability", ["n", 3, "y - 40", "x - 40"])
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    # Batch normalisation and dropout are gone.
    assert {node.op_type for node in model.graph.node} == {
        "Conv", "Relu", "MaxPool", "ConvTranspose", "Slice", "Concat", "Softmax",
    }  # fmt: skip


def test_shapes_follow_from_the_open_sizes(exported: Any) -> None:
    model = onnx.load(exported.onnx)
    for size, value in zip(model.graph.input[0].type.tensor_type.shape.dim, (3, 1, 60, 92), strict=True):
        size.dim_value = value
    for size in model.graph.output[0].type.tensor_type.shape.dim:
        size.ClearField("dim_param")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert dimensions(inferred.graph.output[0]) == [3, 3, 20, 52]


def test_metadata_tell_all_that_an_engine_must_know(exported: Any) -> None:
    metadata = {item.key: json.loads(item.value) for item in onnx.load(exported.onnx).metadata_props}
    assert metadata == {
        "classes": CLASSES,
        "geometry": {"border": [0, BORDER, BORDER], "pooling": [1, 4, 4], "base": [0, 0, 0]},
        "normalisation": "per section",
        "network": {"name": "unet", "width": 4, "depth": 2, "normalisation": "batch", "dropout": 0.5},
        "precision": "fp32",
        "checkpoint_digest": digest(exported.checkpoint),
        "opset": 18,
        "version": unetpipe.__version__,
    }
    description = read_json(exported.description)
    assert metadata.items() <= description.items()
    assert description["onnx_digest"] == digest(exported.onnx)
    assert description["bytes"] == exported.onnx.stat().st_size
    network, _ = load_checkpoint(exported.checkpoint)
    assert description["parameters"] == sum(parameter.numel() for parameter in network.parameters())


def test_another_process_elsewhere_writes_the_same_bytes(exported: Any, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from unetpipe.deploy.export import export\n"
        "export(Path(sys.argv[1]), Path('other.onnx'), Path('other.json'))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, exported.checkpoint], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "other.onnx").read_bytes() == exported.onnx.read_bytes()
    assert (tmp_path / "other.json").read_bytes() == exported.description.read_bytes()


def test_nothing_of_the_machine_is_in_it(exported: Any) -> None:
    model = onnx.load(exported.onnx)
    # Weights are arbitrary bytes.
    for weights in model.graph.initializer:
        weights.ClearField("raw_data")
    data = model.SerializeToString().lower()
    traces = [sys.prefix, str(Path.cwd()), str(Path.home()), "/", ".py", "torch", "site-packages", "0x"]
    assert [trace for trace in traces if trace.lower().encode() in data] == []


def test_a_broken_checkpoint_leaves_no_description(exported: Any, tmp_path: Path) -> None:
    broken = tmp_path / "checkpoint.safetensors"
    broken.write_bytes(exported.checkpoint.read_bytes()[:-100])
    (tmp_path / "model.json").write_text("of an earlier network")
    with pytest.raises(UserError, match="no whole safetensors file"):
        export(broken, tmp_path / "model.onnx", tmp_path / "model.json")
    assert not (tmp_path / "model.json").exists()
    assert not (tmp_path / "model.onnx").exists()


def test_folding_leaves_the_network_and_its_result_as_they_are(exported: Any) -> None:
    network, _ = load_checkpoint(exported.checkpoint)
    before = copy.deepcopy(network.state_dict())
    folded = fold(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    image = torch.randn(1, 1, 60, 60, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(folded(image), network(image), rtol=1e-5, atol=1e-5)


def test_a_normalisation_that_cannot_be_folded_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2))
    with pytest.raises(ValueError, match="batch normalisation without a convolution before it: 2"):
        fold(network)
