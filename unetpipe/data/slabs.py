"""Sections in slabs: copied into a store, or sampled where they lie; recorded, so that an interrupted run goes on."""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.arrays import open_array, shard_name
from unetpipe.data.sources import Source
from unetpipe.data.sources.contract import VoxelSize
from unetpipe.data.sources.in_place import InPlaceSource
from unetpipe.data.statistics import mean_and_std, patches
from unetpipe.grid import Shape
from unetpipe.progress import Record
from unetpipe.progress_bar import track
from unetpipe.storage import folder_at
from unetpipe.volume import LEVEL, create, layout, write_shards

Entry = dict[str, Any]
"""What is recorded of a slab."""

_MOST_SECTIONS = 64  # sampled at once, where the chunks of a Zarr are deeper


@dataclass(frozen=True)
class Part:
    """The sections of a source that are used: ``shape`` (z, y, x) from the section ``first`` on.

    ``voxel_size_nm`` and ``origin_nm``, where its first voxel lies, are (z, y, x).
    """

    first: int
    shape: Shape
    voxel_size_nm: VoxelSize
    origin_nm: VoxelSize


def open_record(folder: Path, key: Mapping[str, Any], stores: Mapping[Path, str], part: Part) -> Record:
    """The record of the slabs of ``stores``, each given with its dtype.

    What was made from other inputs, with other settings, or is not there any more is begun anew.
    """
    what = f"the import beside {folder}"
    record = Record.open(folder, key, "restart", what)
    if not record.done() or not all((store / LEVEL / "zarr.json").exists() for store in stores):
        # A store is created after its record is gone: a record never speaks of shards that were wiped.
        record.forget()
        chunk, shard = layout(part.shape)
        for store, dtype in stores.items():
            create(
                folder_at(store),
                shape=part.shape,
                dtype=dtype,
                chunk=chunk,
                shard=shard,
                voxel_size_nm=part.voxel_size_nm,
                origin_nm=part.origin_nm,
            )
        record = Record.open(folder, key, "restart", what)
    return record


def copy(
    source: Source,
    part: Part,
    store: Path,
    record: Record,
    encode: Callable[[int, NDArray[Any]], NDArray[Any]] | None = None,
    measure: Callable[[NDArray[Any]], Entry] | None = None,
) -> list[Entry]:
    """Copy ``part`` of ``source`` into ``store``, slab by slab, without those that ``record`` says are there.

    Parameters
    ----------
    encode:
        Gives the voxels to write for a section of ``source`` and its number there; None: as they are.
    measure:
        What to record of a slab of written voxels, (z, y, x), besides its digest.

    Returns
    -------
    entries:
        One per slab, in their order.
    """
    place = folder_at(store / LEVEL)
    array = open_array(place.address)
    depth, height, width = array.shard

    def copy_slab(z: int) -> Entry:
        end = min(z + depth, part.shape[0])
        voxels = source.read(part.first + z, part.first + end)
        if encode is not None:
            encoded = np.empty(voxels.shape, array.dtype)
            for i, section in enumerate(voxels):
                encoded[i] = encode(part.first + z + i, section)
            voxels = encoded
        write_shards(place, (z, 0, 0), voxels)
        digest = hashlib.sha256(np.ascontiguousarray(voxels).data).hexdigest()
        return {"digest": digest} | (measure(voxels) if measure is not None else {})

    def is_there(z: int) -> bool:
        corners = itertools.product([z], range(0, part.shape[1], height), range(0, part.shape[2], width))
        return all(place.size(shard_name(array.shard, corner)) is not None for corner in corners)

    return _work_off(store.stem, range(0, part.shape[0], depth), copy_slab, record, is_there)


def sample(
    source: InPlaceSource, part: Part, record: Record, grey_range: Sequence[float] | None, threads: int
) -> list[Entry]:
    """Measure ``part`` of a Zarr where it lies; only the chunks under the patches are read.

    Returns
    -------
    entries:
        As :func:`copy` gives them, without digests.
    """
    # Slabs end where chunks end, so that no chunk is read twice along z.
    depth = min(source.array.chunk[0], _MOST_SECTIONS)
    first, last = part.first, part.first + part.shape[0]
    with ThreadPoolExecutor(threads) as pool:

        def sample_slab(z: int) -> Entry:
            end = min((z // depth + 1) * depth, last)
            boxes = [(slice(z, end), rows, columns) for rows, columns in patches(*part.shape[1:])]
            return measure_patches(list(pool.map(source.read_box, boxes)), grey_range)

        return _work_off("sample", [first, *range((first // depth + 1) * depth, last, depth)], sample_slab, record)


def _work_off(
    what: str,
    starts: Sequence[int],
    do: Callable[[int], Entry],
    record: Record,
    is_there: Callable[[int], bool] = lambda _: True,
) -> list[Entry]:
    """Do the slabs that begin at ``starts``, save those recorded and there, and record each; gives all entries."""
    done = record.done()
    todo = [z for z in starts if f"{what} {z}" not in done or not is_there(z)]
    for z in track(todo, what, len(starts), "slabs", done=len(starts) - len(todo)):
        name = f"{what} {z}"
        done[name] = {"name": name, **do(z)}
        record.append("ingest", done[name])
    return [done[f"{what} {z}"] for z in starts]


def measure(voxels: NDArray[Any], grey_range: Sequence[float] | None) -> Entry:
    """Mean and standard deviation of each section of ``voxels`` (z, y, x)."""
    return measure_patches([voxels[:, rows, columns] for rows, columns in patches(*voxels.shape[1:])], grey_range)


def measure_patches(boxes: Sequence[NDArray[Any]], grey_range: Sequence[float] | None) -> Entry:
    """The same from the patches alone, each (z, y, x)."""
    pairs = [mean_and_std(list(section), grey_range) for section in zip(*boxes, strict=True)]
    return {"mean": [mean for mean, _ in pairs], "std": [std for _, std in pairs]}
