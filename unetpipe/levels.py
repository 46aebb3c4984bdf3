"""The resolutions of a volume: what a voxel of each stands for, and how it is cut. Pure arithmetic, always (z, y, x).

A level has half as many voxels as the one below it: along the axes whose voxels are smallest, until voxels are about as
long as wide, and then along all. The coarsest fits in one chunk, so that a viewer shows the whole with one read.

The voxel i of a level covers the voxels i * scale to (i + 1) * scale of the volume, and lies at their middle:

::

      level 0   |  0  |  1  |  2  |  3  |  4  |
      level 1   |     0     |     1     |     2     |      the last one is made of what there is
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unetpipe.grid import Shape, triple

LABEL_MAP = "labels/classes"
"""Of a prediction, in its group: the index of the most likely class of each voxel, an OME-Zarr label image."""

MOST = 128
"""Voxels of the coarsest level along each axis, and of a chunk."""

_CHUNK = 32
"""Voxels of a chunk along each axis, at least, where the chunks of the level below allow it."""

_SHARD = 1 << 23
"""Voxels of a shard at most, where a chunk is no larger. What it is made of has eight times as many at most."""


@dataclass(frozen=True)
class Level:
    """One resolution.

    ``factors``: voxels of the level below, along each axis, of which one of this is made. ``scale``: those of level 0.
    """

    number: int
    shape: Shape
    factors: Shape
    scale: Shape
    chunk: Shape
    shard: Shape

    @property
    def path(self) -> str:
        """Of its array in the group."""
        return str(self.number)

    def array(self, *, labels: bool) -> str:
        """Below the group: where the array lies, that of the label map or that of the probabilities."""
        return f"{LABEL_MAP}/{self.path}" if labels else self.path

    def shard_name(self, index: Sequence[int], *, labels: bool) -> str:
        """The object of a shard, below the group; one of the probabilities has all channels."""
        return "/".join([self.array(labels=labels), "c", *([] if labels else ["0"]), *map(str, index)])

    @property
    def counts(self) -> Shape:
        """Shards along each axis."""
        return triple([math.ceil(n / s) for n, s in zip(self.shape, self.shard, strict=True)])

    def voxel_size_nm(self, finest: Sequence[float]) -> list[float]:
        """Where a voxel of level 0 has the size ``finest``."""
        return [n * size for n, size in zip(self.scale, finest, strict=True)]

    def origin_nm(self, finest: Sequence[float], origin: Sequence[float]) -> list[float]:
        """The middle of the first voxel, where that of level 0 lies at ``origin``."""
        return [a + (n - 1) / 2 * size for a, n, size in zip(origin, self.scale, finest, strict=True)]


def levels_of(
    shape: Sequence[int], voxel_size_nm: Sequence[float], chunk: Sequence[int], shard: Sequence[int]
) -> list[Level]:
    """All levels of a volume of ``shape``, the finest first, which has chunks of ``chunk`` and shards of ``shard``."""
    one = (1, 1, 1)
    found = [Level(0, triple(shape), one, one, triple(chunk), triple(shard))]
    while max((below := found[-1]).shape) > MOST:
        factors = _factors(below.shape, below.voxel_size_nm(voxel_size_nm))
        smaller = triple([math.ceil(n / f) for n, f in zip(below.shape, factors, strict=True)])
        scale = triple([a * f for a, f in zip(below.scale, factors, strict=True)])
        new = triple([_chunk(c, n) for c, n in zip(below.chunk, smaller, strict=True)])
        cut = [s // f for s, f in zip(below.shard, factors, strict=True)]
        found.append(Level(below.number + 1, smaller, factors, scale, new, _shard(new, smaller, cut)))
    return found


def _factors(shape: Shape, size: Sequence[float]) -> Shape:
    """Along which axes voxels of ``size`` are put together in pairs."""
    largest = max(s for n, s in zip(shape, size, strict=True) if n > 1)
    # A pair that is nearer to the largest than one voxel is, as a ratio: 40 x 32 x 32 stays as it is.
    thin = [n > 1 and 2 * s * s <= largest * largest for n, s in zip(shape, size, strict=True)]
    return triple([2 if (here if any(thin) else n > 1) else 1 for n, here in zip(shape, thin, strict=True)])


def _chunk(below: int, size: int) -> int:
    """That of the level below, or a multiple: so pairs of chunks become whole chunks, and none is decoded twice."""
    chunk = below if below <= MOST else _CHUNK
    while 2 * chunk <= _CHUNK and chunk < size:
        chunk *= 2
    return chunk


def _shard(chunk: Shape, shape: Shape, least: Sequence[int]) -> Shape:
    """Whole chunks, such as make ``least``: then few shards of the level below are read for it, and those whole.

    Half as many along the longest axis while they are too many, twice as many along the shortest while there is room.
    """
    count = [max(1, n // c) for n, c in zip(least, chunk, strict=True)]

    def shard() -> list[int]:
        return [n * c for n, c in zip(count, chunk, strict=True)]

    while math.prod(shard()) > _SHARD and max(count) > 1:
        longest = max((axis for axis in range(3) if count[axis] > 1), key=lambda axis: shard()[axis])
        count[longest] //= 2
    while 2 * math.prod(shard()) <= _SHARD and (short := [a for a in range(3) if shard()[a] < shape[a]]):
        count[min(short, key=lambda axis: shard()[axis])] *= 2
    return triple(shard())
