"""Reading the ONNX files that ``export`` writes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from pydantic import TypeAdapter

from unetpipe.config import Precision
from unetpipe.errors import UserError
from unetpipe.grid import Geometry

IMAGE = "image"
"""The input: normalised grey values (n, z, y, x)."""

PROBABILITY = "probability"
"""The output: (n, classes, z', y', x'), which sum to 1 over the classes."""


@dataclass(frozen=True)
class OnnxFile:
    """What an ONNX file says of itself.

    ``precision``: what the convolutions are to be computed in. ``form``: how the file says so, since libraries want to
    be told in other ways; the stem of its name where there are several.
    """

    geometry: Geometry
    classes: tuple[str, ...]
    precision: Precision
    form: str
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
        precision: Precision = TypeAdapter(Precision).validate_python(metadata["precision"])
        described = OnnxFile(geometry, tuple(metadata["classes"]), precision, metadata["form"], metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(asked, f"it does not describe a network of this version ({error!r})", repair) from None
    return model, described


def read_form(path: Path, forms: Callable[[Precision], str]) -> tuple[onnx.ModelProto, OnnxFile]:
    """As :func:`read`; UserError if its form is not the one that ``forms`` gives for its precision."""
    model, described = read(path)
    if described.form != (wanted := forms(described.precision)):
        raise UserError(
            f"an engine of precision {described.precision} was to be built from {path}",
            f"the network there has the form {described.form}; the library takes {wanted}",
            f"give it {wanted}.onnx, which the rule quantize makes",
        )
    return model, described
