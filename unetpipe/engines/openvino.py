"""Engines of OpenVINO, on the processor."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_format
from numpy.typing import NDArray

from unetpipe.config import Precision
from unetpipe.engines import onnx_file
from unetpipe.engines.contract import Engine, Facts, Profile, Purpose
from unetpipe.engines.devices import processor
from unetpipe.engines.rewrite import split_input_channels
from unetpipe.errors import UserError
from unetpipe.grid import Geometry, Shape

_MOST_CHANNELS = 128
"""See :func:`unetpipe.engines.rewrite.split_input_channels`."""

_MOST_CHANNELS_BF16 = 256
_MANY_RESULTS = 64
"""See :func:`_check_sums_of_bf16`."""

_FORMS: dict[Precision, str] = {"fp32": "fp32", "bf16": "bf16-hint", "int8": "int8-asymmetric"}

_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""What is left in floating point. Left to itself OpenVINO takes bf16 on processors that have it."""

_COMPUTES_IN = {"fp32": {"f32"}, "bf16": {"bf16"}, "int8": {"u8", "i8"}}
"""OpenVINO's names, of the precision of a layer's input."""


class OpenVINO:
    """The file of the engine is ONNX; it is compiled for the shape of the calls where it is loaded."""

    name = "openvino"

    def form(self, precision: Precision) -> str:
        """See the contract; KeyError for a precision that is unavailable."""
        return _FORMS[precision]

    def unavailable(self, purpose: Purpose, precision: Precision) -> str | None:  # noqa: ARG002 – building is loading
        """Why it cannot build or run here; None if it can."""
        if precision not in _FORMS:
            return f"OpenVINO computes in {', '.join(_FORMS)} on processors, not in {precision}"
        try:
            import openvino  # noqa: F401
        except ImportError as error:
            return f"the package openvino cannot be loaded ({error})"
        return processor().lacks(precision)

    def device_class(self) -> Facts:
        """The processor and the version of OpenVINO."""
        here = processor()
        return {**self.binding(), "processor": here.model, "features": list(here.features)}

    def binding(self) -> Facts:
        """The version of OpenVINO."""
        return {"library": _library()}

    def build(self, onnx: Path, engine: Path, profile: Profile) -> Facts:
        """Write the network in operations that OpenVINO computes alike whatever the shape; see the contract."""
        model, described = onnx_file.read_form(onnx, self.form)
        if described.precision == "bf16":
            _check_sums_of_bf16(model, onnx)
        else:
            model = split_input_channels(model, _MOST_CHANNELS)
        engine.write_bytes(model.SerializeToString(deterministic=True))
        _check_result(onnx, described.geometry, profile.tile)
        # Whether OpenVINO knows all operations shows only here, and in what it computes them.
        compiled = _compile(engine, described.precision, (profile.batch[1], *profile.tile), threads=1)
        _check_precision(compiled, model, described.precision, onnx)
        return {"profile": None}

    def load(self, engine: Path, tile: Shape, batch: int, threads: int) -> Engine:
        """See the contract."""
        _, described = onnx_file.read(engine)
        _check_result(engine, described.geometry, tile)
        shape = (batch, *tile)
        return _OpenVINOEngine(_compile(engine, described.precision, shape, threads), shape)


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


def _compile(engine: Path, precision: Precision, shape: tuple[int, int, int, int], threads: int) -> Any:
    import openvino

    try:
        core = openvino.Core()
        model = core.read_model(engine.read_bytes())
        model.reshape({onnx_file.IMAGE: list(shape)})
        return core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[precision],
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


def _check_result(onnx: Path, geometry: Geometry, tile: Shape) -> None:
    """UserError if one voxel alone comes out of a tile: OpenVINO has another softmax for it, with other last bits."""
    if math.prod(geometry.output(tile)) == 1:
        more = geometry.tile_for([n + 1 for n in geometry.kept(tile)])
        raise UserError(
            f"{onnx} was to be run by {_library()} on tiles of {list(tile)} (z, y, x)",
            "one voxel comes out of such a tile, and its last bits would not be those of larger tiles",
            f"set predict.tile to more, such as {list(more[3 - geometry.dimensions :])}, or leave it out",
        )


def _check_sums_of_bf16(model: onnx_format.ModelProto, onnx: Path) -> None:
    """UserError if a sum of products of bf16 has more terms than oneDNN adds in one order whatever the shape.

    Twice as many terms fit into a block as in fp32 (see :func:`unetpipe.engines.rewrite.split_input_channels`); where
    64 channels or more come out, twice as many again. (Seen with 512 channels of 3 x 3 voxels where 8 come out, and
    with 768 where 64 do.) Parts of a longer sum would be rounded to bf16 before they are added.
    """
    constants = {item.name: item.dims for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        channels_out, channels_in, *kernel = constants[node.input[1]]
        most = _MOST_CHANNELS_BF16 * 9 * (2 if channels_out >= _MANY_RESULTS else 1)
        if (terms := channels_in * math.prod(kernel)) > most:
            raise UserError(
                f"{onnx} was to be built by {_library()} in bf16",
                f"sums of {terms} products come out in another order in tiles of another shape ({node.name}: "
                f"{channels_in} channels, a kernel of {kernel}; at most {most} products are safe)",
                "set engine.precision to int8, whose sums are exact, or to fp32; or train a narrower network",
            )


def _check_precision(compiled: Any, model: onnx_format.ModelProto, precision: Precision, onnx: Path) -> None:
    """UserError if a convolution runs in another precision than its weights are meant for: then speed is not gained."""
    found = Counter(
        str(layer.rt_info["runtimePrecision"].astype(str))
        for layer in compiled.get_runtime_model().get_ordered_ops()
        if layer.rt_info["layerType"].astype(str) in ("Convolution", "Deconvolution")
    )
    stored = {item.name for item in model.graph.initializer}
    wanted = sum(
        node.op_type in ("Conv", "ConvTranspose") and (node.input[1] in stored) == (precision != "int8")
        for node in model.graph.node
    )
    if sum(found[name] for name in _COMPUTES_IN[precision]) < wanted:
        raise UserError(
            f"{wanted} convolutions of {onnx} were to be computed in {precision} by {_library()}",
            "it computes " + ", ".join(f"{count} in {name}" for name, count in sorted(found.items())),
            "set engine.precision to another one, or to `auto`",
        )


def _library() -> str:
    import openvino

    return f"openvino {openvino.__version__.partition('-')[0]}"
