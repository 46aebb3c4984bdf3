"""Objects with numbers, from the prediction of one volume, piece by piece: the same for any cut.

An object is a connected component of the voxels whose probability is above a threshold. Pieces are labelled each by
itself; what touches across their faces is put together here, where memory grows with the number of fragments and not
with voxels; then each piece is written with the numbers of the objects.
"""

import io
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client
from numpy.typing import NDArray

import unetpipe
from unetpipe import config
from unetpipe.allocate import read_plan
from unetpipe.arrays import METADATA
from unetpipe.cluster import for_each, telling
from unetpipe.errors import UserError
from unetpipe.files import digest_of, read_json, write_json
from unetpipe.grid import Shape, triple
from unetpipe.handover import prediction_digest, read_allocated
from unetpipe.metrics.components import merged
from unetpipe.processes import connect
from unetpipe.progress import Record, record_beside
from unetpipe.progress_bar import track
from unetpipe.segmentation.basins import OFFSETS, read_basins, settle, to_npy
from unetpipe.segmentation.cut import Cut
from unetpipe.segmentation.flood import Edges, forest
from unetpipe.segmentation.fragments import Table, brightest_below
from unetpipe.segmentation.objects import Objects, number, offsets_of
from unetpipe.segmentation.pieces import (
    FOUND,
    LABELS,
    WRITTEN,
    Places,
    Task,
    find,
    name_of,
    objects_of,
    read_table,
    touch,
    write,
)
from unetpipe.segmentation.thresholds import beside_seeds, threshold_of
from unetpipe.selection import Selection
from unetpipe.storage import Folder, folder_at
from unetpipe.storage import join as address_of
from unetpipe.volume import LEVEL, VolumeFile, create

log = logging.getLogger(__name__)

FragmentsOf = Callable[[Shape], NDArray[np.int64]]
"""Of a piece, (labels,): the fragment of each of its labels."""

_LARGEST = 10
"""Objects that the description names."""


