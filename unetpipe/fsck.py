"""Check the shards of a prediction against its record. What is damaged, :mod:`unetpipe.repair` computes again.

Each wanted block of the plan is in one of these states:

==========  =================  =====================================================================================
sound       recorded, a shard  of the bytes that were written
torn        recorded, a shard  that is shorter or longer than what was written
altered     recorded, a shard  of the same size and another digest, or one that cannot be read
missing     recorded           no shard
orphaned    not recorded       a shard all the same
unfinished  not recorded       no shard: no fault, the prediction goes on with it
==========  =================  =====================================================================================

A file of the array that is no shard of a wanted block is orphaned too, and an entry of the record that names none is
missing.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from unetpipe.allocate import is_allocated, read_levels, read_plan
from unetpipe.arrays import METADATA, open_array
from unetpipe.coverage import Coverage
from unetpipe.errors import UserError
from unetpipe.grid import AXES, Block, triple
from unetpipe.handover import read_allocated, store_of
from unetpipe.ledger import Ledger, Recorded
from unetpipe.progress import digest_of_block, record_beside
from unetpipe.progress_bar import track
from unetpipe.selection import Selection
from unetpipe.storage import folder_at
from unetpipe.storage.local import TEMPORARY

T = TypeVar("T")
R = TypeVar("R")

Fault = Literal["torn", "altered", "missing", "orphaned"]
State = Literal["sound", "unfinished"] | Fault

_NO_FAULT = ("sound", "unfinished")
_READERS = 16
"""Shards that are read at the same time: a disk or a network answers many questions faster than one by one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one block, or of what belongs to none (``block`` is None)."""

    state: State
    name: str
    place: str
    why: str
    block: Block | None = None

    def __str__(self) -> str:
        where = ""
        if self.block is not None:
            write = self.block.write
            spans = zip(AXES, write.start, write.stop, strict=True)
            where = f" ({', '.join(f'{axis} {start}–{stop}' for axis, start, stop in spans)})"
        return f"{self.state:<8}  {self.name}{where}: {self.why}\n          {self.place}"


@dataclass(frozen=True)
class Report:
    """``faults``: what is damaged. ``counts``: blocks in each state, and those ``skipped``, which nobody wants."""

    faults: Sequence[Finding]
    counts: Counter[str]

    def __str__(self) -> str:
        states = ("sound", "torn", "altered", "missing", "orphaned", "unfinished", "skipped")
        shown = ", ".join(f"{self.counts[state]} {state}" for state in states if self.counts[state] or state == "sound")
        text = f"{self.counts.total()} blocks: {shown}"
        others = sum(fault.block is None for fault in self.faults)
        return f"{text}; besides, {others} files or entries that belong to no block" if others else text


class Store:
    """A prediction: plan, array and record, all opened for reading.

    Parameters
    ----------
    path:
        The folder ``results/<run>/predictions/<volume>``, its ``probability.zarr`` or its ``allocated.json``.

    Raises
    ------
    UserError
        If there is no prediction, or if what lies there does not belong together.
    """

    def __init__(self, path: Path) -> None:
        folder = path.parent if path.name in ("probability.zarr", "allocated.json") else path
        self.folder = folder.resolve()
        self.allocated = self.folder / "allocated.json"
        asked = f"the prediction {path} was to be checked"
        if not self.allocated.is_file():
            raise UserError(
                asked,
                f"there is no {self.allocated}",
                "give the folder of a predicted volume, such as results/demo/predictions/test",
            )
        self.description = read_allocated(self.allocated)
        self.plan = read_plan(self.description)
        self.selection = Selection.read(self.description)
        self.levels = read_levels(self.description)
        self.store = folder_at(store_of(self.allocated, self.description))
        self.record = record_beside(self.store.address)
        if self.record.key() != self.description["key"]:
            raise UserError(
                asked,
                f"{self.allocated} and the record of progress in {self.record.place} do not belong together",
                f"without its record, nothing is known of a shard: delete {self.allocated} and run snakemake again, "
                "which predicts all anew",
            )
        self.array = self.store.below(self.description["array"])
        self._refuse_other_array(asked)

    def _refuse_other_array(self, asked: str) -> None:
        """UserError unless the metadata of the array are those that were made for it."""
        shape, shards = ((len(self.description["classes"]), *sizes) for sizes in (self.plan.shape, self.plan.block))
        try:
            array = open_array(self.array.address)
        except UserError:
            found = "is gone" if self.array.size(METADATA) is None else "cannot be read"
        else:
            if is_allocated(self.store, self.levels, shape[0]):
                return
            found = (
                f"or that of the group above it, is not that of this prediction: an array of {array.shape} voxels "
                f"(c, z, y, x) in shards of {array.shard}, {array.dtype}, empty voxels {array.fill_value}"
            )
        count = sum(entry.name.startswith("c/") for entry in self.array.entries())
        raise UserError(
            asked,
            f"{self.array.where(METADATA)}, by which voxels are found in the shards, {found}; {count} shards are there",
            f"delete {self.allocated} and run snakemake again: it writes the metadata anew, for an array of {shape} "
            f"voxels in shards of {shards}, and keeps the shards",
        )

    def block(self, index: Sequence[str]) -> Block | None:
        """The wanted block of the plan that is written so, as in ``0.12.3``; None if there is none."""
        if len(index) != len(AXES) or not all(word.isascii() and word.isdecimal() for word in index):
            return None
        block = Block(self.plan, triple([int(word) for word in index]))
        return block if self.selection.wants(block) and block.name == ".".join(index) else None

    def look(self, block: Block, entry: Recorded | None) -> Finding:
        """The state of a block of which the record says ``entry``."""

        def found(state: State, why: str = "") -> Finding:
            return Finding(state, block.name, self.array.where(block.shard), why, block)

        try:
            size = self.array.size(block.shard)
            if size is None:
                return found("unfinished") if entry is None else found("missing", "recorded, and there is no shard")
            if entry is None:
                return found("orphaned", f"a shard of {size} bytes that is not recorded")
            if size != entry.size:
                return found("torn", f"{size} bytes where {entry.size} were written")
            written = digest_of_block(self.array.read(block.shard))
        except OSError as error:
            return found("altered", f"the shard cannot be read: {error.strerror}")
        if written != entry.written:
            return found("altered", f"its digest is {written}, what was written had {entry.written}")
        return found("sound")

    def look_at(self, blocks: Iterable[Block], recorded: Ledger) -> Iterator[Finding]:
        """The states of ``blocks``, in their order."""
        return _in_threads(lambda block: self.look(block, recorded.get(block.name)), blocks)

    def strays(self) -> Iterator[Finding]:
        """Files that are no shard of a wanted block, nor of what is made of wanted blocks."""
        coverage, labels = Coverage(self.plan, self.selection), self.description.get("labels", False)
        shards = self.array.address.removeprefix(f"{self.store.address}/") + "/"
        for name in (entry.name for entry in self.store.entries()):
            block = self.block(name.split("/")[-3:])
            ours = name.rpartition("/")[2] == METADATA or (block is not None and name == shards + block.shard)
            if not ours and not coverage.is_made_of(name, self.levels, labels=labels):
                left = "a temporary file that a writer has left: a repair deletes it"
                kind = left if TEMPORARY.search(name) else "no shard, so no repair touches it: delete it by hand"
                yield Finding("orphaned", name, self.store.where(name), kind)


def check(store: Store) -> Report:
    """Look at every block, at files that are no shards, and at entries that name no block.

    Memory grows with the number of blocks, some dozen bytes each, not with their voxels. A prediction may be
    going on: what looks damaged is looked at again, with what was recorded meanwhile.
    """
    recorded = Ledger.of(store.record, store.plan)
    selection = store.selection
    counts: Counter[str] = Counter(skipped=selection.total - selection.count)
    suspects = []
    looks = store.look_at(selection.blocks(store.plan), recorded)
    for finding in track(looks, f"check {store.description['volume']}", selection.count, "blocks"):
        if finding.state in _NO_FAULT:
            counts[finding.state] += 1
        else:
            suspects.append(finding)
    strays = list(store.strays())
    if suspects or strays:
        recorded = Ledger.of(store.record, store.plan)
    faults = []
    for finding in store.look_at((suspect.block for suspect in suspects if suspect.block), recorded):
        counts[finding.state] += 1
        if finding.state not in _NO_FAULT:
            faults.append(finding)
    faults += [stray for stray in strays if store.store.size(stray.name) is not None]
    for name in (*recorded.names(), *recorded.strangers):
        if store.block(name.split(".")) is None:
            faults.append(
                Finding("missing", name, store.record.place.address, "it is recorded, and no such block is wanted")
            )
    return Report(faults, counts)


def _in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results in the order of ``items``, of which only a few are taken ahead."""
    ahead: deque[Future[R]] = deque()
    with ThreadPoolExecutor(_READERS) as pool:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) >= 4 * _READERS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
