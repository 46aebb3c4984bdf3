"""Compute damaged blocks of a prediction again, as they were predicted, and nothing else.

A repair can be killed at any moment, and begun again. A damaged shard and its entry in the record stay as they are
until the new shard takes its place, whole and in one step; the new entry, of the next round, follows once that is on
the disk. In between, the block is as faulty as it was, or sound already if its entry was right.

Beside a prediction that is going on, a repair could at worst delete a temporary file that the other is writing, which
fails then and can be run again. It is refused all the same where the record is seen to grow.
"""

import json
import logging
import uuid
from pathlib import Path
from typing import Any

import unetpipe
from unetpipe.compute import Task, compute_block
from unetpipe.engines import device_class
from unetpipe.engines.select import ENGINE
from unetpipe.errors import UserError
from unetpipe.files import digest
from unetpipe.fsck import Finding, Report, Store
from unetpipe.grid import Block
from unetpipe.handover import read_certificate
from unetpipe.ledger import Ledger, Recorded
from unetpipe.predict import refuse_changed_image
from unetpipe.progress import digest_of_block
from unetpipe.progress_bar import track
from unetpipe.storage import is_remote
from unetpipe.storage.local import TEMPORARY
from unetpipe.volume import Image, VolumeFile

log = logging.getLogger(__name__)


class Repair:
    """A repair of ``store``, by an engine with ``threads`` CPU threads. Make it before the check that it follows.

    Raises
    ------
    UserError
        If the result could be another than that of the prediction, because engine, device class, image or package are
        others.
    """

    def __init__(self, store: Store, threads: int) -> None:
        self._store = store
        self._threads = threads
        self._engine = _engine(store)
        _refuse_other_input(store)
        self._before = _growth(store)

    def mend(self, found: Report) -> Report:
        """Compute what is torn, altered, missing or orphaned again; gives what is left.

        Temporary files are deleted, and entries that name no block are declared void; other files are left. Unfinished
        blocks stay unfinished.

        Raises
        ------
        UserError
            If a prediction is going on, or if the image has other voxels than when it was predicted. Nothing is touched
            then.
        """
        store = self._store
        if _growth(store) != self._before:
            raise UserError(
                _asked(store),
                "the record has grown while the shards were checked: a prediction is going on",
                "wait until it has ended, and repair then",
            )
        recorded = Ledger.of(store.record, store.plan)
        _refuse_changed_voxels(store, found, recorded)
        writer = f"repair-{uuid.uuid4().hex}"
        for fault in track(found.faults, f"repair {store.description['volume']}", len(found.faults), "faults"):
            self._mend(fault, recorded.get(fault.name), writer)
        return _left(store, found)

    def _mend(self, fault: Finding, entry: Recorded | None, writer: str) -> None:
        if fault.block is not None:
            number = 0 if entry is None else entry.round + 1
            new = _compute(Task(self._store.allocated, self._engine, self._threads, fault.block.index, number))
            if entry is not None and new["written"] != entry.written:
                said = "the block %s came out with the digest %s; %s was recorded"
                log.warning(said, fault.name, new["written"], entry.written)
        elif entry is not None:
            self._store.record.append(writer, {"name": fault.name, "void": True, "round": entry.round + 1})
        elif TEMPORARY.search(fault.name):
            self._store.store.remove(fault.name)


def _asked(store: Store) -> str:
    return f"the prediction in {store.folder} was to be repaired"


def _engine(store: Store) -> Path:
    """The folder of the engine that the store was predicted with, if it gives the same here."""
    asked, key = _asked(store), store.description["key"]
    named = store.description["probability"]
    if not is_remote(named) and Path(named).resolve() != Path(store.store.address).resolve():
        raise UserError(
            asked,
            f"allocated.json calls its store {named}, which from here is {Path(named).resolve()}",
            "change into the folder in which snakemake ran, and repair there",
        )
    if key["version"] != unetpipe.__version__:
        raise UserError(
            asked,
            f"it was made by unetpipe {key['version']}; this is {unetpipe.__version__}",
            f"repair with unetpipe {key['version']}",
        )
    if (here := device_class(key["backend"])) != key["device_class"]:
        raise UserError(
            asked,
            f"it was made on another class of device: {key['device_class']}; this is {here}",
            "repair where it was predicted: only there a voxel is certain to come out the same",
        )
    certificates = sorted((store.folder.parents[1] / "engine").glob("*/certificate.json"))
    for certificate in certificates:
        if read_certificate(certificate)["engine_digest"] == key["engine"] == digest(certificate.parent / ENGINE):
            return certificate.parent
    raise UserError(
        asked,
        f"it was made by the certified engine with the digest (SHA-256) {key['engine']}, and none of those in "
        f"{store.folder.parents[1] / 'engine'} is that: {', '.join(path.parent.name for path in certificates) or '–'}",
        "put that engine back, or set predict.on_change to `restart` to predict the volume anew",
    )


def _refuse_other_input(store: Store) -> None:
    volume = Path(store.description["volume_file"])
    if json.loads(json.dumps(VolumeFile.read(volume).identity())) != store.description["key"]["input"]:
        raise UserError(
            _asked(store),
            f"{volume} describes another image than the one that was predicted",
            "put the old one back, or set predict.on_change to `restart` to predict the volume anew",
        )
    refuse_changed_image(store.description)


def _growth(store: Store) -> dict[str, int]:
    return {name: facts.size for name, facts in store.record.logs().items()}


def _refuse_changed_voxels(store: Store, found: Report, recorded: Ledger) -> None:
    """UserError if what the network would read of the image is not what it read, for any of the damaged blocks."""
    image = Image(VolumeFile.read(Path(store.description["volume_file"])))
    blocks = [fault.block for fault in found.faults if fault.block and _digest_of_input(fault.block, recorded)]
    for block in track(blocks, "check the image", len(blocks), "blocks"):
        read = digest_of_block(image.read(block.read).tobytes())
        if read != _digest_of_input(block, recorded):
            raise UserError(
                _asked(store),
                f"{image.volume.image} has other voxels around the block {block.name} than when it was predicted",
                "put the old image back, or set predict.on_change to `restart` to predict the volume anew",
            )


def _digest_of_input(block: Block, recorded: Ledger) -> str | None:
    entry = recorded.get(block.name)
    return None if entry is None else entry.read


def _compute(task: Task) -> dict[str, Any]:
    """Compute, write and record one block; gives its entry."""
    return compute_block(task).entry


def _left(store: Store, found: Report) -> Report:
    """Which of the faults are still there."""
    recorded = Ledger.of(store.record, store.plan)
    counts = found.counts.copy()
    faults = []
    for fault in found.faults:
        now = fault if fault.block is None else store.look(fault.block, recorded.get(fault.name))
        if fault.block is not None:
            counts[fault.state] -= 1
            counts[now.state] += 1
            left = now.state != "sound"
        elif fault.state == "missing":
            left = recorded.get(fault.name) is not None
        else:
            left = store.store.size(fault.name) is not None
        if left:
            faults.append(now)
    return Report(faults, counts)
