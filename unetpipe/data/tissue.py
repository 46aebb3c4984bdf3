"""The anatomy of the synthetic volume: cells, their membranes and their mitochondria, without their appearance.

::

    discs thrown into the plane, large ones first       a cell is one disc, or a chain that follows a
        │   additively weighted Voronoi diagram         field of directions; centres and radii sway with z
        ▼
    cell of every pixel, pulled by a smooth field       the field depends on z too: outlines move from
        │   distance to the nearest border              section to section
        ▼
    membrane: within half a thickness of a border,      a section has a thickness: membranes are drawn at
              mean over depths within the section       several depths, so oblique ones are grey and broad

The truth follows from the drawing: the label ``membrane`` is where membrane fills half of a section's thickness, and
a thin line along every border mid-section, so that no two cells touch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

LABEL_VALUES: Mapping[str, int] = MappingProxyType({"membrane": 0, "mitochondrion": 128, "inside": 255})
"""Value of each class in the labels. ``inside`` is the inside of a cell without its mitochondria."""

MEMBRANE_NM = 22.0
"""Mean thickness of the border between two cells: two membranes and the cleft between them."""

FILLER = 0
"""Number of the cell that fills the gaps between the others, as glia do."""

_DEPTHS = (-1 / 3, 0.0, 1 / 3)  # where within a section membranes are drawn, in section thicknesses
_MARGIN_NM = 280.0  # tissue beyond the image, for the smooth field to pull from
_REACH_NM = 120.0  # a point farther than this from every disc belongs to the filler
_SMALLEST_NM, _LARGEST_NM = 40.0, 300.0  # radii of discs
_SMALLEST_INSIDE_NM2 = 700.0  # the inside of a cell with less area cannot be told from its membrane
_SMALLEST_MITOCHONDRION_NM2 = 1500.0

Plane = NDArray[np.float32]
Positions = NDArray[np.floating[Any]]
Window = tuple[slice, slice]


def stream(seed: int, *purpose: int) -> np.random.Generator:
    """Random numbers for one purpose; what one purpose draws never shifts what another draws."""
    return np.random.Generator(np.random.PCG64([seed, *purpose]))


class Noise:
    """A smooth random field of mean 0 and variance 1: cubic B-splines on a lattice of normal numbers.

    Parameters
    ----------
    rng:
        Where the numbers come from.
    low_nm, high_nm:
        The box that the field covers, (z, y, x); beyond it the field is as at its faces.
    pitch_nm:
        Edge lengths of the lattice, (z, y, x): the size of the field's features.
    """

    def __init__(
        self, rng: np.random.Generator, low_nm: Sequence[float], high_nm: Sequence[float], pitch_nm: Sequence[float]
    ) -> None:
        self._low, self._pitch = tuple(low_nm), tuple(pitch_nm)
        size = [math.ceil((high - low) / pitch) + 4 for low, high, pitch in zip(low_nm, high_nm, pitch_nm, strict=True)]
        # 151/315 is the mean over all positions of the sum of the four squared weights along an axis.
        self._lattice = rng.standard_normal(size, dtype=np.float32) * np.float32((315 / 151) ** 1.5)

    def plane(self, z_nm: float, y_nm: Positions, x_nm: Positions) -> Plane:
        """Values at depth ``z_nm`` on the grid of ``y_nm`` (y,) and ``x_nm`` (x,): (y, x)."""
        kz, wz = self._weights(0, np.array([z_nm]))
        ky, wy = self._weights(1, y_nm)
        kx, wx = self._weights(2, x_nm)
        # Sums over four neighbours, not matrix products: the last bit of those depends on the number of threads.
        _, ny, nx = self._lattice.shape
        flat = np.zeros((ny, nx), np.float32)
        rows = np.zeros((len(y_nm), nx), np.float32)
        plane = np.zeros((len(y_nm), len(x_nm)), np.float32)
        for k in range(4):
            flat += wz[0, k] * self._lattice[kz[0] + k]
        for k in range(4):
            rows += wy[:, k, None] * flat[ky + k]
        for k in range(4):
            plane += wx[:, k] * rows[:, kx + k]
        return plane

    def _weights(self, axis: int, at_nm: Positions) -> tuple[NDArray[np.int64], Plane]:
        """The first of the four lattice points around each position (n,), and the weights of all four (n, 4)."""
        t = np.clip((at_nm - self._low[axis]) / self._pitch[axis], 0, self._lattice.shape[axis] - 4)
        first = np.floor(t)
        f = t - first
        weights = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], axis=-1)
        return first.astype(np.int64), (weights / 6).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What lies in one section; all planes are (y, x).

    ``cell`` numbers the cells; ``border_nm`` is the distance to the nearest border between two of them; ``membrane``
    is the share of the section's thickness that is membrane, 0 to 1; ``mitochondrion_nm`` is the distance to the
    outline of a mitochondrion, positive inside; ``cristae`` is the phase of its folds in radians.
    """

    labels: NDArray[np.uint8]
    cell: NDArray[np.int64]
    border_nm: Plane
    membrane: Plane
    mitochondrion_nm: Plane
    cristae: Plane


