"""What of an image is stored. One that is used in place need not hold all of its chunks: most of it can be air.

Where nothing is stored, nothing is predicted: a voxel whose chunk (whose shard, in an image that has some) does not
exist has the probability 0 of every class, whatever lies beside it. This holds for each voxel by itself, so it does not
depend on blocks; a block of such voxels alone is neither computed nor written.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unetpipe.grid import Plan, Region, Shape, triple


@dataclass(frozen=True, eq=False)
class Extent:
    """Which objects of an image are stored; a bit for each. The voxels of others are those that fill it.

    Attributes
    ----------
    shape, unit:
        Voxels (z, y, x) of the image, and of what is stored as one object.
    bits:
        For each object on the grid of ``unit``: (z, y, ceil(x / 8)) uint8, packed along x.
    first:
        The section of the image with which the volume begins; regions count from there.
    """

    shape: Shape
    unit: Shape
    bits: NDArray[np.uint8]
    first: int = 0

    @property
    def grid(self) -> Shape:
        """How many objects there can be along (z, y, x)."""
        return triple([math.ceil(n / u) for n, u in zip(self.shape, self.unit, strict=True)])

    @property
    def count(self) -> int:
        """How many there are."""
        return int(np.bitwise_count(self.bits).sum())

    def objects(self, region: Region) -> NDArray[np.bool_]:
        """For the objects that ``region`` meets, within the image, whether they are there: (z, y, x)."""
        z, y, x = (slice(a // u, math.ceil(b / u)) for (a, b), u in zip(self._spans(region), self.unit, strict=True))
        packed = self.bits[z, y, x.start // 8 : math.ceil(x.stop / 8)]
        first = x.start % 8
        return np.unpackbits(packed, axis=-1)[..., first : first + x.stop - x.start].astype(np.bool_)

    def voxels(self, region: Region) -> NDArray[np.bool_]:
        """For each voxel of ``region`` (z, y, x), which lies in the volume, whether it is stored."""
        places = (np.arange(a, b) // u - a // u for (a, b), u in zip(self._spans(region), self.unit, strict=True))
        found: NDArray[np.bool_] = self.objects(region)[np.ix_(*places)]
        return found

    def _spans(self, region: Region) -> list[tuple[int, int]]:
        """Of a region of the volume, within the image."""
        z, *rest = zip(region.start, region.stop, strict=True)
        moved = [(z[0] + self.first, z[1] + self.first), *rest]
        return [(min(max(a, 0), n), min(max(b, 0), n)) for (a, b), n in zip(moved, self.shape, strict=True)]

    def blocks(self, plan: Plan, box: Region) -> NDArray[np.uint8]:
        """The blocks of ``box`` (in blocks) that hold a stored voxel: (z, y, ceil(x / 8)) uint8, packed along x."""
        found = np.zeros((*box.shape[:2], -(-box.shape[2] // 8)), np.uint8)
        depths, rows, columns = (self._ranges(plan, box, axis) for axis in range(3))
        for place, (low, high) in enumerate(depths):
            layer = np.bitwise_or.reduce(self.bits[low:high], axis=0)
            if layer.any():
                there = np.unpackbits(layer, axis=-1).astype(np.bool_)
                found[place] = np.packbits(any_of(any_of(there, rows, 0), columns, 1), axis=1)
        return found

    def _ranges(self, plan: Plan, box: Region, axis: int) -> NDArray[np.int64]:
        """For each block of ``box`` along an axis, the objects [low, high) that it meets."""
        starts = np.arange(box.start[axis], box.stop[axis], dtype=np.int64) * plan.block[axis]
        stops = np.minimum(starts + plan.block[axis], plan.shape[axis])
        offset = self.first if axis == 0 else 0
        return np.stack([(starts + offset) // self.unit[axis], -(-(stops + offset) // self.unit[axis])], 1)


def any_of(layer: NDArray[np.bool_], ranges: NDArray[np.int64], axis: int) -> NDArray[np.bool_]:
    """Along ``axis``, whether any element in each of ``ranges`` [low, high) is set; ranges may overlap."""
    padded = np.concatenate([layer, np.zeros_like(layer.take([0], axis))], axis)
    # Every second result is that of what lies between two ranges.
    reduced = np.logical_or.reduceat(padded, ranges.ravel(), axis)
    return reduced.take(np.arange(0, 2 * len(ranges), 2), axis)
