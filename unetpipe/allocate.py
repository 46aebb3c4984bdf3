"""Plan the prediction of one volume and make room for it, once."""

import json
import logging
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import unetpipe
from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.grid import MOST_KEPT, Geometry, Plan, Shape, triple
from unetpipe.progress import Record
from unetpipe.volume import LEVEL, VolumeFile, create, open_array

log = logging.getLogger(__name__)

_SECTIONS = 8
"""Sections of a block, at most: a shard of some megabytes, however large the volume."""


def allocate(
    volume: Path,
    certificate: Path,
    allocated: Path,
    *,
    classes: list[str],
    tile: list[int] | None,
    batch: int,
    on_change: Literal["refuse", "restart"],
) -> None:
    """Back the rule ``allocate``: plan, record's key, and an empty store with all its metadata.

    A store whose key fits is kept with all that is in it.

    Parameters
    ----------
    volume, certificate:
        ``volume.json`` and ``certificate.json``.
    allocated:
        Where the result is described; the store and its record of progress lie beside it.
    classes:
        The channels in their order.
    tile:
        Input of the network along (y, x) in voxels; None to choose.
    batch:
        Tiles per call.
    on_change:
        What to do with a prediction that was made with other inputs or settings.

    Raises
    ------
    UserError
        If there is a prediction with another key, and ``on_change`` is ``refuse``.
    """
    source = VolumeFile.read(volume)
    proof = read_json(certificate)
    geometry = Geometry(**{name: triple(value) for name, value in proof["geometry"].items()})
    if proof["profile"] is not None:
        # The engine takes tiles of one shape alone.
        tile = proof["profile"]["tile"]
    plan = plan_volume(source.shape, geometry, tile, batch)
    key = {
        "input": source.identity(),
        "engine": proof["engine_digest"],
        "backend": proof["backend"],
        "precision": proof["precision"],
        "versions": proof["versions"],
        "device_class": proof["device_class"],
        "plan": asdict(plan),
        "classes": classes,
        "version": unetpipe.__version__,
    }
    folder = allocated.parent
    store = folder / "probability.zarr"
    record = Record.open(folder / "progress", key, on_change, f"the prediction of {source.name} in {folder}")
    if not _is_allocated(store, plan, len(classes)):
        if record.done():
            # The record outlived its store: what it says is done is gone.
            log.warning("the store %s is gone or damaged: its blocks are computed again", store)
            shutil.rmtree(record.folder)
            Record.open(record.folder, key, on_change, source.name)
        create(
            store,
            shape=(len(classes), *plan.shape),
            dtype="uint8",
            chunk=(1, *plan.chunk),
            shard=(len(classes), *plan.block),
            voxel_size_nm=source.voxel_size_nm,
            channels=classes,
            origin_nm=source.origin_nm,
        )
    write_json(
        allocated,
        {
            "volume": source.name,
            "volume_file": str(volume),
            "probability": str(store),
            "array": LEVEL,
            "classes": classes,
            "key": json.loads(json.dumps(key)),
            "plan": {**asdict(plan), "kept_fraction": plan.kept_fraction, "blocks": math.prod(plan.block_counts)},
        },
    )
    log.info(
        "%s: %s voxels in %d blocks of %s, tiles of %s that keep %s (%.0f %%)",
        source.name,
        " x ".join(map(str, plan.shape)),
        math.prod(plan.block_counts),
        plan.block,
        plan.tile,
        plan.kept,
        100 * plan.kept_fraction,
    )


def plan_volume(shape: Shape, geometry: Geometry, tile: list[int] | None, batch: int) -> Plan:
    """How a volume of ``shape`` (z, y, x) is cut.

    The sections are cut into as few tiles as keep at most 1024 voxels along y and x, all of one size; a block is one
    column of tiles over a few sections.

    Raises
    ------
    UserError
        If the network cannot take ``tile``.
    """
    if tile is None:
        kept = [1]
        for size, pooling in zip(shape[1:], geometry.pooling[1:], strict=True):
            count = math.ceil(size / MOST_KEPT)
            kept.append(math.ceil(size / count / pooling) * pooling)
        chosen = geometry.tile_for(kept)
    else:
        chosen = triple([1, *tile])
        if not geometry.is_legal(chosen):
            raise UserError(
                "the prediction was to be planned",
                f"the network cannot take a tile of {tile} (y, x)",
                f"set predict.tile to a size such as {list(geometry.tile_for(chosen)[1:])}, or leave it out",
            )
    kept_z, kept_y, kept_x = geometry.kept(chosen)
    block = (kept_z * math.ceil(min(_SECTIONS, shape[0]) / kept_z), kept_y, kept_x)
    chunk = (block[0], _chunk(kept_y), _chunk(kept_x))
    return Plan(shape=shape, tile=chosen, block=block, chunk=chunk, batch=batch, geometry=geometry)


def read_plan(allocated: dict[str, Any]) -> Plan:
    """The plan in ``allocated.json``."""
    plan = allocated["plan"]
    geometry = Geometry(**{name: triple(value) for name, value in plan["geometry"].items()})
    shapes = {name: triple(plan[name]) for name in ("shape", "tile", "block", "chunk")}
    return Plan(**shapes, batch=plan["batch"], geometry=geometry)


def _chunk(block: int) -> int:
    """The largest divisor of ``block`` that is at most 128."""
    return max(size for size in range(1, min(128, block) + 1) if block % size == 0)


def _is_allocated(store: Path, plan: Plan, channels: int) -> bool:
    try:
        array = open_array(str(store / LEVEL))
    except UserError:
        return False
    return array.shape == (channels, *plan.shape) and array.shards == (channels, *plan.block)
