"""What of an image is stored. One that is used in place need not hold all of its chunks: most of it can be air.

Where nothing is stored, nothing is predicted: a voxel whose chunk (whose shard, in an image that has some) does not
exist has the probability 0 of every class, whatever lies beside it. This holds for each voxel by itself, so it does not
depend on blocks; a block of such voxels alone is neither computed nor written.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unetpipe.grid import Plan, Region, Shape


@dataclass(frozen=True, eq=False)
class Extent:
    """Which objects of an image are stored; a bit for each.

    Attributes
    ----------
    unit:
        Voxels (z, y, x) of an object.
    bits:
        Of each object whether there is one: (z, y, ceil(x / 8)) uint8, packed along x.
    first:
        The section of the image with which the volume begins.
    """

    unit: Shape
    bits: NDArray[np.uint8]
    first: int = 0

    def voxels(self, region: Region) -> NDArray[np.bool_]:
        """For each voxel of ``region`` (z, y, x), which lies in the volume, whether it is stored."""
        offset = (self.first, 0, 0)
        z, y, x = (
            (np.arange(a, b) + o) // n for a, b, o, n in zip(region.start, region.stop, offset, self.unit, strict=True)
        )
        # The objects that the region meets, and then its voxels.
        met = np.unpackbits(self.bits[z[0] : z[-1] + 1, y[0] : y[-1] + 1, x[0] // 8 : x[-1] // 8 + 1], axis=-1)
        found: NDArray[np.bool_] = met[np.ix_(z - z[0], y - y[0], x - x[0] // 8 * 8)].astype(np.bool_)
        return found

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
