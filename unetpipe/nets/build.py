"""The network that the settings describe."""

from unetpipe.config import Network
from unetpipe.nets.full_resolution import FullResolution
from unetpipe.nets.layers import SegmentationNetwork
from unetpipe.nets.patches import PatchClassifier
from unetpipe.nets.unet import UNet

_NETWORKS: dict[str, type[SegmentationNetwork]] = {
    "unet": UNet,
    "full_resolution": FullResolution,
    "patch_classifier": PatchClassifier,
}


def build(settings: Network, classes: int) -> SegmentationNetwork:
    """The network ``settings.name`` with random weights, for so many classes."""
    return _NETWORKS[settings.name](settings, classes)
