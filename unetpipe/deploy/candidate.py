"""Compile one ONNX file with one library."""

import logging
import time
from dataclasses import asdict
from pathlib import Path

import onnx as onnx_format

import unetpipe
from unetpipe.engines import onnx_file
from unetpipe.engines.contract import Profile
from unetpipe.engines.select import Choice
from unetpipe.errors import UserError
from unetpipe.files import digest, replacing, write_json
from unetpipe.grid import Geometry, triple

log = logging.getLogger(__name__)


def compile_engine(onnx: Path, engine: Path, build: Path, *, choice: Choice, asked: str, profile: Profile) -> None:
    """Compile ``onnx`` with the library of ``choice``.

    Parameters
    ----------
    onnx:
        The network, in the precision and form that it is to be computed in.
    engine:
        The result, for one library and version; TensorRT's also for one device.
    build:
        JSON that says how it came about: the library and why it was taken, versions, digests, calls that it can take.
        It is written last.
    asked:
        The library that the settings ask for, or ``auto``.

    Raises
    ------
    UserError
        If the library cannot build the network.
    """
    build.unlink(missing_ok=True)
    _, described = onnx_file.read(onnx)
    log.info("building in %s with %s: %s", described.precision, choice.backend.name, choice.why)
    engine.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with replacing(engine) as temporary:
        facts = choice.backend.build(onnx, temporary, profile)
    seconds = time.perf_counter() - start
    binding = choice.backend.binding()
    library, _, version = binding["library"].partition(" ")
    write_json(
        build,
        {
            "backend": choice.backend.name,
            "asked": asked,
            "why": choice.why,
            "candidates": choice.candidates,
            "precision": described.precision,
            "profile": facts["profile"],
            "capabilities": facts.get("capabilities"),
            "binding": binding,
            "device_class": choice.backend.device_class(),
            "classes": list(described.classes),
            "geometry": asdict(described.geometry),
            "onnx_digest": digest(onnx),
            "checkpoint_digest": described.metadata["checkpoint_digest"],
            "engine_digest": digest(engine),
            "bytes": engine.stat().st_size,
            "seconds": round(seconds, 3),
            "versions": {"unetpipe": unetpipe.__version__, "onnx": onnx_format.__version__, library: version},
        },
    )
    log.info("%.1f MB in %.1f s", engine.stat().st_size / 1e6, seconds)


def profile_for(geometry: Geometry, tile: list[int] | None, batch: int, max_batch: int) -> Profile:
    """The calls to build for; UserError if the network cannot take ``tile`` (z, y, x), None for the largest useful."""
    profile = Profile(
        batch=(1, batch, max(batch, max_batch)),
        tile=geometry.tile_for(geometry.most_kept) if tile is None else triple(tile),
    )
    if not geometry.is_legal(profile.tile):
        near = geometry.tile_for([max(1, n) for n in geometry.output(profile.tile)])
        raise UserError(
            f"an engine was to be built for tiles of {list(profile.tile)} (z, y, x)",
            "the network cannot take them",
            f"set predict.tile to a size such as {list(near[3 - geometry.dimensions :])}, or leave it out",
        )
    return profile
