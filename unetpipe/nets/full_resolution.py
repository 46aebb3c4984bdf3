"""A fully convolutional network that stays at full resolution: convolutions alone, without pooling."""

from torch import Tensor, nn

from unetpipe.config import Network
from unetpipe.nets.layers import CONVOLUTION, DROPOUT, Convolutions, SegmentationNetwork, initialise


class FullResolution(SegmentationNetwork):
    """Two convolutions for each of the ``depth`` + 1 levels, all of ``width`` channels."""

    def __init__(self, settings: Network, classes: int) -> None:
        super().__init__(settings, classes)
        width = settings.width
        self.levels = nn.ModuleList(
            Convolutions(self.channels_in if level == 0 else width, width, kernel, normalise=self.normalise)
            for level, kernel in enumerate(self.kernels)
        )
        self.dropout = DROPOUT[self.dimensions](settings.dropout)
        self.head = CONVOLUTION[self.dimensions](width, classes, kernel_size=1)
        self.apply(initialise)

    def logits(self, features: Tensor) -> Tensor:
        """See the base class."""
        for convolve in self.levels:
            features = convolve(features)
        logits: Tensor = self.head(self.dropout(features))
        return logits
