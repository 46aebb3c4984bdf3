"""The gate: an engine predicts only if it agrees with PyTorch in fp32, on the device that will predict."""

import dataclasses
import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unetpipe import config
from unetpipe.data.tiles import free_tile, labelled_tiles
from unetpipe.deploy.compare import Comparison, RefusedError, Run, compare, judge
from unetpipe.engines import Engine, device_class, load_engine
from unetpipe.engines.select import BUILD, ENGINE, read_build
from unetpipe.errors import UserError
from unetpipe.files import digest, read_json, write_bytes, write_json
from unetpipe.grid import Geometry, Shape, triple
from unetpipe.nets.checkpoint import load_checkpoint
from unetpipe.nets.layers import SegmentationNetwork
from unetpipe.progress_bar import track
from unetpipe.volume import VolumeFile

log = logging.getLogger(__name__)

_LEND_LABELS = ("validate", "train")


def certify(
    checkpoint: Path,
    candidates: Path,
    volumes: list[Path],
    engine: Path,
    build: Path,
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

    Tiles are not mirrored, whatever ``predict.mirror`` says: where each of some answers differs from PyTorch's by at
    most e, their mean does not differ by more. One certificate is for both.

    The candidates are tried in their order. The first that passes predicts; the certificate names those before it, and
    why they do not.

    Parameters
    ----------
    checkpoint, candidates:
        ``checkpoint.safetensors``, and what ``build_engine`` has made of it.
    volumes:
        ``volume.json`` of the volumes to take tiles from.
    engine, build:
        Copies of the engine that has passed, and of its ``build.json``.
    certificate:
        The result, JSON; not there unless an engine has passed. It lies beside the two.
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
        If no engine passes, or if there is no tile to compare.
    """
    certificate.unlink(missing_ok=True)
    offered = _offered(candidates)
    sources = [VolumeFile.read(path) for path in volumes]
    network, metadata = load_checkpoint(checkpoint)
    torch.set_num_threads(cores)
    gate = _Gate(network, metadata["classes"], sources, role, tile, batch, settings, cores)
    refused: list[dict[str, Any]] = []
    for number, candidate in enumerate(offered["candidates"], 1):
        folder = candidates.parent / candidate["folder"]
        try:
            proof = gate.examine(folder)
        except RefusedError as error:
            if number == len(offered["candidates"]):
                raise
            log.warning("%s\nGoing on with the next precision.", error)
            refused.append({"precision": candidate["precision"], "why": error.found, **error.findings})
            continue
        break
    write_bytes(engine, (folder / ENGINE).read_bytes())
    write_json(build, read_json(folder / BUILD))
    proof |= {"checkpoint_digest": digest(checkpoint), "refused": refused, "skipped": offered["skipped"]}
    if digest(engine) != proof["engine_digest"]:
        raise UserError(
            f"the engine {folder / ENGINE} was certified", "it changed meanwhile", f"delete {candidates} to build again"
        )
    write_json(certificate, proof)
    if proof["tiles_from"] == "unlabelled":
        log.warning("no labels could be used: only that engine and PyTorch agree was shown, not how good both are")


def _offered(candidates: Path) -> dict[str, Any]:
    """What ``build_engine`` offers; UserError if the file is damaged."""
    offered = read_json(candidates)
    if not isinstance(offered, dict) or not {"candidates", "skipped"} <= offered.keys() or not offered["candidates"]:
        raise UserError(
            f"the engines of {candidates} were to be certified",
            "it is damaged, or that of another version",
            "delete it and run snakemake again",
        )
    return offered


@dataclass(frozen=True)
class _Gate:
    """What all candidates are compared with, and on what."""

    network: SegmentationNetwork
    classes: list[str]
    sources: list[VolumeFile]
    role: str
    tile: list[int] | None
    batch: int
    settings: config.Certify
    cores: int

    def examine(self, folder: Path) -> dict[str, Any]:
        """The certificate of the engine in ``folder``; UserError if it does not pass, or cannot be tried."""
        engine, description = folder / ENGINE, read_build(folder)
        geometry, bound = self.network.geometry, self.settings.iou_bound
        shape = _tile(geometry, description["profile"], self.tile, self.sources)
        asked = (
            f"the engine {engine} ({description['backend']}, {description['precision']}) was to be certified: the IoU "
            f"of no class may be lower than with PyTorch in fp32 by more than {bound}"
        )
        names = [source.name for source in self.sources]
        with closing(load_engine(folder, tile=shape, batch=self.batch, threads=self.cores)) as fast:
            found = self._compare(fast, shape, asked)
        if not found.sources:
            raise UserError(
                asked,
                f"{', '.join(names)}: all sections are missing, there is no tile to compare",
                "add a volume with a section",
            )
        judge(found, self.classes, bound, asked)
        log.info(
            "%s in %s on %s passed on %d tiles of %s: largest error of a probability %.2g, %.3g %% of labels changed",
            fast.library, description["precision"], fast.device, len(found.sources), ", ".join(names),
            found.absolute, 100 * found.changed,
        )  # fmt: skip
        return {
            "verdict": "passed",
            "bound": bound,
            "tiles_from": self.role if found.has_truth else "unlabelled",
            "tiles": {
                "count": len(found.sources),
                "shape": list(shape),
                "batch": self.batch,
                "volumes": names,
                "sources": [list(source) for source in found.sources],
            },
            **found.findings(self.classes),
            "backend": description["backend"],
            "precision": description["precision"],
            "profile": description["profile"],
            "device": fast.device,
            "device_class": device_class(description["backend"]),
            "classes": self.classes,
            "geometry": dataclasses.asdict(geometry),
            "engine_digest": description["engine_digest"],
            "onnx_digest": description["onnx_digest"],
            "tiles_digest": found.digest,
            "versions": description["versions"],
            "pytorch": str(torch.__version__),
        }

    def _compare(self, fast: Engine, shape: Shape, asked: str) -> Comparison:
        geometry = self.network.geometry

        def run(pool: list[VolumeFile]) -> Comparison:
            # All at once, so that their number is known: there can be fewer than the settings ask for.
            tiles = list(labelled_tiles(pool, geometry, shape, self.settings.tiles))
            shown = track(tiles, "certify", len(tiles), "tiles")
            return compare(shown, pytorch(self.network), fast.run, len(self.classes), self.batch, asked)

        found = run(self.sources) if self.role in _LEND_LABELS else None
        if found is None or not found.sources:
            found = run([dataclasses.replace(source, labels=None) for source in self.sources])
        return found


def _tile(
    geometry: Geometry, profile: dict[str, Any] | None, tile: list[int] | None, volumes: list[VolumeFile]
) -> Shape:
    """What network and engine read, (z, y, x)."""
    if profile is not None:
        return triple(profile["tile"])
    if tile is not None:
        return triple(tile)
    return free_tile(geometry, volumes)


def pytorch(network: SegmentationNetwork) -> Run:
    """The network as the engines run: from (n, z, y, x) to probabilities (n, classes, z', y', x'), in fp32.

    On the CPU, whatever the engine runs on: there, no reduced form of fp32 such as TF32 comes in.
    """

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            probability: NDArray[np.float32] = network(torch.from_numpy(images)).softmax(dim=1).numpy()
        return probability

    return run
