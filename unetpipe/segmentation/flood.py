"""Seeded watershed of a volume that is cut into pieces: the same for any cut.

All voxels have one order: the larger probability first, of equal ones that with the smaller index in the volume. An
edge between two neighbours ranks by its later voxel, then by its earlier one. So no two edges rank alike, and what
grows from the seeds is the one minimum spanning forest that is rooted in them: edges are taken in their order, but for
those that would join two seeds (Cousty et al. 2009, "Watershed cuts: minimum spanning forests and the drop of water
principle", doi:10.1109/TPAMI.2008.173).

The first edge of a voxel that is no seed leads to its first neighbour, if that comes before it: it is always taken, for
the voxel has no other edge yet. So a voxel belongs where its steepest ascent ends: in a seed, or at a local maximum.
That can be followed piece by piece. What is left are these basins, and of the edges between two of them the first one;
their number grows with seeds and maxima, and the forest of basins gives that of voxels.

::

  piece A        | piece B             A: the ascent from a leaves the piece: an exit, the label of all that leads to it
   ...  a -> a --|-> b -> b -> seed    B: b is on the face, and has the label of the seed
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from unetpipe.grid import Region, Shape
from unetpipe.metrics.components import Numbers
from unetpipe.segmentation.fragments import labelled, packed, unpacked

_WAYS = ((0, -1), (1, -1), (2, -1), (2, 1), (1, 1), (0, 1))
"""To the neighbours, by axis and step, in the order of their indices in the volume."""

_INDEX_BITS = 52
"""For the index of a voxel in the volume; its byte is above them."""


@dataclass(frozen=True)
class Exits:
    """Where ascents leave a piece; entry i is that of the label ``first + i``.

    ``axes`` and ``steps`` tell through which face, ``places`` where in it, read row by row.
    """

    axes: NDArray[np.int8]
    steps: NDArray[np.int8]
    places: Numbers


@dataclass(frozen=True)
class Edges:
    """Pairs of labels that have neighbouring voxels, and the rank of the first edge between them.

    ``pairs`` is (n, 2), the smaller label first, and no pair comes twice. ``ranks`` is (n, 2) int64, of the later and
    of the earlier voxel: the larger, the earlier in order.
    """

    pairs: NDArray[np.int64]
    ranks: NDArray[np.int64]

    @classmethod
    def first(cls, pairs: NDArray[np.integer], ranks: NDArray[np.int64]) -> "Edges":
        """Of each pair, the first edge; none of a label with itself. ``pairs`` and ``ranks`` (n, 2): in any order."""
        ranks = np.sort(ranks, axis=1)
        low, high = pairs.min(axis=1).astype(np.int64), pairs.max(axis=1).astype(np.int64)
        apart = low != high
        low, high, ranks = low[apart], high[apart], ranks[apart]
        order = np.lexsort((ranks[:, 1], ranks[:, 0], high, low))
        low, high, ranks = low[order], high[order], ranks[order]
        last = np.ones(len(low), np.bool_)
        last[:-1] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
        return cls(np.stack([low[last], high[last]], axis=1), ranks[last])


@dataclass(frozen=True)
class Flooded:
    """The basins of one piece.

    ``labels`` (z, y, x) int32: seeds are 1 … ``seeds``, maxima go on to ``basins``, exits to the last.
    """

    labels: Numbers
    seeds: int
    basins: int
    exits: Exits
    edges: Edges

    @property
    def last(self) -> int:
        """The last label."""
        return self.basins + len(self.exits.places)

    def to_bytes(self, values: NDArray[np.uint8]) -> bytes:
        """What :meth:`Known.from_bytes` needs; ``values`` as :func:`flood` took them."""
        own = values[1:-1, 1:-1, 1:-1]
        arrays: dict[str, NDArray[Any]] = {
            "basins": np.array(self.basins), "axes": self.exits.axes, "steps": self.exits.steps,
            "places": self.exits.places, "pairs": self.edges.pairs, "ranks": self.edges.ranks,
        }  # fmt: skip
        for axis in range(3):
            beside = tuple(slice(None) if a == axis else np.s_[1:-1] for a in range(3))
            arrays |= {f"own {axis}": np.take(own, -1, axis), f"beyond {axis}": np.take(values[beside], -1, axis)}
        return packed(arrays)


@dataclass(frozen=True)
class Known:
    """What is kept of the basins of a piece, beside their labels.

    ``faces``: by axis, the values of the piece's last plane along it, and of the plane beyond.
    """

    basins: int
    exits: Exits
    edges: Edges
    faces: tuple[tuple[NDArray[np.uint8], NDArray[np.uint8]], ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> "Known":
        """What :meth:`Flooded.to_bytes` gave."""
        found = unpacked(data)
        return cls(
            int(found["basins"]),
            Exits(found["axes"], found["steps"], found["places"]),
            Edges(found["pairs"], found["ranks"]),
            tuple((found[f"own {axis}"], found[f"beyond {axis}"]) for axis in range(3)),
        )


def flood(values: NDArray[np.uint8], low: int, high: int, region: Region, shape: Shape) -> Flooded:
    """Find the basins of a piece.

    Parameters
    ----------
    values:
        Of ``region``, and of one voxel more on each side of each axis; 0 there where there is none.
    low, high:
        A voxel is in a basin above ``low``, and in a seed above ``high``.
    shape:
        Of the volume.
    """
    own = values[1:-1, 1:-1, 1:-1]
    labels, seeds = labelled(own > high, within_sections=False)
    belt = np.flatnonzero((own > low) & (own <= high))
    at = np.stack(np.unravel_index(belt, own.shape)) + 1
    way = _steepest(values, at)
    rises = way >= 0
    axes, steps = (np.array(column, np.int8)[way] for column in zip(*_WAYS, strict=True))
    target = at - 1
    np.add.at(target, (axes[rises], np.flatnonzero(rises)), steps[rises])
    inside = rises & ((target >= 0) & (target < np.array(own.shape)[:, None])).all(axis=0)
    leaves = rises & ~inside
    found = np.zeros(belt.size, np.int32)
    basins = seeds + int((~rises).sum())
    found[~rises] = np.arange(seeds + 1, basins + 1)
    found[leaves] = np.arange(basins + 1, basins + 1 + int(leaves.sum()))
    flat = labels.reshape(-1)
    flat[belt] = found
    _follow(flat, belt[inside], np.ravel_multi_index(tuple(target[:, inside]), own.shape))
    return Flooded(
        labels, seeds, basins, _exits(axes, steps, at - 1, leaves, own.shape), _within(labels, own, region, shape)
    )


def _steepest(values: NDArray[np.uint8], at: NDArray[np.intp]) -> NDArray[np.int8]:
    """For each place (3, n), the way to its first neighbour in the order of voxels; -1 where that comes after it."""
    here = values[tuple(at)]
    best = np.zeros_like(here)
    way = np.full(here.shape, -1, np.int8)
    for number, (axis, step) in enumerate(_WAYS):
        there = values[tuple(index + step if a == axis else index for a, index in enumerate(at))]
        # Of equal ones the first way stays.
        better = there > best
        best[better], way[better] = there[better], number
    before = (best > here) | ((best == here) & (way < len(_WAYS) // 2))
    return np.where(before, way, np.int8(-1))


def _follow(flat: Numbers, voxels: NDArray[np.intp], targets: NDArray[np.intp]) -> None:
    """Give each of ``voxels`` the label at the end of its way: each leads to its target."""
    onward = np.zeros(flat.size, np.int32)
    onward[voxels] = targets
    while voxels.size:
        # Each step doubles the length of the ways.
        ends = onward[voxels]
        known = flat[ends] > 0
        flat[voxels[known]] = flat[ends[known]]
        voxels, ends = voxels[~known], ends[~known]
        onward[voxels] = onward[ends]


def _exits(
    axes: NDArray[np.int8], steps: NDArray[np.int8], at: NDArray[np.intp], leaves: NDArray[np.bool_], shape: Shape
) -> Exits:
    places = np.zeros(int(leaves.sum()), np.int32)
    for axis in range(3):
        through = axes[leaves] == axis
        one, other = (a for a in range(3) if a != axis)
        places[through] = at[one][leaves][through] * shape[other] + at[other][leaves][through]
    return Exits(axes[leaves], steps[leaves], places)


def rank(values: NDArray[np.uint8], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of voxels in the order of all: the larger, the earlier."""
    return (values.astype(np.int64) << _INDEX_BITS) + ((1 << _INDEX_BITS) - 1 - indices)


