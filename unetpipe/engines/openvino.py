"""Engines of OpenVINO, on the processor."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.engines import onnx_file
from unetpipe.engines.contract import Engine, Facts, Profile, Purpose
from unetpipe.engines.devices import processor
from unetpipe.engines.rewrite import split_input_channels
from unetpipe.errors import UserError
from unetpipe.grid import Shape

_MOST_CHANNELS = 128
"""See :func:`unetpipe.engines.rewrite.split_input_channels`."""

_PRECISION = {"fp32": "f32"}
"""OpenVINO's names. Left to itself it takes bf16 on processors that have it."""


class OpenVINO:
    """The file of the engine is ONNX; it is compiled for the shape of the calls where it is loaded."""

    name = "openvino"

    def unavailable(self, purpose: Purpose) -> str | None:  # noqa: ARG002 – building is loading
        """Why it cannot build or run here; None if it can."""
        try:
            import openvino  # noqa: F401
        except ImportError as error:
            return f"the package openvino cannot be loaded ({error})"
        return None

    def device_class(self) -> Facts:
        """The processor and the version of OpenVINO."""
        here = processor()
        return {**self.binding(), "processor": here.model, "features": list(here.features)}

    def binding(self) -> Facts:
        """The version of OpenVINO."""
        return {"library": _library()}

    def build(self, onnx: Path, engine: Path, profile: Profile) -> Facts:
        """Write the network in operations that OpenVINO computes alike whatever the shape; see the contract."""
        model, _ = onnx_file.read(onnx)
        engine.write_bytes(split_input_channels(model, _MOST_CHANNELS).SerializeToString(deterministic=True))
        # Whether OpenVINO knows all operations shows only here.
        self.load(engine, profile.tile, profile.batch[1], threads=1).close()
        return {"profile": None}

    def load(self, engine: Path, tile: Shape, batch: int, threads: int) -> Engine:
        """See the contract."""
        import openvino

        _, described = onnx_file.read(engine)
        shape = (batch, *tile)
        try:
            core = openvino.Core()
            model = core.read_model(engine.read_bytes())
            model.reshape({onnx_file.IMAGE: list(shape)})
            compiled = core.compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": _PRECISION[described.precision],
                    "NUM_STREAMS": "1",
                    "INFERENCE_NUM_THREADS": str(threads),
                    # Every process would pin its first thread to the first core, and they would wait for each other.
                    "ENABLE_CPU_PINNING": "NO",
                },
            )
        except RuntimeError as error:
            raise UserError(
                f"{engine} was to be compiled by {_library()} for calls of {shape}",
                str(error).strip(),
                "set engine.backend to another engine, such as onnxruntime",
            ) from None
        return _OpenVINOEngine(compiled, shape)


class _OpenVINOEngine(Engine):
    def __init__(self, compiled: Any, shape: tuple[int, int, int, int]) -> None:
        super().__init__(_library(), str(processor()), shape)
        self._request = compiled.create_infer_request()

    def _stream(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for batch in batches:
            self._request.infer({0: batch}, share_inputs=True)
            # The request's own memory is overwritten by the next call.
            yield self._request.get_output_tensor(0).data.copy()

    def close(self) -> None:
        del self._request


def _library() -> str:
    import openvino

    return f"openvino {openvino.__version__.partition('-')[0]}"
