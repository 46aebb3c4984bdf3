"""TensorRT-RTX engines are built without a GPU; what that proves is checked here, and no more is claimed."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from unetpipe.config import Precision
from unetpipe.engines.contract import Profile
from unetpipe.engines.devices import Gpu
from unetpipe.engines.tensorrt import TensorRT
from unetpipe.errors import UserError
from unetpipe.files import digest
from unetpipe.grid import Shape

rtx = pytest.importorskip("tensorrt_rtx", reason="the package tensorrt-rtx is not installed")

PROFILE = Profile((1, 2, 8), (1, 124, 92))
RTX = TensorRT("tensorrt_rtx", ("8.6", "8.9", "12.0"))


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.engines.tensorrt.gpu", lambda: None)


@pytest.mark.parametrize(
    ("channels", "settings", "tile", "signature"),
    [
        pytest.param((6, 8, 12), {}, PROFILE.tile, ([1, None, None], [1, None, None]), id="2D"),
        pytest.param(
            (16, 32, 64, 128, 256), {}, (1, 572, 572), ([1, None, None], [1, None, None]), id="2D, width 16, depth 4"
        ),
        pytest.param((6, 8, 12), {"sections": 3}, (3, 124, 92), ([3, None, None], [1, None, None]), id="2.5D"),
        pytest.param(
            (6, 8, 12),
            {"kernel": [(1, 3, 3), (3, 3, 3), (3, 3, 3)], "pooling": [(1, 2, 2), (2, 2, 2)]},
            (20, 60, 52),
            ([None] * 3, [None] * 3),
            id="3D",
        ),
        pytest.param(
            (6, 8), {"kernel": (3, 5, 3), "pooling": (3, 2, 1)}, (25, 34, 13), ([None] * 3, [None] * 3), id="3D, uneven"
        ),
    ],
)
def test_rtx_builds_without_a_gpu_and_twice_the_same(
    channels: tuple[int, ...],
    settings: dict[str, Any],
    tile: Shape,
    signature: tuple[list[int | None], list[int | None]],
    make_network: Callable[..., Path],
    tmp_path: Path,
    without_gpu: None,
    record_property: Callable[[str, object], None],
) -> None:
    network = make_network(*channels, **settings)
    profile = Profile((1, 2, 8), tile)
    assert RTX.unavailable("build", "fp32") is None
    start = time.perf_counter()
    facts = RTX.build(network, tmp_path / "engine", profile)
    seconds = time.perf_counter() - start
    RTX.build(network, tmp_path / "again", profile)
    size = (tmp_path / "engine").stat().st_size
    record_property("seconds", round(seconds, 2))
    record_property("bytes", size)
    logging.getLogger(__name__).info("%s: %d bytes in %.2f s", channels, size, seconds)
    assert digest(tmp_path / "engine") == digest(tmp_path / "again")
    assert size > network.stat().st_size
    sizes, sizes_of_result = signature
    assert facts == {
        "profile": {"batch": [1, 2, 8], "tile": list(tile)},
        "capabilities": ["8.6", "8.9", "12.0"],
        "signature": {
            "image": {"type": "float32", "shape": [None, *sizes]},
            "probability": {"type": "float32", "shape": [None, 3, *sizes_of_result]},
        },
    }


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_rtx_builds_in_other_precisions_and_twice_the_same(
    precision: Precision, case: Any, in_form: Callable[[Path, str], Path], tmp_path: Path, without_gpu: None
) -> None:
    assert RTX.unavailable("build", precision) is None
    network = in_form(case.network, RTX.form(precision))
    profile = Profile((1, 2, 8), case.tile)
    facts = RTX.build(network, tmp_path / "engine", profile)
    assert RTX.build(network, tmp_path / "again", profile) == facts
    assert digest(tmp_path / "engine") == digest(tmp_path / "again")
    # Values go in and out in fp32 whatever the precision.
    assert {value["type"] for value in facts["signature"].values()} == {"float32"}
    assert facts["profile"] == {"batch": [1, 2, 8] if precision == "fp16" else [2, 2, 2], "tile": list(case.tile)}


def test_rtx_refuses_the_form_of_processors(
    small: Path, in_form: Callable[[Path, str], Path], tmp_path: Path, without_gpu: None
) -> None:
    with pytest.raises(UserError, match=r"has the form int8-asymmetric; the library takes int8-symmetric"):
        RTX.build(in_form(small, "int8-asymmetric"), tmp_path / "engine", PROFILE)


def test_older_cards_have_no_bf16() -> None:
    library = TensorRT("tensorrt_rtx", ("7.5", "8.6"))
    assert library.unavailable("build", "bf16") == (
        "GPUs of compute capability 7.5 do not compute in bf16, but from 8.0 on"
    )
    assert library.unavailable("build", "int8") is None


@pytest.mark.parametrize("other", ["weights", "profile", "capabilities"])
def test_rtx_engines_of_other_things_differ(
    other: str, small: Path, make_network: Callable[..., Path], tmp_path: Path, without_gpu: None
) -> None:
    RTX.build(small, tmp_path / "one", PROFILE)
    network = make_network(6, 8, 12, seed=1) if other == "weights" else small
    profile = Profile((1, 2, 8), (1, 92, 124)) if other == "profile" else PROFILE
    library = TensorRT("tensorrt_rtx", ("7.5",)) if other == "capabilities" else RTX
    library.build(network, tmp_path / "other", profile)
    assert digest(tmp_path / "one") != digest(tmp_path / "other")


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"])
def test_rtx_builds_for_each_generation_that_it_knows(
    capability: str, small: Path, tmp_path: Path, without_gpu: None
) -> None:
    facts = TensorRT("tensorrt_rtx", (capability,)).build(small, tmp_path / "engine", PROFILE)
    assert facts["capabilities"] == [capability]


def test_rtx_refuses_generations_that_it_does_not_know(small: Path, tmp_path: Path, without_gpu: None) -> None:
    # H100
    with pytest.raises(UserError, match=r"does not know 9\.0(.|\n)*8\.6(.|\n)*TensorRT knows the other cards"):
        TensorRT("tensorrt_rtx", ("8.6", "9.0")).build(small, tmp_path / "engine", PROFILE)
    assert not (tmp_path / "engine").exists()


def test_all_errors_of_the_parser_of_rtx_are_told(small: Path, tmp_path: Path, without_gpu: None) -> None:
    model = onnx.load(small)
    for index in (1, 3):
        model.graph.node[index].op_type, model.graph.node[index].domain = f"Unheard{index}", "nowhere"
    model.opset_import.add(domain="nowhere", version=1)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"built with tensorrt_rtx (.|\n)*Unheard1(.|\n)*engine\.backend"):
        RTX.build(tmp_path / "model.onnx", tmp_path / "engine", PROFILE)
    assert not (tmp_path / "engine").exists()


def test_a_tile_that_the_network_cannot_take_is_refused_by_rtx(small: Path, tmp_path: Path, without_gpu: None) -> None:
    with pytest.raises(UserError, match="was to be built with tensorrt_rtx"):
        RTX.build(small, tmp_path / "engine", Profile((1, 1, 1), (1, 20, 20)))


def test_rtx_cannot_run_without_a_gpu_and_says_so(small: Path, tmp_path: Path, without_gpu: None) -> None:
    RTX.build(small, tmp_path / "engine", PROFILE)
    with pytest.raises(UserError, match=r"no NVIDIA GPU with its driver is visible(.|\n)*`auto`"):
        RTX.load(tmp_path / "engine", PROFILE.tile, batch=1, threads=1)
    assert RTX.device_class() == {
        "library": f"tensorrt_rtx {rtx.__version__}",
        "gpu": None,
        "compute_capability": None,
        "driver": None,
    }


def test_rtx_runs_only_on_cards_that_it_was_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.engines.tensorrt.gpu", lambda: Gpu("NVIDIA H100", "9.0", "580.1"))
    assert "NVIDIA H100 (compute capability 9.0, driver 580.1) is none of those" in (
        RTX.unavailable("run", "fp32") or ""
    )


def test_tensorrt_is_bound_to_its_card_and_rtx_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.engines.tensorrt.gpu", lambda: Gpu("NVIDIA A40", "8.6", "580.1"))
    # Both have the same interface; the other package cannot be installed everywhere.
    monkeypatch.setattr(TensorRT, "_module", lambda self: rtx)
    assert set(RTX.binding()) == {"library"}
    assert TensorRT("tensorrt").binding() == {
        "library": f"tensorrt {rtx.__version__}",
        "gpu": "NVIDIA A40",
        "compute_capability": "8.6",
    }


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_a_missing_package_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    reason = TensorRT(name).unavailable("build", "fp32")
    assert reason is not None
    assert f"the package {name} cannot be loaded" in reason
    assert reason.endswith(f"it comes with unetpipe[{name.replace('_', '-')}]")


@pytest.mark.parametrize(
    "path",
    [
        "ICudaEngine.create_runtime_config",
        "ICudaEngine.create_execution_context",
        "IRuntimeConfig.set_execution_context_allocation_strategy",
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
        "ExecutionContextAllocationStrategy.USER_MANAGED",
        "DynamicShapesKernelSpecializationStrategy.EAGER",
        "IExecutionContext.set_optimization_profile_async",
        "IExecutionContext.update_device_memory_size_for_shapes",
        "IExecutionContext.set_device_memory",
        "IExecutionContext.set_input_shape",
        "IExecutionContext.get_tensor_shape",
        "IExecutionContext.set_tensor_address",
        "IExecutionContext.execute_async_v3",
        "Runtime.deserialize_cuda_engine",
    ],
)
def test_rtx_has_what_the_calls_on_a_gpu_need(path: str) -> None:
    # Where no GPU is, a renamed function would show only here.
    kind, name = path.split(".")
    assert hasattr(getattr(rtx, kind), name)