def _within(labels: Numbers, values: NDArray[np.uint8], region: Region, shape: Shape) -> Edges:
    """The first edges between labels of one piece."""
    pairs, ranks = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
    for axis in range(3):
        one, other = (tuple(part if a == axis else slice(None) for a in range(3)) for part in (np.s_[:-1], np.s_[1:]))
        where = np.nonzero((labels[one] != labels[other]) & (labels[one] > 0) & (labels[other] > 0))
        beyond = tuple(index + (a == axis) for a, index in enumerate(where))
        found = []
        for place in (where, beyond):
            z, y, x = (index + start for index, start in zip(place, region.start, strict=True))
            found.append(rank(values[place], (z * shape[1] + y) * shape[2] + x))
        pairs.append(np.stack([labels[where], labels[beyond]], axis=1).astype(np.int64))
        ranks.append(np.stack(found, axis=1))
    return Edges.first(np.concatenate(pairs), np.concatenate(ranks))


def forest(seeds: NDArray[np.bool_], edges: Edges) -> Numbers:
    """Which seed each basin belongs to.

    Parameters
    ----------
    seeds:
        (basins + 1,): which basins are seeds; basin 0 is none at all.
    edges:
        Between basins.

    Returns
    -------
    (basins + 1,) int32: a number for each seed and all that grows from it, from 1; 0 for what no seed reaches.
    """
    nodes, count = len(seeds), len(edges.pairs)
    order = np.lexsort((edges.ranks[:, 1], edges.ranks[:, 0]))[::-1]
    weights = np.empty(count)
    weights[order] = np.arange(2, count + 2)
    # All seeds hang on node 0, by edges that come before all others: no two are joined in another way.
    rooted = np.flatnonzero(seeds)
    rows = np.concatenate([np.zeros(len(rooted), np.int64), edges.pairs[:, 0]])
    columns = np.concatenate([rooted, edges.pairs[:, 1]])
    graph = coo_array((np.concatenate([np.ones(len(rooted)), weights]), (rows, columns)), shape=(nodes, nodes))
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    grown = (tree.row > 0) & (tree.col > 0)
    kept = coo_array((tree.data[grown], (tree.row[grown], tree.col[grown])), shape=(nodes, nodes))
    components = connected_components(kept, directed=False)[1]
    numbers = np.zeros(components.max(initial=0) + 1, np.int32)
    numbers[components[rooted]] = np.arange(1, len(rooted) + 1)
    found: Numbers = numbers[components]
    return found
