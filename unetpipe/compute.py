"""What a worker does with a block: read, infer, write, record.

A worker works on some blocks at a time, each in a thread, and has one engine, for which the threads take turns: while
one block is inferred, another one is read and a third is encoded, written and recorded. So memory is bounded by as many
blocks as there are threads.
"""

import functools
import json
import math
import platform
import re
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.allocate import read_mirror, read_plan
from unetpipe.arrays import encode, open_array, read_metadata, use_threads
from unetpipe.engines import Engine, device_class, load_engine, mirrored
from unetpipe.errors import UserError
from unetpipe.extent import Extent
from unetpipe.grid import Block, Plan, Region, Shape
from unetpipe.handover import read_allocated
from unetpipe.memory import peak_memory_mb
from unetpipe.progress import Record, digest_of_block, record_beside
from unetpipe.selection import read_extent
from unetpipe.storage import Folder, folder_at, join
from unetpipe.volume import Image, LostShardError, VolumeFile

_OUT_OF_MEMORY = re.compile(
    r"(failed|unable) to allocate|bad[ _]alloc|out of memory|memory of the GPU was to be taken", re.IGNORECASE
)
"""What the libraries say, each with an exception of its own. Of the last one, see :mod:`unetpipe.engines.cuda`."""

_MOST_PATTERNS = 4096


@dataclass(frozen=True)
class Task:
    """All that a worker must know for one block; small, since it travels for each.

    ``round``: of the entry that records it. ``again``: it was tried before, and may be recorded. ``run``: a name for
    the run of the rule, since a worker may outlive it, and must not take the next prediction or engine for the last.
    """

    allocated: Path
    engine: Path
    threads: int
    index: Shape
    round: int = 0
    again: bool = False
    run: str = ""

    @property
    def name(self) -> str:
        """Of the block, as in the record."""
        return ".".join(map(str, self.index))

    def retry(self) -> "Task":
        """The task when it is tried again."""
        return replace(self, again=True)


@dataclass(frozen=True)
class Computed:
    """``entry``: what was recorded. ``writer``: the process. ``batch``: tiles per call. Peak memory is that so far."""

    entry: dict[str, Any]
    writer: str
    batch: int
    peak_memory_mb: int


class ReadError(OSError):
    """Voxels that are there and cannot be read."""


def compute_block(task: Task) -> Computed:
    """Compute, write and record one block.

    Raises
    ------
    ReadError
        If the voxels that the network must see cannot be read.
    OSError
        If the block cannot be written or recorded.
    UserError
        If this machine's device class is not the one that the store was allocated for, if the engine cannot be loaded,
        or has not enough memory for a single tile.
    """
    place, device = _place(task), _device(task)
    block = Block(place.plan, task.index)
    # A process can die after it has recorded its block and before it has said so.
    entry = place.recorded(block) if task.again else None
    if entry is None:
        entry = _compute(place, device, block) | {"round": task.round}
        place.append(entry)
    return Computed(entry, _writer(), device.batch, round(peak_memory_mb()))


def _compute(place: "_Place", device: "Device", block: Block) -> dict[str, Any]:
    start = time.monotonic()
    grey = place.read(block)
    read = time.monotonic()
    found = device.infer(grey, block)
    inferred = time.monotonic()
    if place.extent is not None:
        found.probability[:, ~place.extent.voxels(block.write)] = 0
    shard = encode(place.metadata, found.probability)
    # For a moment, two processes can have the same block: one whose driver was killed, until it notices that, and one
    # of the next run. Both write equal bytes, so it does not matter which of them is last.
    place.probability.write(block.shard, shard)
    return {
        "name": block.name,
        "read": digest_of_block(np.ascontiguousarray(grey).data.cast("B")),
        "written": digest_of_block(shard),
        "voxels": block.write.voxels,
        "bytes": len(shard),
        "finished": round(time.time(), 3),
        "seconds": {
            "read": round(read - start, 3),
            "infer": round(found.seconds, 3),
            "write": round(time.monotonic() - inferred, 3),
        },
        "constant_tiles": found.constant_tiles,
    }


@dataclass(frozen=True)
class Inferred:
    """``probability``: (classes, z, y, x) uint8 of ``block.write``, 255 for 1. ``seconds``: without waiting."""

    probability: NDArray[np.uint8]
    constant_tiles: int
    seconds: float


