"""Predict one volume, block by block: overlap-tile with mirrored edges (arXiv:1505.04597, section 2 and figure 2).

Which voxel comes out as what depends on the volume and the engine alone: the write origin of every call is aligned
(:mod:`unetpipe.grid`), every call has the same shape, and normalisation uses stored constants. This is the process that
hands out the blocks; what a worker does with one stands in :mod:`unetpipe.compute`.
"""

import logging
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import unetpipe
from unetpipe.allocate import read_plan
from unetpipe.arrays import open_array
from unetpipe.cluster import ATTEMPTS, REFUSED, Failed, try_each
from unetpipe.compute import Computed, Task, compute_block, refuse_other_device
from unetpipe.config import Predict, Slurm
from unetpipe.data.sources import open_source
from unetpipe.errors import StoppedError, UserError
from unetpipe.files import write_json
from unetpipe.grid import Block, Plan
from unetpipe.handover import read_allocated, read_certificate
from unetpipe.ledger import Ledger
from unetpipe.progress import Record, record_beside
from unetpipe.progress_bar import track
from unetpipe.selection import Selection, refuse_changed_mask
from unetpipe.spread import Where
from unetpipe.stop import Stop, stoppable
from unetpipe.storage import folder_at, join
from unetpipe.volume import VolumeFile

log = logging.getLogger(__name__)

_DEFAULTS = Predict()

_SHOWN = 20
"""Failed blocks that a message names."""

_MOST_IN_A_ROW = 100
"""Blocks that fail with none between that does not: then it is not the blocks."""

_SEEN_SECONDS = 60.0
"""For what other machines have written to be seen: file systems of a network remember the names in a folder so long."""


