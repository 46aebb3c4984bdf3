"""The U-Net of Ronneberger et al. 2015 (arXiv:1505.04597, section 2 and figure 1), without padding.

::

    in --2x conv 3x3-- s0 ----------------- crop ------------- cat --2x conv 3x3-- conv 1x1 -- logits
                        | max-pool 2                            | up-conv 2x2
                       2x conv 3x3 -- s1 --- crop --- cat --2x conv 3x3
                        | max-pool 2                   | up-conv 2x2
                       ...         2x conv 3x3, dropout

With width 64 and depth 4, an input of 572 gives an output of 388.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from unetpipe.config import Network
from unetpipe.grid import unet_geometry


class Convolutions(nn.Sequential):
    """Two unpadded 3x3 convolutions, each with (optional) batch normalisation and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, *, normalise: bool) -> None:
        layers: list[nn.Module] = []
        for channels in (channels_in, channels_out):
            # Batch normalisation brings its own shift.
            layers.append(nn.Conv2d(channels, channels_out, kernel_size=3, bias=not normalise))
            if normalise:
                layers.append(nn.BatchNorm2d(channels_out))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class UNet(nn.Module):
    """Logits per class for a batch of sections.

    Parameters
    ----------
    settings:
        Width (channels of the first level), depth (number of poolings), normalisation, dropout.
    classes:
        The number of output channels.
    """

    def __init__(self, settings: Network, classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.classes = classes
        self.geometry = unet_geometry(settings.depth)
        channels = [settings.width * 2**level for level in range(settings.depth + 1)]
        normalise = settings.normalisation == "batch"
        self.down = nn.ModuleList(
            Convolutions(before, after, normalise=normalise)
            for before, after in zip([1, *channels], channels, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, above, kernel_size=2, stride=2) for above, below in pairwise(channels)
        )
        self.join = nn.ModuleList(Convolutions(2 * above, above, normalise=normalise) for above in channels[:-1])
        self.dropout = nn.Dropout2d(settings.dropout)
        self.head = nn.Conv2d(channels[0], classes, kernel_size=1)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (n, classes, y - 2 * border, x - 2 * border) of ``image`` (n, 1, y, x)."""
        depth = self.settings.depth
        skips = []
        features = image
        for level in range(depth):
            features = self.down[level](features)  # (n, width * 2**level, y, x)
            skips.append(features)
            features = nn.functional.max_pool2d(features, 2)
        features = self.dropout(self.down[depth](features))
        for level in reversed(range(depth)):
            features = self.up[level](features)
            # What the levels below have lost on each side, in voxels of this one: a constant, whatever the input.
            margin = sum(2 * 2 * 2**below for below in range(1, depth - level)) + 2 * 2 ** (depth - level)
            skip = skips[level][..., margin:-margin, margin:-margin]
            features = self.join[level](torch.cat([skip, features], dim=1))
        logits: Tensor = self.head(features)
        return logits


def _initialise(module: nn.Module) -> None:
    """Draw weights with standard deviation sqrt(2 / N), N the inputs of one output (arXiv:1505.04597, section 3)."""
    if isinstance(module, nn.Conv2d):
        inputs = module.in_channels * math.prod(module.kernel_size)
    elif isinstance(module, nn.ConvTranspose2d):
        # With stride equal to the kernel each output voxel sees one voxel of the input.
        inputs = module.in_channels
    else:
        return
    nn.init.normal_(module.weight, std=math.sqrt(2 / inputs))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
