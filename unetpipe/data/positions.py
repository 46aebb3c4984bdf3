"""Where samples are centred: each labelled voxel of the training volumes is as likely as any other."""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from unetpipe.arrays import Array, open_array
from unetpipe.cluster import for_each
from unetpipe.errors import UserError
from unetpipe.grid import Region, Shape
from unetpipe.progress_bar import track
from unetpipe.volume import IGNORE, VolumeFile, read_labels


@dataclass(frozen=True)
class Patch:
    """A part of one section: ``region`` of the volume number ``volume``, in which ``labelled`` voxels have a class."""

    volume: int
    region: Region
    labelled: int

    def find(self, rank: int, labels: Array, shape: Shape) -> Shape:
        """The (z, y, x) of its labelled voxel number ``rank``, counted row by row in the ``labels`` of its volume."""
        if self.labelled < self.region.voxels:
            here = read_labels(labels, self.region, shape)
            rank = int(np.flatnonzero(here != IGNORE)[rank])
        y, x = divmod(rank, self.region.shape[2])
        start = self.region.start
        return start[0], start[1] + y, start[2] + x


@dataclass(frozen=True)
class Census:
    """The labelled voxels of the training volumes, missing sections left out.

    ``voxels`` is their number for each class; ``patches`` are where they are.
    """

    voxels: tuple[int, ...]
    patches: tuple[Patch, ...]

    @cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(patch.labelled for patch in self.patches))

    def draw(self, rng: np.random.Generator) -> tuple[Patch, int]:
        """A labelled voxel, all being equally likely: its patch, and its rank within."""
        rank = int(rng.integers(self._ends[-1]))
        place = bisect.bisect_right(self._ends, rank)
        return self.patches[place], rank - (self._ends[place - 1] if place else 0)


def take_census(client: Client, volumes: Sequence[Path], classes: Sequence[str]) -> Census:
    """Count the labelled voxels of ``volumes`` (``volume.json``; with labels), shard by shard.

    Raises
    ------
    UserError
        If a network cannot learn from them: no voxel is labelled, or all are of one class.
    """
    files = [VolumeFile.read(path) for path in volumes]
    parts = [
        (number, path, region)
        for number, (path, volume) in enumerate(zip(volumes, files, strict=True))
        for region in _shards(volume)
    ]
    counted: list[tuple[Patch, tuple[int, ...]]] = []
    for counts in track(for_each(client, _count, parts), "labels", len(parts), "shards"):
        counted += counts
    # Shards are counted in any order; what is drawn must not depend on it.
    counted.sort(key=lambda item: (item[0].volume, item[0].region.start))
    voxels = np.sum([np.zeros(256, int), *(np.array(counts) for _, counts in counted)], axis=0)
    names = ", ".join(volume.name for volume in files)
    _check(voxels, classes, names)
    patches = (patch for patch, _ in counted if patch.labelled)
    return Census(tuple(int(n) for n in voxels[: len(classes)]), tuple(patches))


def _shards(volume: VolumeFile) -> Iterator[Region]:
    array = open_array(str(volume.labels))
    shard = array.shard
    # Where few sections are labelled, few shards need be read.
    deep = np.unique(volume.learnt_sections() // shard[0] * shard[0]).tolist()
    for start in itertools.product(deep, *(range(0, n, s) for n, s in zip(volume.shape[1:], shard[1:], strict=True))):
        yield Region.of(start, shard).clip(volume.shape)


def _count(part: tuple[int, Path, Region]) -> list[tuple[Patch, tuple[int, ...]]]:
    """The patches of a shard, one a section, and how often each label occurs in them; runs in a worker."""
    number, path, region = part
    volume = VolumeFile.read(path)
    labels: NDArray[np.uint8] = read_labels(open_array(str(volume.labels)), region, volume.shape)
    patches = []
    for z, section in enumerate(labels, start=region.start[0]):
        if z in volume.missing_sections:
            continue
        counts = np.bincount(section.ravel(), minlength=256)
        place = Region((z, *region.start[1:]), (z + 1, *region.stop[1:]))
        labelled = section.size - int(counts[IGNORE])
        patches.append((Patch(number, place, labelled), tuple(counts.tolist())))
    return patches


def _check(voxels: NDArray[np.int64], classes: Sequence[str], volumes: str) -> None:
    asked = f"samples were to be drawn from the training volumes {volumes}"
    if strange := [int(index) for index in np.flatnonzero(voxels[:IGNORE]) if index >= len(classes)]:
        raise UserError(
            asked,
            f"their labels hold the class indices {strange}; there are the classes {', '.join(classes)}",
            "delete the folders of these volumes, so that they are made again with the classes of today",
        )
    present = [name for name, count in zip(classes, voxels, strict=False) if count]
    if not present:
        raise UserError(
            asked,
            "not one voxel is labelled: all are to be ignored, or lie in missing sections",
            "compare `classes` and `ignore` with the values in the label files",
        )
    if len(present) == 1:
        raise UserError(
            asked,
            f"all {int(voxels.sum() - voxels[IGNORE])} labelled voxels are of one class, {present[0]}",
            "compare `classes` with the values in the label files; a network needs examples of two classes at least",
        )
