"""A synthetic EM volume with ground truth, so that the workflow can be tried without data.

Serial sections of packed neurites as a transmission electron microscope shows them: dark membranes, grey and broad
where they are cut obliquely, mitochondria with cristae, vesicles, microtubules and tubules as dark as membranes, noise
and blur, brightness and contrast that drift from section to section, a fold, and a section that was lost. The anatomy
is that of :mod:`unetpipe.data.tissue`; here is what the microscope makes of it.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from unetpipe.data.tissue import FILLER, LABEL_VALUES, MEMBRANE_NM, Anatomy, Noise, Plane, Tissue, stream
from unetpipe.errors import UserError
from unetpipe.files import replacing
from unetpipe.progress_bar import track

__all__ = ["LABEL_VALUES", "MISSING_VALUE", "Phantom", "make_phantom", "phantom"]

MISSING_VALUE = 0
"""Grey value of every pixel of a missing section."""

_LARGEST_PIXEL_NM = 10.0
_SMALLEST_SECTION_NM = 250.0

# Grey values lie between 0 (no electron passes) and 1 (all pass).
_MEMBRANE, _MATRIX, _FILLER = 0.21, 0.36, 0.50


@dataclass(frozen=True)
class _Organelle:
    """A round thing in the cytoplasm: a ring of ``wall_nm``, or a ball where the wall is thicker than the radius."""

    per_um2: float
    radius_nm: float
    wall_nm: float
    darkness: float
    social: float  # 0: strewn evenly; 1: only where the cell has vesicles


_ORGANELLES = (
    _Organelle(420, 21, 9, 0.30, 1.0),  # synaptic vesicles
    _Organelle(260, 17, 9, 0.26, 1.0),  # small ones
    _Organelle(9, 38, 10, 0.30, 0.3),  # endosomes
    _Organelle(5, 52, 11, 0.30, 0.3),  # large endosomes
    _Organelle(28, 20, 40, 0.34, 0.5),  # dense-core vesicles
    _Organelle(600, 9, 20, 0.24, 0.0),  # microtubules and ribosomes
)


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic volume.

    ``image`` and ``labels`` are (z, y, x) uint8, the labels with the values of
    :data:`~unetpipe.data.tissue.LABEL_VALUES`. The section ``missing`` of the image is :data:`MISSING_VALUE`
    throughout; the section ``fold`` has a dark fold. The labels show the anatomy there as everywhere.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    missing: int
    fold: int


def make_phantom(
    shape: Sequence[int],
    voxel_size_nm: Sequence[float],
    seed: int,
    missing: int | None = None,
    fold: int | None = None,
) -> Phantom:
    """Draw a synthetic volume.

    The whole volume is held in memory, image and labels, and drawn by one thread.

    Parameters
    ----------
    shape:
        Voxels along (z, y, x).
    voxel_size_nm:
        Edge lengths of a voxel, (z, y, x). Cells have their size in nm: smaller voxels show less of the tissue, larger.
    seed:
        Another seed gives another volume; the same one gives the same bytes, given the same NumPy and SciPy.
    missing:
        The section that was lost, counted from 0; drawn from the seed where None.
    fold:
        The section with a fold, counted from 0; drawn from the seed where None.

    Raises
    ------
    UserError
        If ``missing`` or ``fold`` lie outside the volume or are the same section, if there are not two sections, if a
        section is too small for several cells, or if pixels are too large for membranes.
    """
    nz, ny, nx = (int(n) for n in shape)
    vz, vy, vx = (float(edge) for edge in voxel_size_nm)
    _check((nz, ny, nx), (vz, vy, vx))
    missing, fold = _damaged_sections(nz, seed, missing, fold)

    tissue = Tissue((nz, ny, nx), (vz, vy, vx), seed)
    microscope = _Microscope(nz, tissue, seed)
    image = np.empty((nz, ny, nx), np.uint8)
    labels = np.empty((nz, ny, nx), np.uint8)
    for z in track(range(nz), "phantom", nz, "sections"):
        anatomy = tissue.section(z)
        labels[z] = anatomy.labels
        image[z] = MISSING_VALUE if z == missing else microscope.expose(z, anatomy, folded=z == fold)
    return Phantom(image, labels, missing, fold)


def phantom(
    image: Path,
    labels: Path,
    shape: Sequence[int],
    voxel_size_nm: Sequence[float],
    seed: int,
    missing: int | None = None,
    fold: int | None = None,
) -> None:
    """Write a synthetic volume as two TIFF stacks, ``image`` and ``labels``: see :func:`make_phantom`.

    They are ImageJ stacks, (z, y, x) uint8, with the voxel size in nm: pixels per nm in ``XResolution`` and
    ``YResolution``, nm between sections in ``spacing``. ``Info`` is JSON with the seed and the damaged sections.

    Raises
    ------
    UserError
        As :func:`make_phantom` does.
    """
    made = make_phantom(shape, voxel_size_nm, seed, missing, fold)
    vz, vy, vx = voxel_size_nm
    info = json.dumps({"phantom": {"seed": seed, "missing": made.missing, "fold": made.fold}})
    for path, stack in ((image, made.image), (labels, made.labels)):
        with replacing(path) as temporary:
            tifffile.imwrite(
                temporary,
                stack,
                imagej=True,
                resolution=(1 / vx, 1 / vy),
                metadata={"axes": "ZYX", "spacing": vz, "unit": "nm", "Info": info},
            )


def _check(shape: tuple[int, int, int], voxel_size_nm: tuple[float, float, float]) -> None:
    asked = f"a phantom of shape {list(shape)} with voxels of {list(voxel_size_nm)} nm (z, y, x)"
    extents = [n * edge for n, edge in zip(shape, voxel_size_nm, strict=True)]
    if max(voxel_size_nm[1:]) > _LARGEST_PIXEL_NM:
        raise UserError(
            asked,
            f"pixels of {max(voxel_size_nm[1:]):g} nm, where membranes are {MEMBRANE_NM:g} nm thick",
            f"choose pixels of at most {_LARGEST_PIXEL_NM:g} nm along y and x, such as 4",
        )
    if min(extents[1:]) < _SMALLEST_SECTION_NM:
        raise UserError(
            asked,
            f"sections of {extents[1]:g} x {extents[2]:g} nm, too small for several cells",
            f"choose a shape of at least {_SMALLEST_SECTION_NM:g} nm along y and x",
        )
    if shape[0] < 2:
        raise UserError(
            asked, f"{shape[0]} section(s)", "choose at least 2: one section is lost, and another one has a fold"
        )


def _damaged_sections(nz: int, seed: int, missing: int | None, fold: int | None) -> tuple[int, int]:
    """The missing section and the folded one: those asked for, others drawn."""
    for name, section in (("missing", missing), ("fold", fold)):
        if section is not None and not 0 <= section < nz:
            raise UserError(
                f"the phantom's section {name} = {section}",
                f"sections 0 to {nz - 1}",
                "choose one of these, or leave it out to have it drawn from the seed",
            )
    if missing is not None and missing == fold:
        raise UserError(
            f"the phantom's sections missing = {missing} and fold = {fold}",
            "one and the same section, which cannot both be lost and show a fold",
            "choose two sections",
        )
    rng = stream(seed, 6)
    if missing is None:
        missing = int(rng.choice([z for z in range(nz) if z != fold]))
    if fold is None:
        fold = int(rng.choice([z for z in range(nz) if z != missing]))
    return missing, fold


class _Microscope:
    """Turns anatomy into grey values, section by section."""

    def __init__(self, sections: int, tissue: Tissue, seed: int) -> None:
        self._tissue, self._seed = tissue, seed
        self._pixel_nm = np.array(tissue.voxel_size_nm[1:])
        rng = stream(seed, 4)
        cells = tissue.cell_count
        tone = np.clip(rng.normal(0.63, 0.05, cells), 0.53, 0.71)
        tone[rng.random(cells) < 0.12] -= 0.1  # some cells are dark throughout
        tone[FILLER] = _FILLER
        self._tone = tone.astype(np.float32)
        self._vesicles = rng.uniform(-1.4, 0.7, cells).astype(np.float32)
        self._crowd = tissue.noise(rng, 220, 190, 190)
        self._tubule = tissue.noise(rng, 180, 75, 75)
        self._reticulum = tissue.noise(rng, 260, 240, 240)
        self._stain = tissue.noise(rng, 260, 130, 130)
        self._density = tissue.noise(rng, 160, 170, 170)
        drift = rng.standard_normal((sections, 2))
        for z in range(1, sections):
            drift[z] = 0.75 * drift[z - 1] + 0.66 * drift[z]
        self._brightness = 0.5 + 0.045 * drift[:, 0]
        self._contrast = np.exp(0.11 * drift[:, 1])

    def expose(self, z: int, anatomy: Anatomy, *, folded: bool) -> NDArray[np.uint8]:
        """Section ``z`` as the camera sees it: (y, x) uint8."""
        rng = stream(self._seed, 5, z)
        grey = self._stained(rng, z, anatomy)
        light = rng.normal(1, 0.07, (4, 4))
        grey *= ndimage.zoom(light, np.array(grey.shape) / light.shape, order=3)
        grey = np.clip(grey, 0.04, 1)
        if folded:
            grey = grey * self._fold(stream(self._seed, 7))
        grey = ndimage.gaussian_filter(grey, rng.uniform(3.2, 4.8) / self._pixel_nm)
        electrons = 70  # per pixel, where all pass
        seen = rng.poisson(grey * electrons) / electrons + rng.normal(0, 0.045, grey.shape)
        seen = ndimage.gaussian_filter(seen, 0.5)  # an electron lights up the pixels beside its own
        shown = (seen - 0.53) * self._contrast[z] + self._brightness[z]
        return np.asarray(np.clip(np.rint(shown * 255), 0, 255), np.uint8)

    def _stained(self, rng: np.random.Generator, z: int, anatomy: Anatomy) -> Plane:
        """Share of the electrons that pass: (y, x)."""
        grey = self._tone[anatomy.cell] + 0.06 * self._grain(rng, 7) + 0.035 * self._grain(rng, 25)
        free_nm = np.minimum(anatomy.border_nm - 0.5 * MEMBRANE_NM, -anatomy.mitochondrion_nm)
        grey -= self._organelles(rng, free_nm, self._plane(z, self._crowd) + self._vesicles[anatomy.cell])
        grey -= 0.24 * self._tubules(z) * np.clip(free_nm / 12 - 1, 0, 1)

        depth_nm = anatomy.mitochondrion_nm
        matrix = _MATRIX + 0.09 * np.sin(anatomy.cristae) + 0.05 * self._grain(rng, 6)
        matrix -= 0.13 * np.exp(-(((depth_nm - 5) / 5) ** 2))  # the double membrane around it
        grey += (matrix - grey) * np.clip(depth_nm / self._pixel_nm.min() + 0.5, 0, 1)

        membrane = _MEMBRANE + 0.03 * self._grain(rng, 6)
        grey += (membrane - grey) * anatomy.membrane * np.clip(0.85 + 0.2 * self._plane(z, self._stain), 0.45, 1)
        # Synapses: dark matter on both sides of a membrane.
        dense = np.clip(2.2 * (self._plane(z, self._density) - 1.75), 0, 1) * np.exp(-((anatomy.border_nm / 45) ** 2))
        grey -= 0.22 * dense * (1 + 0.3 * self._grain(rng, 8))
        return np.asarray(grey, np.float32)

    def _plane(self, z: int, field: Noise) -> Plane:
        return field.plane(z * self._tissue.voxel_size_nm[0], self._tissue.y_nm, self._tissue.x_nm)

    def _grain(self, rng: np.random.Generator, sigma_nm: float) -> Plane:
        """Rough texture of mean 0 and standard deviation 1: (y, x)."""
        shape = (self._tissue.y_nm.size, self._tissue.x_nm.size)
        rough = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma_nm / self._pixel_nm)
        return np.asarray(rough / rough.std(), np.float32)

    def _tubules(self, z: int) -> Plane:
        """Endoplasmic reticulum, thin lines in some places: 0 to 1, (y, x). They are the zeros of a smooth field."""
        field = self._plane(z, self._tubule)
        slope = np.hypot(*np.gradient(field, *self._pixel_nm))
        line = np.clip(1.6 - np.abs(field) / (4 * slope + 1e-6), 0, 1)
        return np.asarray(line * np.clip(3 * (self._plane(z, self._reticulum) - 0.75), 0, 1), np.float32)

    def _organelles(self, rng: np.random.Generator, free_nm: Plane, crowd: Plane) -> Plane:
        """Darkness of all organelles of a section: (y, x).

        ``free_nm`` is the distance to the next membrane; ``crowd``, from 0 to 1, is how many vesicles a place has.
        """
        dark = np.zeros(free_nm.shape, np.float32)
        area_um2 = free_nm.size * float(self._pixel_nm.prod()) * 1e-6
        for kind in _ORGANELLES:
            reach = np.ceil(kind.radius_nm / self._pixel_nm + 1).astype(int)
            dy, dx = (np.arange(-n, n + 1) * pixel for n, pixel in zip(reach, self._pixel_nm, strict=True))
            distance = np.hypot(dy[:, None], dx)
            within = np.minimum(kind.radius_nm - distance, distance - kind.radius_nm + kind.wall_nm)
            stamp = np.asarray(np.clip(within / 4 + 0.5, 0, 1) * kind.darkness, np.float32)

            count = rng.poisson(kind.per_um2 * area_um2)
            at = rng.integers(0, free_nm.shape, (count, 2))
            rows, columns = at.T
            welcome = np.clip(0.5 * (1 - kind.social) + kind.social * crowd[rows, columns], 0, 0.8)
            kept = (free_nm[rows, columns] > kind.radius_nm + 4) & (rng.random(count) < welcome)
            strengths = rng.uniform(0.6, 1.1, count).astype(np.float32)
            for (y, x), strength in zip(at[kept], strengths[kept], strict=True):
                top, left = y - reach[0], x - reach[1]
                part = dark[max(top, 0) : y + reach[0] + 1, max(left, 0) : x + reach[1] + 1]
                oy, ox = max(-top, 0), max(-left, 0)
                np.maximum(part, strength * stamp[oy : oy + part.shape[0], ox : ox + part.shape[1]], out=part)
        return dark

    def _fold(self, rng: np.random.Generator) -> Plane:
        """Share of the electrons that a fold lets through: a dark, curved band across the section, (y, x)."""
        across, along = self._tissue.y_nm[:, None], self._tissue.x_nm[None, :]
        if rng.random() < 0.5:
            across, along = along, across
        width, length = float(across.max()), float(along.max())
        slope = rng.uniform(-0.4, 0.4) * width / length
        bend, swell = rng.uniform(0.5, 1.4, 2), rng.random(2)
        wave = [np.sin(2 * math.pi * (along / length * bend[i] + swell[i])) for i in (0, 1)]
        centre = width * (rng.uniform(0.4, 0.6) + 0.06 * wave[0]) + slope * (along - length / 2)
        distance_nm = np.abs(across - centre) / math.hypot(1, slope)
        return np.asarray(1 - 0.62 / (1 + np.exp((distance_nm - 45 - 15 * wave[1]) / 6)), np.float32)