def predict(
    allocated: Path,
    certificate: Path,
    done: Path,
    *,
    job: str,
    workers: int | None,
    cores: int,
    share: Sequence[int] = (0, 1),
    cluster: str = _DEFAULTS.cluster,
    slurm: Slurm | None = None,
    memory_mb: int = _DEFAULTS.memory_mb,
    gpu: bool = False,
    grace_seconds: float = _DEFAULTS.grace_seconds,
    patience_seconds: float | None = _DEFAULTS.patience_seconds,
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
        Processes on this machine; where None one per core, or one per GPU if the engine uses them. Each GPU has one at
        most. The result does not depend on it.
    cores:
        CPU cores for all workers on this machine together.
    share:
        (number, of): the blocks of this job, where several predict a volume: those whose place among the wanted ones
        is ``number`` modulo ``of``. It does not depend on what is done already.
    cluster, slurm, memory_mb:
        As in the settings ``predict``.
    gpu:
        Whether each worker on SLURM gets a GPU.
    grace_seconds, patience_seconds:
        As in the settings.

    Raises
    ------
    UserError
        If the device class of the machine that computes is not the one that the store was allocated for, if the store
        is gone or cannot be written, if an image that is used in place has changed, if there are no workers, or if
        blocks could not be computed, however often they were tried: all others are done then.
    StoppedError
        If SIGTERM or SIGINT asked for it, and there are blocks left.
    """
    description = read_allocated(allocated)
    plan = read_plan(description)
    key = description["key"]
    name = description["volume"]
    read_certificate(certificate)
    if cluster == "local":
        # Elsewhere, each worker asks for its own machine.
        refuse_other_device(description)
    record = record_beside(description["probability"])
    if record.key() != key:
        raise UserError(
            f"{name} was to be predicted",
            f"{allocated} and the record of progress in {record.place} do not belong together",
            f"delete {allocated} and run again",
        )
    refuse_changed_image(description)
    refuse_changed_mask(description)
    selection = Selection.read(description)
    ledger = Ledger.of(record, plan)
    finished = _finished(allocated, description, ledger)
    mine = _share(selection.wanted(plan), *share)
    todo = np.flatnonzero(mine & ~finished)
    total = int(mine.sum())
    resumed = total - len(todo)
    if resumed:
        log.info("%d of %d blocks are there already", resumed, total)
    rounds = ledger.rounds
    run = uuid.uuid4().hex

    def tasks(threads: int) -> Iterator[Task]:
        for number in todo.tolist():
            yield Task(allocated, certificate.parent, threads, ledger.index(number), int(rounds[number]), run=run)

    where = Where(
        cluster, slurm or Slurm(), workers, cores, memory_mb, gpu, "gpu" in key["device_class"], allocated.parent
    )
    start = time.monotonic()
    tally = _Tally()
    if resumed < total:
        with stoppable(grace_seconds) as stop:
            _compute(description, tasks, tally, stop, where, total, resumed, patience_seconds)
    seconds = time.monotonic() - start
    ledger = _recorded(record, plan, mine, 0.0 if cluster == "local" else _SEEN_SECONDS)
    if (lost := np.flatnonzero(mine & ~ledger.recorded)).size:
        names = [ledger.name(int(number)) for number in lost[:_SHOWN]]
        raise UserError(
            f"{name} was to be predicted",
            f"the record in {record.place} does not hold {len(lost)} blocks that were just computed: {names}",
            "see whether its file system keeps what is written, and run again",
        )
    write_json(
        done,
        {
            "volume": name,
            "job": job,
            "share": list(share),
            "blocks": total,
            "skipped": selection.total - selection.count,
            "computed": total - resumed,
            "resumed": resumed,
            "voxels": tally.voxels,
            "constant_tiles": tally.constant_tiles,
            "bytes_written": tally.bytes,
            "seconds": round(seconds, 3),
            "cluster": cluster,
            "workers": tally.workers or where.usual[0],
            "threads_per_worker": tally.threads or where.usual[1],
            "peak_memory_mb": sorted(tally.peak_memory_mb.values(), reverse=True),
            "batch": tally.batch or plan.batch,
            "device": key["device_class"],
            "engine_digest": key["engine"],
            "digest": ledger.digest(mine),
            "version": unetpipe.__version__,
        },
    )
    if tally.voxels:
        mvox = tally.voxels / 1e6
        log.info("%s: %.2f Mvox in %.1f s, %.2f Mvox/s", name, mvox, seconds, mvox / seconds)


@dataclass
class _Tally:
    """What came of the blocks. ``peak_memory_mb``: by process. ``batch``: the least that an engine was called with.

    ``workers``, ``threads``: how many there were, and of each; 0 where none were needed.
    """

    workers: int = 0
    threads: int = 0
    blocks: int = 0
    voxels: int = 0
    bytes: int = 0
    constant_tiles: int = 0
    batch: int = 0
    peak_memory_mb: dict[str, int] = field(default_factory=dict)
    failed: list[Failed[Task]] = field(default_factory=list)
    gave_up: bool = False

    def add(self, computed: Computed) -> None:
        """Count a block."""
        self.blocks += 1
        self.voxels += computed.entry["voxels"]
        self.bytes += computed.entry["bytes"]
        self.constant_tiles += computed.entry["constant_tiles"]
        self.peak_memory_mb[computed.writer] = computed.peak_memory_mb
        if self.batch and computed.batch < self.batch:
            log.warning("not enough memory for calls of %d tiles: %d from here on", self.batch, computed.batch)
        self.batch = min(self.batch or computed.batch, computed.batch)


def _compute(
    description: dict[str, Any],
    tasks: Callable[[int], Iterator[Task]],
    tally: _Tally,
    stop: Stop,
    where: Where,
    total: int,
    resumed: int,
    patience_seconds: float | None,
) -> None:
    """Let workers compute the blocks, and count them."""
    name = description["volume"]
    try:
        with where.connected(total - resumed, stop) as found:
            if found is not None:
                client, tally.workers, tally.threads = found
                results = try_each(
                    client,
                    compute_block,
                    tasks(tally.threads),
                    again=Task.retry,
                    patience_seconds=patience_seconds,
                    stop=stop,
                    # How long jobs wait in a queue, nobody knows.
                    without_seconds=math.inf if where.cluster == "slurm" else None,
                )
                with closing(results):
                    for computed in track(_done(results, tally), name, total, "blocks", done=resumed):
                        tally.add(computed)
            # Here, so that the workers are not waited for.
            _refuse_unfinished(name, tally, stop, total, resumed)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        raise UserError(
            f"{description['volume']} was to be predicted into {description['probability']}",
            f"{error.strerror}: {error.filename or description['probability']}",
            "let this user read the image and write the prediction, and run again; what is finished is kept",
        ) from None


def _done(results: Iterable[Computed | Failed[Task]], tally: _Tally) -> Iterator[Computed]:
    """The blocks that are done; those that are not go to the tally."""
    in_a_row = 0
    for result in results:
        if not isinstance(result, Failed):
            in_a_row = 0
            yield result
            continue
        log.error("the block %s failed: %s", result.item.name, result.reason)
        tally.failed.append(result)
        in_a_row += 1
        if in_a_row == _MOST_IN_A_ROW:
            tally.gave_up = True
            return


def _refuse_unfinished(name: str, tally: _Tally, stop: Stop, total: int, resumed: int) -> None:
    """StoppedError or UserError if there are blocks left."""
    done = resumed + tally.blocks
    if stop.signal is not None and done < total:
        raise StoppedError(
            f"{name}: ended by {stop.signal.name} with {done} of {total} blocks done; a rerun computes the others",
            stop.status,
        )
    if tally.failed:
        failed = tally.failed
        lines = "".join(f"\n    {each.item.name}: {each.reason}" for each in failed[:_SHOWN])
        more = f"\n    and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
        others = "no other was tried then" if tally.gave_up else "all others are done"
        raise UserError(
            f"{name} was to be predicted",
            f"{len(failed)} of {total} blocks could not be computed in {ATTEMPTS} attempts; {others}:{lines}{more}",
            "mend what they met, and run again; what is finished is kept",
        )


def refuse_changed_image(description: dict[str, Any]) -> None:
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


def _share(wanted: NDArray[np.bool_], number: int, of: int) -> NDArray[np.bool_]:
    """The blocks of one of several jobs.

    Dealt out one by one: if their number is changed in the middle of the work, what is left is dealt out evenly too.
    """
    mine = np.zeros_like(wanted)
    mine[np.flatnonzero(wanted)[number::of]] = True
    return mine


def _recorded(record: Record, plan: Plan, blocks: NDArray[np.bool_], patience_seconds: float) -> Ledger:
    """The record, when it holds ``blocks``, or after some patience."""
    latest = time.monotonic() + patience_seconds
    while (blocks & ~(ledger := Ledger.of(record, plan)).recorded).any() and time.monotonic() < latest:
        time.sleep(min(5.0, patience_seconds))
    return ledger


def _finished(allocated: Path, description: dict[str, Any], ledger: Ledger) -> NDArray[np.bool_]:
    """The blocks that the record has and whose shards are there, as large as they were written."""
    address = join(description["probability"], description["array"])
    try:
        open_array(address)
    except UserError as error:
        raise UserError(
            f"{description['volume']} was to be predicted into {address}",
            error.found,
            f"delete {allocated} and run again, to make room for it anew",
        ) from None
    place = folder_at(address)
    finished: NDArray[np.bool_] = ledger.recorded
    # Listed, since asking for each of a million takes hours; and not at all where nothing is recorded.
    if finished.any():
        cut = finished & (ledger.stored(place) != ledger.size)
        for number in np.flatnonzero(cut):
            block = Block(read_plan(description), ledger.index(int(number)))
            said = "the shard %s is gone or cut: the block %s is computed again"
            log.warning(said, place.where(block.shard), block.name)
        finished &= ~cut
    return finished
