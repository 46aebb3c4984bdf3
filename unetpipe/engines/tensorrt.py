"""Engines of TensorRT and of TensorRT-RTX: one interface, two packages.

TensorRT builds on the GPU that will predict, and covers all cards. TensorRT-RTX builds anywhere, for the generations of
cards that it is told, and only for those of the RTX class.
"""

import importlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_format

from unetpipe.config import Precision
from unetpipe.engines import onnx_file
from unetpipe.engines.contract import Engine, Facts, Profile, Purpose
from unetpipe.engines.devices import gpu
from unetpipe.errors import UserError
from unetpipe.grid import Shape

log = logging.getLogger(__name__)

_WORKSPACE_BYTES = 4 << 30
"""What TensorRT may use of the GPU's memory while it runs, beside weights and features; it would take all."""

_LEAST_CAPABILITY: dict[Precision, float] = {"fp32": 0.0, "fp16": 5.3, "int8": 6.1, "bf16": 8.0}
"""Of the GPUs that have instructions for it."""

_OF_ONE_BATCH: tuple[Precision, ...] = ("bf16", "int8")
"""In these, TensorRT-RTX writes other bytes every time if the number of tiles is open."""


@dataclass(frozen=True)
class TensorRT:
    """``name``: tensorrt or tensorrt_rtx. ``capabilities``: the generations of cards that the latter builds for."""

    name: str
    capabilities: tuple[str, ...] = ()

    def form(self, precision: Precision) -> str:
        """See the contract: its networks are typed by the file."""
        return "int8-symmetric" if precision == "int8" else precision

    def unavailable(self, purpose: Purpose, precision: Precision) -> str | None:
        """Why it cannot build or run here; None if it can. TensorRT-RTX needs no GPU to build."""
        extra = f"unetpipe[{self.name.replace('_', '-')}]"
        try:
            self._module()
        except ImportError as error:
            return f"the package {self.name} cannot be loaded ({error}); it comes with {extra}"
        card = gpu()
        cards = self.capabilities if self.name == "tensorrt_rtx" else (card.compute_capability,) if card else ()
        least = _LEAST_CAPABILITY[precision]
        if older := [name for name in cards if float(name) < least]:
            return f"GPUs of compute capability {', '.join(older)} do not compute in {precision}, but from {least} on"
        if self.name == "tensorrt_rtx" and purpose == "build":
            return None
        if card is None:
            return "no NVIDIA GPU with its driver is visible"
        if self.name == "tensorrt_rtx" and card.compute_capability not in self.capabilities:
            return f"{card} is none of those that it builds for: {', '.join(self.capabilities)}"
        try:
            import cuda.bindings.runtime  # noqa: F401
        except ImportError as error:
            return f"the package cuda-bindings cannot be loaded ({error}); it comes with {extra}"
        return None

    def device_class(self) -> Facts:
        """The GPU, its driver, and the version of the library."""
        card = gpu()
        return {
            **self.binding(),
            "gpu": card and card.name,
            "compute_capability": card and card.compute_capability,
            "driver": card and card.driver,
        }

    def binding(self) -> Facts:
        """The version of the library, and for TensorRT the GPU."""
        card = gpu()
        cards = {"gpu": card and card.name, "compute_capability": card and card.compute_capability}
        return {"library": self._library(), **(cards if self.name == "tensorrt" else {})}

    def build(self, onnx: Path, engine: Path, profile: Profile) -> Facts:
        """Compile ``onnx`` for the calls of ``profile``; see the contract. Two builds give the same bytes."""
        model, described = onnx_file.read_form(onnx, self.form)
        if self.name == "tensorrt_rtx" and described.precision in _OF_ONE_BATCH:
            profile = replace(profile, batch=(profile.batch[1],) * 3)
        trt = self._module()
        messages = _messages(trt)
        builder = trt.Builder(messages)
        network = builder.create_network(_typed_by_the_file(trt))
        parser = trt.OnnxParser(network, messages)
        if not parser.parse(onnx.read_bytes()):
            errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
            raise self._failure(onnx, errors)
        if (parsed := _signature_of_network(trt, network)) != (wanted := _signature_of_file(model)):
            raise RuntimeError(f"{self._library()} read {parsed} from {onnx}, which holds {wanted}")
        config = builder.create_builder_config()
        # fp32 means fp32.
        config.clear_flag(trt.BuilderFlag.TF32)
        shapes = builder.create_optimization_profile()
        shapes.set_shape(onnx_file.IMAGE, *profile.shapes())
        if config.add_optimization_profile(shapes) < 0:
            raise self._failure(onnx, [f"{profile} was refused", *messages.errors])
        timings = engine.with_name("timing.cache")
        if self.name == "tensorrt_rtx":
            self._set_capabilities(trt, config)
        else:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
            _recall_timings(config, timings)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self._failure(onnx, messages.errors)
        if self.name == "tensorrt":
            timings.write_bytes(config.get_timing_cache().serialize())
        engine.write_bytes(plan)
        return {
            "profile": {"batch": list(profile.batch), "tile": list(profile.tile)},
            "capabilities": list(self.capabilities) if self.name == "tensorrt_rtx" else None,
            "signature": wanted,
        }

    def load(self, engine: Path, tile: Shape, batch: int, threads: int) -> Engine:  # noqa: ARG002 – a GPU
        """See the contract."""
        from unetpipe.engines.cuda import CudaEngine

        if reason := self.unavailable("run", "fp32"):
            raise UserError(
                f"the engine {engine} was to be loaded",
                reason,
                "run where such a GPU is, or set engine.backend to `auto` and build another engine",
            )
        trt = self._module()
        return CudaEngine(
            trt,
            engine,
            messages=_messages(trt),
            library=self._library(),
            device=str(gpu()),
            shape=(batch, *tile),
        )

    def _module(self) -> Any:
        return importlib.import_module(self.name)

    def _library(self) -> str:
        return f"{self.name} {self._module().__version__}"

    def _failure(self, onnx: Path, errors: list[str]) -> UserError:
        return UserError(
            f"{onnx} was to be built with {self._library()}",
            "".join(f"\n    {error}" for error in errors) or "no engine, and no message",
            "set engine.backend to another engine, such as openvino or onnxruntime",
        )

    def _set_capabilities(self, trt: Any, config: Any) -> None:
        known = {
            f"{name[2:-1]}.{name[-1]}": value
            for name, value in trt.ComputeCapability.__members__.items()
            if name.startswith("SM")
        }
        if unknown := [capability for capability in self.capabilities if capability not in known]:
            raise UserError(
                f"an engine was to be built for GPUs of compute capability {', '.join(self.capabilities)}",
                f"{self._library()} does not know {', '.join(unknown)}",
                f"choose engine.compute_capabilities among {', '.join(known)}; TensorRT knows the other cards",
            )
        config.num_compute_capabilities = len(self.capabilities)
        for index, capability in enumerate(self.capabilities):
            if not config.set_compute_capability(known[capability], index):
                raise RuntimeError(f"{self._library()} refuses the compute capability {capability}")


