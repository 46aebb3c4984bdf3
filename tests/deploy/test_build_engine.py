"""The engine that is built is the one that was asked for, or the best one here; build.json says why."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_unet import unet

from unetpipe import config
from unetpipe.deploy.build_engine import build_engine
from unetpipe.engines import device_class, load_engine, select
from unetpipe.engines.openvino import OpenVINO
from unetpipe.errors import UserError
from unetpipe.files import digest, read_json


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.engines.tensorrt.gpu", lambda: None)
    monkeypatch.setattr("unetpipe.engines.onnxruntime.gpu", lambda: None)


def offer(exported: Any, folder: Path, tile: list[int] | None = None, batch: int = 1, **settings: Any) -> Any:
    """What the rule writes."""
    build_engine(
        exported.onnx, folder / "candidates.json", settings=config.Engine(**settings), tile=tile, batch=batch
    )  # fmt: skip
    return read_json(folder / "candidates.json")


def build(exported: Any, folder: Path, tile: list[int] | None = None, batch: int = 1, **settings: Any) -> Any:
    """The build.json of the only candidate."""
    (candidate,) = offer(exported, folder, tile, batch, **{"precision": "fp32", **settings})["candidates"]
    assert candidate["folder"] == "candidates/fp32"
    facts = read_json(folder / "candidates" / "fp32" / "build.json")
    assert candidate == {"precision": "fp32", "backend": facts["backend"], "folder": "candidates/fp32"}
    return facts


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_what_is_built_can_be_loaded_for_any_call(
    exported: Any, tmp_path: Path, backend: str, without_gpu: None
) -> None:
    facts = build(exported, tmp_path, backend=backend)
    assert facts["backend"] == facts["asked"] == backend
    assert facts["why"] == f"the settings ask for {backend}"
    assert facts["precision"] == "fp32"
    assert facts["profile"] is None
    assert facts["classes"] == ["membrane", "inside", "outside"]
    assert facts["geometry"]["border"] == [0, 20, 20]
    assert facts["onnx_digest"] == digest(exported.onnx)
    assert facts["checkpoint_digest"] == digest(exported.checkpoint)
    assert facts["engine_digest"] == digest(tmp_path / "candidates" / "fp32" / "engine")
    assert facts["bytes"] == (tmp_path / "candidates" / "fp32" / "engine").stat().st_size
    assert facts["seconds"] > 0
    assert facts["device_class"] == device_class(backend)
    assert facts["binding"]["library"] == f"{backend} {facts['versions'][backend]}"
    for tile, batch in [((1, 44, 52), 1), ((1, 60, 44), 3)]:
        engine = load_engine(tmp_path / "candidates" / "fp32", tile=tile, batch=batch, threads=1)
        assert engine.run(np.zeros((batch, *tile), np.float32)).shape == (batch, 3, 1, tile[1] - 40, tile[2] - 40)
        engine.close()


def test_auto_measures_on_a_processor_and_says_what(exported: Any, tmp_path: Path, without_gpu: None) -> None:
    facts = build(exported, tmp_path, tile=[1, 60, 60])
    assert facts["asked"] == "auto"
    assert list(facts["candidates"]) == ["tensorrt", "tensorrt_rtx", "openvino", "onnxruntime"]
    assert all(facts["candidates"][name]["unavailable"] for name in ("tensorrt", "tensorrt_rtx"))
    seconds = {name: facts["candidates"][name]["seconds_per_call"] for name in ("openvino", "onnxruntime")}
    assert all(value > 0 for value in seconds.values())
    assert facts["backend"] == select.prefer(seconds)
    assert f"openvino {seconds['openvino']:.3f} s" in facts["why"]
    assert facts["candidates"]["openvino"]["tile"] == [1, 60, 60]


def test_auto_leaves_out_what_is_not_installed(
    exported: Any, tmp_path: Path, without_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVINO, "unavailable", lambda self, purpose, precision: "not installed")
    facts = build(exported, tmp_path, tile=[1, 60, 60])
    assert facts["backend"] == "onnxruntime"
    assert facts["candidates"]["openvino"] == {"unavailable": "not installed"}


def test_tensorrt_without_a_gpu_names_what_there_is(exported: Any, tmp_path: Path, without_gpu: None) -> None:
    (tmp_path / "candidates.json").write_text("of an earlier engine")
    reason = r"tensorrt in fp32\n(.|\n)*(cannot be loaded|no NVIDIA GPU)(.|\n)*openvino"
    with pytest.raises(UserError, match=reason):
        build(exported, tmp_path, backend="tensorrt")
    assert not (tmp_path / "candidates.json").exists()
    assert not (tmp_path / "candidates" / "fp32" / "engine").exists()


def test_no_engine_at_all_names_every_reason(
    exported: Any, tmp_path: Path, without_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetpipe.engines.select._ALL", ("tensorrt", "tensorrt_rtx"))
    with pytest.raises(UserError, match=r"tensorrt: (.|\n)*tensorrt_rtx: (.|\n)*install openvino"):
        build(exported, tmp_path)


def test_a_tile_that_the_network_cannot_take_is_refused(exported: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tiles of \[1, 61, 60\] \(z, y, x\)(.|\n)*such as \[64, 60\]"):
        build(exported, tmp_path, tile=[1, 61, 60])


@dataclass(frozen=True)
class Stack:
    """A network in 3D for thick sections, as ``export`` writes it."""

    onnx: Path


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    path = tmp_path_factory.mktemp("stack") / "model.onnx"
    model = unet([4, 6, 8], kernel=[(1, 3, 3), (3, 3, 3), (3, 3, 3)], pooling=[(1, 2, 2), (2, 2, 2)])
    path.write_bytes(model.SerializeToString(deterministic=True))
    return Stack(path)


def test_auto_measures_networks_in_3d_too(stack: Stack, tmp_path: Path, without_gpu: None) -> None:
    facts = build(stack, tmp_path, tile=[20, 44, 52])
    assert facts["geometry"]["dimensions"] == 3
    assert facts["candidates"]["openvino"]["tile"] == [20, 44, 52]
    assert facts["candidates"]["onnxruntime"]["seconds_per_call"] > 0
    engine = load_engine(tmp_path / "candidates" / "fp32", tile=(22, 48, 44), batch=2, threads=1)
    assert engine.run(np.zeros((2, 22, 48, 44), np.float32)).shape == (2, 3, 6, 8, 4)
    engine.close()


def test_a_stack_that_the_network_cannot_take_is_refused(stack: Stack, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tiles of \[21, 44, 44\] \(z, y, x\)(.|\n)*such as \[22, 44, 44\]"):
        build(stack, tmp_path, tile=[21, 44, 44])


def test_left_out_the_tile_is_the_largest_that_a_volume_is_cut_into(
    exported: Any, stack: Stack, tmp_path: Path, without_gpu: None
) -> None:
    pytest.importorskip("tensorrt_rtx")
    for network, tile in ((exported, [1, 1064, 1064]), (stack, [48, 232, 232])):
        assert build(network, tmp_path, backend="tensorrt_rtx")["profile"]["tile"] == tile


def test_precisions_that_are_not_to_be_had_are_skipped_with_their_reason(
    exported: Any, tmp_path: Path, without_gpu: None
) -> None:
    offered = offer(exported, tmp_path, backend="onnxruntime", precision=["fp16", "fp32"])
    assert [candidate["precision"] for candidate in offered["candidates"]] == ["fp32"]
    (skipped,) = offered["skipped"]
    assert skipped["precision"] == "fp16"
    assert skipped["why"]


def test_no_precision_at_all_names_every_reason(exported: Any, tmp_path: Path, without_gpu: None) -> None:
    with pytest.raises(UserError, match=r"in fp16 or bf16\n(.|\n)*fp16: .*\n *bf16: .*bf16(.|\n)*engine\.precision"):
        offer(exported, tmp_path, backend="onnxruntime", precision=["fp16", "bf16"])
    assert not (tmp_path / "candidates.json").exists()


def test_a_file_that_is_no_network_is_refused(exported: Any, tmp_path: Path) -> None:
    damaged = type(exported)(tmp_path)
    damaged.onnx.write_bytes(exported.onnx.read_bytes()[:-1000])
    with pytest.raises(UserError, match="no ONNX file"):
        build(damaged, tmp_path)
    damaged.onnx.write_bytes(b"")
    with pytest.raises(UserError, match="does not describe a network"):
        build(damaged, tmp_path)
