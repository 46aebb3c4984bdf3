"""How a prediction is cut for segmentation: into pieces of its blocks, each a shard of the result."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unetpipe.grid import Block, Plan, Region, Shape, triple
from unetpipe.selection import Selection

_AT_ONCE = 1 << 24
"""Voxels of a piece, unless a single chunk has more."""


@dataclass(frozen=True)
class Cut:
    """The pieces of a volume: whole chunks, of which those of one block of the plan fill it.

    So a piece is read without touching a chunk that belongs to another, and was predicted as a whole or not at all.
    """

    plan: Plan
    selection: Selection
    piece: Shape

    @classmethod
    def of(cls, plan: Plan, selection: Selection) -> "Cut":
        """With the largest pieces that a worker should have in memory."""
        return cls(plan, selection, _piece(plan.block, plan.chunk))

    @property
    def shape(self) -> Shape:
        """Voxels of the volume along (z, y, x)."""
        return self.plan.shape

    @property
    def counts(self) -> Shape:
        """Pieces along (z, y, x)."""
        return triple([math.ceil(n / p) for n, p in zip(self.shape, self.piece, strict=True)])

    def indices(self) -> Iterator[Shape]:
        """Of the pieces that were predicted, x fastest; lazily."""
        for index in itertools.product(*map(range, self.counts)):
            if self.wants(triple(index)):
                yield triple(index)

    @property
    def total(self) -> int:
        """The pieces that were predicted."""
        return sum(1 for _ in self.indices())

    def wants(self, index: Shape) -> bool:
        """Whether the block of a piece was to be predicted."""
        start = self.region(index).start
        block = triple([a // n for a, n in zip(start, self.plan.block, strict=True)])
        return self.selection.wants(Block(self.plan, block))

    def region(self, index: Shape) -> Region:
        """The voxels of a piece."""
        start = [i * n for i, n in zip(index, self.piece, strict=True)]
        return Region.of(start, self.piece).clip(self.shape)

    def number(self, index: Shape) -> int:
        """The place of a piece among all, x fastest."""
        return int(np.ravel_multi_index(index, self.counts))

    def beyond(self, index: Shape, axis: int) -> Shape | None:
        """The next piece along ``axis`` that was predicted; None if there is none."""
        found = triple([i + (a == axis) for a, i in enumerate(index)])
        return found if found[axis] < self.counts[axis] and self.wants(found) else None


def _piece(block: Shape, chunk: Shape) -> Shape:
    """The largest equal part of a block that is whole chunks and within :data:`_AT_ONCE`; long along x, as rows are."""
    piece = list(block)
    for axis in range(3):
        chunks = block[axis] // chunk[axis]
        for parts in range(1, chunks + 1):
            if chunks % parts == 0:
                piece[axis] = block[axis] // parts
                if math.prod(piece) <= _AT_ONCE:
                    return triple(piece)
    return triple(piece)
