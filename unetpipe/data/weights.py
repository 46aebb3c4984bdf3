"""How much each voxel counts in the loss (arXiv:1505.04597, equation 2).

    w(x) = w_c(x) + w0 * exp(-(d1(x) + d2(x))**2 / (2 * sigma**2))

w_c balances the classes; d1 and d2 are the distances to the nearest and the second nearest cell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from unetpipe.volume import IGNORE

_VANISHING = 2.0**-15  # half the distance of float16 numbers between 1/16 and 1/8: smaller than any class weight


@dataclass(frozen=True)
class BorderTerm:
    """The second term of the weight: it makes the network learn the narrow borders between cells.

    ``border_class`` is the index of the class that separates cells; ``weight`` is w0; ``sigma`` is in voxels.
    """

    border_class: int
    weight: float
    sigma: float

    @property
    def reach(self) -> int:
        """The voxels beyond which the term vanishes in float16: of d1 + d2, and so of d2."""
        if self.weight <= _VANISHING:
            return 0
        return math.ceil(self.sigma * math.sqrt(2 * math.log(self.weight / _VANISHING)))

    def of(self, labels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The term for every voxel of ``labels`` (y, x).

        A cell is a 4-connected component, within ``labels``, of voxels that are neither of the border class nor
        ignored; the distance to it is that to the centre of its nearest voxel. The term applies to voxels of the
        border class, and is 0 where fewer than two cells are within reach.
        """
        border = labels == self.border_class
        cells, _ = label(~border & (labels != IGNORE))
        reach = self.reach
        first = np.full(labels.shape, np.inf, np.float32)
        second = first.copy()
        for number, (rows, columns) in enumerate(find_objects(cells), start=1):
            # Beyond the reach of a cell nothing depends on it.
            near = (_grown(rows, reach), _grown(columns, reach))
            outside = (cells[near] != number).view(np.uint8)
            distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            d1, d2 = first[near], second[near]
            np.minimum(d2, np.maximum(d1, distance), out=d2)
            np.minimum(d1, distance, out=d1)
        term = np.zeros(labels.shape, np.float32)
        total = first[border] + second[border]
        term[border] = self.weight * np.exp(-(total**2) / np.float32(2 * self.sigma**2))
        return term


def _grown(part: slice, by: int) -> slice:
    return slice(max(0, part.start - by), part.stop + by)


def class_weights(voxels: Sequence[int], balance: float, factors: Sequence[float] | None = None) -> NDArray[np.float64]:
    """w_c for each class of which there are ``voxels``: its factor times frequency**-balance, 1 on average.

    The average is over all voxels; ``factors`` are 1 where None. A class without voxels weighs 0; ValueError if there
    are no voxels at all.
    """
    counts = np.array(voxels, np.float64)
    if not counts.any():
        raise ValueError("no voxel of any class")
    frequency = counts / counts.sum()
    present = frequency > 0
    weights = np.zeros(len(counts))
    weights[present] = frequency[present] ** -balance
    if factors is not None:
        weights *= factors
    result: NDArray[np.float64] = weights / (weights * frequency).sum()
    return result


def weight_map(
    labels: NDArray[np.uint8], margin: tuple[int, int], classes: Sequence[float], term: BorderTerm | None
) -> NDArray[np.float16]:
    """The weight of every voxel of ``labels`` (z, y, x) but the outermost ``margin`` (y, x) on each side.

    Every section for itself. Cells in the margin count for the border term: for the term of a larger section it must
    be as wide as the reach.

    Parameters
    ----------
    classes:
        w_c for each class index. Ignored voxels weigh 0.
    term:
        None: no border term.
    """
    table = np.zeros(256, np.float32)
    table[: len(classes)] = classes
    inner = tuple(slice(m, n - m) for m, n in zip(margin, labels.shape[1:], strict=True))
    weights = table[labels[:, *inner]]
    if term is not None:
        for section, there in zip(weights, labels, strict=True):
            section += term.of(there)[inner]
    return weights.astype(np.float16)
