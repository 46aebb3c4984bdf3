"""What is particular to ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from unetpipe.engines.contract import Profile
from unetpipe.engines.devices import Gpu, Processor, gpu
from unetpipe.engines.onnxruntime import OnnxRuntime
from unetpipe.errors import UserError

PROFILE = Profile((1, 1, 1), (1, 60, 60))


def test_the_engine_has_no_transposed_convolution(small: Path, tmp_path: Path) -> None:
    OnnxRuntime().build(small, tmp_path / "engine", PROFILE)
    operations = [node.op_type for node in onnx.load(tmp_path / "engine").graph.node]
    assert operations.count("DepthToSpace") == 2
    assert "ConvTranspose" not in operations


def test_the_engine_has_no_convolution_in_3d(thick: Path, tmp_path: Path) -> None:
    OnnxRuntime().build(thick, tmp_path / "engine", Profile((1, 1, 1), (20, 44, 44)))
    model = onnx.load(tmp_path / "engine")
    kernels = {item.name: list(item.dims[2:]) for item in model.graph.initializer}
    assert "ConvTranspose" not in [node.op_type for node in model.graph.node]
    assert {len(kernels[node.input[1]]) for node in model.graph.node if node.op_type == "Conv"} == {2}


def test_an_operation_that_it_does_not_know(small: Path, tmp_path: Path) -> None:
    model = onnx.load(small)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Unheard", "nowhere"
    model.opset_import.add(domain="nowhere", version=1)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"loaded by onnxruntime (.|\n)*Unheard(.|\n)*engine\.backend"):
        OnnxRuntime().build(tmp_path / "model.onnx", tmp_path / "engine", PROFILE)


@pytest.mark.skipif(gpu() is not None, reason="there is a GPU, and its libraries may be there")
def test_a_gpu_that_it_cannot_use_is_not_passed_over(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    OnnxRuntime().build(small, tmp_path / "engine", PROFILE)
    monkeypatch.setattr("unetpipe.engines.onnxruntime.gpu", lambda: Gpu("Some Card", "8.6", "580.1"))
    with pytest.raises(UserError, match=r"Some Card(.|\n)*CUDA_VISIBLE_DEVICES="):
        OnnxRuntime().load(tmp_path / "engine", PROFILE.tile, batch=1, threads=1)
    assert OnnxRuntime().device_class()["gpu"] == "Some Card"


def test_quantised_convolutions_are_of_integers(
    case: Any, in_form: Callable[[Path, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetpipe.engines.onnxruntime.gpu", lambda: None)
    network = in_form(case.network, "int8-asymmetric")
    OnnxRuntime().build(network, tmp_path / "engine", Profile((1, 1, 1), case.tile))
    operations = [node.op_type for node in onnx.load(tmp_path / "engine").graph.node]
    convolutions = sum(node.op_type in ("Conv", "ConvTranspose") for node in onnx.load(network).graph.node)
    # What the last gives is not rounded.
    assert operations.count("QLinearConv") == convolutions - 1
    # Before the first convolution and the last, and nowhere between them.
    assert operations.count("QuantizeLinear") == operations.count("DequantizeLinear") == 1
    assert "ConvTranspose" not in operations


@pytest.mark.parametrize(
    ("card", "precision", "reason"),
    [
        pytest.param(None, "bf16", "in fp32, int8 on processors, not in bf16", id="bf16"),
        pytest.param(None, "fp16", "in fp32, int8 on processors, not in fp16", id="fp16"),
        pytest.param(Gpu("Some Card", "8.6", "580.1"), "int8", "in fp32, fp16 on GPUs, not in int8", id="GPU, int8"),
    ],
)
def test_precisions_that_it_would_not_compute_in(
    card: Gpu | None, precision: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetpipe.engines.onnxruntime.gpu", lambda: card)
    assert reason in (OnnxRuntime().unavailable("run", precision) or "")
    assert OnnxRuntime().unavailable("run", "fp32") is None


def test_old_processors_have_no_products_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.engines.onnxruntime.gpu", lambda: None)
    monkeypatch.setattr("unetpipe.engines.onnxruntime.processor", lambda: Processor("Old Processor", ("avx2",)))
    assert "no instructions for products of int8" in (OnnxRuntime().unavailable("run", "int8") or "")
