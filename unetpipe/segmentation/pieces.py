"""What a worker does with a piece: find its fragments, see what they touch, and write the numbers of their objects."""

import errno
import functools
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.arrays import ERRORS, Array, encode, open_array, read_metadata, shard_name, told, use_threads
from unetpipe.grid import Region, Shape
from unetpipe.metrics.components import Numbers, facing
from unetpipe.progress import Record, digest_of_block
from unetpipe.segmentation.flood import flood
from unetpipe.segmentation.fragments import (
    Sides,
    Table,
    labelled,
    sides,
    sides_from_bytes,
    sides_to_bytes,
)
from unetpipe.storage import Folder, folder_at, join
from unetpipe.volume import LEVEL

LABELS = "labels.zarr"
FOUND, WRITTEN = "fragments", "segments"
"""What is recorded of a piece, before its name: that its fragments are stored, and that its objects are."""


@dataclass(frozen=True)
class Places:
    """Where everything lies, and how voxels become fragments; small, since it travels with each task.

    Attributes
    ----------
    probability, channel:
        The array (c, z, y, x) of the prediction, and which of its channels.
    brightest_below, within_sections:
        As in :mod:`unetpipe.segmentation.fragments`.
    brightest_beside_seeds:
        The largest byte of a voxel that is in no seed of a watershed; None where there is no watershed.
    fragments, segments, record:
        The folder for what is kept until the end, the array of objects, and the record of progress.
    """

    probability: str
    channel: int
    brightest_below: int
    brightest_beside_seeds: int | None
    within_sections: bool
    shape: Shape
    piece: Shape
    fragments: str
    segments: str
    record: str
    threads: int

    def region(self, index: Shape) -> Region:
        """The voxels of a piece."""
        return Region.of([i * n for i, n in zip(index, self.piece, strict=True)], self.piece).clip(self.shape)


@dataclass(frozen=True)
class Task:
    """A piece. ``beyond``: by axis, the piece next to it, where there is one."""

    places: Places
    index: Shape
    beyond: tuple[tuple[int, Shape], ...] = ()
    numbers: NDArray[np.uint64] | None = None

    @property
    def name(self) -> str:
        """``z.y.x``."""
        return name_of(self.index)

    @property
    def region(self) -> Region:
        """Its voxels."""
        return self.places.region(self.index)


def name_of(index: Shape) -> str:
    """``z.y.x``: of a piece, in the record."""
    return ".".join(map(str, index))


def objects_of(index: Shape) -> dict[str, str]:
    """Of a piece, the objects in the folder of fragments.

    Labels of its voxels, what is known of each label, its faces; of a watershed what is known of its basins, and the
    basin of each label.
    """
    # In folders of their own: each object that is written makes a listing of its folder.
    place = "/".join(map(str, index))
    return {
        "labels": f"{LABELS}/{LEVEL}/{shard_name((1, 1, 1), index)}",
        "table": f"tables/{place}.npz",
        "sides": f"sides/{place}.npz",
        "basins": f"basins/{place}.npz",
        "nodes": f"nodes/{place}.npy",
    }


def find(task: Task) -> int:
    """Find and store the fragments of a piece; gives their number.

    Needs about 12 bytes for each voxel; a watershed 40.

    Raises
    ------
    OSError
        If a part of the prediction cannot be read.
    """
    places, region = task.places, task.region
    content: dict[str, bytes] = {}
    if places.brightest_beside_seeds is None:
        mask = _probability(task, region) > places.brightest_below
        labels, last = labelled(mask, within_sections=places.within_sections)
        del mask
        count, seeds = last, 0
    else:
        values = _grown(task)
        found = flood(values, places.brightest_below, places.brightest_beside_seeds, region, places.shape)
        labels, last, count, seeds = found.labels, found.last, found.basins, found.seeds
        content["basins"] = found.to_bytes(values)
    opened = open_places(places)
    content |= {
        "labels": encode(opened.labels_metadata, labels.view(np.uint32)),
        "table": Table.of(labels, last, region, places.shape).to_bytes(),
        "sides": sides_to_bytes(sides(labels, within_sections=places.within_sections)),
    }
    names = objects_of(task.index)
    for kind, data in content.items():
        opened.fragments.write(names[kind], data)
    sizes = {kind: len(data) for kind, data in content.items()}
    entry = {"name": f"{FOUND} {task.name}", "count": count, "seeds": seeds, "bytes": sizes}
    opened.record.append(_writer(), entry)
    return count


