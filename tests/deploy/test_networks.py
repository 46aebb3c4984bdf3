"""The networks beside the U-Net of the paper go the same way: exported, in other precisions, and cut as one likes."""

import functools
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiling import Build, assert_tiles_are_the_whole, image

from unetpipe import config
from unetpipe.config import Network, Precision
from unetpipe.deploy.build_engine import build_engine
from unetpipe.deploy.calibrate import calibrate
from unetpipe.deploy.export import export
from unetpipe.deploy.forms import write_form
from unetpipe.deploy.quantize import quantize, writable
from unetpipe.engines import mirrored, onnx_file
from unetpipe.engines.contract import Engine
from unetpipe.engines.select import backend
from unetpipe.errors import UserError
from unetpipe.files import read_json
from unetpipe.nets.build import build
from unetpipe.nets.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.long

CLASSES = ["membrane", "inside", "outside"]

NETWORKS = {
    # So many channels that a library which chooses the order of sums by the shape of the call does so here.
    "max-unpooling": Network(width=18, depth=1, upsampling="max_unpooling", skips="none"),
    "nearest, added": Network(width=160, depth=1, upsampling="nearest", skips="add"),
    "bed of nails, multiplied": Network(
        width=6, depth=1, pooling=(1, 3, 1), upsampling="bed_of_nails", skips="multiply"
    ),
    "without skips": Network(width=18, depth=1, skips="none"),
    "full resolution, 2.5D": Network(name="full_resolution", width=150, depth=1, sections=3),
    "patches": Network(name="patch_classifier", width=34, depth=2),
    "patches, 3D": Network(name="patch_classifier", width=18, depth=1, kernel=(3, 3, 3), pooling=(2, 2, 2)),
}
IN_BYTES = ["without skips", "full resolution, 2.5D"]


