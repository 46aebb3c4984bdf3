"""Samples at another voxel size than their volume's, within a section."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from unetpipe.errors import UserError
from unetpipe.grid import Region
from unetpipe.pixels import PixelSize
from unetpipe.volume import Image, VolumeFile

_RADIUS = 4.0
"""Of the kernel of the Gaussian, in sigmas."""


def pixel_size(volume: VolumeFile) -> PixelSize | None:
    """Edge lengths of the voxels of ``volume`` in nm, (y, x); None where neither settings nor file told them."""
    if not volume.source.get("voxel_size_known", True):
        return None
    return volume.voxel_size_nm[1], volume.voxel_size_nm[2]


def stride(volume: VolumeFile, target_nm: PixelSize | None) -> tuple[float, float]:
    """Voxels of ``volume`` from one voxel of a sample to the next, (y, x): 1 without a target.

    Raises
    ------
    UserError
        If there is a target and the voxel size of the volume is not known.
    """
    if target_nm is None:
        return 1.0, 1.0
    own = pixel_size(volume)
    if own is None:
        raise UserError(
            f"samples of the volume {volume.name} were to be resampled to {list(target_nm)} nm (y, x)",
            "its voxel size is not known",
            f"set volumes.{volume.name}.voxel_size_nm",
        )
    return target_nm[0] / own[0], target_nm[1] / own[1]


def read_smoothed(image: Image, region: Region, stride: tuple[float, float]) -> NDArray[np.float32]:
    """Grey values of ``region`` (z, y, x) for samples that are taken at ``stride``, each section by itself.

    Where the stride is longer than a voxel, what lies between would be lost and its noise kept: a Gaussian comes first.
    The blur of a voxel of edge s has the variance s**2 / 12; that of the voxels of the volume, 1/12, is in them
    already, so sigma is ((s**2 - 1) / 12)**0.5.
    """
    sigma = [math.sqrt(max(0.0, s**2 - 1) / 12) for s in stride]
    if not any(sigma):
        return image.read(region)
    reach = [int(_RADIUS * s + 0.5) for s in sigma]
    grey = image.read(region.grow((0, *reach)))
    smoothed: NDArray[np.float32] = gaussian_filter(grey, sigma, truncate=_RADIUS, axes=(1, 2))
    rows, columns = (slice(r, r + n) for r, n in zip(reach, region.shape[1:], strict=True))
    return smoothed[:, rows, columns]
