"""Engines of ONNX Runtime: on a GPU where one is visible, else on the processor."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_format
from numpy.typing import NDArray

from unetpipe.config import Precision
from unetpipe.engines import onnx_file
from unetpipe.engines.contract import Engine, Facts, Profile, Purpose
from unetpipe.engines.devices import Gpu, gpu, processor
from unetpipe.engines.integers import convolve_bytes
from unetpipe.engines.rewrite import convolve_sections, convolve_to_upsample, fill_channels
from unetpipe.errors import UserError
from unetpipe.grid import Shape

_CHANNELS = 4
_FEW_CHANNELS = 8
"""Of input; see :func:`unetpipe.engines.rewrite.fill_channels`. The smallest registers hold 8."""

_FORMS: dict[Precision, str] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-asymmetric"}
_ON_PROCESSORS: tuple[Precision, ...] = ("fp32", "int8")
_ON_GPUS: tuple[Precision, ...] = ("fp32", "fp16")

_ERRORS_ALONE = 3
"""Severity of what is logged: ONNX Runtime writes past Python's logging."""


class OnnxRuntime:
    """The file of the engine is ONNX; it is optimised for the shape of the calls where it is loaded."""

    name = "onnxruntime"

    def form(self, precision: Precision) -> str:
        """See the contract; KeyError for a precision that is unavailable."""
        return _FORMS[precision]

    def unavailable(self, purpose: Purpose, precision: Precision) -> str | None:  # noqa: ARG002 – building is loading
        """Why it cannot build or run here; None if it can."""
        try:
            import onnxruntime  # noqa: F401
        except ImportError as error:
            return f"the package onnxruntime cannot be loaded ({error})"
        device, known = ("processors", _ON_PROCESSORS) if _card() is None else ("GPUs", _ON_GPUS)
        if precision not in known:
            return f"ONNX Runtime computes convolutions in {', '.join(known)} on {device}, not in {precision}"
        return processor().lacks(precision) if _card() is None else None

    def device_class(self) -> Facts:
        """The GPU or else the processor, and the version of ONNX Runtime."""
        card = _card()
        if card is not None:
            return {**self.binding(), "gpu": card.name, "driver": card.driver}
        here = processor()
        return {**self.binding(), "processor": here.model, "features": list(here.features)}

    def binding(self) -> Facts:
        """The version of ONNX Runtime."""
        return {"library": _library()}

    def build(self, onnx: Path, engine: Path, profile: Profile) -> Facts:
        """Write the network in operations that ONNX Runtime computes alike whatever the shape; see the contract."""
        model, described = onnx_file.read_form(onnx, self.form)
        if described.precision == "int8":
            model = convolve_bytes(model)
        engine.write_bytes(same_bits(model).SerializeToString(deterministic=True))
        # Whether ONNX Runtime knows all operations shows only here.
        self.load(engine, profile.tile, profile.batch[1], threads=1).close()
        return {"profile": None}

    def load(self, engine: Path, tile: Shape, batch: int, threads: int) -> Engine:
        """See the contract."""
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as failures

        shape = (batch, *tile)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = _ERRORS_ALONE
        options.use_deterministic_compute = True
        # Threads that wait in a loop take the processor from the workers beside this one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Where the network leaves a size open, it has the name of its axis.
        for name, size in zip("nzyx", shape, strict=True):
            options.add_free_dimension_override_by_name(name, size)
        asked = f"{engine} was to be loaded by {_library()} for calls of {shape}"
        try:
            session = onnxruntime.InferenceSession(engine.read_bytes(), options, providers=_providers())
        except (failures.Fail, failures.InvalidGraph, failures.InvalidProtobuf, failures.NotImplemented) as error:
            raise UserError(
                asked, str(error).strip(), "set engine.backend to another engine, such as openvino"
            ) from None
        card = _card()
        if card is not None and session.get_providers()[0] != "CUDAExecutionProvider":
            # It would go on with the processor, and only its log would say so.
            raise UserError(
                asked,
                f"{card}, which ONNX Runtime cannot use: its CUDA libraries are not found",
                "install onnxruntime-gpu[cuda,cudnn], or set CUDA_VISIBLE_DEVICES= to compute on the processor",
            )
        return _OnnxRuntimeEngine(session, shape)


def same_bits(model: onnx_format.ModelProto) -> onnx_format.ModelProto:
    """``model`` in operations that ONNX Runtime computes alike whatever the shape of the call."""
    return fill_channels(convolve_sections(convolve_to_upsample(model)), _CHANNELS, _FEW_CHANNELS)


class _OnnxRuntimeEngine(Engine):
    def __init__(self, session: Any, shape: tuple[int, int, int, int]) -> None:
        super().__init__(_library(), str(_card() or processor()), shape)
        self._session = session

    def _stream(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for batch in batches:
            yield self._session.run([onnx_file.PROBABILITY], {onnx_file.IMAGE: batch})[0]

    def close(self) -> None:
        del self._session


def _card() -> Gpu | None:
    """The GPU that ONNX Runtime is to use, if it was built to use one."""
    import onnxruntime

    return gpu() if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else None


def _providers() -> list[Any]:
    import onnxruntime

    if _card() is None:
        return ["CPUExecutionProvider"]
    onnxruntime.preload_dlls()
    cuda = {
        # fp32 means fp32.
        "use_tf32": "0",
        # Timing the algorithms, which is the default, could choose another one in every process.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]


def _library() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"
