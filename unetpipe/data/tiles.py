"""Tiles of volumes as they are, for validation: the same ones every time, evenly spread."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unetpipe.arrays import open_array
from unetpipe.grid import Geometry, Region, Shape
from unetpipe.volume import IGNORE, Image, VolumeFile, read_truth

NO_SEED = -1
"""In place of the seed of a sample: the tile is not augmented."""

_MOST_KEPT = {2: (1, 512, 512), 3: (16, 128, 128)}
"""By the network's dimensions, voxels (z, y, x) that a free tile keeps: many, and soon done in fp32."""


class LabelledTile(NamedTuple):
    """A tile of a volume.

    ``image`` (z, y, x) holds normalised grey values. ``label`` (z', y', x'), the network's border less on each side,
    holds class indices, :data:`unetpipe.volume.IGNORE` beyond the volume and in missing sections; None if the volume
    has no labels. ``source`` is index of the volume, z, y, x of the centre (voxel n // 2 along each axis),
    :data:`NO_SEED`.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    source: tuple[int, int, int, int, int]


@dataclass(frozen=True)
class _Cover:
    """All tiles of one volume, side by side, aligned to the pooling, but those that keep no section to learn from."""

    volume: VolumeFile
    geometry: Geometry
    tile: Shape

    @cached_property
    def starts(self) -> list[int]:
        """Where tiles begin along z."""
        kept = self.geometry.kept(self.tile)[0]
        return [int(start) * kept for start in np.unique(self.volume.learnt_sections() // kept)]

    @cached_property
    def counts(self) -> tuple[int, int]:
        y, x = (math.ceil(n / k) for n, k in zip(self.volume.shape[1:], self.geometry.kept(self.tile)[1:], strict=True))
        return y, x

    def __len__(self) -> int:
        return len(self.starts) * math.prod(self.counts)

    def write(self, number: int) -> Region:
        """What the network gives for a tile."""
        start, place = divmod(number, math.prod(self.counts))
        row, column = divmod(place, self.counts[1])
        _, kept_y, kept_x = self.geometry.kept(self.tile)
        return Region.of((self.starts[start], row * kept_y, column * kept_x), self.geometry.output(self.tile))


def free_tile(geometry: Geometry, volumes: Sequence[VolumeFile]) -> Shape:
    """What the network reads (z, y, x) where prediction may choose: soon done, and no more than ``volumes`` have."""
    largest = (max(sizes) for sizes in zip(*(volume.shape for volume in volumes), strict=True))
    return geometry.tile_for([min(most, n) for most, n in zip(_MOST_KEPT[geometry.dimensions], largest, strict=True)])


def labelled_tiles(
    volumes: Sequence[VolumeFile], geometry: Geometry, tile: Shape, limit: int
) -> Iterator[LabelledTile]:
    """At most ``limit`` tiles, evenly spread over volumes, sections and positions; the same ones every time.

    Tiles of nothing but missing sections are left out, and those of labelled volumes without a labelled voxel. The
    origin of every label is a multiple of the pooling. Fewer tiles are the first of more.

    Parameters
    ----------
    tile:
        What the network reads (z, y, x).
    """
    covers = [_Cover(volume, geometry, tile) for volume in volumes]
    images = [Image(volume) for volume in volumes]
    labels = [None if volume.labels is None else open_array(volume.labels) for volume in volumes]
    found = 0
    for number in _spread(sum(map(len, covers))):
        if found == limit:
            return
        index = 0
        while number >= len(covers[index]):
            number -= len(covers[index])
            index += 1
        volume, array, write = volumes[index], labels[index], covers[index].write(number)
        label = None
        if array is not None:
            label = np.full(write.shape, IGNORE, np.uint8)
            inside = write.clip(volume.shape)
            label[inside.relative_to(write.start).slices] = read_truth(array, inside, volume)
            if (label == IGNORE).all():
                continue
        read = write.grow(geometry.border)
        z, y, x = (a + n // 2 for a, n in zip(read.start, read.shape, strict=True))
        yield LabelledTile(images[index].read(read), label, (index, z, y, x, NO_SEED))
        found += 1


def _spread(count: int) -> Iterator[int]:
    """All numbers below ``count``, from the middle on in steps of the golden section: any first few lie evenly.

    The step has no divisor in common with ``count``, so each number comes once. In a single volume, so do all
    positions within a section before one comes again.
    """
    step = max(1, round(count * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, count) != 1:
        step += 1
    return ((count // 2 + i * step) % count for i in range(count))
