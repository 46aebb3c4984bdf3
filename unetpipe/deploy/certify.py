"""The gate: an engine predicts only if it agrees with PyTorch in fp32, on the device that will predict."""

import dataclasses
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unetpipe import config
from unetpipe.data.tiles import labelled_tiles
from unetpipe.deploy.compare import Comparison, Run, compare, judge
from unetpipe.engines import device_class, load_engine
from unetpipe.errors import UserError
from unetpipe.files import digest, read_json, write_json
from unetpipe.grid import Geometry, Shape, triple
from unetpipe.nets.checkpoint import load_checkpoint
from unetpipe.nets.unet import UNet
from unetpipe.progress_bar import track
from unetpipe.volume import VolumeFile

log = logging.getLogger(__name__)

_LEND_LABELS = ("validate", "train")

_MOST_KEPT = {2: (1, 512, 512), 3: (16, 128, 128)}
"""By the network's dimensions, voxels (z, y, x) that a free tile keeps: many, and soon done in PyTorch."""


def certify(
    checkpoint: Path,
    engine: Path,
    build: Path,
    volumes: list[Path],
    certificate: Path,
    *,
    role: str,
    tile: list[int] | None,
    batch: int,
    settings: config.Certify,
    cores: int,
) -> None:
    """Back the rule ``certify``: run engine and PyTorch on the same tiles, and write a certificate if they agree.

    The labels of volumes with the role validate or train are the truth, and the IoU of no class may be lower with the
    engine than with PyTorch by more than ``settings.iou_bound``. Other volumes lend their images alone: those for
    testing must not choose anything. Then the classes that PyTorch gives stand for the truth, and the certificate says
    so.

    Parameters
    ----------
    checkpoint, engine, build:
        ``checkpoint.safetensors``, the engine that was built from it, and ``build.json``.
    volumes:
        ``volume.json`` of the volumes to take tiles from.
    certificate:
        The result, JSON; not there unless the engine has passed.
    role:
        Of these volumes.
    tile:
        Input of the network in prediction, (z, y, x) voxels; None where it is chosen for each volume. An engine that
        was built for one tile alone gets that one.
    batch:
        Tiles per call in prediction.
    cores:
        CPU threads for both.

    Raises
    ------
    UserError
        If the engine does not pass, or if there is no tile to compare.
    """
    certificate.unlink(missing_ok=True)
    description = read_json(build)
    sources = [VolumeFile.read(path) for path in volumes]
    network, metadata = load_checkpoint(checkpoint)
    classes: list[str] = metadata["classes"]
    shape = _tile(network.geometry, description["profile"], tile, sources)
    asked = (
        f"the engine {engine} ({description['backend']}, {description['precision']}) was to be certified: the IoU of "
        f"no class may be lower than with PyTorch in fp32 by more than {settings.iou_bound}"
    )
    torch.set_num_threads(cores)
    with closing(load_engine(engine.parent, tile=shape, batch=batch, threads=cores)) as fast:

        def run(pool: list[VolumeFile]) -> Comparison:
            # All at once, so that their number is known: there can be fewer than the settings ask for.
            tiles = list(labelled_tiles(pool, network.geometry, shape, settings.tiles))
            shown = track(tiles, "certify", len(tiles), "tiles")
            return compare(shown, pytorch(network), fast.run, len(classes), batch, asked)

        found = run(sources) if role in _LEND_LABELS else None
        if found is None or not found.sources:
            found = run([dataclasses.replace(source, labels=None) for source in sources])
    names = ", ".join(source.name for source in sources)
    if not found.sources:
        raise UserError(
            asked, f"{names}: all sections are missing, there is no tile to compare", "add a volume with a section"
        )
    judge(found, classes, settings.iou_bound, asked)
    result = {
        "verdict": "passed",
        "bound": settings.iou_bound,
        "tiles_from": role if found.has_truth else "unlabelled",
        "tiles": {
            "count": len(found.sources),
            "shape": list(shape),
            "batch": batch,
            "volumes": [source.name for source in sources],
            "sources": [list(source) for source in found.sources],
        },
        **found.findings(classes),
        "backend": description["backend"],
        "precision": description["precision"],
        "profile": description["profile"],
        "device": fast.device,
        "device_class": device_class(description["backend"]),
        "classes": classes,
        "geometry": dataclasses.asdict(network.geometry),
        "engine_digest": digest(engine),
        "onnx_digest": description["onnx_digest"],
        "checkpoint_digest": digest(checkpoint),
        "tiles_digest": found.digest,
        "versions": description["versions"],
        "pytorch": str(torch.__version__),
    }
    write_json(certificate, result)
    log.info(
        "passed on %d tiles of %s: largest error of a probability %.2g, %.3g %% of labels changed",
        len(found.sources),
        names,
        found.absolute,
        100 * found.changed,
    )
    if not found.has_truth:
        log.warning("no labels could be used: only that engine and PyTorch agree was shown, not how good both are")


def _tile(
    geometry: Geometry, profile: dict[str, Any] | None, tile: list[int] | None, volumes: list[VolumeFile]
) -> Shape:
    """What network and engine read, (z, y, x)."""
    if profile is not None:
        return triple(profile["tile"])
    if tile is not None:
        return triple(tile)
    largest = (max(sizes) for sizes in zip(*(volume.shape for volume in volumes), strict=True))
    return geometry.tile_for([min(most, n) for most, n in zip(_MOST_KEPT[geometry.dimensions], largest, strict=True)])


def pytorch(network: UNet) -> Run:
    """The network as the engines run: from (n, z, y, x) to probabilities (n, classes, z', y', x'), in fp32.

    On the CPU, whatever the engine runs on: there, no reduced form of fp32 such as TF32 comes in.
    """

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            probability: NDArray[np.float32] = network(torch.from_numpy(images)).softmax(dim=1).numpy()
        return probability

    return run
