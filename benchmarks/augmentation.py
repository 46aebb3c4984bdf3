"""Elastic deformation of a section and its labels on one core: against PyTorch, batchgeneratorsv2 and MONAI.

Ours counts from the section in memory to the sample of 572 x 572: deformation drawn, a coordinate for each voxel
(bicubic, from 3 x 3 displacements, with rotation, scale and shift), image sampled by cubic interpolation and labels at
the nearest voxel. The others are set to do the same. All begin from the same section, as its own library wants it.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from monai.transforms.spatial.dictionary import Rand2DElasticd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.timing import ROUNDS, Range, ratios
from unetpipe.config import Augment
from unetpipe.data.deform import Deformation, cubic, enclosing, nearest
from unetpipe.grid import Region

TILE = (572, 572)
_SIZE = 1000
_ROUNDS = 15
_CALLS = 10
"""In a round: one takes a millisecond or two, and each is another deformation. Short ones need more rounds."""

_SETTINGS = Augment(tile=TILE)


def against_grid_sample() -> Range:
    """Against ``torch.nn.functional.grid_sample`` alone, bicubic and nearest, at the same places given as its grid."""
    image, labels = _section()
    inputs = torch.from_numpy(image)[None, None], torch.from_numpy(labels)[None, None].float()
    grids = itertools.cycle([_grid(seed) for seed in range(_CALLS)])

    def theirs() -> None:
        grid = next(grids)
        torch.nn.functional.grid_sample(inputs[0], grid, mode="bicubic", align_corners=True)
        torch.nn.functional.grid_sample(inputs[1], grid, mode="nearest", align_corners=True)

    return _compared(image, labels, theirs, _ROUNDS)


def against_batchgenerators() -> Range:
    """Against ``SpatialTransform`` of batchgeneratorsv2: elastic deformation, rotation and scaling."""
    image, labels = _section()
    transform = SpatialTransform(
        patch_size=TILE, patch_center_dist_from_border=0, random_crop=False,
        # Smooth over as much as the distance of control points; magnitudes as of the largest of 18 Gaussians.
        p_elastic_deform=1, elastic_deform_scale=0.25, elastic_deform_magnitude=(10, 20),
        p_rotation=1, rotation=(-math.pi, math.pi), p_scaling=1, scaling=(0.9, 1.1),
        p_synchronize_scaling_across_axes=1, mode_image="bicubic", mode_seg="nearest",
    )  # fmt: skip
    section = {"image": torch.from_numpy(image)[None], "segmentation": torch.from_numpy(labels)[None]}
    return _compared(image, labels, lambda: transform(**section))


def against_monai() -> Range:
    """Against ``Rand2DElastic`` of MONAI (its version for dictionaries, which deforms image and labels alike)."""
    image, labels = _section()
    transform = Rand2DElasticd(
        # At our spacing of 286 it takes several times as long: it computes whole spacings, and more than the tile.
        keys=["image", "label"], prob=1.0, spatial_size=TILE, spacing=40, magnitude_range=(10, 20),
        rotate_range=math.pi, scale_range=0.1, translate_range=10,
        mode=["bicubic", "nearest"], padding_mode="zeros",
    )  # fmt: skip
    section: dict[Hashable, torch.Tensor] = {
        "image": torch.from_numpy(image)[None], "label": torch.from_numpy(labels)[None],
    }  # fmt: skip
    return _compared(image, labels, lambda: transform(section))


def _compared(
    image: NDArray[np.float32], labels: NDArray[np.uint8], theirs: Callable[[], object], rounds: int = ROUNDS
) -> Range:
    seeds = itertools.cycle(range(_CALLS))

    def ours() -> None:
        region, places = _places(next(seeds))
        _, rows, columns = region.slices
        cubic(image[None, rows, columns], places)
        nearest(labels[None, rows, columns], places)

    with _one_core():
        return ratios(lambda: _repeated(ours), lambda: _repeated(theirs), rounds)


def _repeated(work: Callable[[], object]) -> None:
    for _ in range(_CALLS):
        work()


def _section() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Grey values and labels (y, x): large enough for every deformation of a tile in its middle."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((_SIZE, _SIZE), np.float32), rng.integers(0, 2, (_SIZE, _SIZE), np.uint8)


def _places(seed: int) -> tuple[Region, NDArray[np.float32]]:
    coordinates = Deformation.draw(_SETTINGS, np.random.default_rng(seed)).coordinates(TILE)
    return enclosing(coordinates, (0, _SIZE // 2, _SIZE // 2), 1, out=coordinates)


def _grid(seed: int) -> torch.Tensor:
    """The places of the voxels of a sample (1, y, x, 2) as PyTorch wants them: (x, y) from -1 to 1."""
    region, places = _places(seed)
    y, x = (2 * (axis + start) / (_SIZE - 1) - 1 for axis, start in zip(places, region.start[1:], strict=True))
    return torch.from_numpy(np.stack([x, y], axis=-1).astype(np.float32))[None]


@contextmanager
def _one_core() -> Iterator[None]:
    threads = torch.get_num_threads(), cv2.getNumThreads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads[0])
            cv2.setNumThreads(threads[1])
