"""Scores of segments, as predicted, of a volume that is cut into blocks: exact for any cut.

The segments of the truth are the connected components of one class, the *objects*; those of the prediction are the
components of p(objects) > t for each threshold t. Each section is scored by itself with 4-connected components (2D),
and the volume as a whole with 6-connected ones (3D). The measures are those of :mod:`unetpipe.metrics.partitions`:
voxels of the truth that are in no object have no part, and voxels of objects that no segment holds are segments of
their own.

A worker labels the sections of one block (:func:`count`) and sends what overlaps and what touches; :class:`Segments`
merges the fragments of all blocks and adds up their overlaps.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.grid import Shape, triple
from unetpipe.metrics import partitions, seg
from unetpipe.metrics.components import (
    MOST,
    THRESHOLDS,
    Face,
    Fragments,
    Numbers,
    above,
    faces,
    facing,
    fragments,
    labelled,
    merged,
)
from unetpipe.metrics.partitions import Overlaps
from unetpipe.volume import IGNORE

Scores = dict[str, float | None]

_TRUTH = 0
"""Place of the truth among the masks; those of the thresholds follow in their order."""


@dataclass(frozen=True)
class Counts:
    """What one block gives: small beside its voxels.

    ``masks`` are the fragments of the truth and of each threshold, in this order. ``overlaps`` has for each threshold
    (3, n) int32: fragment of the truth, predicted fragment or 0, voxels. ``faces`` are the open faces of each mask;
    None if sections lie in this block as a whole. ``objects``: of a truth that numbers its objects; None of others.
    """

    masks: tuple[Fragments, ...]
    overlaps: tuple[Numbers, ...]
    faces: tuple[dict[tuple[int, int], Face], ...] | None
    objects: seg.Objects | None = None

    @property
    def sections(self) -> int:
        """Of the block."""
        return len(self.masks[_TRUTH].starts) - 1


def count(
    truth: NDArray[np.uint8],
    probability: NDArray[np.uint8],
    objects: int,
    *,
    below: bool,
    open_faces: bool,
    instances: NDArray[Any] | None = None,
) -> Counts:
    """Count the overlaps of fragments in one block, and find what links them to each other and beyond.

    Needs about 13 bytes for each voxel beside the arrays, and 4 more with ``instances``.

    Parameters
    ----------
    truth, probability:
        (z, y, x) uint8: labels, and the probability of ``objects`` where 255 is 1.
    objects:
        The label of the class whose components are the segments.
    below:
        Whether the first section is the last one of the block below, there for the links alone.
    open_faces:
        Whether sections go on in other blocks along y or x.
    instances:
        (z, y, x), numbers of objects in the block's own sections, 0 for none; None for a truth without them.

    Raises
    ------
    ValueError
        If the shapes differ, the block has no section of its own, or has more than ``MOST`` voxels.
    """
    if truth.shape != probability.shape:
        raise ValueError(f"truth of shape {truth.shape}, probability of shape {probability.shape}")
    if len(truth) <= below or truth.size > MOST:
        raise ValueError(f"a block of {truth.shape} (z, y, x), of which {int(below)} sections lie below")
    own = slice(int(below), None)
    true_labels, counts = labelled(truth == objects)
    masks = [fragments(true_labels, counts, below=below)]
    pairs, of_objects = [], []
    numbered = None if instances is None else seg.truth_of(instances, truth[own] != IGNORE)
    open_ = [faces(true_labels[own], masks[_TRUTH].starts)] if open_faces else []
    for threshold in THRESHOLDS:
        labels, counts = labelled(above(probability, threshold))
        found = fragments(labels, counts, below=below)
        pairs.append(_pairs(true_labels[own], masks[_TRUTH].starts, labels[own], found.starts))
        masks.append(found)
        if numbered is not None:
            of_objects.append(_pairs(numbered.voxels, np.zeros_like(found.starts), labels[own], found.starts))
        if open_faces:
            open_.append(faces(labels[own], found.starts))
    told = None if numbered is None else seg.Objects(numbered.sections, numbered.numbers, tuple(of_objects))
    return Counts(tuple(masks), tuple(pairs), tuple(open_) if open_faces else None, told)


class Segments:
    """What the blocks of a volume give together.

    Memory grows with the fragments of all masks and is held to the end: 4 bytes for a fragment, 12 for each of its
    overlaps, 8 for each link to another block. In 20 sections of 512 × 512 voxels of neural tissue, as one block and as
    blocks down to a single section, these came to 40 to 50 bytes for a fragment, or about 0.1 bytes for a voxel. The
    runs of fragments along an open face, 8 bytes each, are held until the block beside it comes, and those at the edge
    of the volume to the end. While scores are made, it is up to three times as much.

    Parameters
    ----------
    sections:
        Of the volume.
    """

    def __init__(self, sections: int) -> None:
        self._sections = sections
        self._blocks: dict[Shape, Counts] = {}
        self._extents: dict[int, tuple[int, int]] = {}
        # By the block with the smaller index and the axis that leads to the other one.
        self._waiting: dict[tuple[Shape, int], list[Face]] = {}
        self._links: dict[tuple[Shape, int], list[Numbers]] = {}

    def add(self, index: Shape, first_section: int, counts: Counts) -> None:
        """Take what one block gave; blocks come in any order.

        Parameters
        ----------
        index:
            Of the block in the regular grid of all blocks, (z, y, x).
        first_section:
            Its first own section in the volume.

        Raises
        ------
        ValueError
            If the block was there before, or lies elsewhere than the blocks beside it or beyond the volume, or comes
            without its open faces or the section below though its index says that it has neighbours there.
        """
        if index in self._blocks:
            raise ValueError(f"block {index} comes twice")
        extent = first_section, first_section + counts.sections
        if self._extents.setdefault(index[0], extent) != extent or extent[0] < 0 or extent[1] > self._sections:
            raise ValueError(f"block {index} with the sections from {extent[0]} to {extent[1] - 1} does not fit")
        if counts.faces is None and (index[1] or index[2]):
            raise ValueError(f"block {index} comes without its open faces")
        if (counts.masks[_TRUTH].fragments_below is None) != (index[0] == 0):
            raise ValueError(f"block {index} comes {'without the' if index[0] else 'with a'} section below")
        if counts.faces is not None:
            for axis in (1, 2):
                self._meet((index, axis), [mask[axis, -1] for mask in counts.faces], beyond=False)
                if index[axis]:
                    self._meet((_next(index, axis, -1), axis), [mask[axis, 0] for mask in counts.faces], beyond=True)
        self._blocks[index] = replace(counts, faces=None)

    @property
    def sizes(self) -> tuple[int, int]:
        """How many fragments are held, of all masks together, and how many overlaps, of all thresholds."""
        return (
            sum(mask.count for block in self._blocks.values() for mask in block.masks),
            sum(pairs.shape[1] for block in self._blocks.values() for pairs in block.overlaps),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that are held."""
        blocks = self._blocks.values()
        arrays = [array for block in blocks for m in block.masks for array in (m.starts, m.bodies, m.below)]
        arrays += [pairs for block in blocks for pairs in block.overlaps]
        arrays += [pairs for block in blocks if block.objects is not None for pairs in block.objects.overlaps]
        arrays += [links for masks in self._links.values() for links in masks]
        arrays += [
            array for waiting in self._waiting.values() for face in waiting for array in (face.ends, face.fragments)
        ]
        return sum(array.nbytes for array in arrays)

    def sections(self) -> list[list[Scores]]:
        """Scores in 2D: for each threshold those of each section. None where a section has no voxel in an object.

        Raises
        ------
        ValueError
            If a block is missing.
        """
        self._check()
        result = [self._unscored() for _ in THRESHOLDS]
        for first, blocks in self._slabs():
            truth, section = self._truth(blocks)
            for threshold in range(len(THRESHOLDS)):
                found = self._found(truth, self._segments(blocks, 1 + threshold), threshold)
                for z, part in _by_section(found, section):
                    result[threshold][first + z] = partitions.scores(part)
        return result

    def one_segment(self) -> list[Scores]:
        """Scores in 2D of a prediction that holds each section for a single segment.

        Raises
        ------
        ValueError
            If a block is missing.
        """
        self._check()
        result = self._unscored()
        for first, blocks in self._slabs():
            truth, section = self._truth(blocks)
            # Which prediction it is does not matter: each voxel of the truth stands in the overlaps of any.
            every = {index: np.zeros(self._blocks[index].masks[1].count + 1, np.int32) for index in blocks}
            found = self._found(truth, every, 0)
            for z, part in _by_section(replace(found, predicted=np.ones_like(found.predicted)), section):
                result[first + z] = partitions.scores(part)
        return result

    def volume(self) -> list[Scores]:
        """Scores in 3D, for each threshold.

        Raises
        ------
        ValueError
            If a block is missing.
        """
        self._check()
        blocks = list(self._blocks)
        truth = self._segments(blocks, _TRUTH, through=True)
        return [
            partitions.scores(self._found(truth, self._segments(blocks, 1 + threshold, through=True), threshold))
            for threshold in range(len(THRESHOLDS))
        ]

    def objects(self) -> list[list[seg.Scores]]:
        """Scores of the truth's numbered objects: for each threshold those of each section.

        Raises
        ------
        ValueError
            If a block is missing, or came without ``instances``.
        """
        self._check()
        result = [[np.zeros(0) for _ in range(self._sections)] for _ in THRESHOLDS]
        for first, blocks in self._slabs():
            there = [block for index in blocks if (block := self._blocks[index].objects) is not None]
            if len(there) < len(blocks):
                raise ValueError("a block came without the numbers of its objects")
            section, numbers = seg.renumbered(there)
            sections = self._blocks[blocks[0]].sections
            ends = np.searchsorted(section, np.arange(1, sections))
            for threshold, scored in enumerate(result):
                predicted = self._segments(blocks, 1 + threshold)
                found = partitions.summed(
                    [
                        partitions.renumbered(Overlaps(*block.overlaps[threshold]), mine, predicted[index])
                        for index, block, mine in zip(blocks, there, numbers, strict=True)
                    ]
                )
                scored[first : first + sections] = np.split(seg.scores(found, len(section)), ends)
        return result

    def _meet(self, place: tuple[Shape, int], masks: list[Face], *, beyond: bool) -> None:
        """Link the fragments on both sides of the face between two blocks, if those of the other side came before."""
        other = self._waiting.pop(place, None)
        if other is None:
            self._waiting[place] = masks
        else:
            sides = (other, masks) if beyond else (masks, other)
            self._links[place] = [facing(a, b) for a, b in zip(*sides, strict=True)]

    def _check(self) -> None:
        """Each block that the grid must have is there, and fits onto the one below."""
        grid = [max((index[axis] for index in self._blocks), default=-1) + 1 for axis in range(3)]
        if len(self._blocks) != math.prod(grid):
            raise ValueError(f"{len(self._blocks)} blocks in a grid of {triple(grid)}")
        firsts, ends = zip(*sorted(self._extents.values()), strict=True) if self._extents else ((), ())
        if (*firsts, self._sections) != (0, *ends):
            raise ValueError(f"blocks with the sections from {firsts} to before {ends}, of {self._sections}")
        for index, block in self._blocks.items():
            for axis in (1, 2):
                if index[axis] and (_next(index, axis, -1), axis) not in self._links:
                    raise ValueError(f"block {_next(index, axis, -1)} came without its open faces")
            if index[0]:
                below = self._blocks[_next(index, 0, -1)]
                for mask, mask_below in zip(block.masks, below.masks, strict=True):
                    if mask.fragments_below != mask_below.starts[-1] - mask_below.starts[-2]:
                        raise ValueError(f"the section below block {index} is not the last one of the block below")

    def _unscored(self) -> list[Scores]:
        return [partitions.scores(partitions.summed([])) for _ in range(self._sections)]

    def _truth(self, blocks: Sequence[Shape]) -> tuple[dict[Shape, Numbers], NDArray[np.int64]]:
        """Segments of the truth within sections, and the section of each, counted within these blocks."""
        truth = self._segments(blocks, _TRUTH)
        section = np.zeros(sum(len(numbers) for numbers in truth.values()), np.int64)
        for index in blocks:
            section[truth[index][1:]] = self._blocks[index].masks[_TRUTH].sections()
        return truth, section

    def _slabs(self) -> Iterator[tuple[int, list[Shape]]]:
        """First section and blocks of each layer of blocks."""
        slabs = defaultdict(list)
        for index in self._blocks:
            slabs[index[0]].append(index)
        for z, blocks in slabs.items():
            yield self._extents[z][0], blocks

    def _segments(self, blocks: Sequence[Shape], mask: int, *, through: bool = False) -> dict[Shape, Numbers]:
        """For each block, the segment of each of its fragments.

        Segments are numbered from 1 through all ``blocks``. They are components within sections, or ``through``
        sections; what links ``blocks`` to others has no part.
        """
        found = {index: self._blocks[index].masks[mask] for index in blocks}
        # What a fragment is a part of within its block: itself in 2D, its body in 3D.
        nodes = {index: f.bodies if through else np.arange(f.count + 1, dtype=np.int32) for index, f in found.items()}
        ends = np.cumsum([int(node.max()) for node in nodes.values()])
        before = dict(zip(nodes, [0, *ends.tolist()], strict=False))
        links = [np.zeros((0, 2), np.int64)]
        for index in blocks:
            for axis in (1, 2):
                if (index, axis) in self._links:
                    one, other = self._links[index, axis][mask].T
                    beside = _next(index, axis, 1)
                    links.append(
                        np.stack([nodes[index][one] + before[index], nodes[beside][other] + before[beside]], 1)
                    )
            if through and index[0]:
                below = _next(index, 0, -1)
                fragment, body = found[index].below.T
                lower = nodes[below][fragment + found[below].starts[-2]]
                links.append(np.stack([lower + before[below], body + before[index]], 1))
        segments = merged(int(ends[-1]), np.concatenate(links))
        return {index: np.where(node > 0, segments[node + before[index]], 0) for index, node in nodes.items()}

    def _found(self, truth: dict[Shape, Numbers], predicted: dict[Shape, Numbers], threshold: int) -> Overlaps:
        """Overlaps of segments, from those of the fragments of the same blocks."""
        return partitions.summed(
            [
                partitions.renumbered(
                    Overlaps(*self._blocks[index].overlaps[threshold]), truth[index], predicted[index]
                )
                for index in truth
            ]
        )


