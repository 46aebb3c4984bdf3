"""A classifier of patches (Ciresan et al. 2012, NIPS, "Deep neural networks segment neuronal membranes").

Convolutions and max-poolings see a patch and give one class, that of the voxel in its middle. A window that slides over
the volume does this for every voxel, and most of the work again and again. The same weights give the same values for
all voxels at once where no voxel is left out: pooling has a stride of 1, and what comes after it is dilated by the
poolings before (Giusti et al. 2013, arXiv:1302.1700, has the fragments; arXiv:1511.07122 the dilation)::

    patch            2x conv --- max-pool ------------ 2x conv ------------- ... conv 1 -- logits of a voxel
    every voxel      2x conv --- max-pool, stride 1 -- 2x conv, dilated ---- ... conv 1 -- logits
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetpipe.config import Network
from unetpipe.grid import patch_losses
from unetpipe.nets.branch import pool
from unetpipe.nets.layers import CONVOLUTION, DROPOUT, Convolutions, SegmentationNetwork, initialise


class PatchClassifier(SegmentationNetwork):
    """Width is that of the first level, depth the number of poolings; the lowest level sees what is left whole.

    ``sliding``: take one patch of twice the border and a voxel, and give one voxel. It has the same weights.
    """

    def __init__(self, settings: Network, classes: int, *, sliding: bool = False) -> None:
        super().__init__(settings, classes)
        self.sliding = sliding
        channels = [settings.width * 2**level for level in range(settings.depth + 1)]
        self.scales = [
            [math.prod(sizes) for sizes in zip(*self.poolings[:level], [1] * self.dimensions, strict=True)]
            for level in range(settings.depth + 1)
        ]
        self.down = nn.ModuleList(
            Convolutions(before, after, kernel, normalise=self.normalise, dilation=1 if sliding else scale)
            for before, after, kernel, scale in zip(
                [self.channels_in, *channels[:-1]], channels, self.kernels, self.scales, strict=True
            )
        )
        self.dropout = DROPOUT[self.dimensions](settings.dropout)
        self.head = CONVOLUTION[self.dimensions](channels[-1], classes, kernel_size=1)
        self.apply(initialise)

    def logits(self, features: Tensor) -> Tensor:
        """See the base class."""
        lost = patch_losses(self.settings.kernels, self.settings.poolings)[3 - self.dimensions :]
        # The border is the same on both sides: of a patch that can have no middle the last voxel is not looked at.
        features = features[(..., *(slice(None, -(n % 2) or None) for n in lost))]
        for convolve, pooling, scale in zip(self.down, self.poolings, self.scales, strict=False):
            features = convolve(features)  # (n, width * 2**level, …)
            features = pool(features, pooling) if self.sliding else _pool_everywhere(features, pooling, scale)
        logits: Tensor = self.head(self.dropout(self.down[-1](features)))
        return logits


def _pool_everywhere(features: Tensor, pooling: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Max-pooling with a stride of 1, of voxels ``dilation`` apart, axis by axis: TensorRT has no dilated pooling."""
    for axis, (size, step) in enumerate(zip(pooling, dilation, strict=True)):
        dim, count = axis + 2, (size - 1) * step
        whole = features
        for place in range(size):
            left = slice(place * step, place * step - count or None)
            part = whole[(slice(None),) * dim + (left,)]
            features = part if place == 0 else torch.maximum(features, part)
    return features
