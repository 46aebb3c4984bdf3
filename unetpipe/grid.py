"""Where blocks, tiles and their borders lie: pure integers, always (z, y, x).

A network without padding gives fewer voxels than it reads. ``border`` is what it loses on each side:

::

      read origin        write origin                         along one axis
      |                  |
      v                  v
      +------------------+------------------------------+-----------+------+
      |      border      |        kept (write)          |  dropped  |border|
      +------------------+------------------------------+-----------+------+
      |<------------------------- read (what the network sees) ----------->|

Pooling is not shift-invariant: only where the write origin of every call is a multiple of the product of poolings,
in coordinates of the volume, does a voxel come out the same however the volume is cut. Hence every origin here is
aligned, and what a tile computes beyond the last aligned voxel is dropped.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, int, int]

AXES = ("z", "y", "x")

MOST_KEPT = 1024
"""Voxels that a tile of one section keeps along y and x, where it is chosen; larger ones leave a processor's cache."""

MOST_KEPT_OF_A_STACK = (32, 192, 192)
"""Voxels (z, y, x) that a tile of a 3D network keeps, where it is chosen: together about as many."""


def triple(values: Sequence[int]) -> Shape:
    """Three integers (z, y, x) as a tuple; ValueError for any other length."""
    z, y, x = (int(value) for value in values)
    return z, y, x


