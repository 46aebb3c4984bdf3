"""What is counted in one piece of a volume, and what the pieces add up to.

A volume is cut into runs of sections, each of whole sections where these are small enough, and else of rectangles.
Labels, probabilities and image are read once for all scores, a slab of sections at a time; only to join components
through the cut between two runs is one section read again.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.arrays import Array, open_array
from unetpipe.extent import Extent
from unetpipe.files import read_json
from unetpipe.grid import Plan, Region, Shape
from unetpipe.metrics import baseline, confusion, segments, thinned, thresholds
from unetpipe.selection import Selection, read_extent
from unetpipe.volume import IGNORE, Image, VolumeFile, read_labels, read_mirrored

_AT_ONCE = 1 << 24
"""Voxels whose components are labelled at once, unless a single section has more."""

_TASKS_PER_WORKER = 4
_MOST_SLABS = 16

Scores = dict[str, float | None]


@dataclass(frozen=True)
class Cut:
    """How a volume of ``shape`` (z, y, x) is cut for scoring.

    ``slab`` voxels are read at once, ``at_once`` sections of them are labelled at once, and ``slabs`` along z are the
    task of one worker. ``thinned``: a section may be in memory as a whole, which some scores need.
    """

    shape: Shape
    slab: Shape
    at_once: int
    slabs: int
    thinned: bool

    @classmethod
    def of(cls, plan: Plan, largest_section: int, workers: int) -> "Cut":
        """Along the blocks of the prediction, so that no shard is read twice.

        Parameters
        ----------
        largest_section:
            Voxels of a section that is still read as a whole.
        """
        depth, height, width = plan.block
        thinned = plan.shape[1] * plan.shape[2] <= largest_section
        slab = (depth, plan.shape[1], plan.shape[2]) if thinned else (depth, height, width)
        fitting = (n for n in range(1, depth + 1) if depth % n == 0 and n * slab[1] * slab[2] <= _AT_ONCE)
        counts = [math.ceil(n / s) for n, s in zip(plan.shape, slab, strict=True)]
        slabs = math.prod(counts) // (_TASKS_PER_WORKER * workers)
        return cls(plan.shape, slab, max(fitting, default=1), min(max(1, slabs), _MOST_SLABS, counts[0]), thinned)

    @property
    def whole(self) -> bool:
        """Whether a slab holds whole sections."""
        return self.slab[1] >= self.shape[1] and self.slab[2] >= self.shape[2]

    def runs(self) -> list[Region]:
        """The tasks."""
        steps = (self.slab[0] * self.slabs, *self.slab[1:])
        starts = itertools.product(*(range(0, n, step) for n, step in zip(self.shape, steps, strict=True)))
        return [Region.of(start, steps).clip(self.shape) for start in starts]

    def parts(self, region: Region, depth: int) -> Iterator[Region]:
        """``region`` in pieces of ``depth`` sections."""
        for z in range(region.start[0], region.stop[0], depth):
            yield Region((z, *region.start[1:]), (min(z + depth, region.stop[0]), *region.stop[1:]))

    def index(self, region: Region) -> Shape:
        """The place of a piece of ``at_once`` sections in the grid of all of them."""
        z, y, x = region.start
        return z // self.at_once, y // self.slab[1], x // self.slab[2]


@dataclass(frozen=True)
class Task:
    """All that a worker must know of one run; small, since it travels for each.

    ``probability`` is the address of the array; ``objects`` the class whose components are the segments; ``sigma``
    that of the baseline. ``allocated`` tells which blocks were predicted; None for all. ``instances``: whether
    objects that the labels number are compared.
    """

    volume: Path
    probability: str
    objects: int
    sigma: float
    cut: Cut
    region: Region
    allocated: Path | None = None
    instances: bool = False


@dataclass(frozen=True)
class Counts:
    """What one run gives.

    ``tables`` (sections, classes, classes), ``histograms`` (classes, 2, 256) and ``grey`` are those of
    :mod:`~unetpipe.metrics.confusion`, :mod:`~unetpipe.metrics.thresholds` and :mod:`~unetpipe.metrics.baseline`;
    ``segments`` holds the pieces, each with its place; ``thinned`` scores by section and threshold, of whole sections.
    """

    first: int
    tables: confusion.Table
    histograms: confusion.Table
    grey: confusion.Table
    segments: list[tuple[Shape, int, segments.Counts]]
    thinned: list[list[Scores]]


def count(task: Task) -> Counts:
    """Count the voxels of one run; runs in a worker."""
    place = _open(task.volume, task.probability, task.allocated)
    cut, region = task.cut, task.region
    tables, pieces, scores = [], [], []
    histograms: Any = 0
    grey: Any = 0
    below = _section_below(place, region, task.objects)
    for slab in cut.parts(region, cut.slab[0]):
        truth = place.truth(slab)
        numbers = place.numbers(slab) if task.instances else None
        probability = np.asarray(place.probability[(slice(None), *slab.slices)])
        classes = len(probability)
        blurred = baseline.blurred(place.image, slab, task.sigma)
        histograms = histograms + thresholds.count(truth, probability)
        for z, section in enumerate(truth):
            tables.append(confusion.count(section, confusion.most_likely(probability[:, z]), classes))
            grey = grey + baseline.count(blurred[z], section, classes)
            if cut.thinned:
                scores.append(thinned.section_scores(section, probability[task.objects, z], task.objects))
        for piece in cut.parts(slab, cut.at_once):
            here = piece.relative_to(slab.start).slices[0]
            labels, certainty = truth[here], probability[task.objects, here]
            if below is not None:
                labels, certainty = np.concatenate([below[0], labels]), np.concatenate([below[1], certainty])
            counts = segments.count(
                labels,
                certainty,
                task.objects,
                below=below is not None,
                open_faces=not cut.whole,
                instances=None if numbers is None else numbers[here],
            )
            pieces.append((cut.index(piece), piece.start[0], counts))
            below = labels[-1:], certainty[-1:]
    return Counts(region.start[0], np.stack(tables), histograms, grey, pieces, scores)


@dataclass
class Totals:
    """The whole volume: the sums over all runs, whatever their order."""

    tables: confusion.Table
    histograms: confusion.Table
    grey: confusion.Table
    segments: segments.Segments
    thinned: list[list[Scores]] | None

    @classmethod
    def of(cls, runs: Iterable[Counts], cut: Cut, classes: int) -> "Totals":
        """Add up the runs of a volume; thinned scores are None where sections were cut."""
        sections = cut.shape[0]
        totals = cls(
            tables=np.zeros((sections, classes, classes), np.int64),
            histograms=np.zeros((classes, 2, 256), np.int64),
            grey=np.zeros((classes + 1, baseline.BINS), np.int64),
            segments=segments.Segments(sections),
            thinned=[[] for _ in range(sections)] if cut.thinned else None,
        )
        for run in runs:
            here = slice(run.first, run.first + len(run.tables))
            totals.tables[here] += run.tables
            totals.histograms += run.histograms
            totals.grey += run.grey
            for index, first, counts in run.segments:
                totals.segments.add(index, first, counts)
            if totals.thinned is not None:
                totals.thinned[here] = run.thinned
        return totals


@dataclass(frozen=True)
class _Place:
    """What a worker keeps open of one volume."""

    image: Image
    labels: Array
    instances: Array | None
    probability: Array
    selection: Selection | None
    extent: Extent | None

    def truth(self, region: Region) -> NDArray[np.uint8]:
        """Class indices of ``region``; :data:`IGNORE` also where nothing was to be predicted."""
        labels = read_labels(self.labels, region, self.image.volume.shape)
        if self.selection is not None:
            labels[~self.selection.voxels(region)] = IGNORE
        if self.extent is not None:
            labels[~self.extent.voxels(region)] = IGNORE
        return labels

    def numbers(self, region: Region) -> NDArray[Any]:
        """Numbers of the objects in ``region``."""
        assert self.instances is not None  # noqa: S101 – they are asked for where they are
        return read_mirrored(self.instances, region, self.image.volume.shape, 0, complete=True)


@functools.lru_cache(maxsize=1)
def _open(volume: Path, probability: str, allocated: Path | None) -> _Place:
    source = VolumeFile.read(volume)
    selection, extent = None, None
    if allocated is not None:
        description = read_json(allocated)
        chosen = Selection.read(description)
        selection = chosen if chosen.is_part else None
        extent = read_extent(description, source)
    instances = None if source.instances is None else open_array(source.instances)
    labels = open_array(str(source.labels))
    return _Place(Image(source), labels, instances, open_array(probability), selection, extent)


def _section_below(place: _Place, region: Region, objects: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Labels and probability of the section before a run; None for the first run."""
    z = region.start[0]
    if z == 0:
        return None
    section = Region((z - 1, *region.start[1:]), (z, *region.stop[1:]))
    return place.truth(section), np.asarray(place.probability[(objects, *section.slices)])
