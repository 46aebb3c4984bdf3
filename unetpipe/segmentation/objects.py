"""From the fragments of all pieces to objects: how large each is, and what number it bears."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.errors import UserError
from unetpipe.metrics.components import MOST, Numbers
from unetpipe.segmentation.fragments import Table

ROW = np.dtype(
    [
        ("number", "<u8"),
        ("voxels", "<u8"),
        ("start", "<i8", 3),
        ("stop", "<i8", 3),
        ("centroid_nm", "<f8", 3),
    ]
)
"""Of the table of objects: number, voxels, the smallest box that holds it (half open), and the mean place of its
voxels; the last three along (z, y, x)."""


@dataclass(frozen=True)
class Objects:
    """All objects of a volume.

    ``table`` has a row for each, object 1 first. ``numbers`` is (fragments + 1,) int32: the object of each fragment,
    0 for one that is in none, and for the background, fragment 0. ``dropped``: how many were too small.
    """

    table: Table
    numbers: Numbers
    dropped: int

    def of(self, fragments: NDArray[np.int64]) -> NDArray[np.uint64]:
        """(n + 1,): the object of each of n fragments, and 0 for the background before them."""
        return np.concatenate([[0], self.numbers[fragments]]).astype(np.uint64)

    def rows(self, voxel_size_nm: Sequence[float], origin_nm: Sequence[float]) -> NDArray[Any]:
        """The table for others, of :data:`ROW`.

        Parameters
        ----------
        voxel_size_nm, origin_nm:
            Along (z, y, x); the origin is the centre of the first voxel.
        """
        rows = np.zeros(len(self.table.voxels), ROW)
        rows["number"] = np.arange(1, len(rows) + 1)
        rows["voxels"], rows["start"], rows["stop"] = self.table.voxels, self.table.start, self.table.stop
        rows["centroid_nm"] = np.array(origin_nm) + np.array(voxel_size_nm) * (
            self.table.sums / self.table.voxels[:, None]
        )
        return rows


def offsets_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(pieces + 1,): how many fragments the pieces before each have, and all; from how many each has.

    Piece i has the fragments from ``offsets[i] + 1`` to ``offsets[i + 1]``.

    Raises
    ------
    UserError
        If there are more than can be merged.
    """
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if offsets[-1] > MOST:
        raise UserError(
            "objects were to be put together from the fragments of the pieces",
            f"there are {offsets[-1]} fragments, and {MOST} can be merged",
            "set segment.threshold so that there are fewer, or predict parts of the volume (volumes.<name>.region)",
        )
    return offsets


def number(parts: Numbers, tables: Iterable[tuple[NDArray[np.int64], Table]], min_voxels: int) -> Objects:
    """Number objects by the places of their first voxels.

    Parameters
    ----------
    parts:
        (fragments + 1,): which fragments belong together, from 1; 0 for those that are background, as fragment 0 is.
    tables:
        For one piece after the other (n,): the fragment of each row, and the table.
    min_voxels:
        Objects with fewer are dropped.
    """
    table = Table.empty(int(parts.max()))
    for fragments, found in tables:
        rows = parts[fragments]
        table.add(rows[rows > 0] - 1, found.take(rows > 0))
    kept = np.flatnonzero(table.voxels >= min_voxels)
    kept = kept[np.argsort(table.first[kept])]
    numbers = np.zeros(len(table.voxels) + 1, np.int32)
    numbers[kept + 1] = np.arange(1, len(kept) + 1)
    return Objects(table.take(kept), numbers[parts], len(table.voxels) - len(kept))
