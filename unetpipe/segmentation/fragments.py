"""The components of a mask within one piece of a volume, what is known of each, and what shows at the piece's faces.

A fragment is a connected component of one piece: of voxels that share a face, in the volume, or in one section alone.
Fragments of two pieces belong to one object where they touch across the face between the pieces; what remains of the
voxels for that are the numbers along the faces, as runs (:class:`unetpipe.metrics.components.Face`).
"""

import io
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import generate_binary_structure, label

from unetpipe.grid import Region, Shape
from unetpipe.metrics.components import MOST, Face, Numbers, run_lengths

Sides = dict[tuple[int, int], Face]
"""By axis (0, 1, 2 for z, y, x) and place along it: 0 is the first plane, -1 the last."""

Amounts = NDArray[np.int64]

_AT_ONCE = 1 << 20
"""Voxels whose runs are counted at once: in the worst case, each is one."""


def brightest_below(threshold: float) -> int:
    """The largest v with v / 255 <= ``threshold``: a voxel is in an object where its byte is larger.

    Exact for the decimal number that was written, as :func:`unetpipe.metrics.components.above` is for tenths.
    """
    return int(Decimal(repr(threshold)) * 255)


def labelled(mask: NDArray[np.bool_], *, within_sections: bool) -> tuple[Numbers, int]:
    """Number the components of a mask (z, y, x).

    Parameters
    ----------
    within_sections:
        Join voxels along y and x alone (4-connected), and not along z too (6-connected).

    Returns
    -------
    (z, y, x) int32, from 1 on; and how many there are.

    Raises
    ------
    ValueError
        If the mask has more than ``MOST`` voxels.
    """
    if mask.size > MOST:
        raise ValueError(f"a piece of {mask.shape} (z, y, x) has more than {MOST} voxels")
    near = generate_binary_structure(3, 1)
    if within_sections:
        near[[0, 2]] = False
    labels = np.empty(mask.shape, np.int32)
    return labels, int(label(mask, near, output=labels))


def sides(labels: Numbers, *, within_sections: bool) -> Sides:
    """The faces of a piece through which objects go on: all six, or the four along y and x."""
    axes = (1, 2) if within_sections else (0, 1, 2)
    return {(axis, place): run_lengths(np.take(labels, place, axis)) for axis in axes for place in (0, -1)}


@dataclass(frozen=True)
class Table:
    """What is known of fragments or objects, all in voxels of the volume; each row is one of them.

    ``voxels`` and ``first`` are (n,): how many, and the index of the first voxel in the volume when it is read row by
    row. ``start`` and ``stop`` are (n, 3): the smallest box that holds it, half open. ``sums`` is (n, 3): the sums of
    the coordinates of its voxels. All int64: sums are exact up to 2 ** 63.
    """

    voxels: Amounts
    first: Amounts
    start: Amounts
    stop: Amounts
    sums: Amounts

    @classmethod
    def empty(cls, rows: int) -> "Table":
        """Of nothing yet: what :meth:`add` begins with."""
        most = np.iinfo(np.int64).max
        return cls(
            voxels=np.zeros(rows, np.int64),
            first=np.full(rows, most, np.int64),
            start=np.full((rows, 3), most, np.int64),
            stop=np.zeros((rows, 3), np.int64),
            sums=np.zeros((rows, 3), np.int64),
        )

    @classmethod
    def of(cls, labels: Numbers, count: int, region: Region, shape: Shape) -> "Table":
        """Of the fragments 1 … ``count`` of the piece ``region`` of a volume of ``shape``; row 0 is fragment 1.

        All is counted from runs along x, of which there are few.
        """
        table = cls.empty(count)
        height, width = labels.shape[1:]
        lines = labels.reshape(-1, width)
        at_once = max(1, _AT_ONCE // width)
        for line in range(0, len(lines), at_once):
            flat = lines[line : line + at_once].reshape(-1)
            begins = np.ones(flat.size, np.bool_)
            np.not_equal(flat[1:], flat[:-1], out=begins[1:])
            begins[::width] = True
            starts = np.flatnonzero(begins)
            lengths = np.diff(starts, append=flat.size)
            inside = flat[starts] > 0
            starts, lengths = starts[inside], lengths[inside]
            rows = flat[starts] - 1
            row, x = np.divmod(starts, width)
            z, y = np.divmod(row + line, height)
            z, y, x = (at + start for at, start in zip((z, y, x), region.start, strict=True))
            np.add.at(table.voxels, rows, lengths)
            np.minimum.at(table.first, rows, (z * shape[1] + y) * shape[2] + x)
            for axis, low, high, total in (
                (0, z, z + 1, z * lengths),
                (1, y, y + 1, y * lengths),
                (2, x, x + lengths, x * lengths + lengths * (lengths - 1) // 2),
            ):
                np.minimum.at(table.start[:, axis], rows, low)
                np.maximum.at(table.stop[:, axis], rows, high)
                np.add.at(table.sums[:, axis], rows, total)
        return table

    def add(self, rows: NDArray[np.integer], other: "Table") -> None:
        """Take what is known of parts of these: row ``rows[i]`` has the part in row i of ``other``."""
        np.add.at(self.voxels, rows, other.voxels)
        np.minimum.at(self.first, rows, other.first)
        for axis in range(3):
            np.minimum.at(self.start[:, axis], rows, other.start[:, axis])
            np.maximum.at(self.stop[:, axis], rows, other.stop[:, axis])
            np.add.at(self.sums[:, axis], rows, other.sums[:, axis])

    def take(self, rows: NDArray[Any]) -> "Table":
        """Some of the rows, in the order that is asked for."""
        return Table(*(array[rows] for array in self.arrays()))

    def arrays(self) -> tuple[Amounts, ...]:
        """All columns."""
        return self.voxels, self.first, self.start, self.stop, self.sums

    def to_bytes(self) -> bytes:
        """For :meth:`from_bytes`."""
        return packed({str(number): array for number, array in enumerate(self.arrays())})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Table":
        """What :meth:`to_bytes` gave."""
        found = unpacked(data)
        return cls(*(found[str(number)] for number in range(len(found))))


def sides_to_bytes(found: Sides) -> bytes:
    """For :func:`sides_from_bytes`."""
    arrays: dict[str, NDArray[Any]] = {}
    for (axis, place), face in found.items():
        arrays |= {f"{axis} {place} ends": face.ends, f"{axis} {place} fragments": face.fragments}
    return packed(arrays)


def sides_from_bytes(data: bytes) -> Sides:
    """What :func:`sides_to_bytes` gave."""
    found = unpacked(data)
    keys = {tuple(map(int, name.split()[:2])) for name in found}
    return {
        (axis, place): Face(found[f"{axis} {place} ends"], found[f"{axis} {place} fragments"]) for axis, place in keys
    }


def packed(arrays: dict[str, NDArray[Any]]) -> bytes:
    """For :func:`unpacked`."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def unpacked(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays by their names, of NumPy's format npz."""
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        return dict(found)
