"""The U-Net of Ronneberger et al. 2015 (arXiv:1505.04597, section 2 and figure 1), without padding, in 2D and 3D.

::

    in --2x conv-- s0 ----------------- crop ------------- cat --2x conv-- conv 1 -- logits
                    | max-pool                              | up-conv
                   2x conv -- s1 ------ crop --- cat --2x conv
                    | max-pool                    | up-conv
                   ...            2x conv, dropout

Every level has a kernel and a pooling of its own, per axis, so that sections that are thick beside a pixel can be
pooled later or never (as in 3D U-Net, arXiv:1606.06650, but for the anisotropy). With width 64, depth 4, kernels of
1 x 3 x 3 and poolings of 1 x 2 x 2 an input of 572 gives an output of 388.

What joins the two ways (cat) and what goes up a level (up-conv) can be replaced: without skips it is the fully
convolutional network with down- and upsampling.
"""

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from unetpipe.config import Network
from unetpipe.nets.branch import branch, pool
from unetpipe.nets.layers import CONVOLUTION, DROPOUT, Convolutions, SegmentationNetwork, initialise
from unetpipe.nets.skips import channels_joined, join
from unetpipe.nets.upsampling import make_upsampling, unpool


class UNet(SegmentationNetwork):
    """Width is that of the first level, depth the number of poolings; see the module."""

    def __init__(self, settings: Network, classes: int) -> None:
        super().__init__(settings, classes)
        channels = [settings.width * 2**level for level in range(settings.depth + 1)]
        self.down = nn.ModuleList(
            Convolutions(before, after, kernel, normalise=self.normalise)
            for before, after, kernel in zip([self.channels_in, *channels], channels, self.kernels, strict=False)
        )
        self.up = nn.ModuleList(
            make_upsampling(settings.upsampling, below, above, pooling)
            for (above, below), pooling in zip(pairwise(channels), self.poolings, strict=True)
        )
        self.join = nn.ModuleList(
            Convolutions(channels_joined(settings.skips, above), above, kernel, normalise=self.normalise)
            for above, kernel in zip(channels[:-1], self.kernels, strict=False)
        )
        self.dropout = DROPOUT[self.dimensions](settings.dropout)
        self.head = CONVOLUTION[self.dimensions](channels[0], classes, kernel_size=1)
        self.apply(initialise)

    def logits(self, features: Tensor) -> Tensor:
        """See the base class."""
        skips, upsampling = self.settings.skips, self.settings.upsampling
        crossing = []
        for level, (convolve, pooling) in enumerate(zip(self.down, self.poolings, strict=False)):
            features = convolve(features)  # (n, width * 2**level, …)
            crop = self._crop(level)
            if skips == "none":
                inner: tuple[Any, ...] = (..., *crop)
                # Of what is cropped, only places may be asked for: no gradient goes there.
                crossing.append(features.detach()[inner])
                features = pool(features, pooling)
            else:
                features, skip = branch(features, pooling, crop, training=self.training)
                crossing.append(skip)
        features = self.dropout(self.down[-1](features))
        for level in reversed(range(self.settings.depth)):
            features = self.up[level](features)
            if upsampling != "transposed":
                features = unpool(upsampling, features, self.poolings[level], crossing[level])
            features = self.join[level](join(skips, crossing[level], features))
        logits: Tensor = self.head(features)
        return logits

    def _crop(self, level: int) -> list[slice]:
        """What the levels below ``level`` leave of it: a constant margin, whatever the input."""
        slices = []
        for axis in range(self.dimensions):
            margin, scale = 0, 1
            for below in range(level + 1, self.settings.depth + 1):
                scale *= self.poolings[below - 1][axis]
                passes = 1 if below == self.settings.depth else 2
                margin += passes * (self.kernels[below][axis] - 1) * scale
            slices.append(slice(margin, -margin or None))
        return slices
