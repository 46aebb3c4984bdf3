"""Sections in slabs: copied into a store, or sampled where they lie; recorded, so that an interrupted run goes on.

A slab is as deep as a shard. It is copied in bands of whole rows of shards, so that not all of it need be in memory.
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unetpipe.arrays import open_array, shard_name
from unetpipe.data.bands import MOST_BYTES, Rows, rows_of, rows_within
from unetpipe.data.sources import Source
from unetpipe.data.sources.contract import VoxelSize
from unetpipe.data.sources.in_place import InPlaceSource
from unetpipe.data.statistics import mean_and_std, patches, patches_in
from unetpipe.grid import Region, Shape
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


class Encoder(Protocol):
    """What to write for the voxels of a source.

    ``reach``: how many rows above and below a voxel decide on it.
    """

    reach: int

    def __call__(self, z: int, low: int, rows: NDArray[Any]) -> NDArray[Any]:
        """For the ``rows`` (y, x) from ``low`` on of the section ``z`` of the source; of the same shape."""
        ...


class Gauge(Protocol):
    """What to record of a slab besides its digest, from its bands one after the other."""

    def add(self, low: int, voxels: NDArray[Any]) -> None:
        """See the voxels (z, y, x) that are written from the row ``low`` on."""
        ...

    def entry(self) -> Entry:
        """What to record, once all have been seen."""
        ...


def copy(
    source: Source,
    part: Part,
    store: Path,
    record: Record,
    gauge: Callable[[], Gauge],
    encode: Encoder | None = None,
) -> list[Entry]:
    """Copy ``part`` of ``source`` into ``store``, slab by slab, without those that ``record`` says are there.

    Parameters
    ----------
    gauge:
        A new one for each slab.
    encode:
        Gives the voxels to write; None: as they are.

    Returns
    -------
    entries:
        One per slab, in their order.
    """
    place = folder_at(store / LEVEL)
    array = open_array(place.address)
    depth, height, width = array.shard
    rows, columns = part.shape[1:]

    def copy_slab(z: int) -> Entry:
        end = min(z + depth, part.shape[0])
        seen, digest = gauge(), hashlib.sha256()
        tall = rows_within(MOST_BYTES, (end - z) * columns * array.dtype.itemsize, height, rows)
        with rows_of(source, part.first + z, part.first + end, store.parent) as (read, step):
            for low in range(0, rows, tall):
                band = _band(read, low, min(low + tall, rows), step, array.dtype, part.first + z, rows, encode)
                write_shards(place, (z, low, 0), band)
                for row in range(0, band.shape[1], height):
                    # Rows of shards, whatever a band holds: what is read at once does not decide.
                    digest.update(np.ascontiguousarray(band[:, row : row + height]).data)
                seen.add(low, band)
        return {"digest": digest.hexdigest(), **seen.entry()}

    def is_there(z: int) -> bool:
        corners = itertools.product([z], range(0, rows, height), range(0, columns, width))
        return all(place.size(shard_name(array.shard, corner)) is not None for corner in corners)

    return _work_off(store.stem, range(0, part.shape[0], depth), copy_slab, record, is_there)


def _band(
    read: Rows, low: int, high: int, step: int, dtype: np.dtype[Any], first: int, rows: int, encode: Encoder | None
) -> NDArray[Any]:
    """The rows from ``low`` to ``high`` of a slab whose first section is ``first``, as they are to be written."""
    if encode is None and step >= high - low:
        return read(low, high)
    band = None
    for start in range(low, high, step):
        stop = min(start + step, high)
        margin = 0 if encode is None else encode.reach
        top, bottom = max(0, start - margin), min(rows, stop + margin)
        piece = read(top, bottom)
        if band is None:
            band = np.empty((len(piece), high - low, piece.shape[2]), dtype)
        for i, section in enumerate(piece):
            written = section if encode is None else encode(first + i, top, section)
            band[i, start - low : stop - low] = written[start - top : stop - top]
    assert band is not None  # noqa: S101 – there is a row
    return band


def sample(
    source: InPlaceSource, part: Part, record: Record, grey_range: Sequence[float] | None, threads: int
) -> list[Entry]:
    """Measure ``part`` of a source where it lies; only the chunks under the patches are read.

    Where not all of a slab is stored, the patches lie in what is.

    Returns
    -------
    entries:
        As :func:`copy` gives them, without digests.
    """
    # Slabs end where chunks end, so that no chunk is read twice along z.
    depth = min(source.array.chunk[0], _MOST_SECTIONS)
    first, last = part.first, part.first + part.shape[0]
    stored = source.stored()
    with ThreadPoolExecutor(threads) as pool:

        def sample_slab(z: int) -> Entry:
            end = min((z // depth + 1) * depth, last)
            places = patches(*part.shape[1:])
            if stored is not None:
                layers = stored.objects(Region((z, 0, 0), (end, *part.shape[1:])))
                there: NDArray[np.bool_] = np.logical_or.reduce(layers, axis=0)
                if not there.all():
                    places = patches_in(there, stored.unit[1:], part.shape[1:])
            if not places:
                # As of a section without contrast.
                return {"mean": [0.0] * (end - z), "std": [0.0] * (end - z)}
            boxes = [(slice(z, end), rows, columns) for rows, columns in places]
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


class Grey:
    """Mean and standard deviation of each section of a slab.

    Parameters
    ----------
    shape:
        Voxels of a section, (y, x).
    grey_range:
        As :func:`unetpipe.data.statistics.mean_and_std` takes it.
    """

    def __init__(self, shape: tuple[int, int], grey_range: Sequence[float] | None) -> None:
        self._patches, self._range = patches(*shape), grey_range
        self._found: list[NDArray[Any]] = []

    def add(self, low: int, voxels: NDArray[Any]) -> None:
        """Keep the voxels that lie in patches."""
        if not self._found:
            shapes = [(len(voxels), rows.stop - rows.start, here.stop - here.start) for rows, here in self._patches]
            self._found = [np.empty(shape, voxels.dtype) for shape in shapes]
        high = low + voxels.shape[1]
        for (rows, here), patch in zip(self._patches, self._found, strict=True):
            start, stop = max(low, rows.start), min(high, rows.stop)
            if start < stop:
                patch[:, start - rows.start : stop - rows.start] = voxels[:, start - low : stop - low, here]

    def entry(self) -> Entry:
        """``mean`` and ``std`` of each section."""
        return measure_patches(self._found, self._range)


def measure_patches(boxes: Sequence[NDArray[Any]], grey_range: Sequence[float] | None) -> Entry:
    """Mean and standard deviation of each section of a slab from its patches, each (z, y, x)."""
    pairs = [mean_and_std(list(section), grey_range) for section in zip(*boxes, strict=True)]
    return {"mean": [mean for mean, _ in pairs], "std": [std for _, std in pairs]}
