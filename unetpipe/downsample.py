"""One voxel made of up to eight: means of probabilities, and the most frequent of class indices. All exact integers.

Of a level with an odd number of voxels the last one is made of what there is. That is the same as if its outermost
voxels were there twice: sums and counts are doubled alike, so neither means nor the order of counts changes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Voxels = NDArray[np.uint8]


def means(voxels: Voxels, factors: Sequence[int], there: NDArray[np.bool_] | None = None) -> Voxels:
    """Means of blocks of ``factors`` (z, y, x) voxels, 1 or 2 along each axis; halves are rounded up.

    Parameters
    ----------
    voxels:
        (z, y, x).
    there:
        Which of them count, (z, y, x); None for all. A block of which none does becomes 0.
    """
    if there is not None:
        voxels = voxels * there
    shift = sum(factor == 2 for factor in factors)
    found = np.empty([-(-n // f) for n, f in zip(voxels.shape, factors, strict=True)], np.uint8)
    # Plane by plane: what is added up stays in the processor's cache.
    for z in range(len(found)):
        part = slice(z * factors[0], (z + 1) * factors[0])
        total = _sums(voxels[part], factors)
        if there is None:
            total += np.uint16((1 << shift) >> 1)
            total >>= np.uint16(shift)
        else:
            count = _sums(there[part].view(np.uint8), factors)
            total += count >> np.uint16(1)
            total //= np.maximum(count, 1)
        found[z] = total[0]
    return found


def modes(labels: Voxels, factors: Sequence[int], classes: int) -> Voxels:
    """The most frequent class index in blocks of ``factors`` (z, y, x) voxels; of equally frequent ones the smallest.

    Parameters
    ----------
    labels:
        (z, y, x); what is not below ``classes`` does not count, and a block of nothing else becomes 255.
    """
    found = np.full([-(-n // f) for n, f in zip(labels.shape, factors, strict=True)], 255, np.uint8)
    for z in range(len(found)):
        part = labels[z * factors[0] : (z + 1) * factors[0]]
        most = np.zeros(found.shape[1:], np.uint16)
        for index in range(classes):
            (count,) = _sums((part == index).view(np.uint8), factors)
            np.copyto(found[z], index, where=count > most)
            np.maximum(most, count, out=most)
    return found


def _sums(voxels: Voxels, factors: Sequence[int]) -> NDArray[np.uint16]:
    """Sums over blocks, as if the outermost voxels were there as often as whole blocks need."""
    if any(n % f for n, f in zip(voxels.shape, factors, strict=True)):
        voxels = np.pad(voxels, [(0, -n % f) for n, f in zip(voxels.shape, factors, strict=True)], mode="edge")
    if factors[2] == 2:
        # Two neighbours are the two bytes of one number: without strides, several are added by one instruction.
        pairs = np.ascontiguousarray(voxels).view(np.uint16)
        total = pairs & np.uint16(255)
        total += pairs >> np.uint16(8)
    else:
        total = voxels.astype(np.uint16)
    if factors[1] == 2:
        total = total[:, 0::2] + total[:, 1::2]
    if factors[0] == 2:
        total = total[0::2] + total[1::2]
    return total
