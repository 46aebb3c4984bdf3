"""The places of a volume that most deserve a look."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetpipe.quality.squares import Square

CELL = 64
"""Voxels of a place along y and x, about."""

MOST = 10

_APART = (4, 128, 128)
"""Sections and voxels (z, y, x): of what lies nearer together, the worst is named alone."""


@dataclass(frozen=True)
class Place:
    """A part of a section: voxels [y0, y1) and [x0, x1).

    ``amount`` orders places: their wrong voxels, or the sum of their entropies. ``share``: the same over its voxels.
    """

    section: int
    y: tuple[int, int]
    x: tuple[int, int]
    amount: float
    share: float

    @property
    def centre(self) -> tuple[int, int, int]:
        """A voxel (z, y, x)."""
        return self.section, sum(self.y) // 2, sum(self.x) // 2

    @classmethod
    def of(cls, data: dict[str, Any]) -> "Place":
        """From JSON."""
        return cls(**{**data, "y": tuple(data["y"]), "x": tuple(data["x"])})


class Cells:
    """What is counted in the cells of squares, by section."""

    def __init__(self, first: int, there: NDArray[np.bool_]) -> None:
        self._first, self._there = first, there
        self._places: list[Place] = []

    def add(self, square: Square, voxels: NDArray[Any]) -> None:
        """Add up ``voxels`` (z, y, x) of a square over its cells; sections that are not there are left out."""
        rows, columns = _cuts(square.y1 - square.y0), _cuts(square.x1 - square.x0)
        within = np.add.reduceat(voxels, rows[:-1], axis=1, dtype=np.float64)
        amounts = np.add.reduceat(within, columns[:-1], axis=2)
        amounts[~self._there] = 0
        found = []
        for z, row, column in np.argwhere(amounts > 0).tolist():
            y, x = (int(rows[row]), int(rows[row + 1])), (int(columns[column]), int(columns[column + 1]))
            amount = float(amounts[z, row, column])
            found.append(
                Place(
                    section=self._first + z,
                    y=(square.y0 + y[0], square.y0 + y[1]),
                    x=(square.x0 + x[0], square.x0 + x[1]),
                    amount=amount,
                    share=amount / ((y[1] - y[0]) * (x[1] - x[0])),
                )
            )
        self._places = worst([*self._places, *found])

    @property
    def worst(self) -> list[Place]:
        """Of all cells."""
        return self._places


def worst(places: Iterable[Place]) -> list[Place]:
    """At most ten, none of which lies near a worse one."""
    chosen: list[Place] = []
    for place in sorted(places, key=lambda place: (-place.amount, place.centre)):
        if not any(_near(place, other) for other in chosen):
            chosen.append(place)
            if len(chosen) == MOST:
                break
    return chosen


def _near(one: Place, other: Place) -> bool:
    return all(abs(a - b) < apart for a, b, apart in zip(one.centre, other.centre, _APART, strict=True))


def _cuts(size: int) -> NDArray[np.intp]:
    """The edges of the cells along an axis of a square."""
    count = max(1, round(size / CELL))
    return np.array([size * n // count for n in range(count + 1)], np.intp)
