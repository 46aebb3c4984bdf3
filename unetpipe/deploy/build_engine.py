"""Compile the ONNX file for the hardware that will predict."""

import logging
import time
from dataclasses import asdict
from pathlib import Path

import onnx as onnx_format

import unetpipe
from unetpipe import config
from unetpipe.engines import onnx_file
from unetpipe.engines.contract import Profile
from unetpipe.engines.select import choose
from unetpipe.errors import UserError
from unetpipe.files import digest, replacing, write_json
from unetpipe.grid import triple

log = logging.getLogger(__name__)


def build_engine(
    onnx: Path, engine: Path, build: Path, *, settings: config.Engine, tile: list[int] | None, batch: int
) -> None:
    """Back the rule ``build_engine``.

    Parameters
    ----------
    onnx:
        The network, as ``export`` writes it.
    engine:
        The result, for one library and version; TensorRT's also for one device.
    build:
        JSON that says how it came about: the library and why it was taken, versions, digests, calls that it can take.
        It is written last.
    tile:
        Input of the network in prediction, (z, y, x) voxels; None where it is chosen for each volume.
    batch:
        Tiles per call in prediction.

    Raises
    ------
    UserError
        If the library that the settings ask for is not there, or cannot build the network; or if the precision is not
        that of the network.
    """
    build.unlink(missing_ok=True)
    _, described = onnx_file.read(onnx)
    if described.precision != settings.precision:
        raise UserError(
            f"an engine of precision {settings.precision} was to be built from {onnx}",
            f"the network there is of precision {described.precision}",
            "precision is a property of the ONNX file: export it in that precision",
        )
    geometry = described.geometry
    profile = Profile(
        batch=(1, batch, max(batch, settings.max_batch)),
        tile=geometry.tile_for(geometry.most_kept) if tile is None else triple(tile),
    )
    if not geometry.is_legal(profile.tile):
        near = geometry.tile_for([max(1, n) for n in geometry.output(profile.tile)])
        raise UserError(
            f"an engine was to be built for tiles of {list(profile.tile)} (z, y, x)",
            "the network cannot take them",
            f"set predict.tile to a size such as {list(near[3 - geometry.dimensions :])}, or leave it out",
        )
    choice = choose(settings.backend, onnx, profile, settings.compute_capabilities)
    log.info("building with %s: %s", choice.backend.name, choice.why)
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
            "asked": settings.backend,
            "why": choice.why,
            "candidates": choice.candidates,
            "precision": described.precision,
            "profile": facts["profile"],
            "capabilities": facts.get("capabilities"),
            "binding": binding,
            "device_class": choice.backend.device_class(),
            "classes": list(described.classes),
            "geometry": asdict(geometry),
            "onnx_digest": digest(onnx),
            "checkpoint_digest": described.metadata["checkpoint_digest"],
            "engine_digest": digest(engine),
            "bytes": engine.stat().st_size,
            "seconds": round(seconds, 3),
            "versions": {"unetpipe": unetpipe.__version__, "onnx": onnx_format.__version__, library: version},
        },
    )
    log.info("%.1f MB in %.1f s", engine.stat().st_size / 1e6, seconds)