def touch(task: Task) -> tuple[Shape, list[tuple[Shape, Numbers]]]:
    """Which fragments of a piece touch which of the pieces next to it.

    Returns
    -------
    The piece, and for each that is next to it (n, 2): a fragment of this one, and one of that.
    """
    own = read_sides(task.places, task.index)
    return task.index, [
        (index, facing(own[axis, -1], read_sides(task.places, index)[axis, 0])) for axis, index in task.beyond
    ]


def write(task: Task) -> int:
    """Write the number of the object of each voxel of a piece; gives the bytes that were stored.

    Needs about 25 bytes for each voxel.
    """
    opened = open_places(task.places)
    stored = objects_of(task.index)["labels"]
    if opened.fragments.size(stored) is None:
        # It would be read as background.
        raise FileNotFoundError(f"{opened.fragments.where(stored)} is gone: it was written by this job")
    if task.numbers is None:
        raise ValueError(f"no numbers for the fragments of the piece {task.name}")
    data = encode(opened.segments_metadata, task.numbers[opened.labels[task.region.slices]])
    opened.segments.write(shard_name((1, 1, 1), task.index), data)
    entry = {"name": f"{WRITTEN} {task.name}", "written": digest_of_block(data), "bytes": len(data)}
    opened.record.append(_writer(), entry)
    return len(data)


def read_table(fragments: Folder, index: Shape) -> Table:
    """What is known of the fragments of a piece."""
    return Table.from_bytes(fragments.read(objects_of(index)["table"]))


def read_sides(places: Places, index: Shape) -> Sides:
    """The faces of a piece."""
    return sides_from_bytes(folder_at(places.fragments).read(objects_of(index)["sides"]))


def _grown(task: Task) -> NDArray[np.uint8]:
    """The probability in a piece and one voxel more on each side; 0 beyond the volume, and where nothing was to be."""
    wide = task.region.grow((1, 1, 1))
    inside = wide.clip(task.places.shape)
    values = np.zeros(wide.shape, np.uint8)
    values[inside.relative_to(wide.start).slices] = _probability(task, inside)
    return values


def _probability(task: Task, region: Region) -> NDArray[np.uint8]:
    places = task.places
    try:
        return open_places(places).probability[(places.channel, *region.slices)]
    except ERRORS as error:
        raise OSError(errno.EIO, f"{region} (z, y, x): {told(error)}", places.probability) from None


@dataclass(frozen=True)
class Opened:
    """What a process keeps open."""

    probability: Array
    labels: Array
    labels_metadata: dict[str, Any]
    segments_metadata: dict[str, Any]
    fragments: Folder
    segments: Folder
    record: Record


@functools.lru_cache(maxsize=1)
def open_places(places: Places) -> Opened:
    """What this process keeps open."""
    use_threads(places.threads)
    fragments, segments = folder_at(places.fragments), folder_at(places.segments)
    return Opened(
        probability=open_array(places.probability),
        labels=open_array(join(places.fragments, LABELS, LEVEL)),
        labels_metadata=read_metadata(fragments.below(LABELS).below(LEVEL)),
        segments_metadata=read_metadata(segments),
        fragments=fragments,
        segments=segments,
        record=Record(places.record),
    )


@functools.cache
def _writer() -> str:
    """A name for this process's log that no other process has had."""
    return uuid.uuid4().hex