@pytest.fixture(scope="module")
def export_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives the folder with checkpoint.safetensors and model.onnx of a network with random weights."""

    @functools.cache
    def write(name: str) -> Path:
        folder = tmp_path_factory.mktemp("network")
        torch.manual_seed(0)
        checkpoint = folder / "checkpoint.safetensors"
        save_checkpoint(checkpoint, build(NETWORKS[name], len(CLASSES)).eval(), {"classes": CLASSES})
        export(checkpoint, folder / "model.onnx", folder / "model.json")
        return folder

    return write


@pytest.fixture(params=[pytest.param(name, id=name) for name in NETWORKS])
def exported(request: pytest.FixtureRequest, export_of: Callable[[str], Path]) -> Any:
    """The folder, and the name of the network."""
    return export_of(request.param), request.param


def test_the_checkpoint_brings_its_network_along(exported: Any) -> None:
    folder, name = exported
    network, _ = load_checkpoint(folder / "checkpoint.safetensors")
    assert network.settings == NETWORKS[name]
    assert read_json(folder / "model.json")["network"] == NETWORKS[name].model_dump(mode="json")


def test_the_file_gives_the_probabilities_of_the_network(exported: Any) -> None:
    folder, _ = exported
    network, _ = load_checkpoint(folder / "checkpoint.safetensors")
    geometry = network.geometry
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for batch, kept in ((1, (1, 1, 1)), (3, (2, 5, 9))):
        tile = geometry.tile_for(kept)
        values = image(batch, *tile)
        with torch.inference_mode():
            wanted = network(torch.from_numpy(values)).softmax(dim=1).numpy()
        (found,) = session.run(["probability"], {"image": values})
        assert found.shape == (batch, len(CLASSES), *geometry.output(tile))
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_no_operation_is_unknown_to_tensorrt(exported: Any) -> None:
    folder, _ = exported
    nodes = onnx.load(folder / "model.onnx").graph.node
    assert not {"MaxUnpool", "Resize", "ConstantOfShape"} & {node.op_type for node in nodes}
    pooled = [attribute for node in nodes if node.op_type == "MaxPool" for attribute in node.attribute]
    assert all(set(attribute.ints) == {1} for attribute in pooled if attribute.name == "dilations")


def calibrated(onnx_path: Path, form: str, folder: Path) -> Path:
    """The network in ``form``."""
    model, described = onnx_file.read(onnx_path)
    path = folder / f"{form}.onnx"
    tiles = image(2, *described.geometry.tile_for((1, 24, 24)))
    ranges = calibrate(model, tiles, 1) if form.startswith("int8") else {}
    path.write_bytes(write_form(model, form, ranges).SerializeToString(deterministic=True))
    return path


@pytest.mark.parametrize(
    ("name", "precision"), [("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32")], ids="{}".format
)
def test_tiles_are_the_whole_bit_for_bit(exported: Any, name: str, precision: Precision, tmp_path: Path) -> None:
    cut(exported, name, precision, tmp_path)


def test_mirrored_ones_are_too(exported: Any, tmp_path: Path) -> None:
    cut(exported, "onnxruntime", "fp32", tmp_path, ("y", "x"))


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("exported", IN_BYTES, indirect=True)
def test_so_they_are_in_bytes(exported: Any, name: str, tmp_path: Path) -> None:
    cut(exported, name, "int8", tmp_path)


def cut(exported: Any, name: str, precision: Precision, tmp_path: Path, mirror: Sequence[str] = ()) -> None:
    folder, _ = exported
    library = backend(name)
    if reason := library.unavailable("run", precision):
        pytest.skip(reason)
    onnx_path = folder / "model.onnx"
    path = onnx_path if precision == "fp32" else calibrated(onnx_path, library.form(precision), tmp_path)

    # OpenVINO refuses to compute a single voxel, for which it has another softmax.
    with closing(Build(library, path, tmp_path / "engine")) as engine:

        def open_one(*call: Any, **how: Any) -> Engine:
            return mirrored(engine.open(*call, **how), mirror)

        assert_tiles_are_the_whole(path, open_one, alone=name != "openvino")


@pytest.mark.parametrize("form", ["fp16", "bf16"])
def test_forms_of_fewer_bits_are_typed_throughout(exported: Any, form: str, tmp_path: Path) -> None:
    folder, _ = exported
    # The checker of the form has followed all types.
    model = onnx.load(calibrated(folder / "model.onnx", form, tmp_path))
    constants = {item.name: item.data_type for item in model.graph.initializer}
    kind = onnx.TensorProto.FLOAT16 if form == "fp16" else onnx.TensorProto.BFLOAT16
    weights = {constants[node.input[1]] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")}
    assert weights == {kind}


def test_bytes_are_refused_where_they_are_not_known(exported: Any) -> None:
    folder, name = exported
    able, refused = writable(onnx.load(folder / "model.onnx"), ["bf16", "int8"])
    assert able == (["bf16", "int8"] if name in IN_BYTES else ["bf16"])
    assert set(refused) == (set() if name in IN_BYTES else {"int8"})


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of a network that is not written in bytes."""
    folder = tmp_path_factory.mktemp("added")
    checkpoint = folder / "checkpoint.safetensors"
    save_checkpoint(checkpoint, build(Network(width=4, depth=1, skips="add"), 3), {"classes": CLASSES})
    export(checkpoint, folder / "model.onnx", folder / "model.json")
    return folder / "model.onnx"


REASON = r"this network is not written in int8 \(Add of .*\), which is for full_resolution, and for a unet"


def built(onnx_path: Path, folder: Path, precision: Any) -> Any:
    """What the rules quantize and build_engine leave, without a volume to calibrate on."""
    asked = config.Engine(backend="onnxruntime", precision=precision)
    lower: list[str] = [name for name in asked.precisions if name != "fp32"]
    description = folder / "quantized.json"
    quantize(
        onnx_path, [], folder / "quantized", description,
        role="train", precisions=lower, tile=None, settings=config.Quantize(), cores=1,
    )  # fmt: skip
    candidates = folder / "candidates.json"
    build_engine(onnx_path, candidates, settings=asked, tile=None, batch=1, quantized=description)
    return read_json(candidates)


def test_the_next_precision_takes_over_and_the_reason_is_told(
    added: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("unetpipe.engines.onnxruntime.OnnxRuntime.unavailable", lambda *_: None)
    found = built(added, tmp_path, ["int8", "fp32"])
    assert [item["precision"] for item in found["candidates"]] == ["fp32"]
    (skipped,) = found["skipped"]
    assert skipped["precision"] == "int8"
    assert skipped["why"] == read_json(tmp_path / "quantized.json")["refused"]["int8"]
    assert "this network is not written in int8 (Add of" in caplog.text


def test_alone_it_is_an_error(added: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.engines.onnxruntime.OnnxRuntime.unavailable", lambda *_: None)
    with pytest.raises(UserError, match=REASON):
        built(added, tmp_path, "int8")
