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
"""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from unetpipe.config import Network
from unetpipe.grid import Shape

_Layers = Mapping[int, Callable[..., nn.Module]]

_CONVOLUTION: _Layers = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: _Layers = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM: _Layers = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_DROPOUT: _Layers = {2: nn.Dropout2d, 3: nn.Dropout3d}
_POOL = {2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}
_FORMAT = {2: torch.channels_last, 3: torch.channels_last_3d}
"""By the number of dimensions: where nothing is longer than 1 along z, 2D layers do the same several times as fast."""


class Convolutions(nn.Sequential):
    """Two unpadded convolutions, each with (optional) batch normalisation and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Shape, dimensions: int, *, normalise: bool) -> None:
        layers: list[nn.Module] = []
        size = kernel[3 - dimensions :]
        for channels in (channels_in, channels_out):
            # Batch normalisation brings its own shift.
            layers.append(_CONVOLUTION[dimensions](channels, channels_out, kernel_size=size, bias=not normalise))
            if normalise:
                layers.append(_NORM[dimensions](channels_out))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class UNet(nn.Module):
    """Logits per class for a batch of tiles.

    Parameters
    ----------
    settings:
        Width (channels of the first level), depth (number of poolings), kernels and poolings, normalisation, dropout.
    classes:
        The number of output channels.
    """

    def __init__(self, settings: Network, classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.classes = classes
        self.geometry = settings.geometry
        self.dimensions = self.geometry.dimensions
        channels = [settings.width * 2**level for level in range(settings.depth + 1)]
        # Of a 2D network the sections are the channels.
        first = settings.sections if self.dimensions == 2 else 1
        normalise = settings.normalisation == "batch"
        self.down = nn.ModuleList(
            Convolutions(before, after, kernel, self.dimensions, normalise=normalise)
            for before, after, kernel in zip([first, *channels], channels, settings.kernels, strict=False)
        )
        self.poolings = [pooling[3 - self.dimensions :] for pooling in settings.poolings]
        self.up = nn.ModuleList(
            _TRANSPOSED[self.dimensions](below, above, kernel_size=pooling, stride=pooling)
            for (above, below), pooling in zip(pairwise(channels), self.poolings, strict=True)
        )
        self.join = nn.ModuleList(
            Convolutions(2 * above, above, kernel, self.dimensions, normalise=normalise)
            for above, kernel in zip(channels[:-1], settings.kernels, strict=False)
        )
        self.dropout = _DROPOUT[self.dimensions](settings.dropout)
        self.head = _CONVOLUTION[self.dimensions](channels[0], classes, kernel_size=1)
        self.apply(_initialise)

    @property
    def memory_format(self) -> torch.memory_format:
        """In which convolutions are fastest on processors."""
        return _FORMAT[self.dimensions]

    def forward(self, image: Tensor) -> Tensor:
        """Logits (n, classes, z', y', x') of ``image`` (n, z, y, x): twice the border less along each axis."""
        depth = self.settings.depth
        skips = []
        features = image if self.dimensions == 2 else image[:, None]  # (n, sections, y, x) or (n, 1, z, y, x)
        for level in range(depth):
            features = self.down[level](features)  # (n, width * 2**level, …)
            skips.append(features)
            features = _POOL[self.dimensions](features, self.poolings[level])
        features = self.dropout(self.down[depth](features))
        for level in reversed(range(depth)):
            features = self.up[level](features)
            skip = skips[level][(..., *self._crop(level))]
            features = self.join[level](torch.cat([skip, features], dim=1))
        logits: Tensor = self.head(features)
        return logits[:, :, None] if self.dimensions == 2 else logits

    def _crop(self, level: int) -> list[slice]:
        """What the levels below ``level`` leave of it: a constant margin, whatever the input."""
        slices = []
        for axis in range(3 - self.dimensions, 3):
            margin, scale = 0, 1
            for below in range(level + 1, self.settings.depth + 1):
                scale *= self.settings.poolings[below - 1][axis]
                passes = 1 if below == self.settings.depth else 2
                margin += passes * (self.settings.kernels[below][axis] - 1) * scale
            slices.append(slice(margin, -margin or None))
        return slices


def _initialise(module: nn.Module) -> None:
    """Draw weights with standard deviation sqrt(2 / N), N the inputs of one output (arXiv:1505.04597, section 3)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        inputs = module.in_channels * math.prod(module.kernel_size)
    elif isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
        # With stride equal to the kernel each output voxel sees one voxel of the input.
        inputs = module.in_channels
    else:
        return
    nn.init.normal_(module.weight, std=math.sqrt(2 / inputs))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
