"""What is counted of a few squares in a run of sections, and what these add up to."""

import functools
import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from unetpipe.arrays import Array, open_array, use_threads
from unetpipe.metrics.confusion import most_likely
from unetpipe.quality.certainty import entropy
from unetpipe.quality.grey import band_voxels, closed, darkest_around, longest_band, sharpness
from unetpipe.quality.places import Cells, Place
from unetpipe.quality.squares import Square
from unetpipe.volume import IGNORE, Image, VolumeFile, read_labels

REACH = 8
"""Sections: how far away a neighbour may be, across sections that are missing."""

_USUAL_NM = 4.0
"""Of a pixel, where its size is not known."""


@dataclass(frozen=True)
class Look:
    """All that a worker must know: ``squares`` in the sections [first, end). Small, since it travels."""

    volume: Path
    probability: str
    first: int
    end: int
    squares: tuple[Square, ...]
    limit: float
    threads: int

    @property
    def name(self) -> str:
        """Of the look among those of its volume."""
        corner = self.squares[0]
        return f"{self.first}.{corner.y0}.{corner.x0}"


@dataclass(frozen=True)
class Seen:
    """What one look gives; lists have an entry for each section from ``first`` on.

    ``laplacian`` are voxels, sum and sum of squares over the squares with any contrast; ``empty`` the voxels of those
    without; ``band`` the longest dark band in voxels, None where there is no neighbour to compare with; ``digest`` of
    the grey values, None where all are one. ``voxels`` were predicted: ``entropy`` is the sum of theirs, ``uncertain``
    are those above the limit, ``classes`` those of each most likely class.
    """

    first: int
    laplacian: list[list[float]]
    empty: list[int]
    band: list[int | None]
    digest: list[str | None]
    voxels: list[int]
    entropy: list[float]
    uncertain: list[int]
    classes: list[list[int]]
    uncertain_places: list[Place]
    wrong_places: list[Place]

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Seen":
        """From the record."""
        data = {field.name: entry[field.name] for field in fields(cls)}
        for kind in ("uncertain_places", "wrong_places"):
            data[kind] = [Place.of(place) for place in data[kind]]
        return cls(**data)

    def entry(self, name: str) -> dict[str, Any]:
        """For the record."""
        return {"name": name, **asdict(self)}


def look(task: Look) -> Seen:
    """Count; runs in a worker."""
    source, image, probability, labels = _open(task.volume, task.probability, task.threads)
    cv2.setNumThreads(1)
    there = np.ones(source.shape[0], np.bool_)
    there[list(source.missing_sections)] = False
    sections = range(task.first, task.end)
    pixel = pixel_nm(source)
    totals = _Totals(task.first, there[task.first : task.end], probability.shape[0])
    for square in task.squares:
        box = square.region(task.first, task.end)
        totals.add_grey(image, square, sections, there, pixel)
        truth = None if labels is None else read_labels(labels, box, source.shape)
        totals.add_probability(np.asarray(probability[(slice(None), *box.slices)]), square, task.limit, truth)
    return totals.seen()


class _Totals:
    """What the squares of a look add up to."""

    def __init__(self, first: int, there: NDArray[np.bool_], classes: int) -> None:
        self.first, sections = first, len(there)
        self.laplacian = np.zeros((sections, 3))
        self.empty, self.voxels, self.uncertain = np.zeros((3, sections), np.int64)
        self.entropy = np.zeros(sections)
        self.classes = np.zeros((sections, classes), np.int64)
        self.band: list[int | None] = [None] * sections
        self.digest: list[Any] = [None] * sections
        self.uncertain_cells, self.wrong_cells = Cells(first, there), Cells(first, there)

    def add_grey(self, image: Image, square: Square, sections: range, there: NDArray[np.bool_], pixel: float) -> None:
        """Of one square, in the sections that are not missing; ``pixel`` is the edge of one in nm."""
        beside = {z: neighbours(there, z) for z in sections if there[z]}
        needed = sorted({*beside, *(z for others in beside.values() for z in others)})
        if not needed:
            return
        grey = image.read(square.region(needed[0], needed[-1] + 1))
        planes = {z: closed(grey[z - needed[0]], band_voxels(pixel)) for z in needed}
        around = {z: darkest_around(planes[z], pixel) for z in {z for others in beside.values() for z in others}}
        for z, others in beside.items():
            place, values = z - self.first, grey[z - needed[0]]
            if np.ptp(values) == 0:
                self.empty[place] += values.size
                continue
            self.laplacian[place] += (values.size, *sharpness(values))
            if others:
                longest = longest_band(planes[z], [around[other] for other in others])
                self.band[place] = max(longest, self.band[place] or 0)
            if self.digest[place] is None:
                self.digest[place] = hashlib.blake2b(digest_size=8)
            self.digest[place].update(values.tobytes())

    def add_probability(
        self, probability: NDArray[np.uint8], square: Square, limit: float, truth: NDArray[np.uint8] | None
    ) -> None:
        """Of one square, (c, z, y, x); with the class indices of its labels (z, y, x)."""
        within = (1, 2)
        there = probability.any(axis=0)
        uncertainty, most = entropy(probability), most_likely(probability)
        self.voxels += np.count_nonzero(there, axis=within)
        self.entropy += uncertainty.sum(axis=within, dtype=np.float64)
        self.uncertain += np.count_nonzero(uncertainty > limit, axis=within)
        for index in range(len(probability)):
            self.classes[:, index] += np.count_nonzero(there & (most == index), axis=within)
        self.uncertain_cells.add(square, uncertainty)
        if truth is not None:
            self.wrong_cells.add(square, there & (truth != IGNORE) & (truth != most))

    def seen(self) -> Seen:
        """As it is recorded."""
        return Seen(
            first=self.first,
            laplacian=self.laplacian.tolist(),
            empty=self.empty.tolist(),
            band=self.band,
            digest=[None if found is None else found.hexdigest() for found in self.digest],
            voxels=self.voxels.tolist(),
            entropy=self.entropy.tolist(),
            uncertain=self.uncertain.tolist(),
            classes=self.classes.tolist(),
            uncertain_places=self.uncertain_cells.worst,
            wrong_places=self.wrong_cells.worst,
        )


def pixel_nm(source: VolumeFile) -> float:
    """The longer edge of a pixel; 4 nm where the size of voxels is not known, for which ingest has put 1 nm."""
    return max(source.voxel_size_nm[1:]) if source.source.get("voxel_size_known", True) else _USUAL_NM


def neighbours(there: NDArray[np.bool_], section: int) -> list[int]:
    """The section before and the one behind that are ``there``; of the first and the last one, the two beside it."""
    before = (np.flatnonzero(there[max(0, section - REACH) : section]) + max(0, section - REACH)).tolist()
    behind = (np.flatnonzero(there[section + 1 : section + 1 + REACH]) + section + 1).tolist()
    if before and behind:
        return [before[-1], behind[0]]
    return before[-2:] or behind[:2]


@functools.lru_cache(maxsize=1)
def _open(volume: Path, probability: str, threads: int) -> tuple[VolumeFile, Image, Array, Array | None]:
    use_threads(threads)
    source = VolumeFile.read(volume)
    labels = None if source.labels is None else open_array(source.labels)
    return source, Image(source), open_array(probability), labels
