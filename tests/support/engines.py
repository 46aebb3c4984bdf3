"""Engines for tests that are about something else."""

from pathlib import Path
from typing import Any

from unetpipe import config
from unetpipe.config import Precision
from unetpipe.deploy.candidate import compile_engine, profile_for
from unetpipe.engines import onnx_file
from unetpipe.engines.select import BUILD, ENGINE, Networks, choose
from unetpipe.files import read_json


def make_engine_in(
    folder: Path,
    onnx: Path,
    backend: Any,
    precision: Precision = "fp32",
    quantized: Path | None = None,
    tile: list[int] | None = None,
    batch: int = 1,
    **settings: Any,
) -> Any:
    """Build an engine in ``folder``, as a candidate of the rule is; gives its build.json."""
    asked = config.Engine(backend=backend, precision=precision, **settings)
    profile = profile_for(onnx_file.read(onnx)[1].geometry, tile, batch, asked.max_batch)
    networks = Networks(onnx, quantized)
    choice = choose(asked, precision, networks, profile)
    compile_engine(
        networks.of(choice.backend, precision), folder / ENGINE, folder / BUILD,
        choice=choice, asked=asked.backend, profile=profile,
    )  # fmt: skip
    return read_json(folder / BUILD)
