"""Elastic deformation with shift, rotation and scale: where each voxel of a sample comes from.

As in arXiv:1505.04597, section 3.1: random displacement vectors on a coarse grid over the tile, Gaussian, interpolated
bicubically to a displacement per voxel. Everything lies within a section, and all sections of a sample are deformed
alike: a section is a cut, and nothing is bent along z.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from unetpipe.config import Augment
from unetpipe.grid import Region, Shape

Scalar = TypeVar("Scalar", bound=np.generic)

_ROWS = 32  # at a time: what is computed for them stays in the cache, several times as fast as the whole tile at once


@dataclass(frozen=True, eq=False)
class Deformation:
    """From a voxel of a sample to the place in the section that it shows.

    ``angle`` is in radians; ``scale`` above 1 shows things larger; ``shift`` is (y, x) in voxels; ``displacements``
    (2, points, points) are the (y, x) displacements in voxels of control points, the outermost of which lie on the
    outermost voxels of the tile.
    """

    angle: float
    scale: float
    shift: tuple[float, float]
    displacements: NDArray[np.float64]

    @classmethod
    def draw(cls, augment: Augment, rng: np.random.Generator) -> "Deformation":
        """Angle, scale and shift drawn uniformly, displacements from a Gaussian, as ``augment`` bounds them."""
        angle = math.radians(rng.uniform(-augment.rotation, augment.rotation))
        scale = rng.uniform(1 - augment.scale, 1 + augment.scale)
        y, x = rng.uniform(-augment.shift, augment.shift, 2)
        displacements = rng.normal(0.0, augment.elastic_sigma, (2, augment.elastic_grid, augment.elastic_grid))
        return cls(angle, scale, (y, x), displacements)

    def coordinates(self, tile: tuple[int, int]) -> NDArray[np.float32]:
        """Where the voxels of ``tile`` (y, x) come from: (2, y, x) coordinates (y, x) relative to the centre voxel.

        The centre is voxel n // 2 along each axis. Rotation and scale leave the middle of the tile in its place.
        """
        y, x = (np.arange(n) - (n - 1) / 2 for n in tile)
        # Half a voxel where the number of voxels is even: there the middle lies between two voxels.
        middle = [(n - 1) / 2 - n // 2 for n in tile]
        points = self.displacements.shape[-1]
        cos, sin = math.cos(self.angle) / self.scale, math.sin(self.angle) / self.scale
        # The displacements, the part that varies along y, and the part that varies along x, in one matrix product.
        left = np.column_stack([cubic_weights(len(y), points), y, np.ones(len(y))])  # (y, points + 2)
        along_x = self.displacements @ cubic_weights(len(x), points).T  # (2, points, x)
        right = [
            np.vstack([along_x[0], np.full(len(x), cos), self.shift[0] + middle[0] - sin * x]),
            np.vstack([along_x[1], np.full(len(x), sin), self.shift[1] + middle[1] + cos * x]),
        ]
        result: NDArray[np.float32] = np.matmul(left.astype(np.float32), np.stack(right).astype(np.float32))
        return result


def cubic_weights(size: int, points: int) -> NDArray[np.float64]:
    """Weights (size, points) that interpolate values at ``points`` even control points at ``size`` even places.

    The first and the last place are the outermost control points. Cubic convolution (Keys 1981, IEEE Transactions on
    Acoustics, Speech, and Signal Processing 29, 1153-1160, a = -1/2) with Keys's values beyond the ends: polynomials
    of the second degree are exact, of the first with two control points.
    """
    places = np.linspace(0, points - 1, size)
    left = np.minimum(places.astype(np.intp), points - 2)
    t = places - left
    taps = np.stack([(-t + 2 * t**2 - t**3), (2 - 5 * t**2 + 3 * t**3), (t + 4 * t**2 - 3 * t**3), (t**3 - t**2)]) / 2
    weights = np.zeros((size, points + 2))
    for tap in range(4):
        weights[np.arange(size), left + tap] = taps[tap]
    # Control points one step beyond either end, extrapolated.
    ends = np.array([3.0, -3.0, 1.0]) if points > 2 else np.array([2.0, -1.0])
    extended = np.vstack([np.zeros(points), np.eye(points), np.zeros(points)])
    extended[0, : len(ends)] = ends
    extended[-1, points - len(ends) :] = ends[::-1]
    result: NDArray[np.float64] = weights @ extended
    return result


def enclosing(coordinates: NDArray[np.float32], centre: Shape, depth: int) -> tuple[Region, NDArray[np.float32]]:
    """The region in which ``coordinates`` (2, y, x) about ``centre`` (z, y, x) lie, and coordinates within it.

    It has ``depth`` sections, of which that of the centre is number depth // 2. It is all that :func:`linear` and
    :func:`nearest` need; it can reach beyond the volume.
    """
    start = np.floor(coordinates.min(axis=(1, 2)))
    inside = coordinates - start[:, None, None]
    # Linear interpolation looks at the next voxel, even where its weight is 0.
    shape = inside.max(axis=(1, 2)).astype(int) + 2
    origin = (centre[0] - depth // 2, centre[1] + int(start[0]), centre[2] + int(start[1]))
    return Region.of(origin, (depth, *shape)), inside


def linear(source: NDArray[np.float32], coordinates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values of ``source`` (z, y, x) at ``coordinates`` (2, y', x') of each section, linear along y and x: (z, y', x').

    The coordinates lie within ``source``, at least one voxel before its ends (see :func:`enclosing`). At whole
    coordinates the values are those of the voxels, bit for bit.
    """
    result = np.empty((len(source), *coordinates.shape[1:]), np.float32)
    width = source.shape[2]
    sections = np.ascontiguousarray(source).reshape(len(source), -1)
    for first in range(0, result.shape[1], _ROWS):
        rows = slice(first, first + _ROWS)
        whole = coordinates[:, rows].astype(np.int32)
        y, x = coordinates[:, rows] - whole.astype(np.float32)
        index = whole[0] * width + whole[1]
        for section, values in zip(sections, result, strict=True):
            a, b, c, d = (section[offset:].take(index) for offset in (0, 1, width, width + 1))
            upper = a + x * (b - a)
            lower = c + x * (d - c)
            values[rows] = upper + y * (lower - upper)
    return result


def nearest(source: NDArray[Scalar], coordinates: NDArray[np.float32]) -> NDArray[Scalar]:
    """Values of ``source`` (z, y, x) nearest to ``coordinates`` (2, y', x') of each section: (z, y', x')."""
    result: NDArray[Any] = np.empty((len(source), *coordinates.shape[1:]), source.dtype)
    sections = np.ascontiguousarray(source).reshape(len(source), -1)
    for first in range(0, result.shape[1], _ROWS):
        rows = slice(first, first + _ROWS)
        y, x = np.rint(coordinates[:, rows]).astype(np.int32)
        index = y * source.shape[2] + x
        for section, values in zip(sections, result, strict=True):
            values[rows] = section.take(index)
    return result
