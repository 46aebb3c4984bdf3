"""Predict one volume, block by block: overlap-tile with mirrored edges (arXiv:1505.04597, section 2 and figure 2).

Which voxel comes out as what depends on the volume and the engine alone: the write origin of every call is aligned
(:mod:`unetpipe.grid`), every call has the same shape, and normalisation uses stored constants.
"""

import functools
import hashlib
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

import unetpipe
from unetpipe.allocate import read_plan
from unetpipe.cluster import connect, for_each
from unetpipe.data.sources import open_source
from unetpipe.engines import Engine, device_class, load_engine
from unetpipe.errors import UserError
from unetpipe.files import digest_of, read_json, write_json
from unetpipe.grid import Block, Plan, Region, Shape, triple
from unetpipe.progress import Record
from unetpipe.progress_bar import track
from unetpipe.volume import Image, VolumeFile, open_array, open_writable, shard_path, sync_shard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """All that a worker must know for one block; small, since it travels for each."""

    allocated: Path
    engine: Path
    threads: int
    index: Shape


def predict(
    allocated: Path,
    certificate: Path,
    done: Path,
    *,
    job: str,
    workers: int | None,
    cores: int,
) -> None:
    """Back the rule ``predict``: compute the blocks that are not recorded yet.

    Parameters
    ----------
    allocated:
        ``allocated.json``.
    certificate:
        ``certificate.json``; the engine lies beside it.
    done:
        Written at the end: what was computed, and a digest of the whole.
    job:
        The name of this job.
    workers:
        Processes; one per core where None. The result does not depend on it.
    cores:
        CPU cores for all workers together.

    Raises
    ------
    UserError
        If this machine's device class is not the one that the store was allocated for, if the store is gone, or if an
        image that is used in place has changed.
    """
    description = read_json(allocated)
    plan = read_plan(description)
    key = description["key"]
    if (here := device_class(read_json(certificate)["backend"])) != key["device_class"]:
        raise UserError(
            f"{description['volume']} was to be predicted on this machine",
            f"the engine was certified on another class of device: {key['device_class']}; this is {here}",
            "predict where the engine was certified, or delete the engine's folder to build and certify it here",
        )
    record = Record(allocated.parent / "progress")
    if record.key() != key:
        raise UserError(
            f"{description['volume']} was to be predicted",
            f"{allocated} and the record of progress in {record.folder} do not belong together",
            f"delete {allocated} and run again",
        )
    _refuse_changed_image(description)
    count = workers or cores
    threads = max(1, cores // count)
    finished = _finished(description, plan, record)
    total = description["plan"]["blocks"]
    if finished:
        log.info("%d of %d blocks are there already", len(finished), total)
    tasks = (
        Task(allocated, certificate.parent, threads, block.index)
        for block in plan.blocks()
        if block.name not in finished
    )
    start = time.monotonic()
    voxels = size = 0
    if len(finished) < total:
        with connect(min(count, total - len(finished))) as client:
            results = for_each(client, predict_block, tasks)
            for entry in track(results, description["volume"], total, "blocks", done=len(finished)):
                voxels += entry["voxels"]
                size += entry["bytes"]
    seconds = time.monotonic() - start
    entries = record.done()
    write_json(
        done,
        {
            "volume": description["volume"],
            "job": job,
            "blocks": total,
            "computed": total - len(finished),
            "resumed": len(finished),
            "voxels": voxels,
            "bytes_written": size,
            "seconds": round(seconds, 3),
            "workers": count,
            "threads_per_worker": threads,
            "device": key["device_class"],
            "engine_digest": key["engine"],
            "digest": digest_of({name: entry["written"] for name, entry in entries.items()}),
            "version": unetpipe.__version__,
        },
    )
    if voxels:
        log.info(
            "%s: %.2f Mvox in %.1f s, %.2f Mvox/s", description["volume"], voxels / 1e6, seconds, voxels / 1e6 / seconds
        )


def _refuse_changed_image(description: dict[str, Any]) -> None:
    """UserError if an image that is used in place is not what it was when it was measured."""
    volume = VolumeFile.read(Path(description["volume_file"]))
    if not volume.source.get("in_place"):
        return
    address = volume.source["image"]
    with closing(open_source(address)) as source:
        if source.listing() != volume.image_digest:
            raise UserError(
                f"{volume.name} was to be predicted from {address}, which is used in place",
                "its files are others than when ingest measured it",
                f"delete {description['volume_file']} to measure it again, or put the old files back",
            )


def _finished(description: dict[str, Any], plan: Plan, record: Record) -> dict[str, dict[str, Any]]:
    """What the record says of blocks whose shards are there, and as large as they were written."""
    address = f"{description['probability']}/{description['array']}"
    try:
        array = open_array(address)
    except UserError as error:
        raise UserError(
            f"{description['volume']} was to be predicted into {address}",
            error.found,
            f"delete {record.folder.parent / 'allocated.json'} and run again, to make room for it anew",
        ) from None
    finished = {}
    for name, entry in record.done().items():
        block = Block(plan, triple([int(index) for index in name.split(".")]))
        path = shard_path(array, (0, *block.write.start))
        if path.exists() and path.stat().st_size == entry["bytes"]:
            finished[name] = entry
        else:
            log.warning("the shard %s is gone or cut: the block %s is computed again", path, name)
    return finished


def predict_block(task: Task) -> dict[str, Any]:
    """Compute, write and record one block; runs in a worker. Gives what was recorded."""
    place = _open(task.allocated)
    engine = _engine(task.engine, place.plan.tile, place.plan.batch, task.threads)
    block = Block(place.plan, task.index)
    grey = place.image.read(block.read)
    probability = infer(engine, grey, block, len(place.classes))
    write = block.write
    # What an earlier run left here is not recorded, and may be damaged; at the volume's edge Zarr would read it first.
    shard_path(place.probability, (0, *write.start)).unlink(missing_ok=True)
    place.probability[(slice(None), *write.slices)] = probability
    path = sync_shard(place.probability, (0, *write.start))
    shard = path.read_bytes()
    entry = {
        "name": block.name,
        "read": hashlib.blake2b(grey.tobytes(), digest_size=16).hexdigest(),
        "written": hashlib.blake2b(shard, digest_size=16).hexdigest(),
        "voxels": write.voxels,
        "bytes": len(shard),
    }
    place.record.append(_writer(), entry)
    return entry


def infer(engine: Engine, grey: NDArray[np.float32], block: Block, classes: int) -> NDArray[np.uint8]:
    """Probabilities of a block.

    Parameters
    ----------
    grey:
        What ``block.read`` holds, normalised (z, y, x).

    Returns
    -------
    (classes, z, y, x) uint8 of ``block.write``, 255 for a probability of 1.
    """
    plan, write = block.plan, block.write
    probability = np.empty((classes, *write.shape), np.uint8)
    batches = list(_batches(block.tiles(), plan.batch))

    def calls() -> Iterator[NDArray[np.float32]]:
        # A call always has the full batch; what fills a short one up is computed and dropped.
        call = np.zeros((plan.batch, *plan.tile), np.float32)
        for tiles in batches:
            for slot, tile in enumerate(tiles):
                call[slot] = grey[block.read_of(tile).relative_to(block.read.start).slices]
            yield call.reshape(plan.batch, 1, *plan.tile[1:])

    # As a stream, so that an engine on a GPU copies one call while it computes another.
    for tiles, result in zip(batches, engine.stream(calls()), strict=True):
        for slot, tile in enumerate(tiles):
            inside = tile.clip(plan.shape)
            _, y, x = inside.shape
            to = inside.relative_to(write.start).slices
            # (classes, y, x) of one section
            probability[(slice(None), *to)] = np.rint(result[slot, :, None, :y, :x] * np.float32(255))
    return probability


@dataclass(frozen=True)
class _Place:
    """What a worker keeps open of one prediction."""

    plan: Plan
    image: Image
    probability: zarr.Array[Any]
    classes: list[str]
    record: Record


@functools.lru_cache(maxsize=1)
def _open(allocated: Path) -> _Place:
    description = read_json(allocated)
    return _Place(
        plan=read_plan(description),
        image=Image(VolumeFile.read(Path(description["volume_file"]))),
        probability=open_writable(f"{description['probability']}/{description['array']}"),
        classes=description["classes"],
        record=Record(allocated.parent / "progress"),
    )


@functools.lru_cache(maxsize=1)
def _engine(folder: Path, tile: Shape, batch: int, threads: int) -> Engine:
    return load_engine(folder, tile=tile[1:], batch=batch, threads=threads)


@functools.cache
def _writer() -> str:
    """A name for this process's log that no other process has had."""
    return uuid.uuid4().hex


def _batches(tiles: list[Region], size: int) -> Iterator[list[Region]]:
    for first in range(0, len(tiles), size):
        yield tiles[first : first + size]
