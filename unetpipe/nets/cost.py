"""What a classifier of patches costs: as a window that slides over the volume, and as it is run here.

Without PyTorch, and of the settings alone. Multiply-adds are those of the convolutions: one for each weight and voxel
that it is used for.
"""

import math

from unetpipe.config import Network
from unetpipe.grid import Shape, patch_losses, triple


def sliding_window(network: Network, classes: int) -> int:
    """Multiply-adds for each voxel where the patch around every voxel is classified on its own."""
    size = triple([2 * border + 1 for border in network.geometry.border])
    return _multiply_adds(network, classes, size, dense=False)


def fully_convolutional(network: Network, classes: int, tile: Shape) -> float:
    """Multiply-adds for each voxel that a tile (z, y, x) keeps, where all its voxels are classified at once."""
    kept = math.prod(network.geometry.kept(tile))
    return _multiply_adds(network, classes, tile, dense=True) / kept


def _multiply_adds(network: Network, classes: int, tile: Shape, *, dense: bool) -> int:
    size = [n - lost % 2 for n, lost in zip(tile, patch_losses(network.kernels, network.poolings), strict=True)]
    before = 1
    if network.geometry.dimensions == 2:
        # The sections are channels.
        before, size[0] = network.sections, 1
    step, total, after = [1, 1, 1], 0, before
    for level, kernel in enumerate(network.kernels):
        after = network.width * 2**level
        for channels in (before, after):
            size = [n - (k - 1) * d for n, k, d in zip(size, kernel, step, strict=True)]
            total += channels * after * math.prod(kernel) * math.prod(size)
        before = after
        if level == network.depth:
            break
        pooling = network.poolings[level]
        if dense:
            size = [n - (p - 1) * d for n, p, d in zip(size, pooling, step, strict=True)]
            step = [d * p for d, p in zip(step, pooling, strict=True)]
        else:
            size = [n // p for n, p in zip(size, pooling, strict=True)]
    return total + after * classes * math.prod(size)
