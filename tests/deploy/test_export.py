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
from unetpipe.config import Network
from unetpipe.deploy.export import export, fold
from unetpipe.errors import UserError
from unetpipe.files import digest, read_json
from unetpipe.nets.checkpoint import load_checkpoint
from unetpipe.nets.unet import UNet

CLASSES = ["membrane", "inside", "outside"]
BORDER = 20  # of depth 2: 4 + 8 voxels of the levels that are passed twice, 8 of the lowest
OPERATIONS = {"Conv", "Relu", "MaxPool", "ConvTranspose", "Slice", "Concat", "Softmax", "Unsqueeze"}


def dimensions(value: Any) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


SHAPES = [
    pytest.param((1, 1, 44, 44), id="smallest"),
    pytest.param((2, 1, 52, 76), id="wide"),
    pytest.param((5, 1, 100, 44), id="tall, many"),
    pytest.param((1, 1, 180, 204), id="large"),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_gives_the_probabilities_of_the_network_in_every_size(exported: Any, shape: tuple[int, ...]) -> None:
    assert compared(exported, shape) == (shape[0], len(CLASSES), 1, shape[2] - 2 * BORDER, shape[3] - 2 * BORDER)


@pytest.mark.parametrize(
    ("batch", "kept"),
    [
        pytest.param(1, (1, 1, 1), id="smallest"),
        pytest.param(2, (5, 9, 1), id="deep"),
        pytest.param(3, (1, 2, 40), id="wide"),
        pytest.param(1, (6, 6, 6), id="a cube"),
    ],
)
@pytest.mark.long
def test_so_it_does_in_other_dimensions(exported_further: Any, batch: int, kept: tuple[int, int, int]) -> None:
    geometry = load_checkpoint(exported_further.checkpoint)[0].geometry
    tile = geometry.tile_for(kept)
    assert compared(exported_further, (batch, *tile)) == (batch, len(CLASSES), *geometry.output(tile))


def compared(exported: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what the file gives for an image of ``shape``, once its values are known to be the network's."""
    network, _ = load_checkpoint(exported.checkpoint)
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(image)).softmax(dim=1).numpy()
    session = onnxruntime.InferenceSession(exported.onnx, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probability"], {"image": image})
    assert found.dtype == np.float32
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    result: tuple[int, ...] = found.shape
    return result


def test_input_output_and_operations_are_those_that_engines_expect(exported: Any) -> None:
    model = onnx.load(exported.onnx)
    onnx.checker.check_model(model, full_check=True)
    (image,), (probability,) = model.graph.input, model.graph.output
    assert (image.name, dimensions(image)) == ("image", ["n", 1, "y", "x"])
    assert (probability.name, dimensions(probability)) == ("probability", ["n", 3, 1, "y - 40", "x - 40"])
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    # Batch normalisation and dropout are gone.
    assert {node.op_type for node in model.graph.node} == OPERATIONS


@pytest.mark.long
def test_so_are_those_of_other_dimensions(exported_further: Any) -> None:
    model = onnx.load(exported_further.onnx)
    onnx.checker.check_model(model, full_check=True)
    network, _ = load_checkpoint(exported_further.checkpoint)
    # Along z, a 2D network takes the sections that it needs for one.
    border = network.geometry.border
    sizes = [network.settings.sections, "y", "x"] if network.dimensions == 2 else ["z", "y", "x"]
    left = [1 if isinstance(size, int) else f"{size} - {2 * b}" for size, b in zip(sizes, border, strict=True)]
    assert dimensions(model.graph.input[0]) == ["n", *sizes]
    assert dimensions(model.graph.output[0]) == ["n", 3, *left]
    assert {node.op_type for node in model.graph.node} == OPERATIONS


def test_shapes_follow_from_the_open_sizes(exported: Any) -> None:
    assert inferred(exported, (3, 1, 60, 92)) == [3, 3, 1, 20, 52]


def test_so_they_do_in_other_dimensions(exported_further: Any) -> None:
    geometry = load_checkpoint(exported_further.checkpoint)[0].geometry
    tile = geometry.tile_for((3, 9, 20))
    assert inferred(exported_further, (3, *tile)) == [3, 3, *geometry.output(tile)]


def inferred(exported: Any, shape: tuple[int, ...]) -> list[int | str]:
    """The shape of the result, as ONNX itself infers it from that of the image."""
    model = onnx.load(exported.onnx)
    for size, value in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        size.dim_value = value
    for size in model.graph.output[0].type.tensor_type.shape.dim:
        size.Clear()
    result = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    return dimensions(result.graph.output[0])


def test_metadata_tell_all_that_an_engine_must_know(exported: Any) -> None:
    metadata = {item.key: json.loads(item.value) for item in onnx.load(exported.onnx).metadata_props}
    assert metadata == {
        "classes": CLASSES,
        "geometry": {"border": [0, BORDER, BORDER], "pooling": [1, 4, 4], "base": [0, 0, 0], "dimensions": 2},
        "normalisation": "per section",
        "network": Network(width=4, depth=2, dropout=0.5).model_dump(mode="json"),
        "precision": "fp32",
        "form": "fp32",
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


@pytest.mark.long
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


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 3, 3)], ids=["2D", "3D"])
def test_folding_leaves_the_network_and_its_result_as_they_are(kernel: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    network = UNet(Network(width=4, depth=1, kernel=kernel), 2)
    image = torch.randn(2, *network.geometry.tile_for((3, 9, 9)))
    for _ in range(3):
        # In training, so that there is something to fold.
        network(image)
    network.eval()
    before = copy.deepcopy(network.state_dict())
    folded = fold(network)
    assert not any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in folded.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.inference_mode():
        torch.testing.assert_close(folded(image), network(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2)),
        nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.BatchNorm3d(2)),
    ],
    ids=["2D", "3D"],
)
def test_a_normalisation_that_cannot_be_folded_is_named(network: nn.Module) -> None:
    with pytest.raises(ValueError, match="batch normalisation without a convolution before it: 2"):
        fold(network)