@dataclass(frozen=True)
class _Mitochondrion:
    """An ellipse in the plane, tapering along z, at a fixed place in a disc of its cell; lengths in nm."""

    disc: int
    offset: tuple[float, float]
    minor: float
    major: float
    angle: float
    twist: float  # radians per nm of depth
    depth: float
    half_length: float


class Tissue:
    """Cells and mitochondria of a volume as smooth functions of depth.

    Parameters
    ----------
    shape:
        Voxels of the volume, (z, y, x).
    voxel_size_nm:
        Edge lengths of a voxel, (z, y, x).
    seed:
        Another seed gives another tissue.
    """

    def __init__(self, shape: tuple[int, int, int], voxel_size_nm: tuple[float, float, float], seed: int) -> None:
        self.voxel_size_nm = voxel_size_nm
        self._pixel_nm2 = voxel_size_nm[1] * voxel_size_nm[2]
        self.y_nm = np.arange(shape[1]) * voxel_size_nm[1]
        self.x_nm = np.arange(shape[2]) * voxel_size_nm[2]
        margin = (voxel_size_nm[0], _MARGIN_NM, _MARGIN_NM)
        self._low_nm = tuple(-m for m in margin)
        self._high_nm = tuple(n * v + m for n, v, m in zip(shape, voxel_size_nm, margin, strict=True))
        # Cells are drawn on a canvas larger than the image, from which the smooth field pulls them into it.
        self._canvas_y, self._canvas_x = (
            np.arange(self._low_nm[axis], self._high_nm[axis], voxel_size_nm[axis], dtype=np.float32) for axis in (1, 2)
        )

        rng = stream(seed, 0)
        self._pull = [
            (amplitude_nm, [self.noise(rng, *pitch_nm) for _ in "yx"])
            for amplitude_nm, pitch_nm in ((75, (600, 400, 400)), (15, (270, 100, 100)), (4, (150, 36, 36)))
        ]
        self._thickness = self.noise(rng, 300, 150, 150)
        self._wobble = self.noise(rng, 200, 60, 60)
        self._misaligned_nm = rng.normal(0, 4, (shape[0], 2))

        self._y, self._x, self._radius, self._cell = self._pack(stream(seed, 1), self.noise(rng, 2000, 800, 800))
        self.cell_count = int(self._cell[-1]) + 1
        rng = stream(seed, 2)
        self._sway_nm = rng.normal(0, 34, (2, self.cell_count))
        self._swell = rng.uniform(0, 0.2, self.cell_count)
        self._wave_nm = rng.uniform(1300, 3500, (3, self.cell_count))
        self._phase = rng.uniform(0, 2 * math.pi, (3, self.cell_count))
        self._mitochondria = self._place_mitochondria(stream(seed, 3))

    def noise(self, rng: np.random.Generator, *pitch_nm: float) -> Noise:
        """A smooth random field over the volume and its margin."""
        return Noise(rng, self._low_nm, self._high_nm, pitch_nm)

    def section(self, z: int) -> Anatomy:
        """What lies in section ``z``: membranes through its whole thickness, all else as it is halfway through."""
        pixel_nm = min(self.voxel_size_nm[1:])
        middle_nm = z * self.voxel_size_nm[0]
        uneven = self._thickness.plane(middle_nm, self.y_nm, self.x_nm)
        half_nm = (0.5 * MEMBRANE_NM * np.clip(1 + 0.14 * uneven, 0.75, 1.4)).astype(np.float32)

        membrane = np.zeros(half_nm.shape, np.float32)
        for depth in _DEPTHS:
            canvas = self._draw_cells(middle_nm + depth * self.voxel_size_nm[0])
            pulled = self._pulled(z, middle_nm + depth * self.voxel_size_nm[0])
            cell = canvas[pulled]
            border_nm = self._border_nm(cell)
            membrane += np.clip((half_nm - border_nm) / pixel_nm + 0.5, 0, 1) / len(_DEPTHS)
            if depth == 0:
                halfway = canvas, pulled, cell, border_nm
        canvas, pulled, cell, border_nm = halfway

        outline = (membrane >= 0.5) | (border_nm < np.maximum(0.55 * half_nm, pixel_nm))
        closed = _small_components(~outline, _SMALLEST_INSIDE_NM2 / self._pixel_nm2)
        outline |= closed
        membrane[closed] = 1

        inside_nm, phase = self._draw_mitochondria(middle_nm, canvas)
        mitochondrion_nm = np.minimum(inside_nm[pulled], border_nm - half_nm - 8)
        small = _small_components(mitochondrion_nm > 0, _SMALLEST_MITOCHONDRION_NM2 / self._pixel_nm2)
        mitochondrion_nm[small | outline] = -np.inf
        cristae = phase[pulled] + np.float32(2.2) * self._wobble.plane(middle_nm, self.y_nm, self.x_nm)

        labels = np.full(cell.shape, LABEL_VALUES["inside"], np.uint8)
        labels[mitochondrion_nm > 0] = LABEL_VALUES["mitochondrion"]
        labels[outline] = LABEL_VALUES["membrane"]
        return Anatomy(labels, cell, border_nm, membrane, mitochondrion_nm, cristae)

    def _pack(self, rng: np.random.Generator, direction: Noise) -> tuple[NDArray[np.float64], ...]:
        """Discs that hardly overlap: y, x, radius in nm, and number of the cell, each (n,)."""
        low, high = np.array(self._low_nm[1:]), np.array(self._high_nm[1:])
        area = float(np.prod(high - low))
        # Small volumes, too, should show many cells.
        largest = np.clip(0.16 * float(np.min(high - low) - 2 * _MARGIN_NM), _SMALLEST_NM, _LARGEST_NM)
        placed = np.empty((0, 4))
        cell = FILLER + 1
        for radius in np.geomspace(largest, _SMALLEST_NM, 12):
            # Each size gets a share of the plane; the smallest ones fill what is left.
            free = 0.085 * area if radius > 60 else area
            for _ in range(int(5 * area / (math.pi * radius**2))):
                start, size = rng.uniform(low, high), radius * rng.uniform(0.85, 1.1)
                if not _fits(np.array([[*start, size]]), placed):
                    continue
                chain = _chain(rng, direction, start, size)
                if not _fits(chain, placed):
                    continue
                placed = np.vstack([placed, np.column_stack([chain, np.full(len(chain), cell)])])
                cell += 1
                free -= math.pi * radius**2 * (1 + 0.5 * (len(chain) - 1))
                if free < 0:
                    break
        return *placed[:, :3].T, placed[:, 3].astype(np.int64)

    def _place_mitochondria(self, rng: np.random.Generator) -> list[_Mitochondrion]:
        low, high = self._low_nm[0] - 500, self._high_nm[0] + 500
        found = []
        for disc in np.flatnonzero(self._radius > 62):
            radius = float(self._radius[disc])
            expected = (radius / 120) * (high - low) / 2600
            for _ in range(math.floor(expected + rng.random())):
                minor = min(rng.uniform(55, 125), 0.62 * radius)
                away, towards = 0.9 * rng.uniform(0, radius - minor), rng.uniform(0, 2 * math.pi)
                found.append(
                    _Mitochondrion(
                        disc=int(disc),
                        offset=(away * math.sin(towards), away * math.cos(towards)),
                        minor=minor,
                        major=minor * rng.uniform(1.0, 1.9),
                        angle=rng.uniform(0, math.pi),
                        twist=rng.normal(0, 5e-4),
                        depth=rng.uniform(low, high),
                        half_length=rng.uniform(250, 900),
                    )
                )
        return found

    def _sway(self, z_nm: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Centres and radii of the discs at a depth: y, x and radius in nm, each (n,)."""
        wave = np.sin(2 * math.pi * z_nm / self._wave_nm + self._phase)
        dy, dx = self._sway_nm * wave[:2]
        swollen = 1 + self._swell * wave[2]
        return self._y + dy[self._cell], self._x + dx[self._cell], self._radius * swollen[self._cell]

    def _draw_cells(self, z_nm: float) -> NDArray[np.int64]:
        """The cell of each pixel of the canvas: that of the disc whose edge is nearest."""
        nearest = np.full((self._canvas_y.size, self._canvas_x.size), _REACH_NM, np.float32)
        cells = np.full(nearest.shape, FILLER, np.int64)
        for y, x, radius, cell in zip(*self._sway(z_nm), self._cell, strict=True):
            window, dy, dx = self._window(y, x, radius + _REACH_NM)
            distance = np.sqrt(dy**2 + dx**2) - np.float32(radius)
            closer = distance < nearest[window]
            np.copyto(nearest[window], distance, where=closer)
            np.copyto(cells[window], cell, where=closer)
        return cells

    def _draw_mitochondria(self, z_nm: float, cells: NDArray[np.int64]) -> tuple[Plane, Plane]:
        """Distance inside the outline, in nm, and phase of the cristae: two planes on the canvas."""
        inside_nm = np.full(cells.shape, -np.inf, np.float32)
        phase = np.zeros(cells.shape, np.float32)
        y, x, _ = self._sway(z_nm)
        for one in self._mitochondria:
            along = (z_nm - one.depth) / one.half_length
            if abs(along) >= 1:
                continue
            window, dy, dx = self._window(y[one.disc] + one.offset[0], x[one.disc] + one.offset[1], one.major)
            turn = one.angle + one.twist * (z_nm - one.depth)
            sine, cosine = np.float32(math.sin(turn)), np.float32(math.cos(turn))
            u, v = cosine * dx + sine * dy, cosine * dy - sine * dx
            within = np.sqrt((u / np.float32(one.major)) ** 2 + (v / np.float32(one.minor)) ** 2)
            depth_nm = np.float32(one.minor) * (np.float32(math.sqrt(1 - along**4)) - within)
            deeper = (depth_nm > inside_nm[window]) & (cells[window] == self._cell[one.disc])
            np.copyto(inside_nm[window], depth_nm, where=deeper)
            np.copyto(phase[window], np.float32(2 * math.pi / 36) * u, where=deeper)
        return inside_nm, phase

    def _window(self, y: float, x: float, reach: float) -> tuple[Window, Plane, Plane]:
        """The part of the canvas within ``reach`` of a point, and the offsets from it: (y, 1) and (1, x)."""
        rows = slice(*(int(i) for i in np.searchsorted(self._canvas_y, (y - reach, y + reach))))
        columns = slice(*(int(i) for i in np.searchsorted(self._canvas_x, (x - reach, x + reach))))
        dy, dx = self._canvas_y[rows, None] - np.float32(y), self._canvas_x[None, columns] - np.float32(x)
        return (rows, columns), dy, dx

    def _pulled(self, z: int, z_nm: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of the canvas that each pixel of section ``z`` shows at depth ``z_nm``: two (y, x)."""
        grids = ((self.y_nm[:, None], self._canvas_y), (self.x_nm[None, :], self._canvas_x))
        found = []
        for axis, (grid, canvas) in enumerate(grids):
            offset_nm = grid + (self._misaligned_nm[z, axis] - float(canvas[0]))
            for amplitude_nm, fields in self._pull:
                offset_nm = offset_nm + amplitude_nm * fields[axis].plane(z_nm, self.y_nm, self.x_nm)
            index = np.rint(offset_nm / self.voxel_size_nm[1 + axis]).astype(np.int64)
            found.append(np.clip(index, 0, canvas.size - 1))
        return found[0], found[1]

    def _border_nm(self, cell: NDArray[np.int64]) -> Plane:
        beside = np.zeros(cell.shape, bool)
        down, right = cell[1:] != cell[:-1], cell[:, 1:] != cell[:, :-1]
        beside[1:] |= down
        beside[:-1] |= down
        beside[:, 1:] |= right
        beside[:, :-1] |= right
        # The border runs between pixels, so those beside it lie half a pixel away.
        distance = ndimage.distance_transform_edt(~beside, sampling=self.voxel_size_nm[1:])
        return np.asarray(distance + 0.5 * min(self.voxel_size_nm[1:]), np.float32)


def _fits(discs: NDArray[np.float64], placed: NDArray[np.float64]) -> bool:
    """Whether ``discs`` (n, 3), of y, x and radius, lie clear of those ``placed``, or nearly so."""
    gap = np.hypot(placed[:, None, 0] - discs[:, 0], placed[:, None, 1] - discs[:, 1])
    return not bool((gap < 0.92 * (placed[:, None, 2] + discs[:, 2])).any())


def _chain(
    rng: np.random.Generator, direction: Noise, start: NDArray[np.float64], radius: float
) -> NDArray[np.float64]:
    """One disc, or a few that follow the field of directions: (n, 3), of y, x and radius."""
    length = 1 if rng.random() < 0.5 else min(8, 2 + rng.poisson(300 / radius))
    turn = rng.normal(0, 0.35)
    at, chain = start, []
    for _ in range(length):
        chain.append((*at, radius * rng.uniform(0.88, 1.08)))
        angle = 1.3 * float(direction.plane(0.0, at[:1], at[1:])[0, 0]) + turn
        at = at + 0.8 * radius * np.array([math.sin(angle), math.cos(angle)])
    return np.array(chain)


def _small_components(mask: NDArray[np.bool_], pixels: float) -> NDArray[np.bool_]:
    """The 4-connected components of ``mask`` (y, x) with fewer than ``pixels`` pixels."""
    component, _ = ndimage.label(mask)
    small = np.bincount(component.ravel()) < pixels
    return np.asarray(small[component] & mask)
