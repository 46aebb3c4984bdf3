"""Connected components of a mask that is cut into blocks: fragments, what links them, and what they become together.

A fragment is a 4-connected component of one section of one block. Two fragments belong together where they touch: in
one section across the face between two blocks, or in neighbouring sections one above the other. The links are what
remains of the voxels, and components of the graph of fragments are those of the whole volume: with the links within
sections the 4-connected components of each section, with all links the 6-connected components of the volume.

Fragments of a block are numbered from 1, section by section, in each section by a function of that section's mask
alone. So the last section of a block, labelled again by the block above, has the same fragments in the same order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unetpipe.metrics.partitions import overlaps

Numbers = NDArray[np.int32]

THRESHOLDS = tuple(tenths / 10 for tenths in range(1, 10))
"""Of the probability that a voxel is in an object."""

MOST = 2**31 - 1
"""Voxels of a block, and fragments of a mask: they are counted in 32 bits."""


def above(probability: NDArray[np.uint8], threshold: float) -> NDArray[np.bool_]:
    """Where p > threshold, with p = probability / 255.

    Parameters
    ----------
    probability:
        Of any shape, uint8.
    threshold:
        One of ``THRESHOLDS``.

    Raises
    ------
    ValueError
        If the threshold is another one.
    """
    if threshold not in THRESHOLDS:
        raise ValueError(f"a threshold of {threshold}, expected one of {THRESHOLDS}")
    # 10 v > 255 k for integers; rounding the right side down changes nothing, since v is whole.
    return probability > np.uint8(255 * round(10 * threshold) // 10)


@dataclass(frozen=True)
class Face:
    """The fragments along a face of a block, read row by row, as runs of equal numbers.

    ``ends`` is where each run ends, ``fragments`` its fragment or 0.
    """

    ends: Numbers
    fragments: Numbers


@dataclass(frozen=True)
class Fragments:
    """The fragments of one mask in one block.

    ``starts`` is (sections + 1,): section s has the fragments from ``starts[s] + 1`` to ``starts[s + 1]``. A body is a
    6-connected component of the block; ``bodies`` is (fragments + 1,), the body of each fragment, from 1; that of 0 is
    0. ``below`` is (n, 2): a fragment of the section below the block, as numbered there from 1, and the body that it
    touches. ``fragments_below`` is the number of fragments in that section; None if there is no section below.
    """

    starts: Numbers
    bodies: Numbers
    below: Numbers
    fragments_below: int | None

    @property
    def count(self) -> int:
        """Fragments in all sections."""
        return int(self.starts[-1])

    def sections(self) -> NDArray[np.int64]:
        """(fragments,): the section of each, counted from the block's first."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


def labelled(mask: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Label each section of a mask (z, y, x) by itself.

    Returns
    -------
    (z, y, x) int32, components of each section from 1 on, 4-connected; and (z,) int32, how many there are in each.
    """
    labels = np.empty(mask.shape, np.int32)
    counts = [label(section, output=out) for section, out in zip(mask, labels, strict=True)]
    return labels, np.array(counts, np.int32)


def fragments(labels: Numbers, counts: Numbers, *, below: bool) -> Fragments:
    """The fragments of one block.

    Parameters
    ----------
    labels, counts:
        As :func:`labelled` gives them.
    below:
        Whether the first section belongs to the block below, and is there for its links alone.
    """
    own = int(below)
    starts = np.concatenate([[0], np.cumsum(counts[own:])]).astype(np.int32)
    links = [
        touching(labels[z - 1], labels[z]) + starts[z - own - 1 : z - own + 1] for z in range(own + 1, len(labels))
    ]
    bodies = merged(int(starts[-1]), np.concatenate([np.zeros((0, 2), np.int32), *links]))
    return Fragments(
        starts=starts,
        bodies=bodies,
        below=touching(labels[0], bodies[labels[1]]) if below else np.zeros((0, 2), np.int32),
        fragments_below=int(counts[0]) if below else None,
    )


def faces(labels: Numbers, starts: Numbers) -> dict[tuple[int, int], Face]:
    """The four faces of a block through which sections go on.

    Parameters
    ----------
    labels:
        (z, y, x), the block's own sections as :func:`labelled` gives them.
    starts:
        As in :class:`Fragments`.

    Returns
    -------
    By axis, 1 or 2, and place along it: 0 is the first row or column, -1 the last.
    """
    return {(axis, place): _face(np.take(labels, place, axis), starts) for axis in (1, 2) for place in (0, -1)}


def touching(one: Numbers, other: Numbers) -> Numbers:
    """(n, 2): the pairs of numbers that lie at the same place of two arrays of one shape, each once, without 0."""
    found = overlaps(one, other)
    both = found.predicted > 0
    return np.stack([found.truth[both], found.predicted[both]], axis=1).astype(np.int32)


def facing(one: Face, other: Face) -> Numbers:
    """(n, 2): the pairs of fragments that touch where two faces lie against each other.

    Raises
    ------
    ValueError
        If they are not of one length.
    """
    if one.ends[-1] != other.ends[-1]:
        raise ValueError(f"a face of {one.ends[-1]} voxels against one of {other.ends[-1]}")
    ends = np.union1d(one.ends, other.ends)
    return touching(*(face.fragments[np.searchsorted(face.ends, ends)] for face in (one, other)))


def run_lengths(numbers: NDArray[np.integer]) -> Face:
    """A face from the number of the fragment, or 0, at each of its voxels."""
    numbers = numbers.reshape(-1)
    ends = np.append(np.flatnonzero(np.diff(numbers)) + 1, numbers.size)
    return Face(ends.astype(np.int32), numbers[ends - 1].astype(np.int32))


def merged(nodes: int, links: NDArray[np.integer]) -> Numbers:
    """Components of a graph.

    Parameters
    ----------
    nodes:
        Their number; they are counted from 1.
    links:
        (n, 2): pairs of nodes.

    Returns
    -------
    (nodes + 1,) int32: the component of each node, from 1; that of 0 is 0.

    Raises
    ------
    ValueError
        If there are more than ``MOST`` nodes.
    """
    if nodes > MOST:
        raise ValueError(f"{nodes} fragments, at most {MOST} can be merged")
    result = np.zeros(nodes + 1, np.int32)
    if nodes:
        one, other = links.T - 1
        graph = coo_array((np.ones(len(links), np.bool_), (one, other)), shape=(nodes, nodes))
        result[1:] = connected_components(graph, directed=False)[1] + 1
    return result


def _face(labels: Numbers, starts: Numbers) -> Face:
    return run_lengths(np.where(labels > 0, labels + starts[:-1, None], 0))
