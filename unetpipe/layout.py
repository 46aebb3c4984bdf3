"""A layout: how a volume is cut, and what that costs by what a call of the engine costs. Pure arithmetic."""

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from unetpipe.grid import Plan, Shape

IN_FLIGHT = 3
"""Blocks at a time in a worker, each with a thread: one is read, one is computed, one is written."""

_ROUNDS = 50
"""Blocks of each worker: of more, the wait for the last one no longer counts."""


@dataclass(frozen=True)
class Call:
    """One call of an engine: ``batch`` tiles of ``tile`` (z, y, x)."""

    tile: Shape
    batch: int

    @property
    def voxels(self) -> int:
        """That the network reads."""
        return self.batch * math.prod(self.tile)

    def __str__(self) -> str:
        return f"{self.batch} x {' x '.join(map(str, self.tile))}"


@dataclass(frozen=True)
class Rate:
    """What calls of one shape cost, while as many workers are busy as will predict.

    Parameters
    ----------
    seconds_per_call:
        Of each worker, beside the others.
    seconds_per_voxel:
        To read what a voxel of the result needs, and to encode and write it.
    start_seconds:
        From the start of a worker to its first call.
    memory_mb:
        The most that a worker held, with one call in hand.
    overlaps:
        Whether reading and writing need nothing that the calls need too.
    library, host, measured:
        With what, where and when this was measured.
    mirror:
        Axes along which each tile was mirrored as well: all its mirror images are in the seconds of a call.
    """

    call: Call
    workers: int
    threads: int
    seconds_per_call: float
    seconds_per_voxel: float
    start_seconds: float
    memory_mb: float
    overlaps: bool
    library: str
    host: str
    measured: str
    mirror: tuple[str, ...] = ()


Measure = Callable[[Call], Rate]
"""Measures calls of one shape; UserError if the engine cannot take them here."""


@dataclass(frozen=True)
class Limits:
    """``memory_mb``: of each worker. ``block_seconds``: of each block. ``classes``: channels of the result."""

    workers: int
    memory_mb: float
    block_seconds: float
    classes: int


@dataclass(frozen=True)
class Layout:
    """A plan, and what it costs."""

    plan: Plan
    rate: Rate
    limits: Limits

    @property
    def tiles(self) -> int:
        """That the volume is cut into; those that reach beyond it count like all others."""
        return sum(count * tiles for count, tiles, _ in _kinds(self.plan))

    @property
    def block_seconds(self) -> float:
        """Of a whole block."""
        return max(self._seconds(tiles, voxels) for _, tiles, voxels in _kinds(self.plan))

    @property
    def work_seconds(self) -> float:
        """From the first call to the end of the last block."""
        blocks = math.prod(self.plan.block_counts)
        if blocks > _ROUNDS * self.limits.workers:
            total = sum(count * self._seconds(tiles, voxels) for count, tiles, voxels in _kinds(self.plan))
            return total / self.limits.workers
        # Whoever is free takes the next block.
        free = [0.0] * min(self.limits.workers, blocks)
        for block in self.plan.blocks():
            tiles = tiles_of(block.write.shape, self.plan.kept)
            heapq.heapreplace(free, free[0] + self._seconds(tiles, block.write.voxels))
        return max(free)

    @property
    def seconds(self) -> float:
        """From the start of the workers to the end of the last block."""
        return self.rate.start_seconds + self.work_seconds

    @property
    def voxels_per_second(self) -> float:
        """Of the volume, once the workers have started."""
        return math.prod(self.plan.shape) / self.work_seconds

    @property
    def memory_mb(self) -> float:
        """Of a worker, in megabytes (2**20 bytes): what its calls need, and the blocks that it holds."""
        block = next(self.plan.blocks())
        # Grey values as float32, and once more while they are normalised; the result, and once more encoded.
        size = 8 * block.read.voxels + 2 * self.limits.classes * block.write.voxels
        return self.rate.memory_mb + IN_FLIGHT * size / 2**20

    def _seconds(self, tiles: int, voxels: int) -> float:
        calls = math.ceil(tiles / self.plan.batch) * self.rate.seconds_per_call
        rest = voxels * self.rate.seconds_per_voxel
        return max(calls, rest) if self.rate.overlaps else calls + rest


def tiles_of(shape: Shape, kept: Shape) -> int:
    """How many tiles, of which each keeps ``kept``, a box of ``shape`` takes."""
    return math.prod(math.ceil(n / k) for n, k in zip(shape, kept, strict=True))


def _kinds(plan: Plan) -> list[tuple[int, int, int]]:
    """How many blocks there are of each kind, and their tiles and voxels: those at the far ends are smaller."""
    along = []
    for size, block, kept in zip(plan.shape, plan.block, plan.kept, strict=True):
        count = math.ceil(size / block)
        last = size - (count - 1) * block
        along.append([(n, math.ceil(part / kept), part) for n, part in ((count - 1, block), (1, last)) if n])
    kinds = (tuple(zip(*three, strict=True)) for three in itertools.product(*along))
    return [(math.prod(counts), math.prod(tiles), math.prod(sizes)) for counts, tiles, sizes in kinds]
