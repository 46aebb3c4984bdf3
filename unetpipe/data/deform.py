"""Elastic deformation with shift, rotation and scale: where each voxel of a sample comes from.

As in arXiv:1505.04597, section 3.1: random displacement vectors on a coarse grid over the tile, Gaussian, interpolated
bicubically to a displacement per voxel. Everything lies within a section, and all sections of a sample are deformed
alike: a section is a cut, and nothing is bent along z.
"""

import functools
import math
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from unetpipe.config import Augment
from unetpipe.grid import Region, Shape

Scalar = TypeVar("Scalar", bound=np.generic)


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
        points = self.displacements.shape[-1]
        along_y, along_x = (_basis(size, points) for size in tile)
        # Half a voxel where the number of voxels is even: there the middle lies between two voxels.
        middle = [(size - 1) / 2 - size // 2 for size in tile]
        cos, sin = math.cos(self.angle) / self.scale, math.sin(self.angle) / self.scale
        # Displacements, and what is in proportion to y, x and 1, in one product: basis(y) @ factors @ basis(x).
        factors = np.zeros((2, points + 2, points + 2), np.float32)
        factors[:, :points, :points] = self.displacements
        factors[0, points:, points:] = [[0, cos], [-sin, self.shift[0] + middle[0]]]
        factors[1, points:, points:] = [[0, sin], [cos, self.shift[1] + middle[1]]]
        result: NDArray[np.float32] = np.matmul(along_y, factors @ along_x.T)
        return result


@functools.lru_cache(maxsize=8)
def _basis(size: int, points: int) -> NDArray[np.float32]:
    """For each of ``size`` voxels the weights of ``points`` control points, its place from the middle, and 1."""
    place = np.arange(size) - (size - 1) / 2
    return np.column_stack([cubic_weights(size, points), place, np.ones(size)]).astype(np.float32)


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


def enclosing(
    coordinates: NDArray[np.float32], centre: Shape, depth: int, out: NDArray[np.float32] | None = None
) -> tuple[Region, NDArray[np.float32]]:
    """The region in which ``coordinates`` (2, y, x) about ``centre`` (z, y, x) lie, and coordinates within it.

    It has ``depth`` sections, of which that of the centre is number depth // 2. It is all that :func:`cubic` and
    :func:`nearest` need; it can reach beyond the volume. ``out`` takes the coordinates, as in NumPy.
    """
    # Cubic interpolation looks at the voxel before and at the two after, even where their weight is 0.
    start = np.floor(coordinates.min(axis=(1, 2))) - 1
    shape = (coordinates.max(axis=(1, 2)) - start).astype(int) + 3
    origin = (centre[0] - depth // 2, centre[1] + int(start[0]), centre[2] + int(start[1]))
    return Region.of(origin, (depth, *shape)), np.subtract(coordinates, start[:, None, None], out=out)


def cubic(source: NDArray[np.float32], coordinates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values of ``source`` (z, y, x) at ``coordinates`` (2, y', x') of each section: (z, y', x').

    By cubic convolution along y and x (Keys 1981, as in :func:`cubic_weights`, but with a = -3/4). It keeps the
    contrast of fine structures, a fifth of which linear interpolation takes: a network that learnt from samples so
    blurred would meet sharper images than it has seen. The coordinates lie within ``source``, with the voxels around
    them (see :func:`enclosing`). At whole coordinates the values are those of the voxels, bit for bit.
    """
    return _sampled(source, coordinates, cv2.INTER_CUBIC)


def nearest(source: NDArray[Scalar], coordinates: NDArray[np.float32]) -> NDArray[Scalar]:
    """Values of ``source`` (z, y, x) nearest to ``coordinates`` (2, y', x') of each section: (z, y', x')."""
    return _sampled(source, coordinates, cv2.INTER_NEAREST)


def _sampled(source: NDArray[Scalar], coordinates: NDArray[np.float32], kernel: int) -> NDArray[Scalar]:
    result = np.empty((len(source), *coordinates.shape[1:]), source.dtype)
    y, x = coordinates
    for section, values in zip(source, result, strict=True):
        # Exact in float32 since OpenCV 5; before, it rounded coordinates to 1/32 voxel.
        cv2.remap(section, x, y, kernel, dst=values)
    return result