class Device:
    """The engine of this process, for which threads take turns.

    A tile whose voxels are all equal gives a result that depends on their value alone, and repeats itself with the
    product of the poolings, for what a voxel becomes depends on what the network sees for it. It is computed once for
    each value.

    Parameters
    ----------
    load:
        Gives the engine for calls of so many tiles.
    batch:
        Tiles per call, unless memory is short: then half as many, and so on. No voxel depends on that.
    """

    def __init__(self, load: Callable[[int], Engine], batch: int, classes: int) -> None:
        self.batch = batch
        self._load = load
        self._classes = classes
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._patterns: dict[int | None, NDArray[np.uint8]] = {}

    def infer(self, grey: NDArray[np.float32], block: Block) -> Inferred:
        """Probabilities of a block, whose ``block.read`` is ``grey``: normalised (z, y, x).

        Raises
        ------
        UserError
            If there is not enough memory for calls of a single tile.
        """
        tiles, origin = block.tiles(), block.read.start
        seen = [grey[block.read_of(tile).relative_to(origin).slices] for tile in tiles]
        values = [_constant(part) for part in seen]
        probability = np.empty((self._classes, *block.write.shape), np.uint8)
        with self._lock:
            start = time.monotonic()
            known = {value: self._patterns[value] for value in set(values) & self._patterns.keys()}
            first = {value: number for number, value in reversed(list(enumerate(values))) if value not in known}
            chosen = [n for n, value in enumerate(values) if value is None or first.get(value) == n]
            for number, result in zip(chosen, self._results([seen[n] for n in chosen]), strict=True):
                _put(probability, result, tiles[number], block)
                if (value := values[number]) is not None:
                    z, y, x = block.plan.geometry.pooling
                    known[value] = np.rint(result[:, :z, :y, :x] * np.float32(255)).astype(np.uint8)
            if len(self._patterns) > _MOST_PATTERNS:
                self._patterns.clear()
            self._patterns |= known
            seconds = time.monotonic() - start
        for number in sorted(set(range(len(tiles))) - set(chosen)):
            _repeat(probability, known[values[number]], tiles[number], block)
        return Inferred(probability, sum(value is not None for value in values), seconds)

    def _results(self, seen: Sequence[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """(classes, z, y, x) for each of the tiles that are ``seen``, in their order."""
        done = 0
        while done < len(seen):
            try:
                for result in self._stream(seen[done:]):
                    yield result
                    done += 1
            except Exception as error:
                # The libraries have no exception in common; one even derives its own from Exception itself.
                if not (isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error))):
                    raise
                self._shrink(error)

    def _stream(self, seen: Sequence[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        if self._engine is None:
            self._engine = self._load(self.batch)
        batches = [seen[first : first + self.batch] for first in range(0, len(seen), self.batch)]
        # A call always has the full batch; what fills a short one up is computed and dropped.
        call = np.zeros((self.batch, *seen[0].shape), np.float32)

        def calls() -> Iterator[NDArray[np.float32]]:
            for batch in batches:
                for slot, tile in enumerate(batch):
                    call[slot] = tile
                yield call

        # As a stream, so that an engine on a GPU copies one call while it computes another.
        for batch, results in zip(batches, self._engine.stream(calls()), strict=True):
            yield from results[: len(batch)]

    def _shrink(self, error: Exception) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        if self.batch == 1:
            raise UserError(
                "the engine was to be called with a single tile",
                f"there is not enough memory: {str(error).strip() or type(error).__name__}",
                "set predict.tile to less or predict.workers to fewer, or give the job more memory",
            ) from error
        self.batch //= 2


def _constant(seen: NDArray[np.float32]) -> int | None:
    """The bits of the value of all voxels; None if they differ."""
    bits = seen.view(np.uint32)
    value = bits[0, 0, 0]
    if bits[-1, -1, -1] != value or not (bits[0, 0] == value).all() or not (bits == value).all():
        return None
    return int(value)


def _put(probability: NDArray[np.uint8], result: NDArray[np.float32], tile: Region, block: Block) -> None:
    """Round the result (classes, z, y, x) of a tile to its place in the block."""
    inside = tile.clip(block.plan.shape)
    z, y, x = inside.shape
    scaled = result[:, :z, :y, :x] * np.float32(255)
    probability[(slice(None), *inside.relative_to(block.write.start).slices)] = np.rint(scaled, out=scaled)


def _repeat(probability: NDArray[np.uint8], pattern: NDArray[np.uint8], tile: Region, block: Block) -> None:
    """Fill the place of a tile with ``pattern`` (classes, z, y, x)."""
    inside = tile.clip(block.plan.shape)
    z, y, x = inside.shape
    times = [math.ceil(n / p) for n, p in zip(inside.shape, pattern.shape[1:], strict=True)]
    whole = np.tile(pattern, (1, *times))
    probability[(slice(None), *inside.relative_to(block.write.start).slices)] = whole[:, :z, :y, :x]


@dataclass(frozen=True)
class _Place:
    """What a process keeps open of one prediction."""

    plan: Plan
    image: Image
    probability: Folder
    metadata: dict[str, Any]
    classes: int
    mirror: tuple[str, ...]
    extent: Extent | None
    record: Record

    def read(self, block: Block) -> NDArray[np.float32]:
        """Normalised grey values (z, y, x) of what the network must see for a block."""
        try:
            return self.image.read(block.read)
        except LostShardError as error:
            raise ReadError(f"{block.read} (z, y, x) cannot be read: {error.found}") from error
        except (RuntimeError, ValueError, EOFError, zlib.error) as error:
            # What codecs raise for a damaged chunk. One bad file is no reason to leave out the rest of the volume.
            raise ReadError(f"{self.image.volume.image} cannot be read in {block.read} (z, y, x): {error}") from error

    def recorded(self, block: Block) -> dict[str, Any] | None:
        """What the record says of a block whose shard is there."""
        entry = self.record.done().get(block.name)
        return entry if entry is not None and self.probability.size(block.shard) == entry["bytes"] else None

    def append(self, entry: dict[str, Any]) -> None:
        """Record a block whose shard is durable."""
        with _recording:
            self.record.append(_writer(), entry)


_recording = threading.Lock()
_opening = threading.Lock()


def _place(task: Task) -> _Place:
    with _opening:
        return _open(task.allocated, task.threads, task.run)


def refuse_other_device(description: dict[str, Any]) -> None:
    """UserError if this machine's device class is not the one that a store was allocated for."""
    key = description["key"]
    # Compared with what JSON holds.
    here = json.loads(json.dumps(device_class(key["backend"])))
    if here != key["device_class"]:
        raise UserError(
            f"{description['volume']} was to be predicted on this machine, {platform.node()}",
            f"the engine was certified on another class of device: {key['device_class']}; this is {here}",
            "predict where the engine was certified (ask the batch system for such nodes), or delete the engine's "
            "folder to build and certify it here",
        )


@functools.lru_cache(maxsize=1)
def _open(allocated: Path, threads: int, run: str = "") -> _Place:  # noqa: ARG001 – another run opens anew
    use_threads(threads)
    description = read_allocated(allocated)
    refuse_other_device(description)
    plan, address = read_plan(description), join(description["probability"], description["array"])
    shard = open_array(address).shard
    if shard != (len(description["classes"]), *plan.block):
        # A shard is written whole: another block in it would be lost.
        raise UserError(
            f"blocks of {plan.block} voxels (z, y, x) were to be written into {address}",
            f"its shards are of {shard} (c, z, y, x): not one for each block",
            f"delete {allocated.parent} and run snakemake again",
        )
    probability = folder_at(address)
    image = Image(VolumeFile.read(Path(description["volume_file"])))
    return _Place(
        plan=plan,
        image=image,
        probability=probability,
        metadata=read_metadata(probability),
        classes=len(description["classes"]),
        mirror=read_mirror(description),
        extent=read_extent(description, image.volume),
        record=record_beside(description["probability"]),
    )


def _device(task: Task) -> Device:
    place = _place(task)
    with _opening:
        plan = place.plan
        return _engine(task.engine, plan.tile, plan.batch, task.threads, place.classes, place.mirror, task.run)


@functools.lru_cache(maxsize=1)
def _engine(
    folder: Path,
    tile: Shape,
    batch: int,
    threads: int,
    classes: int,
    mirror: tuple[str, ...],
    run: str,  # noqa: ARG001 – as above
) -> Device:
    def load(batch: int) -> Engine:
        return mirrored(load_engine(folder, tile=tile, batch=batch, threads=threads), mirror)

    return Device(load, batch, classes)


@functools.cache
def _writer() -> str:
    """A name for this process's log that no other process has had."""
    return uuid.uuid4().hex
