"""Make the coarser levels of a prediction, and its label map, after it was predicted.

Each shard is made by one worker, of what lies below it in the level below, and recorded when it is durable; a rerun
makes those that are missing. Of what was not predicted, nothing is read or written.

A voxel of a level is the mean of the voxels of the level below that it covers, halves rounded up; in the label map, the
most frequent of their classes, and of equally frequent ones the first. What was not predicted does not count.
"""

import errno
import functools
import json
import logging
import threading
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import unetpipe
from unetpipe.allocate import read_levels, read_plan
from unetpipe.arrays import ERRORS, Array, encode, open_array, read_metadata, told, use_threads
from unetpipe.cluster import Failed, telling, try_each
from unetpipe.coverage import Coverage
from unetpipe.downsample import means, modes
from unetpipe.errors import UserError
from unetpipe.files import digest_of, write_json
from unetpipe.grid import Plan, Region, Shape
from unetpipe.handover import prediction_digest, read_allocated
from unetpipe.levels import LABEL_MAP, Level
from unetpipe.metrics.confusion import most_likely
from unetpipe.ome import NOTHING
from unetpipe.processes import connect
from unetpipe.progress import Record, digest_of_block
from unetpipe.progress_bar import track
from unetpipe.selection import Selection
from unetpipe.storage import Folder, folder_at, join, parent
from unetpipe.volume import VolumeFile

log = logging.getLogger(__name__)

RECORD = "pyramid-progress"
"""The folder of the record, beside the store."""

_AT_ONCE = 2
"""Shards that a worker works on: while one is read or written, the other is computed."""


_FEW = 16
"""Shards that are made in this process: NumPy and TensorStore let its threads work side by side, and processes take
longer to start."""

_ENOUGH = 8
"""Shards that are worth the start of a process."""


@dataclass(frozen=True)
class Task:
    """All that a worker must know for one shard. ``again``: it was tried before, and may be recorded."""

    allocated: Path
    level: int
    labels: bool
    index: Shape
    threads: int
    again: bool = False

    def retry(self) -> "Task":
        """The task when it is tried again."""
        return replace(self, again=True)


