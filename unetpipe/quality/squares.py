"""Where a section is looked at: squares at places that are the same in all sections. Pure integers.

A volume can be too large to be read once more. What is read of a section is bounded: as many squares as are asked for,
of about 256 x 256 voxels, all of them where there are no more.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unetpipe.grid import Region, triple
from unetpipe.selection import Selection

EDGE = 256
"""Voxels of a square along y and x: whole chunks of what ingest writes. One at an end has up to half as many more."""

RUN = 64
"""Sections that are looked at in one go. Fixed, so that nothing depends on how a prediction was cut."""

GROUP = 4
"""Squares that are looked at in one go."""


@dataclass(frozen=True)
class Square:
    """A part of every section: voxels [y0, y1) and [x0, x1)."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def voxels(self) -> int:
        """Of one section."""
        return (self.y1 - self.y0) * (self.x1 - self.x0)

    def region(self, first: int, end: int) -> Region:
        """Its voxels in the sections [first, end)."""
        return Region((first, self.y0, self.x0), (end, self.y1, self.x1))


@dataclass(frozen=True)
class Sample:
    """What is looked at of a volume: ``squares`` in the sections [first, end); ``of``: squares that there are."""

    first: int
    end: int
    squares: tuple[Square, ...]
    of: int

    @classmethod
    def of_selection(cls, selection: Selection, most: int) -> "Sample":
        """At most ``most`` squares, of those that meet a block which was to be predicted."""
        area, wanted = _area(selection)
        rows, columns = (_parts(area.start[axis], area.stop[axis]) for axis in (1, 2))
        blocks = [max(1, n) for n in selection.block[1:]]
        found = [
            Square(*row, *column)
            for row, column in itertools.product(rows, columns)
            if wanted[
                row[0] // blocks[0] : math.ceil(row[1] / blocks[0]),
                column[0] // blocks[1] : math.ceil(column[1] / blocks[1]),
            ].any()
        ]
        if len(found) <= most:
            return cls(area.start[0], area.stop[0], tuple(found), len(found))
        # Every so-many-th would stand in one column. The seed is fixed: places are the same in every run.
        chosen = np.sort(np.random.default_rng(0).permutation(len(found))[:most])
        return cls(area.start[0], area.stop[0], tuple(found[n] for n in chosen.tolist()), len(found))

    @property
    def looks(self) -> list[tuple[int, int, tuple[Square, ...]]]:
        """What is looked at in one go: sections [first, end), and squares."""
        starts = range(self.first // RUN * RUN, self.end, RUN)
        runs = [(max(self.first, z), min(self.end, z + RUN)) for z in starts]
        groups = [self.squares[n : n + GROUP] for n in range(0, len(self.squares), GROUP)]
        return [(*run, group) for run, group in itertools.product(runs, groups)]

    @property
    def voxels(self) -> int:
        """That are looked at."""
        return (self.end - self.first) * sum(square.voxels for square in self.squares)


def _area(selection: Selection) -> tuple[Region, NDArray[np.bool_]]:
    """The box of what was to be predicted, and which columns of blocks (y, x) hold some of it."""
    counts = triple([math.ceil(n / b) for n, b in zip(selection.shape, selection.block, strict=True)])
    wanted = np.zeros(counts[1:], np.bool_)
    box = selection.box
    sections = np.arange(box.start[0], box.stop[0])
    if selection.bits is None:
        wanted[box.slices[1:]] = True
    else:
        flat = np.bitwise_or.reduce(selection.bits, axis=0)
        wanted[box.slices[1:]] = np.unpackbits(flat, axis=-1, count=box.shape[2]).astype(np.bool_)
        sections = sections[selection.bits.any(axis=(1, 2))]
    rows, columns = (np.flatnonzero(wanted.any(axis=axis)) for axis in (1, 0))
    spans = [(int(found[0]), int(found[-1]) + 1) for found in (sections, rows, columns)]
    voxels = [[a * n, b * n] for (a, b), n in zip(spans, selection.block, strict=True)]
    return Region.between(voxels).clip(selection.shape), wanted


def _parts(start: int, stop: int) -> list[tuple[int, int]]:
    """An axis in parts of :data:`EDGE` voxels, which begin where chunks do; what is left at the ends is shared out."""
    if stop - start <= 2 * EDGE:
        count = math.ceil((stop - start) / EDGE)
        cuts = [start + (stop - start) * n // count for n in range(count + 1)]
    else:
        # No part is narrower than half a square.
        inner = range(math.ceil(start / EDGE) * EDGE, stop, EDGE)
        cuts = [start, *(n for n in inner if n - start >= EDGE // 2 and stop - n >= EDGE // 2), stop]
    return list(itertools.pairwise(cuts))