def _typed_by_the_file(trt: Any) -> int:
    """The flags of a network whose precision is that of the ONNX file; newer versions know no other."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _recall_timings(config: Any, file: Path) -> None:
    """Give the builder what it measured before: then it chooses the same kernels, and the engine has the same bytes."""
    cache = config.create_timing_cache(file.read_bytes() if file.exists() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        # Measured on another card, or by another version.
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


Signature = dict[str, dict[str, Any]]
"""Element type and shape of each input and output, None for sizes that are open."""


def _signature_of_file(model: onnx_format.ModelProto) -> Signature:
    def describe(value: onnx_format.ValueInfoProto) -> dict[str, Any]:
        tensor = value.type.tensor_type
        kind = np.dtype(onnx_format.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
        return {
            "type": kind,
            "shape": [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim],
        }

    return {value.name: describe(value) for value in (*model.graph.input, *model.graph.output)}


def _signature_of_network(trt: Any, network: Any) -> Signature:
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    return {
        tensor.name: {
            "type": np.dtype(trt.nptype(tensor.dtype)).name,
            "shape": [None if size < 0 else size for size in tensor.shape],
        }
        for tensor in tensors
    }


def _messages(trt: Any) -> Any:
    """What the library has to say: into the log, and its errors also into a list."""

    class Messages(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(text)
                log.error("%s", text)
            elif severity == trt.ILogger.WARNING:
                log.warning("%s", text)

    return Messages()
