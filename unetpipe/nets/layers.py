"""What all networks are built of: layers for images and for stacks, pairs of convolutions, and their first weights."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from unetpipe.config import Network

_Layers = Mapping[int, Callable[..., nn.Module]]

CONVOLUTION: _Layers = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: _Layers = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
DROPOUT: _Layers = {2: nn.Dropout2d, 3: nn.Dropout3d}
_NORM: _Layers = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_FORMAT = {2: torch.channels_last, 3: torch.channels_last_3d}
"""By the number of dimensions: where nothing is longer than 1 along z, 2D layers do the same several times as fast."""

_VECTOR = 16
"""Channels that are computed at once."""


class _Dilated(nn.Conv2d):
    """A dilated convolution whose gradients can be trusted.

    In bf16, oneDNN's gradient of the weights reads beyond features whose channels, ordered last, are more than 16 and
    no multiple of 16: it gives no numbers, or ends the process (PyTorch 2.13). Those are computed in fp32.
    """

    def forward(self, features: Tensor) -> Tensor:
        """As that of the base class."""
        if self.in_channels > _VECTOR and self.in_channels % _VECTOR and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(features.float())
        return super().forward(features)


class Convolutions(nn.Sequential):
    """Two unpadded convolutions, each with (optional) batch normalisation and ReLU.

    ``kernel`` and ``dilation``: for each axis in space, two or three.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        *,
        normalise: bool,
        dilation: Sequence[int] | int = 1,
    ) -> None:
        layers: list[nn.Module] = []
        flat = len(kernel) == 2 and dilation != 1
        make: Callable[..., nn.Module] = _Dilated if flat else CONVOLUTION[len(kernel)]
        for channels in (channels_in, channels_out):
            # Batch normalisation brings its own shift.
            layers.append(make(channels, channels_out, kernel_size=kernel, dilation=dilation, bias=not normalise))
            if normalise:
                layers.append(_NORM[len(kernel)](channels_out))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class SegmentationNetwork(nn.Module):
    """Gives logits per class for a batch of tiles.

    Parameters
    ----------
    settings:
        Architecture, width, depth, kernels and poolings, normalisation, dropout.
    classes:
        The number of output channels.
    """

    def __init__(self, settings: Network, classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.classes = classes
        self.geometry = settings.geometry
        self.dimensions = self.geometry.dimensions
        self.normalise = settings.normalisation == "batch"
        # Without z in 2D.
        self.kernels = [kernel[3 - self.dimensions :] for kernel in settings.kernels]
        self.poolings = [pooling[3 - self.dimensions :] for pooling in settings.poolings]
        # Of a 2D network the sections are the channels.
        self.channels_in = settings.sections if self.dimensions == 2 else 1

    def lay_channels_last(self) -> None:
        """Order the weights in memory as convolutions are fastest on processors: what they give stays the same."""
        self.to(memory_format=_FORMAT[self.dimensions])  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> Tensor:
        """Logits (n, classes, z', y', x') of ``image`` (n, z, y, x): twice the border less along each axis."""
        features = image if self.dimensions == 2 else image[:, None]  # (n, sections, y, x) or (n, 1, z, y, x)
        logits = self.logits(features)
        return logits[:, :, None] if self.dimensions == 2 else logits

    def logits(self, features: Tensor) -> Tensor:
        """Of an image that has channels, (n, channels, y, x) or (n, channels, z, y, x)."""
        raise NotImplementedError


def initialise(module: nn.Module) -> None:
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