def segment(
    volume: Path,
    allocated: Path,
    predicted: list[Path],
    validation: list[Path],
    segments: Path,
    *,
    classes: list[str],
    objects: str,
    settings: config.Segment,
    store: str | None,
    cores: int,
) -> None:
    """Back the rule ``segment``: number the objects of a volume, and describe them.

    Numbers are 1, 2, … in the order of the objects' first voxels, when the volume is read row by row. A piece that was
    not to be predicted is background. A run that was killed goes on where it was, and ends with the same bytes; one
    with other settings, or of another prediction, begins anew.

    Parameters
    ----------
    volume, allocated:
        ``volume.json`` and ``allocated.json``.
    predicted:
        What the jobs of ``predict`` wrote at their end, among it the digest of the prediction.
    validation:
        Scores of the validation volumes, where the threshold is chosen on them.
    segments:
        The result, JSON: how many objects, how large, from what. The store lies beside it, if not in ``store``.
    classes, objects:
        Names in the order of the channels, and the class whose components are the objects.
    store:
        The address of the folder for the store and its record of progress; that of ``segments`` where None.
    cores:
        Worker processes.

    Raises
    ------
    UserError
        If the prediction has other classes, parts of it are gone, there are too many fragments, or no threshold can be
        chosen.
    """
    source, description = VolumeFile.read(volume), read_allocated(allocated)
    _check(source, description, classes)
    threshold, chosen_on = threshold_of(source.name, settings, validation, objects)
    beside = beside_seeds(source.name, settings, threshold)
    cut = Cut.of(read_plan(description), Selection.read(description))
    probability = address_of(description["probability"], description["array"])
    _refuse_lost_shards(source.name, folder_at(probability), cut)
    place = folder_at(store or segments.parent)
    made, fragments = place.below("segments.zarr"), place.below("fragments")
    digests = {path.stem: read_json(path)["digest"] for path in predicted}
    key = {
        "prediction": prediction_digest(predicted),
        "objects": objects,
        "brightest_below": brightest_below(threshold),
        "method": settings.method,
        "brightest_beside_seeds": beside,
        "min_voxels": settings.min_voxels,
        "shape": list(cut.shape),
        "piece": list(cut.piece),
        "voxel_size_nm": list(source.voxel_size_nm),
        "origin_nm": list(source.origin_nm),
        **cut.selection.key,
        "version": unetpipe.__version__,
    }
    record = Record.open(record_beside(made.address).place.address, key, "restart", f"the objects of {source.name}")
    _make_room(made, fragments, cut, source, keep=bool(record.done()))
    workers = min(cores, int(np.prod(cut.counts)))
    places = Places(
        probability=probability,
        channel=classes.index(objects),
        brightest_below=key["brightest_below"],
        brightest_beside_seeds=beside,
        within_sections=settings.method == "components_2d",
        shape=cut.shape,
        piece=cut.piece,
        fragments=fragments.address,
        segments=made.below(LEVEL).address,
        record=record.place.address,
        threads=max(1, cores // workers),
    )
    seconds: dict[str, float] = {}
    asked = f"the objects of {source.name} were to be numbered in {place}"
    repair = "mend what it met (`unetpipe fsck --repair` mends a prediction), and run again; what is finished is kept"
    with telling(asked, repair), connect(workers) as client:
        with _timed(seconds, "find"):
            _find(client, places, cut, record, fragments, source.name)
        with _timed(seconds, "join"):
            found, of_piece = _join(client, places, cut, record, fragments, settings, source.name)
        place.write("segments.npy", _as_npy(found.rows(source.voxel_size_nm, source.origin_nm)))
        with _timed(seconds, "write"):
            _write(client, places, cut, record, found, of_piece, made.below(LEVEL), source.name)
    fragments.clear()
    written = {name: entry["written"] for name, entry in record.done().items() if name.startswith(WRITTEN)}
    result = {
        "volume": source.name,
        "shape": list(cut.shape),
        "voxel_size_nm": list(source.voxel_size_nm),
        "segments": made.address,
        "array": LEVEL,
        "table": place.where("segments.npy"),
        "objects": objects,
        "method": settings.method,
        "threshold": threshold,
        "threshold_chosen_on": chosen_on,
        "seeds": settings.seeds if settings.method == "watershed" else None,
        "min_voxels": settings.min_voxels,
        **_described(found.table),
        "dropped": found.dropped,
        "fragments": len(found.numbers) - 1,
        "pieces": cut.total,
        "seconds": seconds,
        "workers": workers,
        "digests": {"prediction": digests, "segments": digest_of(written)},
        "version": unetpipe.__version__,
    }
    write_json(segments, result)
    log.info(
        "%s: %d objects of %s above %g, %d smaller than %d voxels left out",
        source.name, result["count"], objects, threshold, found.dropped, settings.min_voxels,
    )  # fmt: skip


def _check(source: VolumeFile, description: dict[str, Any], classes: list[str]) -> None:
    shape = tuple(description["plan"]["shape"])
    if shape != source.shape or description["classes"] != classes:
        raise UserError(
            f"the objects of {source.name} were to be numbered",
            f"the volume has the shape {source.shape} (z, y, x) and the classes {', '.join(classes)}, "
            f"its prediction {shape} and {', '.join(description['classes'])}",
            "predict the volume again",
        )


def _refuse_lost_shards(name: str, predicted: Folder, cut: Cut) -> None:
    """UserError if a part of the prediction is not there: it would be read as background, here and beside it."""
    there = {entry.name for entry in predicted.entries()}
    lost = [block.shard for block in cut.selection.blocks(cut.plan) if block.shard not in there]
    if lost:
        raise UserError(
            f"the objects of {name} were to be numbered",
            f"{len(lost)} shards of {predicted} are gone, {predicted.where(lost[0])} among them",
            "let `unetpipe fsck --repair` compute again what is gone, and run snakemake again",
        )


def _make_room(made: Folder, fragments: Folder, cut: Cut, source: VolumeFile, *, keep: bool) -> None:
    """Both stores with all their metadata; empty, unless what is in them is to be kept."""
    chunk = cut.plan.chunk
    if not keep:
        fragments.clear()
    for folder, dtype in ((fragments.below(LABELS), "uint32"), (made, "uint64")):
        create(
            folder,
            shape=cut.shape,
            dtype=dtype,
            chunk=chunk,
            shard=cut.piece,
            voxel_size_nm=source.voxel_size_nm,
            origin_nm=source.origin_nm,
            keep_shards=keep,
        )
    # Readers take it for labels, and not for an image.
    metadata = json.loads(made.read(METADATA))
    metadata["attributes"]["ome"]["image-label"] = {}
    made.write(METADATA, json.dumps(metadata).encode())


def _find(client: Client, places: Places, cut: Cut, record: Record, fragments: Folder, name: str) -> None:
    """Let workers find the fragments of all pieces that are not stored yet."""
    there = {entry.name: entry.size for entry in fragments.entries()}
    done = {
        piece
        for piece, sizes in _latest(record, FOUND, "bytes").items()
        if all(there.get(objects_of(_index(piece))[kind]) == size for kind, size in sizes.items())
    }
    tasks = (Task(places, index) for index in cut.indices() if name_of(index) not in done)
    deque(track(for_each(client, find, tasks), f"{name}: fragments", cut.total, "pieces", done=len(done)), maxlen=0)


def _join(
    client: Client, places: Places, cut: Cut, record: Record, fragments: Folder, settings: config.Segment, name: str
) -> tuple[Objects, FragmentsOf]:
    """Put together what belongs together; gives the fragments of each piece, too."""
    counts, seeds = (np.zeros(int(np.prod(cut.counts)), np.int64) for _ in range(2))
    for found, key in ((counts, "count"), (seeds, "seeds")):
        for piece, value in _latest(record, FOUND, key).items():
            found[cut.number(_index(piece))] = value
    offsets = offsets_of(counts)

    def numbered(index: Shape) -> NDArray[np.int64]:
        return np.arange(*(offsets[cut.number(index) + part] + 1 for part in (0, 1)))

    if settings.method == "watershed":
        fragments.write(OFFSETS, to_npy(offsets))
        parts = _grow(client, places, cut, offsets, seeds, name)
        of_piece: FragmentsOf = partial(read_basins, fragments)
    else:
        parts = _merge(client, places, cut, offsets, name)
        of_piece = numbered
    tables = ((of_piece(index), read_table(fragments, index)) for index in cut.indices())
    return number(parts, tables, settings.min_voxels), of_piece


def _merge(client: Client, places: Places, cut: Cut, offsets: NDArray[np.int64], name: str) -> NDArray[np.int32]:
    """The component of each fragment, from 1."""
    axes = (1, 2) if places.within_sections else (0, 1, 2)
    tasks = [Task(places, index, beyond) for index in cut.indices() if (beyond := _beyond(cut, index, axes))]
    links = [np.zeros((0, 2), np.int32)]
    for index, found in track(for_each(client, touch, tasks), f"{name}: what touches", len(tasks), "pieces"):
        for other, pairs in found:
            before = [offsets[cut.number(index)], offsets[cut.number(other)]]
            links.append((pairs + np.array(before)).astype(np.int32))
    return merged(int(offsets[-1]), np.concatenate(links))


def _grow(
    client: Client, places: Places, cut: Cut, offsets: NDArray[np.int64], seeds: NDArray[np.int64], name: str
) -> NDArray[np.int32]:
    """What has grown from each seed, from 1, for each basin; 0 for basins that no seed has reached."""
    tasks = (Task(places, index, _beyond(cut, index, (0, 1, 2))) for index in cut.indices())
    links, pairs, ranks = [np.zeros((0, 2), np.int32)], [], []
    for joined, edges in track(for_each(client, settle, tasks), f"{name}: basins", cut.total, "pieces"):
        links.append(joined.astype(np.int32))
        pairs.append(edges.pairs)
        ranks.append(edges.ranks)
    basins = merged(int(offsets[-1]), np.concatenate(links))
    seeded = np.zeros(int(basins.max()) + 1, np.bool_)
    for before, count in zip(offsets.tolist(), seeds.tolist(), strict=False):
        seeded[basins[before + 1 : before + 1 + count]] = True
    return forest(seeded, Edges.first(basins[np.concatenate(pairs)], np.concatenate(ranks)))[basins]


def _beyond(cut: Cut, index: Shape, axes: tuple[int, ...]) -> tuple[tuple[int, Shape], ...]:
    """By axis, the next piece that was predicted."""
    found = ((axis, cut.beyond(index, axis)) for axis in axes)
    return tuple((axis, other) for axis, other in found if other is not None)


def _write(
    client: Client,
    places: Places,
    cut: Cut,
    record: Record,
    found: Objects,
    of_piece: FragmentsOf,
    array: Folder,
    name: str,
) -> None:
    """Let workers write all pieces that are not written yet."""
    there = {entry.name: entry.size for entry in array.entries()}
    done = {
        piece
        for piece, size in _latest(record, WRITTEN, "bytes").items()
        if there.get(f"c/{piece.replace('.', '/')}") == size
    }
    tasks = (
        Task(places, index, numbers=found.of(of_piece(index))) for index in cut.indices() if name_of(index) not in done
    )
    deque(track(for_each(client, write, tasks), f"{name}: objects", cut.total, "pieces", done=len(done)), maxlen=0)


def _latest(record: Record, kind: str, key: str) -> dict[str, Any]:
    """By the name of each piece of which ``kind`` is recorded, ``key`` of its entry."""
    found = record.latest(lambda entry: entry.get(key))
    return {name.removeprefix(f"{kind} "): value for name, value in found.items() if name.startswith(f"{kind} ")}


def _index(name: str) -> Shape:
    return triple([int(place) for place in name.split(".")])


def _as_npy(rows: NDArray[Any]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(rows))
    # No more copies than one.
    return b"".join([header.getvalue(), rows.view(np.uint8).data])


def _described(table: Table) -> dict[str, Any]:
    """How many objects there are, and how large."""
    sizes = table.voxels
    powers, counts = np.unique(np.frexp(sizes.astype(np.float64))[1] - 1, return_counts=True)
    largest = np.argsort(-sizes, kind="stable")[:_LARGEST]
    return {
        "count": len(sizes),
        "voxels": int(sizes.sum()),
        # By their least size: as many voxels, and less than twice as many.
        "sizes": {str(2**power): count for power, count in zip(powers.tolist(), counts.tolist(), strict=True)},
        "largest": [
            {
                "number": row + 1,
                "voxels": int(sizes[row]),
                "box": [list(span) for span in zip(table.start[row].tolist(), table.stop[row].tolist(), strict=True)],
            }
            for row in largest.tolist()
        ],
    }


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 3)