@dataclass(frozen=True)
class Region:
    """A box of voxels, half open: from ``start`` to ``stop`` along (z, y, x). It may reach beyond a volume."""

    start: Shape
    stop: Shape

    @classmethod
    def of(cls, start: Sequence[int], shape: Sequence[int]) -> "Region":
        """The box of ``shape`` that begins at ``start``."""
        return cls(triple(start), triple([a + n for a, n in zip(start, shape, strict=True)]))

    @classmethod
    def between(cls, spans: Sequence[Sequence[int]]) -> "Region":
        """The box of ``[[z0, z1], [y0, y1], [x0, x1]]``, as in settings and JSON."""
        return cls(triple([start for start, _ in spans]), triple([stop for _, stop in spans]))

    @property
    def spans(self) -> list[list[int]]:
        """As :meth:`between` takes them."""
        return [[a, b] for a, b in zip(self.start, self.stop, strict=True)]

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in self.spans)

    @property
    def shape(self) -> Shape:
        """Voxels along (z, y, x)."""
        return triple([b - a for a, b in zip(self.start, self.stop, strict=True)])

    @property
    def voxels(self) -> int:
        """The number of voxels."""
        return math.prod(self.shape)

    @property
    def middle(self) -> Shape:
        """The voxel in its middle."""
        return triple([(a + b) // 2 for a, b in self.spans])

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """For indexing an array of the whole volume."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def grow(self, border: Sequence[int]) -> "Region":
        """Wider by ``border`` on both sides of each axis."""
        return Region(
            triple([a - b for a, b in zip(self.start, border, strict=True)]),
            triple([a + b for a, b in zip(self.stop, border, strict=True)]),
        )

    def clip(self, shape: Sequence[int]) -> "Region":
        """The part inside a volume of ``shape``."""
        return Region(
            triple([min(max(a, 0), n) for a, n in zip(self.start, shape, strict=True)]),
            triple([min(max(a, 0), n) for a, n in zip(self.stop, shape, strict=True)]),
        )

    def relative_to(self, origin: Sequence[int]) -> "Region":
        """The same box in coordinates that begin at ``origin``."""
        return Region.of([a - o for a, o in zip(self.start, origin, strict=True)], self.shape)


@dataclass(frozen=True)
class Geometry:
    """What a network does to shapes, per axis (z, y, x).

    ``border``: voxels lost on each side. ``pooling``: product of the poolings. ``base``: legal inputs are
    ``base + pooling * k``; the output is the input less twice the border. ``dimensions``: a network of 2 gives one
    section a call, of 3 a stack.
    """

    border: Shape
    pooling: Shape
    base: Shape
    dimensions: int = 2

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Geometry":
        """From JSON data, as ``dataclasses.asdict`` gives them."""
        shapes = {name: triple(data[name]) for name in ("border", "pooling", "base")}
        return cls(**shapes, dimensions=data["dimensions"])

    def output(self, tile: Sequence[int]) -> Shape:
        """Shape that comes out for an input of shape ``tile``."""
        return triple([n - 2 * b for n, b in zip(tile, self.border, strict=True)])

    def kept(self, tile: Sequence[int]) -> Shape:
        """The aligned part of the output: what consecutive tiles contribute."""
        return triple([n // p * p for n, p in zip(self.output(tile), self.pooling, strict=True)])

    def is_legal(self, tile: Sequence[int]) -> bool:
        """Whether the network can take ``tile`` and keeps at least one voxel of it."""
        return (self.dimensions == 3 or self.output(tile)[0] == 1) and all(
            (n - a) % p == 0 and k > 0
            for n, a, p, k in zip(tile, self.base, self.pooling, self.kept(tile), strict=True)
        )

    @property
    def most_kept(self) -> Shape:
        """Voxels (z, y, x) that a tile keeps at most, where it is chosen."""
        return MOST_KEPT_OF_A_STACK if self.dimensions == 3 else (1, MOST_KEPT, MOST_KEPT)

    def tile_for(self, kept: Sequence[int]) -> Shape:
        """The smallest legal input of which at least ``kept`` voxels are kept along each axis.

        A network of 2 dimensions gives one section, whatever is asked for along z.
        """
        depth = kept[0] if self.dimensions == 3 else 1
        tile = []
        for want, border, pooling, base in zip((depth, *kept[1:]), self.border, self.pooling, self.base, strict=True):
            aligned = math.ceil(want / pooling) * pooling
            least = aligned + 2 * border
            tile.append(base + max(0, math.ceil((least - base) / pooling)) * pooling)
        return triple(tile)


def unet_geometry(kernels: Sequence[Shape], poolings: Sequence[Shape], sections: int = 1) -> Geometry:
    """The geometry of an unpadded U-Net.

    Parameters
    ----------
    kernels:
        Of the convolutions of each level (z, y, x), from the top: one more than there are poolings; odd.
    poolings:
        Of each level but the lowest, (z, y, x).
    sections:
        That a network of 2 dimensions sees as channels.

    Each of the two convolutions of a level costs (kernel - 1) / 2 of its voxels a side, once on the way down and once
    on the way up; the lowest level is passed once. The size before every pooling must be a multiple of it. With 3 x 3
    convolutions and 2 x 2 poolings this gives the 572 -> 388 of arXiv:1505.04597, figure 1.
    """
    border, product, base = [], [], []
    for axis in range(3):
        scales = [math.prod(pooling[axis] for pooling in poolings[:level]) for level in range(len(kernels))]
        lost = [(kernel[axis] - 1) * scale for kernel, scale in zip(kernels, scales, strict=True)]
        border.append(2 * sum(lost[:-1]) + lost[-1])
        product.append(scales[-1])
        # Levels above have taken this much, of their own size, before the last pooling.
        base.append(2 * sum(lost[:-1]) % scales[-1])
    border[0] += (sections - 1) // 2
    return Geometry(triple(border), triple(product), triple(base), _dimensions(*kernels, *poolings))


def stack_geometry(kernels: Sequence[Shape], sections: int = 1) -> Geometry:
    """The geometry of two unpadded convolutions with each of ``kernels`` (z, y, x), odd, without pooling.

    ``sections``: as for :func:`unet_geometry`. Nothing is aligned: every size is legal that leaves a voxel.
    """
    return patch_geometry(kernels, [(1, 1, 1)] * (len(kernels) - 1), sections)


def patch_geometry(kernels: Sequence[Shape], poolings: Sequence[Shape], sections: int = 1) -> Geometry:
    """The geometry of a classifier of patches, which is applied to the patch around every voxel.

    The parameters are those of :func:`unet_geometry`. The patch is twice the border and the voxel itself. Where one
    that has a middle is a voxel longer than it needs to be, as with poolings of 2, its last voxel is not looked at.
    """
    lost = patch_losses(kernels, poolings)
    border = [-(-n // 2) for n in lost]
    border[0] += (sections - 1) // 2
    return Geometry(triple(border), (1, 1, 1), (0, 0, 0), _dimensions(*kernels, *poolings))


def patch_losses(kernels: Sequence[Shape], poolings: Sequence[Shape]) -> Shape:
    """Voxels (z, y, x) that the patch of :func:`patch_geometry` has at least, beside the one that comes out."""
    lost = [0, 0, 0]
    for axis in range(3):
        # From the bottom: a level gives one voxel of the level below for each whole pooling.
        for kernel, pooling in zip(reversed(kernels), reversed([*poolings, (1, 1, 1)]), strict=True):
            seen = (lost[axis] + 1) * pooling[axis] + 2 * (kernel[axis] - 1)
            lost[axis] = seen - 1
    return triple(lost)


def _dimensions(*shapes: Shape) -> int:
    return 2 if all(shape[0] == 1 for shape in shapes) else 3


@dataclass(frozen=True)
class Plan:
    """How one volume is cut: the shape of every call of the network, and of every block.

    ``block`` is what one worker writes at a time: whole shards. It consists of whole tiles' kept parts.
    """

    shape: Shape
    tile: Shape
    block: Shape
    chunk: Shape
    batch: int
    geometry: Geometry

    def __post_init__(self) -> None:
        kept = self.geometry.kept(self.tile)
        if not self.geometry.is_legal(self.tile):
            raise ValueError(f"the network cannot take a tile of {self.tile} (z, y, x)")
        if any(b % k for b, k in zip(self.block, kept, strict=True)):
            raise ValueError(f"a block of {self.block} does not consist of whole tiles, which keep {kept} (z, y, x)")
        if any(b % c for b, c in zip(self.block, self.chunk, strict=True)):
            raise ValueError(f"a block of {self.block} does not consist of whole chunks of {self.chunk} (z, y, x)")
        if self.batch < 1:
            raise ValueError(f"a batch of {self.batch} tiles")

    @property
    def kept(self) -> Shape:
        """Voxels that one tile contributes along (z, y, x)."""
        return self.geometry.kept(self.tile)

    @property
    def kept_fraction(self) -> float:
        """Kept voxels over voxels that the network reads."""
        return math.prod(self.kept) / math.prod(self.tile)

    @property
    def block_counts(self) -> Shape:
        """Blocks along (z, y, x)."""
        return triple([math.ceil(n / b) for n, b in zip(self.shape, self.block, strict=True)])

    def blocks(self) -> Iterator["Block"]:
        """All blocks, x fastest; lazily, since there can be millions."""
        for index in itertools.product(*(range(n) for n in self.block_counts)):
            yield Block(self, triple(index))


@dataclass(frozen=True)
class Block:
    """One block of a plan: ``write`` is its own alone, ``read`` is what the network must see for it."""

    plan: Plan
    index: Shape

    @property
    def name(self) -> str:
        """``z.y.x``: its key in the record of progress."""
        return ".".join(map(str, self.index))

    @property
    def write(self) -> Region:
        """The voxels that this block gives, within the volume."""
        start = [i * b for i, b in zip(self.index, self.plan.block, strict=True)]
        return Region.of(start, self.plan.block).clip(self.plan.shape)

    @property
    def shard(self) -> str:
        """The object that holds it, of an array (c, z, y, x) that has a shard for each block."""
        return "/".join(["c/0", *map(str, self.index)])

    def tiles(self) -> list[Region]:
        """Write regions of the tiles, x fastest: aligned, all of one shape, so the last reach beyond the volume."""
        kept, write = self.plan.kept, self.write
        starts = (range(a, b, k) for a, b, k in zip(write.start, write.stop, kept, strict=True))
        return [Region.of(start, kept) for start in itertools.product(*starts)]

    def read_of(self, tile: Region) -> Region:
        """What the network reads to give the write region ``tile``."""
        start = [a - b for a, b in zip(tile.start, self.plan.geometry.border, strict=True)]
        return Region.of(start, self.plan.tile)

    @property
    def read(self) -> Region:
        """The smallest box that holds the read regions of all tiles."""
        tiles = self.tiles()
        return Region(self.read_of(tiles[0]).start, self.read_of(tiles[-1]).stop)