def pyramid(allocated: Path, predicted: list[Path], pyramid: Path, *, workers: int | None, cores: int) -> None:
    """Back the rule ``pyramid``: make the shards of coarser levels and of the label map that are not recorded yet.

    Parameters
    ----------
    allocated:
        ``allocated.json``, in which the levels stand.
    predicted:
        What the jobs of ``predict`` wrote, among it the digest of the prediction: what was made of another one is made
        anew.
    pyramid:
        Written at the end: the levels, what was computed, and a digest of the whole.
    workers:
        Processes at most; one per core where None. No voxel depends on it.
    cores:
        CPU cores for all workers together.

    Raises
    ------
    UserError
        If a shard of the prediction is gone or cannot be read, or if the store cannot be written.
    """
    description = read_allocated(allocated)
    name, store = description["volume"], folder_at(description["probability"])
    plan, levels = read_plan(description), read_levels(description)
    coverage = Coverage(plan, selection := Selection.read(description))
    labels = description.get("labels", False)
    prediction = prediction_digest(predicted)
    start = time.monotonic()
    _open.cache_clear()
    record = _open_record(store, levels, prediction)
    finished = _finished(store, levels, record)
    stages = list(_stages(levels, labels=labels))
    names = [each for stage in stages for each in _names(stage, coverage)]
    missing = sum(each not in finished for each in names)
    count = _processes(missing, workers or cores)
    written = 0
    if missing:
        _refuse_lost_blocks(description, plan, selection)
        threads = max(1, cores // max(1, count))
        todo = (
            (
                Task(allocated, level.number, is_label, index, threads)
                for level, is_label in stage
                for index in coverage.shards(level)
                if level.shard_name(index, labels=is_label) not in finished
            )
            for stage in stages
        )
        made = _make_here(todo) if count == 0 else _make(todo, count)
        asked = f"the levels of {name} were to be made in {store}"
        repair = "mend what it met (`unetpipe fsck` looks at the prediction), and run again; what is finished is kept"
        with telling(asked, repair), closing(made):
            written = sum(track(made, f"levels of {name}", len(names), "shards", done=len(names) - missing))
    seconds = time.monotonic() - start
    entries = record.latest(lambda entry: entry["written"])
    size = VolumeFile.read(Path(description["volume_file"])).voxel_size_nm
    write_json(
        pyramid,
        {
            "volume": name,
            "levels": [
                {"path": level.path, "shape": level.shape, "voxel_size_nm": level.voxel_size_nm(size)}
                for level in levels
            ],
            "labels": LABEL_MAP if labels else None,
            "shards": len(names),
            "computed": missing,
            "resumed": len(names) - missing,
            "bytes_written": written,
            "seconds": round(seconds, 3),
            "processes": count,
            "prediction": prediction,
            "digest": digest_of({each: entries[each] for each in names}),
            "version": unetpipe.__version__,
        },
    )
    if missing:
        log.info("%s: %d levels, %d shards in %.1f s", name, len(levels), missing, seconds)


_Stage = list[tuple[Level, bool]]
"""Levels, and for each whether it is one of the label map."""


def _stages(levels: Sequence[Level], *, labels: bool) -> Iterator[_Stage]:
    """What can be made at the same time: each stage is made of what the one before has made."""
    for number, level in enumerate(levels):
        yield [(coarser, False) for coarser in levels[number + 1 : number + 2]] + [(level, True)] * labels


def _names(stage: _Stage, coverage: Coverage) -> Iterator[str]:
    for level, labels in stage:
        for index in coverage.shards(level):
            yield level.shard_name(index, labels=labels)


def _open_record(store: Folder, levels: Sequence[Level], prediction: str) -> Record:
    """The record of what was made of this prediction; what was made of another one is deleted first."""
    record = Record(join(parent(store.address), RECORD))
    key = {"prediction": prediction, "levels": [asdict(level) for level in levels], "version": unetpipe.__version__}
    old = record.key()
    if old != json.loads(json.dumps(key)):
        for number in range(1, len(levels)):
            store.below(levels[number].path).below("c").clear()
        for level in levels:
            store.below(level.array(labels=True)).below("c").clear()
        for number in range(len(levels), len((old or {}).get("levels", []))):
            store.below(str(number)).clear()
            store.below(f"{LABEL_MAP}/{number}").clear()
    return Record.open(record.place.address, key, "restart", f"the levels in {store}")


def _finished(store: Folder, levels: Sequence[Level], record: Record) -> set[str]:
    """The shards that the record has and that are there, as large as they were written."""
    recorded = record.latest(lambda entry: entry["bytes"])
    if not recorded:
        return set()
    arrays = [level.array(labels=False) for level in levels[1:]] + [level.array(labels=True) for level in levels]
    # Asked for one by one, many shards would take hours.
    there = {f"{array}/{entry.name}": entry.size for array in arrays for entry in store.below(array).entries()}
    return {name for name, size in recorded.items() if there.get(name) == size}


def _refuse_lost_blocks(description: dict[str, Any], plan: Plan, selection: Selection) -> None:
    """UserError if a shard of the prediction is gone: it would be read as zeros."""
    place = folder_at(join(description["probability"], description["array"]))
    there = {entry.name for entry in place.entries()}
    lost = [block.name for block in selection.blocks(plan) if block.shard not in there]
    if lost:
        raise UserError(
            f"levels of {description['volume']} were to be made of {place}",
            f"{len(lost)} of its shards are gone, among them that of the block {lost[0]}",
            "delete all job-*.json beside the store and run snakemake again: it predicts what is missing",
        )


def _processes(shards: int, most: int) -> int:
    """Worker processes that are worth their start; 0 to do it in this one."""
    return 0 if shards <= _FEW else min(most, shards // _ENOUGH)


def _make_here(stages: Iterator[Iterator[Task]]) -> Generator[int, None, None]:
    """Bytes of each shard, as they are written."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for tasks in stages:
            yield from pool.map(make_shard, tasks)


def _make(stages: Iterator[Iterator[Task]], workers: int) -> Generator[int, None, None]:
    """The same, by worker processes."""
    with connect(workers, _AT_ONCE) as client:
        for tasks in stages:
            with closing(try_each(client, make_shard, tasks, again=Task.retry)) as results:
                for result in results:
                    if isinstance(result, Failed):
                        raise result.error
                    yield result


def make_shard(task: Task) -> int:
    """Make, write and record one shard; gives its bytes.

    Raises
    ------
    OSError
        If what it is made of cannot be read, or if it cannot be written or recorded.
    """
    with _opening:
        place = _open(task.allocated, task.threads)
    level = place.levels[task.level]
    name = level.shard_name(task.index, labels=task.labels)
    if task.again and (entry := place.record.done().get(name)) and place.store.size(name) == entry["bytes"]:
        # The process died after it had recorded it and before it said so.
        return int(entry["bytes"])
    array = level.array(labels=task.labels)
    shard = encode(place.metadata[array], place.voxels(level, task.index, labels=task.labels))
    place.store.write(name, shard)
    entry = {"name": name, "written": digest_of_block(shard), "bytes": len(shard), "finished": round(time.time(), 3)}
    with _recording:
        place.record.append(_writer(), entry)
    return len(shard)


@dataclass(frozen=True)
class _Place:
    """What a process keeps open of one prediction: ``arrays`` and their ``metadata`` by their names in the store.

    ``whole``: all voxels of the volume were predicted.
    """

    levels: list[Level]
    whole: bool
    classes: int
    store: Folder
    arrays: dict[str, Array]
    metadata: dict[str, dict[str, Any]]
    record: Record

    def voxels(self, level: Level, index: Shape, *, labels: bool) -> NDArray[np.uint8]:
        """Of a shard: (c, z, y, x), or (z, y, x) of the label map."""
        shard = Region.of([i * n for i, n in zip(index, level.shard, strict=True)], level.shard).clip(level.shape)
        if level.number == 0:
            probability = self._read(level, (slice(None), *shard.slices), labels=False)
            found = most_likely(probability)
            if not self.whole:
                found[~probability.any(axis=0)] = NOTHING
            return found
        below = self.levels[level.number - 1]
        region = Region.between(
            [(a * f, min(b * f, n)) for (a, b), f, n in zip(shard.spans, level.factors, below.shape, strict=True)]
        )
        if labels:
            return modes(self._read(below, region.slices, labels=True), level.factors, self.classes)
        there = None if self.whole else self._there(below, region)
        found = np.empty((self.classes, *shard.shape), np.uint8)
        # One by one: what a channel is made of is larger than what comes out of all.
        for channel in range(self.classes):
            found[channel] = means(self._read(below, (channel, *region.slices), labels=False), level.factors, there)
        return found

    def _there(self, level: Level, region: Region) -> NDArray[np.bool_]:
        """Which voxels of ``region`` (z, y, x) were predicted: their probabilities are not all 0, since they add to 1.

        So it is on each level: the largest of some means is no less than the mean of all.
        """
        found = np.zeros(region.shape, np.bool_)
        for channel in range(self.classes):
            found |= self._read(level, (channel, *region.slices), labels=False) != 0
        return found

    def _read(self, level: Level, box: tuple[int | slice, ...], *, labels: bool) -> NDArray[np.uint8]:
        array = self.arrays[level.array(labels=labels)]
        try:
            return array[box]
        except ERRORS as error:
            raise OSError(errno.EIO, told(error), array.address) from error


_opening = threading.Lock()
_recording = threading.Lock()


@functools.lru_cache(maxsize=1)
def _open(allocated: Path, threads: int) -> _Place:
    use_threads(threads)
    description = read_allocated(allocated)
    levels, store = read_levels(description), folder_at(description["probability"])
    kinds = (False, True) if description.get("labels", False) else (False,)
    names = [level.array(labels=labels) for labels in kinds for level in levels]
    return _Place(
        levels=levels,
        # Of an image of which not all is stored, a part is predicted, though nobody asked for one.
        whole=not Selection.read(description).is_part and description["key"].get("absent") is None,
        classes=len(description["classes"]),
        store=store,
        arrays={name: open_array(store.below(name).address) for name in names},
        metadata={name: read_metadata(store.below(name)) for name in names},
        record=Record(join(parent(store.address), RECORD)),
    )


@functools.cache
def _writer() -> str:
    """A name for this process's log that no other process has had."""
    return uuid.uuid4().hex
