"""Reading the ONNX files that ``export`` writes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from unetpipe.errors import UserError
from unetpipe.grid import Geometry

IMAGE = "image"
"""The input: normalised grey values (n, z, y, x)."""

PROBABILITY = "probability"
"""The output: (n, classes, z', y', x'), which sum to 1 over the classes."""


@dataclass(frozen=True)
class OnnxFile:
    """What an ONNX file says of itself."""

    geometry: Geometry
    classes: tuple[str, ...]
    precision: str
    metadata: dict[str, Any]


def read(path: Path) -> tuple[onnx.ModelProto, OnnxFile]:
    """The network in ``path``, and what it says of itself.

    Raises
    ------
    UserError
        If it is no ONNX file, or none that ``export`` has written.
    """
    asked = f"the network {path} was to be read"
    repair = "delete it: the next run exports the network again"
    try:
        model = onnx.load(path)
    except (OSError, DecodeError) as error:
        raise UserError(asked, f"it is no ONNX file ({error})", repair) from None
    try:
        metadata = {item.key: json.loads(item.value) for item in model.metadata_props}
        geometry = Geometry.of(metadata["geometry"])
        described = OnnxFile(geometry, tuple(metadata["classes"]), metadata["precision"], metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(asked, f"it does not describe a network of this version ({error!r})", repair) from None
    return model, described
