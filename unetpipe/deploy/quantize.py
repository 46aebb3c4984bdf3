"""The network in other precisions than fp32, for the libraries that compute in them."""

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx as onnx_format
import onnxruntime
from numpy.typing import NDArray

import unetpipe
from unetpipe import config
from unetpipe.data.tiles import LabelledTile, free_tile, labelled_tiles
from unetpipe.deploy.activations import Range, trace
from unetpipe.deploy.calibrate import calibrate
from unetpipe.deploy.forms import FORMS, write_form
from unetpipe.engines import onnx_file
from unetpipe.errors import UserError
from unetpipe.files import digest, write_bytes, write_json
from unetpipe.grid import triple
from unetpipe.progress_bar import track
from unetpipe.volume import VolumeFile

log = logging.getLogger(__name__)


def quantize(
    onnx: Path,
    volumes: list[Path],
    quantized: Path,
    description: Path,
    *,
    role: str,
    precisions: list[str],
    tile: list[int] | None,
    settings: config.Quantize,
    cores: int,
) -> None:
    """Back the rule ``quantize``: write each form of each precision.

    For int8 the range of each layer is taken from tiles of ``volumes``: images alone, no labels. The same tiles give
    the same bytes. Of a network that cannot be put in bytes, int8 is left out, and the description says why.

    Parameters
    ----------
    onnx:
        The network in fp32, as ``export`` writes it.
    volumes:
        ``volume.json`` of the volumes to calibrate on.
    quantized:
        The folder for ``<form>.onnx``.
    description:
        What was done, JSON; written last.
    role:
        Of these volumes.
    precisions:
        Those that may predict; of fp32 nothing is written.
    tile:
        Input of the network in prediction, (z, y, x) voxels; None where it is chosen for each volume.
    cores:
        CPU threads.

    Raises
    ------
    UserError
        If there is no tile to calibrate on.
    """
    description.unlink(missing_ok=True)
    model, described = onnx_file.read_form(onnx, lambda precision: precision)
    ranges: dict[str, Range] = {}
    calibration = None
    able, refused = writable(model, precisions)
    for reason in refused.values():
        log.warning("%s", reason)
    if "int8" in able:
        sources = [dataclasses.replace(VolumeFile.read(path), labels=None) for path in volumes]
        shape = triple(tile) if tile is not None else free_tile(described.geometry, sources)
        tiles = _Tiles()
        found = list(labelled_tiles(sources, described.geometry, shape, settings.tiles))
        if not found:
            raise UserError(
                f"{onnx} was to be quantised to int8, for which the range of each layer is taken from tiles",
                f"{', '.join(source.name for source in sources)}: all sections are missing, there is no tile",
                "add a volume with a section, or leave int8 out of engine.precision",
            )
        ranges = calibrate(model, tiles.seen(track(found, "calibrate", len(found), "tiles")), cores)
        calibration = {
            "role": role,
            "volumes": [source.name for source in sources],
            "tiles": {
                "count": len(found),
                "shape": list(shape),
                "sources": [list(item.source) for item in found],
                "digest": tiles.digest,
            },
        }
    written = write_forms(model, able, ranges, quantized)
    write_json(
        description,
        {
            "precisions": sorted(set(precisions)),
            "forms": {path.stem: {"digest": digest(path), "bytes": path.stat().st_size} for path in written},
            "refused": refused,
            "calibration": calibration,
            "onnx_digest": digest(onnx),
            "version": unetpipe.__version__,
            "versions": {"onnx": onnx_format.__version__, "onnxruntime": onnxruntime.__version__},
        },
    )


def writable(model: onnx_format.ModelProto, precisions: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those of ``precisions`` that ``model`` can be written in, and by each of the others, why not."""
    if "int8" in precisions:
        try:
            trace(model)
        except ValueError as error:
            reason = (
                f"this network is not written in int8 ({error}), which is for full_resolution, and for a unet with "
                "transposed convolutions whose skips are concatenated or none"
            )
            return [precision for precision in precisions if precision != "int8"], {"int8": reason}
    return list(precisions), {}


def write_forms(
    model: onnx_format.ModelProto, precisions: Sequence[str], ranges: Mapping[str, Range], folder: Path
) -> list[Path]:
    """Write each form of each precision as ``<form>.onnx`` into ``folder``, which holds nothing else afterwards.

    ``model`` is the network in fp32; ``ranges`` of its layers are needed for int8 alone.
    """
    forms = [form for precision, names in FORMS.items() if precision in precisions for form in names]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.onnx"):
        if old.stem not in forms:
            old.unlink()
    paths = [folder / f"{form}.onnx" for form in forms]
    for path in paths:
        write_bytes(path, write_form(model, path.stem, ranges).SerializeToString(deterministic=True))
        log.info("%s: %.1f MB", path.stem, path.stat().st_size / 1e6)
    return paths


class _Tiles:
    """Passes tiles on, and hashes what it saw."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def seen(self, tiles: Iterator[LabelledTile]) -> Iterator[NDArray[np.float32]]:
        for tile in tiles:
            image = np.ascontiguousarray(tile.image)
            self._hash.update(image.data)
            yield image

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal."""
        return self._hash.hexdigest()