def _pairs(truth: Numbers, truth_starts: Numbers, predicted: Numbers, predicted_starts: Numbers) -> Numbers:
    """(3, n) int32: overlaps of the fragments of a block, from the labels of its sections."""
    result = [np.zeros((3, 0), np.int32)]
    for z, sections in enumerate(zip(truth, predicted, strict=True)):
        found = partitions.overlaps(*sections)
        numbers = np.where(found.predicted > 0, found.predicted + predicted_starts[z], 0)
        result.append(np.stack([found.truth + truth_starts[z], numbers, found.voxels]).astype(np.int32))
    return np.concatenate(result, axis=1)


def _by_section(found: Overlaps, section: NDArray[np.int64]) -> Iterator[tuple[int, Overlaps]]:
    """Part overlaps by the section in which the segment of the truth lies."""
    where = section[found.truth]
    order = np.argsort(where, kind="stable")
    sections, counts = np.unique(where, return_counts=True)
    for z, last, size in zip(sections.tolist(), np.cumsum(counts).tolist(), counts.tolist(), strict=True):
        part = order[last - size : last]
        yield z, Overlaps(found.truth[part], found.predicted[part], found.voxels[part])


def _next(index: Shape, axis: int, step: int) -> Shape:
    """The block beside ``index``."""
    return triple([i + step * (a == axis) for a, i in enumerate(index)])
